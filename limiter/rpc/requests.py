"""From protobuf to the service's words; pure. Every message is checked here."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.domain import calls as words
from limiter.domain.errors import InvalidArgument, PermissionDenied
from limiter.domain.money import CALL_MAX_NANOUSD
from limiter.domain.reservations import ReservationName
from limiter.domain.scopes import Scope
from limiter.service.calls import BookCall, Principal, ReserveCall, SettleCall, Tags
from limiter.v1 import limiter_pb2 as pb

TTL_MAX_MS = 86_400_000

#: The beginnings of fingerprints.
_CONTENTS = {
    kind: blake2b(digest_size=16, person=kind.__name__.encode()) for kind in (pb.ReserveRequest, pb.ChargeRequest)
}


def reserve_call(request: pb.ReserveRequest, *, trusted: bool, remaining_s: float | None) -> ReserveCall:
    """Check a ReserveRequest and put it into the service's words."""
    size = _size(request)
    return ReserveCall(
        principal=principal(request, trusted=trusted),
        request_id=_plain(request.request_id, field="request_id", longest=words.REQUEST_ID_MAX),
        model=_plain(request.model, field="model", longest=words.MODEL_MAX),
        provider=_plain(request.provider, field="provider", longest=words.MODEL_MAX),
        size=size,
        tags=_tags(request.tags),
        ttl_ms=_ttl_ms(request.ttl, field="ttl") if request.HasField("ttl") else None,
        dry_run=request.dry_run,
        all_limits=request.all_limits,
        consume=request.consume,
        fingerprint=fingerprint(request),
        deadline=None if remaining_s is None else asyncio.get_running_loop().time() + remaining_s,
        caps_output=request.caps_output,
    )


def fingerprint(request: pb.ReserveRequest | pb.ChargeRequest) -> bytes:
    """16 bytes over the request as sent, but for the secret: a rotated key may repeat its call.

    Takes the secret out of the message, so ask for the principal before.
    """
    if not request.request_id:
        return bytes(16)  # an id that is made here never comes again
    request.ClearField("api_key")
    content = _CONTENTS[type(request)].copy()
    content.update(request.SerializeToString(deterministic=True))
    return content.digest()


def principal(request: Any, *, trusted: bool) -> Principal:  # noqa: ANN401 - several messages have the oneof
    """Who asks. key_id is a claim, so it is believed only on listeners that are marked trusted."""
    kind = request.WhichOneof("principal")
    if kind == "api_key":
        return Principal(api_key=request.api_key)
    if kind == "key_id":
        if not trusted:
            raise PermissionDenied("key_id is accepted only on listeners marked trusted; send api_key")
        return Principal(key=Scope.parse_key(request.key_id))
    raise InvalidArgument("principal", "", "send api_key, or key_id on a trusted listener")


def _size(request: pb.ReserveRequest) -> words.Estimate | words.ProviderRequest | int | None:
    kind = request.WhichOneof("size")
    if kind == "estimate":
        estimate = request.estimate
        output = estimate.max_output_tokens if estimate.HasField("max_output_tokens") else None
        if output is not None:
            _count(output, field="estimate.max_output_tokens")
        return words.Estimate(
            _count(estimate.input_tokens, field="estimate.input_tokens"),
            output,
            _units(estimate.units, field="estimate.units"),
        )
    if kind == "provider_request":
        sent = request.provider_request
        return words.ProviderRequest(sent.host, sent.path, sent.body)
    if kind == "cost_nanousd":
        return _cost(request.cost_nanousd)
    if request.consume and not request.model:
        return None
    if request.model:
        raise InvalidArgument("size", "", "send estimate, provider_request or cost_nanousd")
    raise InvalidArgument("model", "", "name the model and how large the call can become")


def settle_call(request: pb.SettleRequest) -> SettleCall:
    """Check a SettleRequest and put it into the service's words."""
    return SettleCall(
        name=ReservationName.parse(request.reservation),
        actual=_actual(request),
        outcome=_outcome(request.outcome),
        estimated=request.estimated,
        model=_plain(request.model, field="model", longest=words.MODEL_MAX),
        provider_request_id=_plain(
            request.provider_request_id, field="provider_request_id", longest=words.REQUEST_ID_MAX
        ),
    )


def book_call(request: pb.ChargeRequest, *, trusted: bool) -> BookCall:
    """Check a ChargeRequest and put it into the service's words."""
    if not request.request_id:
        raise InvalidArgument("request_id", "", "name the charge, so that it cannot be booked twice")
    return BookCall(
        principal=principal(request, trusted=trusted),
        request_id=_plain(request.request_id, field="request_id", longest=words.REQUEST_ID_MAX),
        model=_plain(request.model, field="model", longest=words.MODEL_MAX),
        provider=_plain(request.provider, field="provider", longest=words.MODEL_MAX),
        actual=_actual(request),
        tags=_tags(request.tags),
        occurred_ms=instant_ms(request.occurred_at, field="occurred_at") if request.HasField("occurred_at") else 0,
        provider_request_id=_plain(
            request.provider_request_id, field="provider_request_id", longest=words.REQUEST_ID_MAX
        ),
        fingerprint=fingerprint(request),
    )


def _actual(request: pb.SettleRequest | pb.ChargeRequest) -> words.Usage | words.ProviderResponse | int:
    kind = request.WhichOneof("actual")
    if kind == "usage":
        return _usage(request.usage)
    if kind == "cost_nanousd":
        return _cost(request.cost_nanousd)
    if kind == "provider_response":
        answer = request.provider_response
        if len(answer.body) > words.BODY_MAX_BYTES:
            raise InvalidArgument(
                "provider_response.body", f"{len(answer.body)} bytes", f"send at most {words.BODY_MAX_BYTES} bytes"
            )
        return words.ProviderResponse(answer.status, answer.content_type, answer.body)
    raise InvalidArgument("actual", "", "send usage, cost_nanousd or provider_response; Release if nothing was spent")


def _usage(usage: pb.Usage) -> words.Usage:
    counts = {
        name: _count(getattr(usage, name), field=f"usage.{name}")
        for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    }
    return words.Usage(**counts, units=_units(usage.units, field="usage.units"))


def _outcome(outcome: int) -> words.Outcome:
    if outcome == pb.SettleRequest.OUTCOME_UNSPECIFIED:
        return words.Outcome.COMPLETED
    try:
        return words.Outcome(outcome)
    except ValueError:
        raise InvalidArgument("outcome", outcome, "use COMPLETED, ABORTED or FAILED") from None


def extension(request: pb.ExtendRequest) -> tuple[ReservationName, int]:
    """Check an ExtendRequest: which hold, and for how many ms."""
    if not request.HasField("ttl"):
        raise InvalidArgument("ttl", "", "say for how much longer the hold is needed")
    return ReservationName.parse(request.reservation), _ttl_ms(request.ttl, field="ttl")


def reason_text(text: str, *, field: str = "reason") -> str:
    """Check a reason given for the books, or who gives it."""
    return _plain(text, field=field, longest=words.REQUEST_ID_MAX)


def model_names(request: pb.GetHeadroomRequest) -> tuple[str, str]:
    """Check the model and provider that headroom is asked for."""
    return (
        _plain(request.model, field="model", longest=words.MODEL_MAX),
        _plain(request.provider, field="provider", longest=words.MODEL_MAX),
    )


def _plain(text: str, *, field: str, longest: int) -> str:
    if text and (len(text) > longest or not text.isprintable()):
        raise InvalidArgument(field, text, f"use at most {longest} printable characters, no newlines or NUL")
    return text


def _count(count: int, *, field: str) -> int:
    if not 0 <= count <= words.COUNT_MAX:
        raise InvalidArgument(field, count, f"use 0 to {words.COUNT_MAX}")
    return count


def _cost(nanousd: int) -> int:
    if not 0 <= nanousd <= CALL_MAX_NANOUSD:
        raise InvalidArgument("cost_nanousd", nanousd, f"use 0 to {CALL_MAX_NANOUSD} nano-USD")
    return nanousd


def _units(units: Mapping[str, int], *, field: str) -> dict[str, int]:
    if not units:
        return {}
    if len(units) > words.TAGS_MAX:
        raise InvalidArgument(field, len(units), f"use at most {words.TAGS_MAX} units")
    for name in units:
        if words.TAG_NAME.fullmatch(name) is None:
            raise InvalidArgument(field, name, f"name a unit by 1 to {words.TAG_NAME_MAX} of A-Z a-z 0-9 _ . -")
    return {name: _count(count, field=f"{field}.{name}") for name, count in units.items()}


def _tags(tags: Collection[pb.Tag]) -> Tags:
    if len(tags) > words.TAGS_MAX:
        raise InvalidArgument("tags", len(tags), f"use at most {words.TAGS_MAX} tags")
    checked = []
    for tag in tags:
        value = tag.value
        if not value or len(value) > words.TAG_VALUE_MAX or not value.isprintable():
            raise InvalidArgument("tags.value", value, f"use 1 to {words.TAG_VALUE_MAX} printable characters")
        checked.append((_tag_name(tag.name), value))
    return tuple(checked)


@lru_cache(maxsize=1024)
def _tag_name(name: str) -> str:
    """Check the name of a tag; the same few come with every call."""
    if words.TAG_NAME.fullmatch(name) is None:
        raise InvalidArgument("tags.name", name, f"use 1 to {words.TAG_NAME_MAX} of A-Z a-z 0-9 _ . -")
    return name


def _ttl_ms(ttl: Duration, *, field: str) -> int:
    ttl_ms: int = ttl.seconds * 1000 + ttl.nanos // 1_000_000
    if not 1 <= ttl_ms <= TTL_MAX_MS:
        raise InvalidArgument(field, f"{ttl.seconds + ttl.nanos / 1e9:g}s", "use 1 ms to 24 hours")
    return ttl_ms


def duration_ms(duration: Duration, *, field: str, longest_ms: int) -> int:
    """Check a Duration of 0 to `longest_ms`."""
    value_ms: int = duration.seconds * 1000 + duration.nanos // 1_000_000
    if not 0 <= value_ms <= longest_ms:
        raise InvalidArgument(field, f"{duration.seconds}s", f"use 0 to {longest_ms // 1000} seconds")
    return value_ms


def instant_ms(at: Timestamp, *, field: str) -> int:
    """Check a Timestamp; ms since the epoch."""
    at_ms: int = at.seconds * 1000 + at.nanos // 1_000_000
    if not 0 < at_ms < 253_402_300_800_000 or not 0 <= at.nanos < 1_000_000_000:
        raise InvalidArgument(field, f"{at.seconds}s", "use a time between 1970 and 9999")
    return at_ms
