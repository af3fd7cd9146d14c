"""Sums of refusals per minute: not rows of their own, but appended to the ledger by each sidecar every few seconds.

A crash loses at most the sums of those seconds, never money.
"""

from __future__ import annotations

import json
from collections import Counter

import structlog

from limiter.domain.errors import Unavailable
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import Denied
from limiter.service.calls import Tags
from limiter.store.port import Store

#: Different sums kept at a time; what does not fit is counted under OTHER.
_SUMS_MAX = 1_000
_NAME_MAX = 64
_OTHER = "(other)"
_MINUTE_MS = 60_000

_log = structlog.get_logger(__name__)

#: minute, organization, scope, limit, reason, model, customer
_Sum = tuple[int, str, str, str, str, str, str]


class Refusals:
    """Counts refusals per minute × scope × limit × reason × model × customer."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sums: Counter[_Sum] = Counter()

    def add(self, key: Scope, model: str, denied: Denied, tags: Tags, now_ms: int) -> None:
        """Count one refusal, once for every limit that refused; the names of model and customer are cut short."""
        minute = now_ms // _MINUTE_MS * _MINUTE_MS
        customer = next((value for name, value in tags if name == "customer"), "")
        reason = denied.reason.name
        places = [(status.scope.path, status.limit.id) for status in denied.violations] or [(key.path, "")]
        for scope, limit in places:
            entry = (minute, key.organization, scope, limit, reason, model[:_NAME_MAX], customer[:_NAME_MAX])
            if entry not in self._sums and len(self._sums) >= _SUMS_MAX:
                entry = (minute, key.organization, key.organization, limit, reason, _OTHER, _OTHER)
            self._sums[entry] += 1

    async def flush(self) -> None:
        """Append what was counted; what cannot be appended is kept for the next time."""
        sums, self._sums = self._sums, Counter()
        by_organization: dict[str, list[tuple[_Sum, int]]] = {}
        for entry, count in sums.items():
            by_organization.setdefault(entry[1], []).append((entry, count))
        for organization, entries in by_organization.items():
            rows = [
                dict(
                    zip(("minute_ms", "scope", "limit", "reason", "model", "customer"), (e[0], *e[2:]), strict=True),
                    count=count,
                )
                for e, count in entries
            ]
            try:
                text = json.dumps({"refusals": rows}, separators=(",", ":"))
                await self._store.append_refusals(organization, text.encode(), _by_limit(entries))
            except Unavailable as error:
                _log.warning("refusals.kept", organization=organization, reason=str(error))
                self._sums.update(dict(entries))


def _by_limit(entries: list[tuple[_Sum, int]]) -> Counter[tuple[Scope, str]]:
    counts: Counter[tuple[Scope, str]] = Counter()
    for (_, _, scope, limit, *_), count in entries:
        if limit:
            counts[Scope.parse(scope), limit] += count
    return counts
