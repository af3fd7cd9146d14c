import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReservationState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESERVATION_STATE_UNSPECIFIED: _ClassVar[ReservationState]
    HELD: _ClassVar[ReservationState]
    SETTLED: _ClassVar[ReservationState]
    RELEASED: _ClassVar[ReservationState]
    EXPIRED: _ClassVar[ReservationState]
RESERVATION_STATE_UNSPECIFIED: ReservationState
HELD: ReservationState
SETTLED: ReservationState
RELEASED: ReservationState
EXPIRED: ReservationState

class Tag(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class ReserveRequest(_message.Message):
    __slots__ = ("request_id", "api_key", "key_id", "model", "provider", "estimate", "provider_request", "cost_nanousd", "tags", "ttl", "dry_run", "all_limits", "consume", "caps_output")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    COST_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    ALL_LIMITS_FIELD_NUMBER: _ClassVar[int]
    CONSUME_FIELD_NUMBER: _ClassVar[int]
    CAPS_OUTPUT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    api_key: str
    key_id: str
    model: str
    provider: str
    estimate: Estimate
    provider_request: ProviderRequest
    cost_nanousd: int
    tags: _containers.RepeatedCompositeFieldContainer[Tag]
    ttl: _duration_pb2.Duration
    dry_run: bool
    all_limits: bool
    consume: bool
    caps_output: bool
    def __init__(self, request_id: _Optional[str] = ..., api_key: _Optional[str] = ..., key_id: _Optional[str] = ..., model: _Optional[str] = ..., provider: _Optional[str] = ..., estimate: _Optional[_Union[Estimate, _Mapping]] = ..., provider_request: _Optional[_Union[ProviderRequest, _Mapping]] = ..., cost_nanousd: _Optional[int] = ..., tags: _Optional[_Iterable[_Union[Tag, _Mapping]]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., dry_run: _Optional[bool] = ..., all_limits: _Optional[bool] = ..., consume: _Optional[bool] = ..., caps_output: _Optional[bool] = ...) -> None: ...

class Estimate(_message.Message):
    __slots__ = ("input_tokens", "max_output_tokens", "units")
    class UnitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    max_output_tokens: int
    units: _containers.ScalarMap[str, int]
    def __init__(self, input_tokens: _Optional[int] = ..., max_output_tokens: _Optional[int] = ..., units: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ProviderRequest(_message.Message):
    __slots__ = ("host", "path", "body")
    HOST_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    host: str
    path: str
    body: bytes
    def __init__(self, host: _Optional[str] = ..., path: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class ReserveResponse(_message.Message):
    __slots__ = ("decision", "reservation", "held_nanousd", "expires_at", "max_output_tokens", "limits", "warnings", "denial", "repeated_call", "dry_run", "output_field")
    class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        DECISION_UNSPECIFIED: _ClassVar[ReserveResponse.Decision]
        GRANTED: _ClassVar[ReserveResponse.Decision]
        DENIED: _ClassVar[ReserveResponse.Decision]
    DECISION_UNSPECIFIED: ReserveResponse.Decision
    GRANTED: ReserveResponse.Decision
    DENIED: ReserveResponse.Decision
    DECISION_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    HELD_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    DENIAL_FIELD_NUMBER: _ClassVar[int]
    REPEATED_CALL_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_FIELD_NUMBER: _ClassVar[int]
    decision: ReserveResponse.Decision
    reservation: str
    held_nanousd: int
    expires_at: _timestamp_pb2.Timestamp
    max_output_tokens: int
    limits: _containers.RepeatedCompositeFieldContainer[LimitStatus]
    warnings: _containers.RepeatedCompositeFieldContainer[LimitStatus]
    denial: Denial
    repeated_call: bool
    dry_run: bool
    output_field: str
    def __init__(self, decision: _Optional[_Union[ReserveResponse.Decision, str]] = ..., reservation: _Optional[str] = ..., held_nanousd: _Optional[int] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., max_output_tokens: _Optional[int] = ..., limits: _Optional[_Iterable[_Union[LimitStatus, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[LimitStatus, _Mapping]]] = ..., denial: _Optional[_Union[Denial, _Mapping]] = ..., repeated_call: _Optional[bool] = ..., dry_run: _Optional[bool] = ..., output_field: _Optional[str] = ...) -> None: ...

class Denial(_message.Message):
    __slots__ = ("reason", "http_status", "retryable", "retry_after", "message", "violations", "fits_max_output_tokens")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[Denial.Reason]
        KEY_UNKNOWN: _ClassVar[Denial.Reason]
        KEY_DISABLED: _ClassVar[Denial.Reason]
        KEY_EXPIRED: _ClassVar[Denial.Reason]
        MODEL_NOT_ALLOWED: _ClassVar[Denial.Reason]
        MODEL_UNPRICED: _ClassVar[Denial.Reason]
        NEVER_FITS: _ClassVar[Denial.Reason]
        SPEND_CEILING: _ClassVar[Denial.Reason]
        SPEND_HELD: _ClassVar[Denial.Reason]
        REQUEST_RATE: _ClassVar[Denial.Reason]
        TOKEN_RATE: _ClassVar[Denial.Reason]
        CONCURRENCY: _ClassVar[Denial.Reason]
    REASON_UNSPECIFIED: Denial.Reason
    KEY_UNKNOWN: Denial.Reason
    KEY_DISABLED: Denial.Reason
    KEY_EXPIRED: Denial.Reason
    MODEL_NOT_ALLOWED: Denial.Reason
    MODEL_UNPRICED: Denial.Reason
    NEVER_FITS: Denial.Reason
    SPEND_CEILING: Denial.Reason
    SPEND_HELD: Denial.Reason
    REQUEST_RATE: Denial.Reason
    TOKEN_RATE: Denial.Reason
    CONCURRENCY: Denial.Reason
    REASON_FIELD_NUMBER: _ClassVar[int]
    HTTP_STATUS_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    VIOLATIONS_FIELD_NUMBER: _ClassVar[int]
    FITS_MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    reason: Denial.Reason
    http_status: int
    retryable: bool
    retry_after: _duration_pb2.Duration
    message: str
    violations: _containers.RepeatedCompositeFieldContainer[LimitStatus]
    fits_max_output_tokens: int
    def __init__(self, reason: _Optional[_Union[Denial.Reason, str]] = ..., http_status: _Optional[int] = ..., retryable: _Optional[bool] = ..., retry_after: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., message: _Optional[str] = ..., violations: _Optional[_Iterable[_Union[LimitStatus, _Mapping]]] = ..., fits_max_output_tokens: _Optional[int] = ...) -> None: ...

class LimitStatus(_message.Message):
    __slots__ = ("scope", "limit", "kind", "unit", "window", "limit_value", "settled", "held", "remaining", "requested", "burst", "resets_at", "refills_at", "shadow", "overage")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[LimitStatus.Kind]
        SPEND: _ClassVar[LimitStatus.Kind]
        REQUESTS: _ClassVar[LimitStatus.Kind]
        TOKENS: _ClassVar[LimitStatus.Kind]
        CONCURRENCY: _ClassVar[LimitStatus.Kind]
    KIND_UNSPECIFIED: LimitStatus.Kind
    SPEND: LimitStatus.Kind
    REQUESTS: LimitStatus.Kind
    TOKENS: LimitStatus.Kind
    CONCURRENCY: LimitStatus.Kind
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    LIMIT_VALUE_FIELD_NUMBER: _ClassVar[int]
    SETTLED_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_FIELD_NUMBER: _ClassVar[int]
    BURST_FIELD_NUMBER: _ClassVar[int]
    RESETS_AT_FIELD_NUMBER: _ClassVar[int]
    REFILLS_AT_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_FIELD_NUMBER: _ClassVar[int]
    scope: str
    limit: str
    kind: LimitStatus.Kind
    unit: str
    window: str
    limit_value: int
    settled: int
    held: int
    remaining: int
    requested: int
    burst: int
    resets_at: _timestamp_pb2.Timestamp
    refills_at: _timestamp_pb2.Timestamp
    shadow: bool
    overage: int
    def __init__(self, scope: _Optional[str] = ..., limit: _Optional[str] = ..., kind: _Optional[_Union[LimitStatus.Kind, str]] = ..., unit: _Optional[str] = ..., window: _Optional[str] = ..., limit_value: _Optional[int] = ..., settled: _Optional[int] = ..., held: _Optional[int] = ..., remaining: _Optional[int] = ..., requested: _Optional[int] = ..., burst: _Optional[int] = ..., resets_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., refills_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., shadow: _Optional[bool] = ..., overage: _Optional[int] = ...) -> None: ...

class Settlement(_message.Message):
    __slots__ = ()
    class Basis(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        BASIS_UNSPECIFIED: _ClassVar[Settlement.Basis]
        EXPIRED: _ClassVar[Settlement.Basis]
        RELEASED: _ClassVar[Settlement.Basis]
        ESTIMATED: _ClassVar[Settlement.Basis]
        USAGE: _ClassVar[Settlement.Basis]
    BASIS_UNSPECIFIED: Settlement.Basis
    EXPIRED: Settlement.Basis
    RELEASED: Settlement.Basis
    ESTIMATED: Settlement.Basis
    USAGE: Settlement.Basis
    def __init__(self) -> None: ...

class SettleRequest(_message.Message):
    __slots__ = ("reservation", "usage", "cost_nanousd", "provider_response", "outcome", "estimated", "model", "provider_request_id")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[SettleRequest.Outcome]
        COMPLETED: _ClassVar[SettleRequest.Outcome]
        ABORTED: _ClassVar[SettleRequest.Outcome]
        FAILED: _ClassVar[SettleRequest.Outcome]
    OUTCOME_UNSPECIFIED: SettleRequest.Outcome
    COMPLETED: SettleRequest.Outcome
    ABORTED: SettleRequest.Outcome
    FAILED: SettleRequest.Outcome
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    reservation: str
    usage: Usage
    cost_nanousd: int
    provider_response: ProviderResponse
    outcome: SettleRequest.Outcome
    estimated: bool
    model: str
    provider_request_id: str
    def __init__(self, reservation: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., cost_nanousd: _Optional[int] = ..., provider_response: _Optional[_Union[ProviderResponse, _Mapping]] = ..., outcome: _Optional[_Union[SettleRequest.Outcome, str]] = ..., estimated: _Optional[bool] = ..., model: _Optional[str] = ..., provider_request_id: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "units")
    class UnitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNITS_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    units: _containers.ScalarMap[str, int]
    def __init__(self, input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., cache_read_tokens: _Optional[int] = ..., cache_write_tokens: _Optional[int] = ..., reasoning_tokens: _Optional[int] = ..., units: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ProviderResponse(_message.Message):
    __slots__ = ("status", "content_type", "body")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    status: int
    content_type: str
    body: bytes
    def __init__(self, status: _Optional[int] = ..., content_type: _Optional[str] = ..., body: _Optional[bytes] = ...) -> None: ...

class SettleResponse(_message.Message):
    __slots__ = ("state", "cost_nanousd", "released_nanousd", "overage_nanousd", "basis", "late", "repeated_call", "usage", "model", "price_version", "warnings", "reservation")
    STATE_FIELD_NUMBER: _ClassVar[int]
    COST_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    RELEASED_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    OVERAGE_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    LATE_FIELD_NUMBER: _ClassVar[int]
    REPEATED_CALL_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PRICE_VERSION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    state: ReservationState
    cost_nanousd: int
    released_nanousd: int
    overage_nanousd: int
    basis: Settlement.Basis
    late: bool
    repeated_call: bool
    usage: Usage
    model: str
    price_version: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    reservation: str
    def __init__(self, state: _Optional[_Union[ReservationState, str]] = ..., cost_nanousd: _Optional[int] = ..., released_nanousd: _Optional[int] = ..., overage_nanousd: _Optional[int] = ..., basis: _Optional[_Union[Settlement.Basis, str]] = ..., late: _Optional[bool] = ..., repeated_call: _Optional[bool] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., model: _Optional[str] = ..., price_version: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ..., reservation: _Optional[str] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ("reservation", "reason")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    reservation: str
    reason: str
    def __init__(self, reservation: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ExtendRequest(_message.Message):
    __slots__ = ("reservation", "ttl")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    reservation: str
    ttl: _duration_pb2.Duration
    def __init__(self, reservation: _Optional[str] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ExtendResponse(_message.Message):
    __slots__ = ("expires_at", "repeated_call")
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    REPEATED_CALL_FIELD_NUMBER: _ClassVar[int]
    expires_at: _timestamp_pb2.Timestamp
    repeated_call: bool
    def __init__(self, expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., repeated_call: _Optional[bool] = ...) -> None: ...

class ChargeRequest(_message.Message):
    __slots__ = ("request_id", "api_key", "key_id", "model", "provider", "usage", "cost_nanousd", "provider_response", "tags", "occurred_at", "provider_request_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    api_key: str
    key_id: str
    model: str
    provider: str
    usage: Usage
    cost_nanousd: int
    provider_response: ProviderResponse
    tags: _containers.RepeatedCompositeFieldContainer[Tag]
    occurred_at: _timestamp_pb2.Timestamp
    provider_request_id: str
    def __init__(self, request_id: _Optional[str] = ..., api_key: _Optional[str] = ..., key_id: _Optional[str] = ..., model: _Optional[str] = ..., provider: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., cost_nanousd: _Optional[int] = ..., provider_response: _Optional[_Union[ProviderResponse, _Mapping]] = ..., tags: _Optional[_Iterable[_Union[Tag, _Mapping]]] = ..., occurred_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., provider_request_id: _Optional[str] = ...) -> None: ...

class GetHeadroomRequest(_message.Message):
    __slots__ = ("api_key", "key_id", "model", "provider")
    API_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    api_key: str
    key_id: str
    model: str
    provider: str
    def __init__(self, api_key: _Optional[str] = ..., key_id: _Optional[str] = ..., model: _Optional[str] = ..., provider: _Optional[str] = ...) -> None: ...

class GetHeadroomResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[LimitStatus]
    def __init__(self, limits: _Optional[_Iterable[_Union[LimitStatus, _Mapping]]] = ...) -> None: ...

class ApplyPolicyRequest(_message.Message):
    __slots__ = ("policy_yaml", "dry_run")
    POLICY_YAML_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    policy_yaml: str
    dry_run: bool
    def __init__(self, policy_yaml: _Optional[str] = ..., dry_run: _Optional[bool] = ...) -> None: ...

class PolicyChange(_message.Message):
    __slots__ = ("organization", "path", "change", "before", "after")
    ORGANIZATION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    organization: str
    path: str
    change: str
    before: str
    after: str
    def __init__(self, organization: _Optional[str] = ..., path: _Optional[str] = ..., change: _Optional[str] = ..., before: _Optional[str] = ..., after: _Optional[str] = ...) -> None: ...

class ApplyPolicyResponse(_message.Message):
    __slots__ = ("changes", "versions", "notes", "openings")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    OPENINGS_FIELD_NUMBER: _ClassVar[int]
    changes: _containers.RepeatedCompositeFieldContainer[PolicyChange]
    versions: _containers.ScalarMap[str, int]
    notes: _containers.RepeatedScalarFieldContainer[str]
    openings: _containers.RepeatedCompositeFieldContainer[Opening]
    def __init__(self, changes: _Optional[_Iterable[_Union[PolicyChange, _Mapping]]] = ..., versions: _Optional[_Mapping[str, int]] = ..., notes: _Optional[_Iterable[str]] = ..., openings: _Optional[_Iterable[_Union[Opening, _Mapping]]] = ...) -> None: ...

class Opening(_message.Message):
    __slots__ = ("scope", "limit", "window", "amount_nanousd", "pending")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    PENDING_FIELD_NUMBER: _ClassVar[int]
    scope: str
    limit: str
    window: str
    amount_nanousd: int
    pending: bool
    def __init__(self, scope: _Optional[str] = ..., limit: _Optional[str] = ..., window: _Optional[str] = ..., amount_nanousd: _Optional[int] = ..., pending: _Optional[bool] = ...) -> None: ...

class GetPolicyRequest(_message.Message):
    __slots__ = ("organization",)
    ORGANIZATION_FIELD_NUMBER: _ClassVar[int]
    organization: str
    def __init__(self, organization: _Optional[str] = ...) -> None: ...

class GetPolicyResponse(_message.Message):
    __slots__ = ("policy_yaml", "versions")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    POLICY_YAML_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    policy_yaml: str
    versions: _containers.ScalarMap[str, int]
    def __init__(self, policy_yaml: _Optional[str] = ..., versions: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("key", "enabled", "expires_at", "limits_yaml", "secrets", "created_at", "declared")
    class Secret(_message.Message):
        __slots__ = ("hint", "not_after", "pepper_version", "created_at")
        HINT_FIELD_NUMBER: _ClassVar[int]
        NOT_AFTER_FIELD_NUMBER: _ClassVar[int]
        PEPPER_VERSION_FIELD_NUMBER: _ClassVar[int]
        CREATED_AT_FIELD_NUMBER: _ClassVar[int]
        hint: str
        not_after: _timestamp_pb2.Timestamp
        pepper_version: str
        created_at: _timestamp_pb2.Timestamp
        def __init__(self, hint: _Optional[str] = ..., not_after: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., pepper_version: _Optional[str] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    LIMITS_YAML_FIELD_NUMBER: _ClassVar[int]
    SECRETS_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    DECLARED_FIELD_NUMBER: _ClassVar[int]
    key: str
    enabled: bool
    expires_at: _timestamp_pb2.Timestamp
    limits_yaml: str
    secrets: _containers.RepeatedCompositeFieldContainer[Key.Secret]
    created_at: _timestamp_pb2.Timestamp
    declared: bool
    def __init__(self, key: _Optional[str] = ..., enabled: _Optional[bool] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., limits_yaml: _Optional[str] = ..., secrets: _Optional[_Iterable[_Union[Key.Secret, _Mapping]]] = ..., created_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., declared: _Optional[bool] = ...) -> None: ...

class CreateKeyRequest(_message.Message):
    __slots__ = ("key", "limits_yaml", "expires_at")
    KEY_FIELD_NUMBER: _ClassVar[int]
    LIMITS_YAML_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    key: str
    limits_yaml: str
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, key: _Optional[str] = ..., limits_yaml: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ImportKeyRequest(_message.Message):
    __slots__ = ("key", "secret", "limits_yaml", "expires_at")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    LIMITS_YAML_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    key: str
    secret: str
    limits_yaml: str
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, key: _Optional[str] = ..., secret: _Optional[str] = ..., limits_yaml: _Optional[str] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RotateKeyRequest(_message.Message):
    __slots__ = ("key", "overlap")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_FIELD_NUMBER: _ClassVar[int]
    key: str
    overlap: _duration_pb2.Duration
    def __init__(self, key: _Optional[str] = ..., overlap: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CreateKeyResponse(_message.Message):
    __slots__ = ("key", "secret")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    key: Key
    secret: str
    def __init__(self, key: _Optional[_Union[Key, _Mapping]] = ..., secret: _Optional[str] = ...) -> None: ...

class UpdateKeyRequest(_message.Message):
    __slots__ = ("key", "enabled", "expires_at", "clear_expiry", "limits_yaml")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    CLEAR_EXPIRY_FIELD_NUMBER: _ClassVar[int]
    LIMITS_YAML_FIELD_NUMBER: _ClassVar[int]
    key: str
    enabled: bool
    expires_at: _timestamp_pb2.Timestamp
    clear_expiry: bool
    limits_yaml: str
    def __init__(self, key: _Optional[str] = ..., enabled: _Optional[bool] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., clear_expiry: _Optional[bool] = ..., limits_yaml: _Optional[str] = ...) -> None: ...

class ListKeysRequest(_message.Message):
    __slots__ = ("scope", "page_size", "page_token")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scope: str
    page_size: int
    page_token: str
    def __init__(self, scope: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListKeysResponse(_message.Message):
    __slots__ = ("keys", "next_page_token")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedCompositeFieldContainer[Key]
    next_page_token: str
    def __init__(self, keys: _Optional[_Iterable[_Union[Key, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetReservationRequest(_message.Message):
    __slots__ = ("reservation",)
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    reservation: str
    def __init__(self, reservation: _Optional[str] = ...) -> None: ...

class Reservation(_message.Message):
    __slots__ = ("reservation", "state", "basis", "key", "request_id", "model", "provider", "tags", "held_nanousd", "cost_nanousd", "reserved_at", "expires_at", "ended_at", "charged", "max_output_tokens")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BASIS_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    TAGS_FIELD_NUMBER: _ClassVar[int]
    HELD_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    COST_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    RESERVED_AT_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    ENDED_AT_FIELD_NUMBER: _ClassVar[int]
    CHARGED_FIELD_NUMBER: _ClassVar[int]
    MAX_OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    reservation: str
    state: ReservationState
    basis: Settlement.Basis
    key: str
    request_id: str
    model: str
    provider: str
    tags: _containers.RepeatedCompositeFieldContainer[Tag]
    held_nanousd: int
    cost_nanousd: int
    reserved_at: _timestamp_pb2.Timestamp
    expires_at: _timestamp_pb2.Timestamp
    ended_at: _timestamp_pb2.Timestamp
    charged: _containers.RepeatedScalarFieldContainer[str]
    max_output_tokens: int
    def __init__(self, reservation: _Optional[str] = ..., state: _Optional[_Union[ReservationState, str]] = ..., basis: _Optional[_Union[Settlement.Basis, str]] = ..., key: _Optional[str] = ..., request_id: _Optional[str] = ..., model: _Optional[str] = ..., provider: _Optional[str] = ..., tags: _Optional[_Iterable[_Union[Tag, _Mapping]]] = ..., held_nanousd: _Optional[int] = ..., cost_nanousd: _Optional[int] = ..., reserved_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., ended_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., charged: _Optional[_Iterable[str]] = ..., max_output_tokens: _Optional[int] = ...) -> None: ...

class ListReservationsRequest(_message.Message):
    __slots__ = ("scope", "page_size", "page_token")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    scope: str
    page_size: int
    page_token: str
    def __init__(self, scope: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListReservationsResponse(_message.Message):
    __slots__ = ("reservations", "next_page_token")
    RESERVATIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    reservations: _containers.RepeatedCompositeFieldContainer[Reservation]
    next_page_token: str
    def __init__(self, reservations: _Optional[_Iterable[_Union[Reservation, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListScopesRequest(_message.Message):
    __slots__ = ("scope",)
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    scope: str
    def __init__(self, scope: _Optional[str] = ...) -> None: ...

class ScopeStatus(_message.Message):
    __slots__ = ("scope", "limits", "refused")
    class RefusedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    scope: str
    limits: _containers.RepeatedCompositeFieldContainer[LimitStatus]
    refused: _containers.ScalarMap[str, int]
    def __init__(self, scope: _Optional[str] = ..., limits: _Optional[_Iterable[_Union[LimitStatus, _Mapping]]] = ..., refused: _Optional[_Mapping[str, int]] = ...) -> None: ...

class ListScopesResponse(_message.Message):
    __slots__ = ("scopes",)
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    scopes: _containers.RepeatedCompositeFieldContainer[ScopeStatus]
    def __init__(self, scopes: _Optional[_Iterable[_Union[ScopeStatus, _Mapping]]] = ...) -> None: ...

class ReadLedgerRequest(_message.Message):
    __slots__ = ("scope", "follow", "last")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    scope: str
    follow: bool
    last: int
    def __init__(self, scope: _Optional[str] = ..., follow: _Optional[bool] = ..., last: _Optional[int] = ...) -> None: ...

class AdjustReservationRequest(_message.Message):
    __slots__ = ("reservation", "cost_nanousd", "reason", "by")
    RESERVATION_FIELD_NUMBER: _ClassVar[int]
    COST_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    reservation: str
    cost_nanousd: int
    reason: str
    by: str
    def __init__(self, reservation: _Optional[str] = ..., cost_nanousd: _Optional[int] = ..., reason: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class ReadCountersRequest(_message.Message):
    __slots__ = ("scopes",)
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    scopes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, scopes: _Optional[_Iterable[str]] = ...) -> None: ...

class Counter(_message.Message):
    __slots__ = ("scope", "counter", "period_ms", "settled_nanousd", "held_nanousd")
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    COUNTER_FIELD_NUMBER: _ClassVar[int]
    PERIOD_MS_FIELD_NUMBER: _ClassVar[int]
    SETTLED_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    HELD_NANOUSD_FIELD_NUMBER: _ClassVar[int]
    scope: str
    counter: str
    period_ms: int
    settled_nanousd: int
    held_nanousd: int
    def __init__(self, scope: _Optional[str] = ..., counter: _Optional[str] = ..., period_ms: _Optional[int] = ..., settled_nanousd: _Optional[int] = ..., held_nanousd: _Optional[int] = ...) -> None: ...

class ReadCountersResponse(_message.Message):
    __slots__ = ("shard", "epoch", "seq", "counters")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    shard: int
    epoch: int
    seq: int
    counters: _containers.RepeatedCompositeFieldContainer[Counter]
    def __init__(self, shard: _Optional[int] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., counters: _Optional[_Iterable[_Union[Counter, _Mapping]]] = ...) -> None: ...

class LedgerRow(_message.Message):
    __slots__ = ("shard", "epoch", "seq", "json")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    JSON_FIELD_NUMBER: _ClassVar[int]
    shard: int
    epoch: int
    seq: int
    json: str
    def __init__(self, shard: _Optional[int] = ..., epoch: _Optional[int] = ..., seq: _Optional[int] = ..., json: _Optional[str] = ...) -> None: ...
