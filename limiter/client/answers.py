"""Messages of the contract → the words of the domain. Pure, once for both faces.

An answer of a newer limiter must never cost the caller its grant: limits of a kind that this client
does not know are left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal

from google.protobuf.timestamp_pb2 import Timestamp

from limiter.client.errors import CallFailed
from limiter.domain.calls import Usage
from limiter.domain.errors import InvalidArgument
from limiter.domain.limits import Limit, LimitKind
from limiter.domain.reservations import Basis, State
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason, Denied, Granted, LimitStatus, Place, Verdict
from limiter.v1 import limiter_pb2 as pb

_KINDS = frozenset(kind.value for kind in LimitKind)
_REASONS = frozenset(reason.value for reason in DenialReason)
_STATES = frozenset(state.value for state in State)
_BASES = frozenset(basis.value for basis in Basis)


@dataclass(frozen=True, slots=True)
class Settlement:
    """What the books say about one call after Settle, Release or Charge."""

    state: State
    cost_nanousd: int
    released_nanousd: int  # of the hold, what was given back
    overage_nanousd: int  # what was charged above the hold
    basis: Basis
    late: bool  # the hold had expired
    repeated_call: bool  # nothing changed: an equal or better settlement was there
    usage: Usage | None  # as read
    model: str  # as priced
    price_version: str
    warnings: tuple[str, ...]
    reservation: str = field(repr=False)  # who knows it may settle

    @property
    def cost_usd(self) -> Decimal:
        """The cost in USD, exact."""
        return to_usd(self.cost_nanousd)


def to_usd(nanousd: int) -> Decimal:
    """Return nano-USD as an exact number of USD."""
    return Decimal(nanousd).scaleb(-9)


def verdict(response: pb.ReserveResponse) -> Verdict:
    """Read the answer to a Reserve."""
    if response.decision == pb.ReserveResponse.GRANTED:
        return Granted(
            reservation=response.reservation,
            held_nanousd=response.held_nanousd,
            expires_at_ms=milliseconds(response.expires_at) if response.HasField("expires_at") else 0,
            max_output_tokens=response.max_output_tokens if response.HasField("max_output_tokens") else None,
            limits=statuses(response.limits),
            warnings=statuses(response.warnings),
            repeated_call=response.repeated_call,
            dry_run=response.dry_run,
            output_field=response.output_field,
        )
    denial = response.denial
    if response.decision != pb.ReserveResponse.DENIED or denial.reason not in _REASONS:
        raise CallFailed(
            f"the limiter answered with decision {response.decision} and reason {denial.reason},"
            f" which this client does not know: {denial.message}"
        )
    return Denied(
        reason=DenialReason(denial.reason),
        message=denial.message,
        violations=statuses(denial.violations),
        limits=statuses(response.limits),
        warnings=statuses(response.warnings),
        # Rounded up: a caller that waits so long must not be early.
        retry_after_ms=-(-denial.retry_after.ToNanoseconds() // 1_000_000) if denial.HasField("retry_after") else None,
        fits_max_output_tokens=denial.fits_max_output_tokens if denial.HasField("fits_max_output_tokens") else None,
        dry_run=response.dry_run,
    )


def statuses(messages: Iterable[pb.LimitStatus]) -> tuple[LimitStatus, ...]:
    """Read limits and their counters."""
    return tuple(status for message in messages if (status := _status(message)) is not None)


def settlement(response: pb.SettleResponse, *, reservation: str) -> Settlement:
    """Read the answer to Settle, Release or Charge."""
    if response.state not in _STATES or response.basis not in _BASES:
        raise CallFailed(
            f"the limiter booked the call with state {response.state} and basis {response.basis},"
            " which this client does not know"
        )
    usage = response.usage
    return Settlement(
        state=State(response.state),
        cost_nanousd=response.cost_nanousd,
        released_nanousd=response.released_nanousd,
        overage_nanousd=response.overage_nanousd,
        basis=Basis(response.basis),
        late=response.late,
        repeated_call=response.repeated_call,
        usage=Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            units=dict(usage.units),
        )
        if response.HasField("usage")
        else None,
        model=response.model,
        price_version=response.price_version,
        warnings=tuple(response.warnings),
        reservation=response.reservation or reservation,
    )


def milliseconds(moment: Timestamp) -> int:
    """Return a time as ms since the epoch."""
    return moment.ToMilliseconds()


def _status(message: pb.LimitStatus) -> LimitStatus | None:
    if message.kind not in _KINDS:
        return None
    try:
        scope = Scope.parse(message.scope)
    except InvalidArgument:
        return None
    limit = Limit(
        id=message.limit,
        kind=LimitKind(message.kind),
        amount=message.limit_value,
        per=message.window,
        burst=message.burst,
        shadow=message.shadow,
    )
    return LimitStatus(
        place=Place(scope, limit),
        settled=message.settled,
        held=message.held,
        remaining=message.remaining,
        requested=message.requested,
        resets_at_ms=milliseconds(message.resets_at) if message.HasField("resets_at") else 0,
        refills_at_ms=milliseconds(message.refills_at) if message.HasField("refills_at") else 0,
        overage=message.overage,
    )
