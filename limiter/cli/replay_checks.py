"""Judges single answers by their own numbers: ceilings that are passed, refusals that are not justified.

Pure: messages of the contract in, sentences about what is wrong out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from limiter.client.contract import messages as pb
from limiter.domain.limits import LimitKind
from limiter.domain.money import format_usd
from limiter.domain.verdicts import DenialReason

_SPEND: Final = LimitKind.SPEND.value
_CONCURRENCY: Final = LimitKind.CONCURRENCY.value
_REASONS: Final = {reason.value: reason for reason in DenialReason}


class CounterName(NamedTuple):
    """A counter of a scope: `organizations/acme`, `monthly`, 1, `month`."""

    scope: str
    limit: str
    kind: int
    window: str


def counter_name(status: pb.LimitStatus) -> CounterName:
    """Which counter a status is about."""
    return CounterName(status.scope, status.limit, status.kind, status.window)


def overshoot(status: pb.LimitStatus) -> int:
    """How far settled and held are above the ceiling (nano-USD), or open holds above the slots; at least 0."""
    if status.kind not in (_SPEND, _CONCURRENCY):
        return 0
    return max(0, status.settled + status.held - status.limit_value)


def refuses(status: pb.LimitStatus) -> DenialReason | None:
    """The reason for which this limit has no room for what was requested; None: it has room."""
    if status.kind == _SPEND:
        if status.requested == 0 or status.settled + status.held + status.requested <= status.limit_value:
            return None
        alone = status.settled + status.requested > status.limit_value
        return DenialReason.SPEND_CEILING if alone else DenialReason.SPEND_HELD
    if status.kind == _CONCURRENCY:
        return DenialReason.CONCURRENCY if status.held + 1 > status.limit_value else None
    if status.remaining >= status.requested:
        return None
    if status.requested > status.burst:
        return DenialReason.NEVER_FITS
    return DenialReason.REQUEST_RATE if status.kind == LimitKind.REQUESTS.value else DenialReason.TOKEN_RATE


def refusal_faults(answer: pb.ReserveResponse) -> Iterator[str]:
    """Yield what is wrong with a refusal; nothing: it is justified.

    A refusal by a limit is justified if every limit that it names has no room, if it names all such
    limits among those told, and if its reason is the first of theirs by precedence. A refusal by the
    policy (key or model) names no limit and has no numbers to judge it by.
    """
    denial = answer.denial
    reason = _REASONS.get(denial.reason)
    if reason is None:
        yield f"its reason {denial.reason} is none that the contract knows"
        return
    if denial.http_status != reason.http_status or denial.retryable != reason.retryable:
        yield f"{reason.name} came with HTTP status {denial.http_status} and retryable {denial.retryable}"
    if denial.retryable != denial.HasField("retry_after"):
        yield f"{reason.name} came {'without' if denial.retryable else 'with'} retry_after"
    if reason < DenialReason.NEVER_FITS:
        if denial.violations:
            yield f"{reason.name} names limits, though the policy alone refuses"
        return
    yield from _violation_faults(answer, reason)


def _violation_faults(answer: pb.ReserveResponse, reason: DenialReason) -> Iterator[str]:
    named, reasons = set(), []
    for status in answer.denial.violations:
        named.add(counter_name(status))
        found = refuses(status)
        if status.shadow:
            yield f"{described(status)} refused, though it is a shadow"
        if found is None:
            yield f"{described(status)} refused, though it had room: {numbers(status)}"
        else:
            reasons.append(found)
    if not named:
        yield f"{reason.name} names no limit that refused"
    for status in answer.limits:
        if not status.shadow and refuses(status) is not None and counter_name(status) not in named:
            yield f"{described(status)} had no room ({numbers(status)}), but is not named"
    if reasons and min(reasons) is not reason:
        yield f"the reason is {reason.name}, but {min(reasons).name} goes before it"


def described(status: pb.LimitStatus) -> str:
    """`monthly of organizations/acme`."""
    return f"{status.limit} of {status.scope}"


def numbers(status: pb.LimitStatus) -> str:
    """The numbers that decide, for people."""
    if status.kind == _SPEND:
        return (
            f"settled {format_usd(status.settled)}, held {format_usd(status.held)},"
            f" requested {format_usd(status.requested)}, ceiling {format_usd(status.limit_value)}"
        )
    if status.kind == _CONCURRENCY:
        return f"{status.held} open of {status.limit_value}"
    return f"{status.remaining} left, {status.requested} requested, burst {status.burst}"
