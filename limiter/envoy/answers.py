"""The answers of ext_authz."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from limiter.domain.verdicts import Granted
from limiter.envoy import refusals
from limiter.envoy.credentials import Credential
from limiter.envoy.refusals import Dialect, Refusal
from limiter.envoy.v3 import base_pb2, ext_authz_pb2
from limiter.pricing.reading import CallReading

RESERVATION_HEADER: Final = "x-limiter-reservation"

#: The names of dynamic metadata, in the namespace of ext_authz, by which the settlement knows what was granted.
RESERVATION: Final = "reservation"
PROVIDER: Final = "provider"
STREAM: Final = "stream"
MAX_OUTPUT_TOKENS: Final = "max_output_tokens"
MAX_OUTPUT_FIELD: Final = "max_output_field"
INCLUDE_USAGE: Final = "include_usage"
BODY_TAGS: Final = "body_tags"

_OVERWRITE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

#: gRPC codes: Envoy asks only whether it is 0.
_STATUS_CODES: Final = {400: 3, 401: 16, 429: 8, 503: 14}
_PERMISSION_DENIED: Final = 7


def allowed(
    *,
    credential: Credential | None,
    remove: Iterable[str],
    remove_parameters: Sequence[str],
    tell: Iterable[tuple[str, str]],
) -> ext_authz_pb2.CheckResponse:
    """Let a request go on: with the provider's credential, without some headers; `tell` goes to the client."""
    response = ext_authz_pb2.CheckResponse()
    granted = response.ok_response
    if credential is not None and credential.header:
        _add(granted.headers, credential.header, credential.value)
    granted.headers_to_remove.extend(remove)
    if remove_parameters:
        granted.query_parameters_to_remove.extend(remove_parameters)
    for name, value in tell:
        _add(granted.response_headers_to_add, name, value)
    return response


def note_grant(response: ext_authz_pb2.CheckResponse, verdict: Granted, provider: str) -> None:
    """Leave for the settlement what was granted."""
    fields = response.dynamic_metadata.fields
    fields[RESERVATION].string_value = verdict.reservation
    fields[PROVIDER].string_value = provider
    if verdict.max_output_tokens is not None:
        fields[MAX_OUTPUT_TOKENS].number_value = verdict.max_output_tokens


def note_body(
    response: ext_authz_pb2.CheckResponse, reading: CallReading, verdict: Granted, *, tags: bool, plain: bool
) -> None:
    """Leave what the body asks for and what it lacks. `plain`: it is not encoded, so that it can be changed."""
    fields = response.dynamic_metadata.fields
    if reading.stream:
        fields[STREAM].bool_value = True
    if not plain:
        return
    if verdict.output_field:
        fields[MAX_OUTPUT_FIELD].string_value = verdict.output_field
    if reading.usage_unasked:
        fields[INCLUDE_USAGE].bool_value = True
    if tags:
        fields[BODY_TAGS].bool_value = True


def refused(refusal: Refusal, dialect: Dialect, *, tell: Iterable[tuple[str, str]] = ()) -> ext_authz_pb2.CheckResponse:
    """Answer in the provider's place. 503 is trouble, which Envoy's failure_mode_allow may overrule; else a denial."""
    response = ext_authz_pb2.CheckResponse()
    response.status.code = _STATUS_CODES.get(refusal.status, _PERMISSION_DENIED)
    answer = response.error_response if refusal.status == 503 else response.denied_response
    answer.status.code = refusal.status
    answer.body = refusals.body(refusal, dialect)
    for name, value in (*refusals.headers(refusal, dialect), *tell):
        _add(answer.headers, name, value)
    return response


def _add(headers: object, name: str, value: str) -> None:
    option = headers.add()  # type: ignore[attr-defined] # a repeated field
    option.header.key = name
    option.header.value = value
    option.append_action = _OVERWRITE
