"""What is left of the rates, in the headers that OpenAI's clients know: x-ratelimit-{limit,remaining,reset}-…."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from limiter.domain.limits import LimitKind
from limiter.domain.verdicts import LimitStatus

_NAMES: Final = {
    LimitKind.REQUESTS: tuple(f"x-ratelimit-{word}-requests" for word in ("limit", "remaining", "reset")),
    LimitKind.TOKENS: tuple(f"x-ratelimit-{word}-tokens" for word in ("limit", "remaining", "reset")),
}


def rate_limit_headers(statuses: Iterable[LimitStatus], *, now_ms: int) -> list[tuple[str, str]]:
    """Write the tightest rate of each kind: the bucket's size, what is in it, and when it is full again.

    `now_ms` is the store's clock. A limit that only warns is left out.
    """
    tightest: dict[LimitKind, LimitStatus] = {}
    for status in statuses:
        limit = status.limit
        if limit.kind in _NAMES and not limit.shadow:
            other = tightest.get(limit.kind)
            if other is None or status.remaining < other.remaining:
                tightest[limit.kind] = status
    found = []
    for kind, status in tightest.items():
        size, left, reset = _NAMES[kind]
        wait_ms = max(status.refills_at_ms - now_ms, 0)
        found += [(size, str(status.limit.burst)), (left, str(status.remaining)), (reset, format_wait(wait_ms))]
    return found


def format_wait(wait_ms: int) -> str:
    """Write a time as OpenAI does: 20ms, 1.5s, 6m0s, 2h5m0s."""
    if wait_ms < 1000:
        return f"{wait_ms}ms" if wait_ms else "0s"
    minutes, rest_ms = divmod(wait_ms, 60_000)
    seconds = f"{rest_ms // 1000}.{rest_ms % 1000:03d}".rstrip("0").rstrip(".") + "s"
    if not minutes:
        return seconds
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{seconds}" if hours else f"{minutes}m{seconds}"
