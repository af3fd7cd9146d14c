"""Writes rows into the books: each once, and with them everything that follows from them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add as plus
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, and_, func, or_, select, tuple_, update

from limiter.domain.money import NANOUSD_PER_USD
from limiter.domain.rows import SPENDING, Position, Row, RowKind
from limiter.ledger.alerting.alerts import alerts_in
from limiter.ledger.database import Database
from limiter.ledger.entries import HOUR_MS, Earlier, Entry, entry_of
from limiter.ledger.periods import month_of
from limiter.ledger.schema import COUNTS, SUMS, alerts, charges, cursors, hours, ledger, months, refusals
from limiter.ledger.texts import Texts
from limiter.ledger.upserts import add, insert_new

#: Columns that depend on rows before.
_FOLLOWING = ("corrects_epoch", "corrects_seq", "checksum")
#: Reservations per look-up.
_AT_ONCE = 200


class Page(NamedTuple):
    """Rows of one shard in order, and the row that they follow on; None: they are its first."""

    after: Position | None
    rows: Sequence[Row]


class Gap(NamedTuple):
    """Rows of a shard that nobody can have any more: none came between these two."""

    shard: int
    after: Position
    before: Position


@dataclass(slots=True)
class Booked:
    """What a transaction wrote: up to where each of its shards is now in the books, rows, and gaps that were found."""

    rows: int = 0
    positions: dict[int, Position] = field(default_factory=dict)
    gaps: list[Gap] = field(default_factory=list)


class _Sums:
    """What the rows of one transaction add up to."""

    def __init__(self) -> None:
        self.hours: defaultdict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0] * len(SUMS))
        self.charges: defaultdict[int, int] = defaultdict(int)
        self.refusals: defaultdict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0, 0])

    def add(self, entry: Entry) -> None:
        values = entry.values
        amount = values["amount_nanousd"]
        if amount:
            self.charges[values["charged"]] += amount
        if values["kind"] in SPENDING:
            hour = self.hours[values["reserved_ms"] // HOUR_MS, entry.place, values["tags"]]
            held = values["held_nanousd"] * values["calls"]
            for i, count in enumerate((*entry.counts, held, amount)):
                hour[i] += count
        elif values["kind"] == RowKind.REFUSALS:
            for entry_sum in json.loads(values["detail"])["call"]["refusals"]:
                place = tuple(entry_sum[name] for name in ("scope", "limit", "reason", "model", "customer"))
                sums = self.refusals[(entry_sum["minute_ms"] // HOUR_MS, values["organization"], *place)]
                sums[0] += entry_sum["count"]
                sums[1] += entry_sum.get("calls", entry_sum["count"])

    def write(self, connection: Connection) -> None:
        """Add them to those that are there; in one order, so that two writers never wait for each other."""
        add(connection, hours, _rows(hours, self.hours), SUMS)
        add(connection, months, _rows(months, _by_month(self.hours)), SUMS)
        found = [{"charged": charged, "amount_nanousd": amount} for charged, amount in sorted(self.charges.items())]
        add(connection, charges, found, ("amount_nanousd",))
        add(connection, refusals, _rows(refusals, self.refusals), ("refusals", "calls"))


def _by_month(sums: Mapping[tuple[int, int, int], Sequence[int]]) -> dict[tuple[int, int, int], list[int]]:
    found: defaultdict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0] * len(SUMS))
    for (hour, place, tags), counts in sums.items():
        total = found[month_of(hour), tags, place]
        total[:] = map(plus, total, counts)
    return found


def _rows(table: Table, sums: Mapping[tuple[Any, ...], Sequence[int]]) -> list[dict[str, Any]]:
    names = [column.name for column in table.columns]
    return [dict(zip(names, (*key, *values), strict=True)) for key, values in sorted(sums.items())]


class Booking:
    """Writes into one set of books. Not for two threads at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._texts = Texts()

    def positions(self) -> dict[int, Position]:
        """The last row of each shard that is in the books."""
        with self._database.read() as connection:
            return read_positions(connection)

    def book(self, pages: Mapping[int, Page]) -> Booked:
        """Write pages of rows by shard, in one transaction. Raises Unavailable, and has written nothing then.

        A page that does not follow on what is in the books (another drain was faster) is left out.
        """
        booked = Booked()
        with self._database.write() as connection:
            entries: list[Entry] = []
            for shard, page in sorted(pages.items()):
                if not page.rows or not _move(connection, shard, page):
                    continue
                booked.positions[shard] = page.rows[-1].position
                booked.gaps += _gaps(shard, page)
                entries += _entries(connection, page.rows)
            booked.rows = len(entries)
            written = self._write(connection, entries)
        self._texts.keep(written)
        return booked

    def same(self, rows: Sequence[Row]) -> int:
        """How many rows of one shard, from the first on, are in the books as they are here."""
        with self._database.read() as connection:
            for i, row in enumerate(rows):
                place = ledger.c.shard == row.shard, ledger.c.epoch == row.epoch, ledger.c.seq == row.seq
                found = connection.execute(select(ledger).where(*place)).mappings().first()
                if found is None or any(found[name] != value for name, value in _identity(row).items()):
                    return i
        return len(rows)

    def since(self, shard: int, first: Position, last: Position) -> tuple[int, int]:
        """How many rows of a shard stand from one position to another, and what they add up to, in nano-USD."""
        place = tuple_(ledger.c.epoch, ledger.c.seq)
        between = ledger.c.shard == shard, place >= tuple_(*first), place <= tuple_(*last)
        # In whole USD and the rest: SQLite gives up where a sum of nano-USD is beyond an integer.
        usd = ledger.c.amount_nanousd // NANOUSD_PER_USD
        rest = ledger.c.amount_nanousd - usd * NANOUSD_PER_USD
        with self._database.read() as connection:
            rows, *sums = connection.execute(select(func.count(), func.sum(usd), func.sum(rest)).where(*between)).one()
        whole, part = (int(total or 0) for total in sums)
        return int(rows), whole * NANOUSD_PER_USD + part

    def _write(self, connection: Connection, entries: Sequence[Entry]) -> set[int]:
        if not entries:
            return set()
        wanted: dict[int, str] = {}
        sums = _Sums()
        for entry in entries:
            wanted |= entry.texts
            sums.add(entry)
        written = self._texts.ensure(connection, dict(sorted(wanted.items())))
        connection.execute(ledger.insert(), [entry.values for entry in entries])
        sums.write(connection)
        found = [alert for entry in entries for alert in alerts_in(entry)]
        insert_new(connection, alerts, [alert.row() for alert in found])
        return written


def _identity(row: Row) -> dict[str, Any]:
    """What a row says of itself: not what follows from rows before it."""
    values = entry_of(row, None).values
    return {name: value for name, value in values.items() if name not in (*COUNTS, *_FOLLOWING)}


def read_positions(connection: Connection) -> dict[int, Position]:
    """The last row of each shard that is in the books."""
    return {row.shard: Position(row.epoch, row.seq) for row in connection.execute(select(cursors))}


def _move(connection: Connection, shard: int, page: Page) -> bool:
    """Move a shard's cursor from the row before the page to its last; False: it does not stand there."""
    last = page.rows[-1]
    values = {"shard": shard, "epoch": last.epoch, "seq": last.seq, "at_ms": last.at_ms}
    if page.after is None:
        insert_new(connection, cursors, [values])  # locks the row that is there, if any
        found = connection.execute(select(cursors.c.epoch, cursors.c.seq).where(cursors.c.shard == shard)).one()
        first = page.rows[0]
        place = ledger.c.shard == shard, ledger.c.epoch == first.epoch, ledger.c.seq == first.seq
        there = connection.execute(select(ledger.c.seq).where(*place)).first()
        return tuple(found) == (last.epoch, last.seq) and there is None
    moved = connection.execute(
        update(cursors)
        .where(cursors.c.shard == shard, cursors.c.epoch == page.after.epoch, cursors.c.seq == page.after.seq)
        .values(values)
    )
    return moved.rowcount == 1


def _gaps(shard: int, page: Page) -> Iterable[Gap]:
    before = page.after
    for row in page.rows:
        follows = before is not None and row.epoch == before.epoch
        if row.seq != (before.seq + 1 if before is not None and follows else 0):
            yield Gap(shard, before or Position(row.epoch, -1), row.position)
        before = row.position


def _entries(connection: Connection, rows: Sequence[Row]) -> list[Entry]:
    """Rows of one shard as entries; corrections with what was there before them, in the books or in the page."""
    earlier = _earlier(connection, [row for row in rows if row.kind is RowKind.CORRECTION])
    corrected = {(row.member, row.reserved_ms) for row in rows if row.kind is RowKind.CORRECTION}
    found = []
    for row in rows:
        subject = row.member, row.reserved_ms
        before = earlier.get(subject) if row.kind is RowKind.CORRECTION else None
        entry = entry_of(row, before)
        if subject in corrected:
            sums = entry.counts if before is None else tuple(map(sum, zip(before.counts, entry.counts, strict=True)))
            earlier[subject] = Earlier(entry.position if before is None else before.first, sums)
        found.append(entry)
    return found


def _earlier(connection: Connection, rows: Sequence[Row]) -> dict[tuple[str, int], Earlier]:
    """What the books say of the reservations of corrections."""
    found: dict[tuple[str, int], Earlier] = {}
    for at in range(0, len(rows), _AT_ONCE):
        wanted = {(*row.member.split("/"), row.reserved_ms) for row in rows[at : at + _AT_ONCE]}
        same = or_(
            *(
                and_(
                    ledger.c.reservation == reservation,
                    ledger.c.organization == organization,
                    ledger.c.reserved_ms == reserved_ms,
                )
                for organization, reservation, reserved_ms in wanted
            )
        )
        columns = [ledger.c[name] for name in ("organization", "reservation", "reserved_ms", "epoch", "seq", *COUNTS)]
        for row in connection.execute(
            select(*columns).where(same, ledger.c.kind.in_(SPENDING)).order_by(ledger.c.epoch, ledger.c.seq)
        ):
            subject = f"{row.organization}/{row.reservation}", row.reserved_ms
            before = found.get(subject)
            counts = tuple(row[5:])
            if before is None:
                found[subject] = Earlier(Position(row.epoch, row.seq), counts)
            else:
                sums = tuple(map(sum, zip(before.counts, counts, strict=True)))
                found[subject] = Earlier(before.first, sums)
    return found
