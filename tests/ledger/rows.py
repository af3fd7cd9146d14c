"""Ledger rows as the scripts write them, for tests of the books."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from limiter.domain.reservations import NO_FLAG, Basis, RowFlag, State
from limiter.domain.rows import Row, RowKind, Taken
from limiter.domain.scopes import Scope
from limiter.ledger.booking import Booked, Booking, Page

#: 1 November 2026, 00:00 UTC.
NOVEMBER = 1_793_491_200_000
HOUR = 3_600_000
DAY = 24 * HOUR

#: When the counters of the rows began their period.
WINDOW = NOVEMBER

_USAGE = {"input_tokens": 10, "output_tokens": 5}

Tags = Sequence[tuple[str, str]]


@dataclass
class Ledger:
    """Writes rows with the positions that the store would give them, and books them.

    `row` makes one and remembers it; `book` writes what was made since the last time.
    """

    shard: int = 7
    epoch: int = NOVEMBER
    made: list[Row] = field(default_factory=list)
    booked: int = 0
    seq: int = 0
    names: int = 0

    def row(  # the fields of a row
        self,
        *,
        key: str = "acme/search/bot",
        model: str = "gpt-4o",
        cost: int = 1_000,
        held: int | None = None,
        at_ms: int = NOVEMBER + HOUR,
        took_ms: int = 2_000,
        tags: Tags = (("customer", "globex"),),
        kind: RowKind = RowKind.SETTLEMENT,
        state: State = State.SETTLED,
        basis: Basis = Basis.USAGE,
        flags: RowFlag = NO_FLAG,
        amount: int | None = None,
        reservation: str = "",
        usage: Mapping[str, int] | None = None,
        provider: str = "openai",
        operation: str = "chat",
        provider_request_id: str = "",
        tokens: int = 100,
        taken: tuple[Taken, ...] | None = None,
        call: Mapping[str, Any] | None = None,
        end: Mapping[str, Any] | None = None,
    ) -> Row:
        """Make the next row: by default the end of a call that was reserved at `at_ms` and cost what it says."""
        self.names += 1
        scope = Scope.parse(key)
        held = 2 * cost if held is None else held
        if taken is None:
            taken = (Taken(Scope(scope.organization), "monthly:spend:month", WINDOW, held),)
        call_facts: dict[str, Any] = {"key": key, "model": model, "provider": provider, "request_id": f"r-{self.names}"}
        call_facts |= {"operation": operation} if operation else {}
        call_facts |= {"tags": [list(tag) for tag in tags]} if tags else {}
        end_facts: dict[str, Any] = {
            "outcome": "COMPLETED",
            "usage": dict(usage or {"input_tokens": 10, "output_tokens": 5}),
        }
        end_facts |= {"provider_request_id": provider_request_id} if provider_request_id else {}
        made = Row(
            shard=self.shard,
            epoch=self.epoch,
            seq=self.seq,
            kind=kind,
            member=f"{scope.organization}/{reservation or f'{self.names:032x}'}",
            state=state,
            basis=basis,
            flags=flags,
            amount=cost if amount is None else amount,
            held=held,
            cost=cost,
            tokens=tokens,
            reserved_ms=at_ms,
            expires_ms=at_ms + 600_000,
            at_ms=at_ms + took_ms,
            taken=taken,
            call=json.dumps(call_facts | dict(call or {})).encode(),
            ending=b"" if basis is Basis.EXPIRED else json.dumps(end_facts | dict(end or {})).encode(),
        )
        return self._keep(made)

    def note(self, kind: RowKind, call: Mapping[str, Any], *, organization: str = "acme", at_ms: int = NOVEMBER) -> Row:
        """Make a row that moves no counter: an event, or sums of refusals."""
        made = Row(
            shard=self.shard, epoch=self.epoch, seq=self.seq, kind=kind, member=f"{organization}/refusals", state=None,
            basis=None, flags=NO_FLAG, amount=0, held=0, cost=0, tokens=0, reserved_ms=at_ms, expires_ms=at_ms,
            at_ms=at_ms, taken=(), call=json.dumps(call).encode(), ending=b"",
        )  # fmt: skip
        return self._keep(made)

    def _keep(self, made: Row) -> Row:
        self.seq += 1
        self.made.append(made)
        return made

    def book(self, booking: Booking) -> Booked:
        """Write what was made since the last time."""
        after = self.made[self.booked - 1].position if self.booked else None
        booked = booking.book({self.shard: Page(after, self.made[self.booked :])})
        self.booked = len(self.made)
        return booked


def pages(rows: Iterable[Row]) -> dict[int, Page]:
    """Rows of any shards as their first pages."""
    by_shard: defaultdict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_shard[row.shard].append(row)
    return {shard: Page(None, found) for shard, found in by_shard.items()}
