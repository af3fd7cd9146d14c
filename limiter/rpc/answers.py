"""From the service's words to protobuf; pure."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.domain import calls as words
from limiter.domain.limits import UNITS, LimitKind
from limiter.domain.reservations import RowFlag
from limiter.domain.verdicts import Denied, Granted, LimitStatus, Place, Verdict
from limiter.service.calls import Settled
from limiter.v1 import limiter_pb2 as pb


def timestamp(at_ms: int) -> Timestamp:
    """Ms since the epoch as a Timestamp."""
    seconds, rest_ms = divmod(at_ms, 1000)
    return Timestamp(seconds=seconds, nanos=rest_ms * 1_000_000)


def duration(length_ms: int) -> Duration:
    """Ms as a Duration."""
    seconds, rest_ms = divmod(length_ms, 1000)
    return Duration(seconds=seconds, nanos=rest_ms * 1_000_000)


def add_status(messages: Any, status: LimitStatus) -> None:  # noqa: ANN401 - a repeated field
    """Append a limit and its counters to a repeated field; made in place, as every Reserve has several."""
    message: pb.LimitStatus = messages.add()
    message.CopyFrom(_limit(status.place))
    _tell(message, status)


def _tell(message: pb.LimitStatus, status: LimitStatus) -> None:
    _, message.settled, message.held, message.remaining, message.requested, resets_at_ms, refills_at_ms, over = status
    if over:
        message.overage = over
    if resets_at_ms:
        _set_time(message.resets_at, resets_at_ms)
    if refills_at_ms:
        _set_time(message.refills_at, refills_at_ms)


@lru_cache(maxsize=16384)
def _limit(place: Place) -> pb.LimitStatus:
    """What does not change from call to call; never to be written to."""
    limit = place.limit
    message = pb.LimitStatus(
        scope=place.scope.name,
        limit=limit.id,
        kind=limit.kind.name,
        unit=UNITS[limit.kind],
        window=limit.per,
        limit_value=limit.amount,
        shadow=limit.shadow,
    )
    if limit.kind in (LimitKind.REQUESTS, LimitKind.TOKENS):
        message.burst = limit.burst
    return message


def _set_time(message: Timestamp, at_ms: int) -> None:
    seconds, rest_ms = divmod(at_ms, 1000)
    message.seconds = seconds
    message.nanos = rest_ms * 1_000_000


@lru_cache(maxsize=8192)
def _grant(places: tuple[Place, ...]) -> pb.ReserveResponse:
    """What grants that tell of these places have in common; never to be written to."""
    return pb.ReserveResponse(decision="GRANTED", limits=map(_limit, places))


def reserve_response(verdict: Verdict) -> pb.ReserveResponse:
    """The answer to a Reserve."""
    response = pb.ReserveResponse()
    if isinstance(verdict, Granted):
        response.CopyFrom(_grant(tuple([status.place for status in verdict.limits])))
        for message, status in zip(response.limits, verdict.limits, strict=True):
            _tell(message, status)
        response.reservation = verdict.reservation
        response.held_nanousd = verdict.held_nanousd
        if verdict.max_output_tokens is not None:
            response.max_output_tokens = verdict.max_output_tokens
        if verdict.repeated_call:
            response.repeated_call = True
        if verdict.output_field:
            response.output_field = verdict.output_field
        _set_time(response.expires_at, verdict.expires_at_ms)
    else:
        response.decision = pb.ReserveResponse.DENIED
        response.denial.CopyFrom(_denial(verdict))
        for status in verdict.violations:
            add_status(response.denial.violations, status)
        for status in verdict.limits:
            add_status(response.limits, status)
    if verdict.dry_run:
        response.dry_run = True
    for status in verdict.warnings:
        add_status(response.warnings, status)
    return response


def _denial(denied: Denied) -> pb.Denial:
    return pb.Denial(
        reason=denied.reason.name,
        http_status=denied.reason.http_status,
        retryable=denied.reason.retryable,
        retry_after=None if denied.retry_after_ms is None else duration(denied.retry_after_ms),
        message=denied.message,
        fits_max_output_tokens=denied.fits_max_output_tokens,
    )


def usage_message(usage: words.Usage) -> pb.Usage:
    """Usage as read."""
    return pb.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        units=usage.units,
    )


def settle_response(settled: Settled) -> pb.SettleResponse:
    """The answer to a Settle, Release or Charge."""
    return pb.SettleResponse(
        state=settled.state.name,
        cost_nanousd=settled.cost_nanousd,
        released_nanousd=settled.released_nanousd,
        overage_nanousd=settled.overage_nanousd,
        basis=settled.basis.name if settled.basis is not None else "BASIS_UNSPECIFIED",
        late=RowFlag.LATE in settled.flags,
        repeated_call=settled.repeated_call,
        usage=None if settled.usage is None else usage_message(settled.usage),
        model=settled.model,
        price_version=settled.price_version,
        warnings=settled.warnings,
        reservation=str(settled.name),
    )
