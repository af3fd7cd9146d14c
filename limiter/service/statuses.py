"""Turns the counters that a script told into the words of the answer."""

from __future__ import annotations

from datetime import UTC, datetime

from limiter.domain.limits import RATE_PERIODS, Limit, LimitKind
from limiter.domain.money import NANOUSD_PER_USD, format_usd
from limiter.domain.verdicts import DenialReason, LimitStatus
from limiter.domain.windows import TOTAL_END
from limiter.store.port import InspectReply, Plan, RawStatus

#: When to come back where only other calls' holds stand in the way: nobody knows when they end.
HOLD_RETRY_MS = 1_000

_SPEND, _REQUESTS, _CONCURRENCY = LimitKind.SPEND, LimitKind.REQUESTS, LimitKind.CONCURRENCY


def limit_status(plan: Plan, raw: RawStatus, *, now_ms: int, cost: int, tokens: int, requests: int) -> LimitStatus:
    """One counter of a plan in the limit's unit; `cost`, `tokens` and `requests` are what the call asks for."""
    scope, entry, _, first, second, third, fourth, fifth = raw
    place = plan.scopes[scope].places[entry]
    limit = place.limit
    kind = limit.kind
    if kind is _SPEND:
        settled, held = second * NANOUSD_PER_USD + third, fourth * NANOUSD_PER_USD + fifth
        left = limit.amount - settled - held
        return LimitStatus(place, settled, held, max(left, 0), cost, 0 if first >= TOTAL_END else first)
    if kind is _CONCURRENCY:
        return LimitStatus(place, 0, first, max(limit.amount - first, 0), requests)
    ticks, tick_ms = RATE_PERIODS[limit.per]
    missing = limit.burst * ticks - second
    full_ms = (first + -(-missing // limit.amount)) * tick_ms if missing > 0 and limit.amount else now_ms
    asked = requests if kind is _REQUESTS else tokens
    return LimitStatus(place, 0, 0, max(second // ticks, 0), asked, 0, full_ms)


def limits_read(plan: Plan, reply: InspectReply) -> tuple[LimitStatus, ...]:
    """Every limit of a plan that applies, as it was read: no call asks for anything."""
    return tuple(
        limit_status(plan, raw, now_ms=reply.now_ms, cost=0, tokens=0, requests=0)._replace(overage=overage)
        for raw, overage in zip(reply.statuses, reply.overages, strict=True)
    )


def retry_after_ms(plan: Plan, raws: list[RawStatus], *, now_ms: int, tokens: int, requests: int) -> int:
    """When every limit that refused may have room again, if nobody else takes it: ms from now, at least 1."""
    wait_ms = 1
    for raw in raws:
        limit = plan.scopes[raw.scope].limits[raw.limit].limit
        if limit.kind in (LimitKind.SPEND, LimitKind.CONCURRENCY):
            wait_ms = max(wait_ms, HOLD_RETRY_MS)
            continue
        ticks, tick_ms = RATE_PERIODS[limit.per]
        count = requests if limit.kind is LimitKind.REQUESTS else tokens
        missing = count * ticks - raw.b
        if missing > 0 and limit.amount:
            wait_ms = max(wait_ms, (raw.a + -(-missing // limit.amount)) * tick_ms - now_ms)
    return wait_ms


def refusal_message(
    reason: DenialReason, violations: tuple[LimitStatus, ...], *, model: str = "", provider: str = ""
) -> str:
    """One sentence for people: what refused, and what to do."""
    if not violations:
        return _PLAIN[reason].format(model=model or "(none)", at=f" at {provider}" if provider else "")
    return f"{_HEADINGS[reason]}: " + "; ".join(_violation(status) for status in violations)


def _violation(status: LimitStatus) -> str:
    limit = status.limit
    where = f"{_described(limit)} of {status.scope.path}"
    if limit.kind is LimitKind.SPEND:
        text = (
            f"{where} has {format_usd(status.settled)} settled and {format_usd(status.held)} held,"
            f" this call may cost {format_usd(status.requested)}"
        )
        if status.resets_at_ms:
            text += f"; resets at {_instant(status.resets_at_ms)}"
        return text
    if limit.kind is LimitKind.CONCURRENCY:
        return f"{where} has {status.held} open holds"
    return f"{where} has {status.remaining} left of a burst of {limit.burst}, this call needs {status.requested}"


def _described(limit: Limit) -> str:
    if limit.kind is LimitKind.SPEND:
        window = "in total" if limit.per == "total" else f"per {limit.per}"
        return f"limit {limit.id} ({format_usd(limit.amount)} USD {window})"
    if limit.kind is LimitKind.CONCURRENCY:
        return f"limit {limit.id} ({limit.amount} open holds)"
    return f"limit {limit.id} ({limit.amount} {limit.kind.name.lower()} per {limit.per})"


def _instant(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


_HEADINGS = {
    DenialReason.NEVER_FITS: "the call is larger than a rate limit can ever grant",
    DenialReason.SPEND_CEILING: "the spend ceiling is reached",
    DenialReason.SPEND_HELD: "open calls hold the rest of the budget; try again shortly",
    DenialReason.REQUEST_RATE: "too many requests",
    DenialReason.TOKEN_RATE: "too many tokens",
    DenialReason.CONCURRENCY: "too many calls at once",
}

_PLAIN = {
    DenialReason.KEY_UNKNOWN: "the API key is not known; mint one with `limiter keys create`",
    DenialReason.KEY_DISABLED: "the API key is disabled, or its team or organization is",
    DenialReason.KEY_EXPIRED: "the API key has expired; rotate it with `limiter keys rotate`",
    DenialReason.MODEL_NOT_ALLOWED: "the policy does not allow the model {model} for this key",
    DenialReason.MODEL_UNPRICED: "the model {model} has no price{at}; price it in the price file or name it free"
    " in the policy",
}
