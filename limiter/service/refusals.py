"""Sums of refusals per minute: not rows of their own, but appended to the ledger by each sidecar every few seconds.

A crash loses at most the sums of those seconds, never money.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import structlog

from limiter.domain.errors import Unavailable
from limiter.domain.limits import LimitKind
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason, Denied, LimitStatus
from limiter.domain.windows import TOTAL_END
from limiter.service.calls import Tags
from limiter.store.port import Store

#: Different sums kept at a time; what does not fit is counted under OTHER.
_SUMS_MAX = 1_000
_NAME_MAX = 64
_OTHER = "(other)"
_MINUTE_MS = 60_000

_log = structlog.get_logger(__name__)


class _Place(NamedTuple):
    """What is summed apart. `resets_at_ms` is the end of a spend limit's window; 0: the limit has none."""

    minute_ms: int
    organization: str
    scope: str
    limit: str
    reason: str
    model: str
    customer: str
    resets_at_ms: int = 0


@dataclass(slots=True)
class _Sum:
    """`count` is of refusals by the limit; `calls` of calls that are counted here and at no other limit."""

    count: int = 0
    calls: int = 0
    limit: dict[str, Any] = field(default_factory=dict)


class Refusals:
    """Counts refusals per minute × scope × limit × reason × model × customer × window."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sums: dict[_Place, _Sum] = {}

    def add(self, key: Scope, model: str, denied: Denied, tags: Tags, now_ms: int) -> None:
        """Count one refusal, once for every limit that refused; the names of model and customer are cut short.

        As a call it counts once: at the limit that the refusal names first.
        """
        minute = now_ms // _MINUTE_MS * _MINUTE_MS
        customer = next((value for name, value in tags if name == "customer"), "")
        names = denied.reason.name, model[:_NAME_MAX], customer[:_NAME_MAX]
        if not denied.violations:
            self._count(_Place(minute, key.organization, key.path, "", *names), {}, calls=1)
        for i, status in enumerate(denied.violations):
            ends_ms, told = _window(status)
            own = _reason_at(denied.reason, status).name
            place = _Place(minute, key.organization, status.scope.path, status.limit.id, own, *names[1:], ends_ms)
            self._count(place, told, calls=0 if i else 1)

    def _count(self, place: _Place, limit: dict[str, Any], *, count: int = 1, calls: int) -> None:
        if place not in self._sums and len(self._sums) >= _SUMS_MAX:
            place = place._replace(scope=place.organization, model=_OTHER, customer=_OTHER, resets_at_ms=0)
            limit = {}
        found = self._sums.setdefault(place, _Sum(limit=limit))
        found.count += count
        found.calls += calls

    async def flush(self) -> None:
        """Append what was counted; what cannot be appended is kept for the next time."""
        sums, self._sums = self._sums, {}
        by_organization: dict[str, list[tuple[_Place, _Sum]]] = {}
        for place, counted in sums.items():
            by_organization.setdefault(place.organization, []).append((place, counted))
        for organization, entries in by_organization.items():
            rows = [_row(place, counted) for place, counted in entries]
            try:
                text = json.dumps({"refusals": rows}, separators=(",", ":"))
                await self._store.append_refusals(organization, text.encode(), _by_limit(entries))
            except Unavailable as error:
                _log.warning("refusals.kept", organization=organization, reason=str(error))
                for place, counted in entries:
                    self._count(place, counted.limit, count=counted.count, calls=counted.calls)


#: Why a limit refuses that is not the one that the answer gives as its reason.
_REASONS = {
    LimitKind.SPEND: DenialReason.SPEND_CEILING,
    LimitKind.REQUESTS: DenialReason.REQUEST_RATE,
    LimitKind.TOKENS: DenialReason.TOKEN_RATE,
    LimitKind.CONCURRENCY: DenialReason.CONCURRENCY,
}
_OF_KIND = {DenialReason.SPEND_HELD: LimitKind.SPEND} | {reason: kind for kind, reason in _REASONS.items()}


def _reason_at(reason: DenialReason, status: LimitStatus) -> DenialReason:
    """Why this limit refused: the reason of the answer, if it is one of such a limit."""
    kind = status.limit.kind
    fits = _OF_KIND.get(reason, kind if kind in (LimitKind.REQUESTS, LimitKind.TOKENS) else None)
    return reason if fits is kind else _REASONS[kind]


def _window(status: LimitStatus) -> tuple[int, dict[str, Any]]:
    """The end of a spend limit's window, and what else is told of the limit."""
    limit = status.limit
    if limit.kind is not LimitKind.SPEND:
        return 0, {}
    return status.resets_at_ms or TOTAL_END, {"window": limit.per, "ceiling_nanousd": limit.amount}


def _row(place: _Place, counted: _Sum) -> dict[str, Any]:
    """One sum as the ledger has it."""
    row = place._asdict()
    del row["organization"]
    if not place.resets_at_ms:
        del row["resets_at_ms"]
    return row | counted.limit | {"count": counted.count, "calls": counted.calls}


def _by_limit(entries: list[tuple[_Place, _Sum]]) -> Counter[tuple[Scope, str]]:
    counts: Counter[tuple[Scope, str]] = Counter()
    for place, counted in entries:
        if place.limit:
            counts[Scope.parse(place.scope), place.limit] += counted.count
    return counts
