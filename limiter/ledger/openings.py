"""What was spent in a window before a limit was there: what the limit is opened with."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select, tuple_

from limiter.domain.reservations import RowFlag
from limiter.domain.rows import SPENDING, Position, RowKind
from limiter.ledger.booking import read_positions
from limiter.ledger.database import Database
from limiter.ledger.entries import HOUR_MS
from limiter.ledger.schema import hours, ledger
from limiter.ledger.texts import read_texts


class Spender(NamedTuple):
    """Who spent: a key, and on which model (after aliases)."""

    team: str
    key: str
    model: str


class Span(NamedTuple):
    """Which rows: of an organization, reserved from `start_ms` on and no later than a limit came, at `until_ms`.

    `position` is that of the newest row when the limit came.
    """

    shard: int
    organization: str
    start_ms: int
    until_ms: int
    position: Position


class Later(NamedTuple):
    """What a row adds that was written after the limit came, of a call that was reserved before.

    `charged` are the counters that it moved: scope's path, counter, period. The limit may be among them, if both were
    in the same ms.
    """

    spender: Spender
    amount: int
    charged: frozenset[tuple[str, str, int]]


@dataclass(slots=True)
class Spent:
    """What was spent in a span, by the rows in the books up to `position` (None: there are none of this shard)."""

    position: Position | None
    sums: defaultdict[Spender, int] = field(default_factory=lambda: defaultdict(int))
    later: list[Later] = field(default_factory=list)

    def add(self, further: Spent) -> bool:
        """Add what newer rows say; answers whether that was anything."""
        for spender, amount in further.sums.items():
            self.sums[spender] += amount
        self.later += further.later
        self.position = further.position
        return bool(further.sums or further.later)


class OpeningSums:
    """Reads the books; for any thread. Every method raises Unavailable if they cannot be read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def positions(self) -> dict[int, Position]:
        """The last row of each shard that is in the books."""
        with self._database.read() as connection:
            return read_positions(connection)

    def spent(self, span: Span) -> Spent:
        """What was spent in a span, by all rows that are in the books."""
        with self._database.read() as connection:
            found = Spent(read_positions(connection).get(span.shard))
            for spender, amount in _all(connection, span):
                found.sums[spender] += amount
            rows = list(_rows(connection, span, span.position))
            for row in rows:
                found.sums[_spender(row)] -= row.amount_nanousd
            _take(connection, found, span, rows)
            return found

    def further(self, span: Span, after: Position) -> Spent:
        """What rows behind `after` add to that."""
        with self._database.read() as connection:
            found = Spent(read_positions(connection).get(span.shard))
            _take(connection, found, span, list(_rows(connection, span, after)))
            return found


def _all(connection: Connection, span: Span) -> Iterator[tuple[Spender, int]]:
    """What all rows of a span add up to: by the sums of full hours, and by the rows of the others."""
    first, end = -(-span.start_ms // HOUR_MS), (span.until_ms + 1) // HOUR_MS
    if first >= end:
        yield from _by_rows(connection, span, span.start_ms, span.until_ms + 1)
        return
    yield from _by_rows(connection, span, span.start_ms, first * HOUR_MS)
    yield from _by_rows(connection, span, end * HOUR_MS, span.until_ms + 1)
    amount = func.sum(hours.c.amount_nanousd)
    of_hours = select(hours.c.place, amount).where(hours.c.hour >= first, hours.c.hour < end).group_by(hours.c.place)
    sums = {place: int(total) for place, total in connection.execute(of_hours)}
    for place, text in read_texts(connection, sums).items():
        organization, team, key, model, *_ = json.loads(text)
        if organization == span.organization:
            yield Spender(team, key, model), sums[place]


def _by_rows(connection: Connection, span: Span, start_ms: int, end_ms: int) -> Iterator[tuple[Spender, int]]:
    if start_ms >= end_ms:
        return
    who = ledger.c.team, ledger.c.key, ledger.c.model
    rows = (
        select(*who, func.sum(ledger.c.amount_nanousd))
        .where(ledger.c.reserved_ms >= start_ms, ledger.c.reserved_ms < end_ms, *_spending(span))
        .group_by(*who)
    )
    for team, key, model, total in connection.execute(rows):
        yield Spender(team, key, model), int(total)


def _spending(span: Span) -> tuple[ColumnElement[bool], ...]:
    return ledger.c.organization == span.organization, ledger.c.kind.in_(SPENDING)


def _rows(connection: Connection, span: Span, after: Position) -> Iterator[Any]:
    """Spending rows of a span behind a position, each with the kind of the row that it corrects, if it does."""
    first = ledger.alias("first")
    names = ("epoch", "seq", "kind", "flags", "team", "key", "model", "amount_nanousd", "charged")
    columns = [ledger.c[name] for name in (*names, "corrects_epoch", "corrects_seq")]
    wanted = (
        select(*columns, first.c.kind.label("corrects_kind"))
        .select_from(
            ledger.outerjoin(
                first,
                (first.c.shard == ledger.c.shard)
                & (first.c.epoch == ledger.c.corrects_epoch)
                & (first.c.seq == ledger.c.corrects_seq),
            )
        )
        .where(
            ledger.c.shard == span.shard,
            tuple_(ledger.c.epoch, ledger.c.seq) > tuple_(after.epoch, after.seq),
            # Not by the index of these times: the rows behind a position are few, those of a window many.
            ledger.c.reserved_ms + 0 >= span.start_ms,
            ledger.c.reserved_ms + 0 <= span.until_ms,
            *_spending(span),
        )
    )
    yield from connection.execute(wanted)


def _take(connection: Connection, found: Spent, span: Span, rows: Collection[Any]) -> None:
    """Add rows of a span, those that a limit of its end has not counted itself."""
    open_then = []
    for row in rows:
        if _before(row, span.position):
            found.sums[_spender(row)] += row.amount_nanousd
        elif not _is_new(row):
            open_then.append(row)
    texts = read_texts(connection, {row.charged for row in open_then})
    found.later += [Later(_spender(row), row.amount_nanousd, _counters(texts[row.charged])) for row in open_then]


def _before(row: Any, position: Position) -> bool:  # noqa: ANN401 - a row of _rows
    """Whether the row, or the first of those that it corrects, had been written when the limit came."""
    written = Position(row.epoch, row.seq)
    if row.corrects_epoch is not None:
        written = Position(row.corrects_epoch, row.corrects_seq)
    return written <= position


def _is_new(row: Any) -> bool:  # noqa: ANN401 - a row of _rows
    """Whether a row of after that says itself that its call came then: charges and consumed calls have no hold."""
    return RowKind.CHARGE in (row.kind, row.corrects_kind) or bool(RowFlag.CONSUMED & row.flags)


def _spender(row: Any) -> Spender:  # noqa: ANN401 - a row of _rows
    return Spender(row.team, row.key, row.model)


def _counters(charged: str) -> frozenset[tuple[str, str, int]]:
    names: Iterable[tuple[str, str, int]] = map(tuple, json.loads(charged))
    return frozenset(names)
