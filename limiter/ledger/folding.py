"""Sums per month: what hours that are over add up to, so that a month of ten million calls is quick to report.

`months` has the sums of every hour before the fold, by the month in UTC. The fold moves on when hours are over
(`fold`); what is booked into an hour before it goes into both (`add_late`). So months = sum of hours before the fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    cast,
    func,
    inspect,
    literal,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from limiter.ledger.database import Database
from limiter.ledger.periods import month_hours, month_of
from limiter.ledger.schema import COUNTS, hours
from limiter.ledger.upserts import add, insert_new

SUMS: Final = (*COUNTS, "held_nanousd", "amount_nanousd")
#: Hours that are left as they are: most calls of an hour have ended that much later.
_OPEN_HOURS: Final = 3
#: Hours per transaction, so that the drain does not wait long.
_AT_ONCE: Final = 24

metadata = MetaData()

#: What the hours of a month (in UTC; months since 1970) before the fold add up to. By tags first: a month by customer
#: is then read in order, with nothing to sort. Follows from `hours`.
months = Table(
    "months",
    metadata,
    Column("month", Integer, primary_key=True, autoincrement=False),
    Column("tags", BigInteger, primary_key=True, autoincrement=False),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    sqlite_with_rowid=False,
)

#: One row: the hour (since 1970) before which all are in `months`.
folds = Table(
    "folds",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("hour", Integer, nullable=False),
)


class Piece(NamedTuple):
    """Hours, or (`month`) those of a month before the fold; with sign -1 what is too much in the month."""

    first: int
    end: int
    month: int | None = None
    sign: int = 1


def create(connection: Connection) -> None:
    """Make the tables, with nothing folded."""
    metadata.create_all(connection)
    insert_new(connection, folds, [{"id": 1, "hour": 0}])


def folded(connection: Connection) -> int:
    """The hour before which all are in `months`; 0: none."""
    if not inspect(connection).has_table(folds.name):
        return 0
    return connection.execute(select(folds.c.hour)).scalar_one_or_none() or 0


def cover(first: int, end: int, fold: int) -> Iterator[Piece]:
    """Say what to add up for the hours from `first` to before `end`, so that as few sums as possible are read."""
    while first < end:
        month = month_of(first)
        begins, ends = month_hours(month)
        last, top = min(end, ends), min(ends, fold)
        inside = min(last, top) - first
        outside = (first - begins) + (top - min(last, top))
        if inside > outside:
            yield Piece(begins, top, month)
            pieces = (begins, first, -1), (min(last, top), top, -1), (min(last, top), last, 1)
            yield from (Piece(one, other, sign=sign) for one, other, sign in pieces if one < other)
        else:
            yield Piece(first, last)
        first = last


def add_late(connection: Connection, sums: Mapping[tuple[int, int, int], Sequence[int]]) -> None:
    """Add what was booked into hours before the fold to their months, too; `sums` by hour, place and tags.

    Waits for a fold that is under way, and lets none begin before the transaction has ended.
    """
    fold = connection.execute(select(folds.c.hour).with_for_update(read=True)).scalar_one()
    late: dict[tuple[int, int, int], list[int]] = {}
    for (hour, place, tags), counts in sums.items():
        if hour < fold:
            total = late.setdefault((month_of(hour), tags, place), [0] * len(SUMS))
            total[:] = map(int.__add__, total, counts)
    names = months.columns.keys()
    add(connection, months, [dict(zip(names, (*key, *late[key]), strict=True)) for key in sorted(late)], SUMS)


def fold(database: Database, now_ms: int, progress: Callable[[int], object] = lambda _hour: None) -> int:
    """Add hours that are over to their months, some at a time; answers how many hours. Any number may try at once."""
    until, moved = now_ms // 3_600_000 - _OPEN_HOURS, 0
    while True:
        with database.write() as connection:
            at = connection.execute(select(folds.c.hour).with_for_update()).scalar_one()
            first = connection.execute(select(func.min(hours.c.hour)).where(hours.c.hour >= at)).scalar_one()
            end = until if first is None else min(until, first + _AT_ONCE, month_hours(month_of(first))[1])
            if end <= at:
                return moved
            if first is not None and first < end:
                _add_up(connection, first, end)
            connection.execute(update(folds).values(hour=end))
        moved += end - max(at, min(first or end, end))
        progress(end)


def _add_up(connection: Connection, first: int, end: int) -> None:
    sums: list[Any] = [cast(func.sum(hours.c[name]), BigInteger) for name in SUMS]
    found = select(literal(month_of(first), Integer), hours.c.tags, hours.c.place, *sums)
    found = found.where(hours.c.hour >= first, hours.c.hour < end).group_by(hours.c.tags, hours.c.place)
    insert: Any = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(months)
    insert = insert.from_select(months.columns.keys(), found)
    more = {name: months.c[name] + insert.excluded[name] for name in SUMS}
    connection.execute(insert.on_conflict_do_update(index_elements=list(months.primary_key.columns), set_=more))
