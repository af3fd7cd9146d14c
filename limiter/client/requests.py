"""Python arguments → messages of the contract. Pure: every argument is read here, once for both faces."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypedDict, TypeVar, cast

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.client.errors import InvalidRequest
from limiter.client.responses import read_response
from limiter.domain.calls import Outcome, ProviderRequest, Usage
from limiter.domain.errors import InvalidArgument
from limiter.domain.money import parse_usd
from limiter.v1 import limiter_pb2 as pb

Tags = Mapping[str, str | Iterable[str]]
Usd = Decimal | str | int
Body = bytes | str | Mapping[str, Any]

M = TypeVar("M", bound=Message)


class Principal(TypedDict, total=False):
    """Who calls: the secret that the end client presented, or its name on a trusted listener."""

    api_key: str
    key_id: str


class ReserveArguments(Principal, total=False):
    """What `reserve` takes. The size is one of tokens and units, a cost, or the provider's request."""

    model: str
    provider: str  # openai, anthropic, …; absent: found by the model's name
    input_tokens: int
    max_output_tokens: int  # absent: the policy's default
    units: Mapping[str, int]  # images, audio seconds, …
    cost_nanousd: int  # the caller knows its price
    cost_usd: Usd  # the same in USD; never a float
    provider_request: ProviderRequest | tuple[str, str, Body]  # host, path, body: the limiter reads it
    tags: Tags  # for the books only: {"customer": "acme", "feature": ["search", "beta"]}
    ttl: timedelta | float  # seconds; default 10 minutes, at most 24 hours
    request_id: str  # idempotency key; absent: a new UUID
    dry_run: bool  # decide, change nothing
    all_limits: bool  # answer with every limit on the path, not the tightest of each kind
    consume: bool  # admit and settle at once; no hold
    caps_output: bool  # the request will be sent as `hold.capped(request)` returns it


class ActualArguments(TypedDict, total=False):
    """What a call used: `usage`, or counts, or a cost. A `response` stands before these."""

    usage: Usage
    input_tokens: int  # cached tokens included
    output_tokens: int  # reasoning tokens included
    cache_read_tokens: int
    cache_write_tokens: int
    reasoning_tokens: int
    units: Mapping[str, int]
    cost_nanousd: int
    cost_usd: Usd
    provider_request_id: str


class SettleArguments(ActualArguments, total=False):
    """What `settle` takes besides the response."""

    model: str  # as served; absent: as reserved
    estimated: bool  # the figures are an estimate; a later settlement by usage corrects them
    outcome: Outcome


class ChargeArguments(Principal, ActualArguments, total=False):
    """What `charge` takes besides the response."""

    model: str
    provider: str
    tags: Tags
    occurred_at: datetime  # aware; absent: now
    request_id: str  # idempotency key; absent: a new UUID


_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens", "units")


def reserve_request(arguments: ReserveArguments, *, default: Principal, request_id: str) -> pb.ReserveRequest:
    """Build a Reserve; `default` and `request_id` stand in for what the arguments leave out."""
    given = _given(arguments, ReserveArguments)
    size: dict[str, Any] = {}
    estimate: dict[str, Any] = {
        name: given[name] for name in ("input_tokens", "max_output_tokens", "units") if name in given
    }
    if estimate:
        size["estimate"] = _message(pb.Estimate, estimate)
    if "provider_request" in given:
        size["provider_request"] = _provider_request(given["provider_request"])
    if (cost := _cost(given)) is not None:
        size["cost_nanousd"] = cost
    if len(size) > 1:
        raise InvalidRequest(f"size: {' and '.join(size)} exclude each other; give one of them")
    fields: dict[str, Any] = {
        name: given[name]
        for name in ("model", "provider", "dry_run", "all_limits", "consume", "caps_output")
        if name in given
    }
    fields |= size | _principal(given, default) | {"request_id": given.get("request_id", request_id)}
    fields["tags"] = _tags(given.get("tags", {}))
    if "ttl" in given:
        fields["ttl"] = duration(given["ttl"])
    return _message(pb.ReserveRequest, fields)


def settle_request(reservation: str, response: object, arguments: SettleArguments) -> pb.SettleRequest:
    """Build a Settle; without an explicit outcome, an error answer of the provider makes it FAILED."""
    given = _given(arguments, SettleArguments)
    fields = _actual(response, given) | {"reservation": reservation}
    fields |= {name: given[name] for name in ("model", "estimated") if name in given}
    answer = fields.get("provider_response")
    failed = isinstance(answer, pb.ProviderResponse) and answer.status >= 400
    fields["outcome"] = int(given.get("outcome", Outcome.FAILED if failed else Outcome.COMPLETED))
    return _message(pb.SettleRequest, fields)


def charge_request(
    response: object, arguments: ChargeArguments, *, default: Principal, request_id: str
) -> pb.ChargeRequest:
    """Build a Charge; `default` and `request_id` stand in for what the arguments leave out."""
    given = _given(arguments, ChargeArguments)
    fields = _actual(response, given) | _principal(given, default)
    fields |= {name: given[name] for name in ("model", "provider") if name in given}
    fields |= {"request_id": given.get("request_id", request_id), "tags": _tags(given.get("tags", {}))}
    if "occurred_at" in given:
        fields["occurred_at"] = _timestamp(given["occurred_at"])
    return _message(pb.ChargeRequest, fields)


def release_request(reservation: str, *, reason: str) -> pb.ReleaseRequest:
    """Build a Release."""
    return _message(pb.ReleaseRequest, {"reservation": reservation, "reason": reason})


def extend_request(reservation: str, ttl: timedelta | float) -> pb.ExtendRequest:
    """Build an Extend."""
    return _message(pb.ExtendRequest, {"reservation": reservation, "ttl": duration(ttl)})


def headroom_request(model: str, provider: str, principal: Principal, default: Principal) -> pb.GetHeadroomRequest:
    """Build a GetHeadroom."""
    given = _given(principal, Principal)
    return _message(pb.GetHeadroomRequest, {"model": model, "provider": provider} | _principal(given, default))


def duration(value: timedelta | float) -> Duration:
    """Read a timedelta, or a number of seconds."""
    length = Duration()
    try:
        length.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequest(f"ttl: {value!r} is not valid; pass a timedelta or a number of seconds") from None
    return length


def _given(arguments: Mapping[str, Any], known: type) -> dict[str, Any]:
    """Return the arguments that are not None; a name that `known` does not list is a programming error."""
    allowed = cast("frozenset[str]", known.__optional_keys__)  # type: ignore[attr-defined]  # every TypedDict has it
    for name in arguments:
        if name not in allowed:
            raise TypeError(f"unexpected keyword argument {name!r}; known are {', '.join(sorted(allowed))}")
    return {name: value for name, value in arguments.items() if value is not None}


def _message(kind: type[M], fields: Mapping[str, Any]) -> M:
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:  # protobuf's words for a wrong type, range or encoding
        raise InvalidRequest(f"{kind.__name__}: {error}") from error


def _principal(given: Mapping[str, Any], default: Principal) -> dict[str, str]:
    chosen = {name: given[name] for name in ("api_key", "key_id") if name in given} or dict(default)
    if not chosen:
        raise InvalidRequest("api_key: there is none; pass api_key= or key_id=, or set LIMITER_API_KEY")
    if len(chosen) > 1:
        raise InvalidRequest("api_key and key_id exclude each other; give one of them")
    return cast("dict[str, str]", chosen)


def _cost(given: Mapping[str, Any]) -> int | None:
    if "cost_nanousd" in given and "cost_usd" in given:
        raise InvalidRequest("cost_nanousd and cost_usd exclude each other; give one of them")
    if "cost_usd" not in given:
        return cast("int | None", given.get("cost_nanousd"))
    try:
        return parse_usd(given["cost_usd"], field="cost_usd")
    except InvalidArgument as error:
        raise InvalidRequest(str(error)) from None


def _actual(response: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Build the fields that Settle and Charge share: the oneof `actual`, and the provider's id."""
    actual: dict[str, Any] = {}
    if response is not None:
        actual["provider_response"] = read_response(response)
    if (cost := _cost(given)) is not None:
        actual["cost_nanousd"] = cost
    counts = {name: given[name] for name in _COUNTS if name in given}
    if "usage" in given:
        if counts or not isinstance(given["usage"], Usage):
            raise InvalidRequest("usage: pass a limiter.client.Usage alone, or the counts as arguments")
        counts = asdict(given["usage"])
    if counts:
        actual["usage"] = _message(pb.Usage, counts)
    if len(actual) != 1:
        found = " and ".join(actual) or "nothing"
        raise InvalidRequest(f"what was used: {found} is given; give one of the response, counts (usage) and a cost")
    if "provider_request_id" in given:
        actual["provider_request_id"] = given["provider_request_id"]
    return actual


def _provider_request(given: ProviderRequest | tuple[str, str, Body]) -> pb.ProviderRequest:
    try:
        host, path, body = (given.host, given.path, given.body) if isinstance(given, ProviderRequest) else given
    except (TypeError, ValueError):
        raise InvalidRequest("provider_request: pass (host, path, body)") from None
    if isinstance(body, Mapping):
        body = json.dumps(body)
    return _message(
        pb.ProviderRequest,
        {"host": host, "path": path, "body": body.encode() if isinstance(body, str) else body},
    )


def _tags(tags: Tags) -> list[pb.Tag]:
    try:
        pairs = [(n, v) for n, values in tags.items() for v in ([values] if isinstance(values, str) else values)]
    except (AttributeError, TypeError):
        raise InvalidRequest('tags: pass {"name": "value"} or {"name": ["value", …]}') from None
    return [_message(pb.Tag, {"name": name, "value": value}) for name, value in pairs]


def _timestamp(value: datetime) -> Timestamp:
    if value.utcoffset() is None:
        raise InvalidRequest(f"occurred_at: {value!r} is not valid; pass a datetime with a time zone")
    moment = Timestamp()
    moment.FromDatetime(value.astimezone(UTC))
    return moment
