"""From the service's words to protobuf; pure."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.domain import calls as words
from limiter.domain.limits import UNITS, LimitKind
from limiter.domain.reservations import RowFlag
from limiter.domain.verdicts import Denied, LimitStatus, Place
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
    """Append a limit and its counters to a repeated field."""
    message: pb.LimitStatus = messages.add()
    message.CopyFrom(place_message(status.place))
    _, message.settled, message.held, message.remaining, message.requested, resets_at_ms, refills_at_ms, over = status
    message.overage = over
    if resets_at_ms:
        message.resets_at.CopyFrom(timestamp(resets_at_ms))
    if refills_at_ms:
        message.refills_at.CopyFrom(timestamp(refills_at_ms))


def place_message(place: Place) -> pb.LimitStatus:
    """What of a limit does not change from call to call."""
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


def refusal(denied: Denied) -> pb.ReserveResponse:
    """The answer to a Reserve that was refused; for others see :mod:`limiter.rpc.grants`."""
    response = pb.ReserveResponse(decision="DENIED", denial=_denial(denied), dry_run=denied.dry_run)
    for status in denied.violations:
        add_status(response.denial.violations, status)
    for status in denied.limits:
        add_status(response.limits, status)
    for status in denied.warnings:
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
