"""Heads of days: one line that all rows written on a day, and on every day before it, can be held to later.

docs/books.md says how the hashes are computed, so that others can do it with other tools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, func, select

from limiter.domain.errors import InvalidArgument
from limiter.ledger.database import Database
from limiter.ledger.progress import Progress, advancing
from limiter.ledger.schema import books, cursors, ledger
from limiter.ledger.texts import canonical

DAY_MS: Final = 86_400_000
#: So much later a shard must have rows for the drain to have passed those that were silent since.
_PASSED_MS: Final = 3_600_000
_AT_ONCE: Final = 5_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HASHED: Final = ("before", "books", "day", "rows", "rows_hash", "shards")


class ShardHead(NamedTuple):
    """What a day wrote to a shard: how many rows, and the last of them."""

    shard: int
    rows: int
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Head:
    """A day's head. `before` is the hash of the day before that has rows, "" for the first; `hash` is of all else.

    `final`: the day is over and all its rows are in the books.
    """

    books: str
    day: str
    rows: int
    shards: tuple[ShardHead, ...]
    rows_hash: str
    before: str
    hash: str
    final: bool

    @property
    def content(self) -> dict[str, Any]:
        """What `hash` is the hash of."""
        shards = [list(shard) for shard in self.shards]
        return {name: getattr(self, name) for name in _HASHED} | {"shards": shards}

    @property
    def line(self) -> str:
        """As one line of JSON."""
        return canonical(self.content | {"hash": self.hash, "final": self.final})


def hash_of(content: dict[str, Any]) -> str:
    """The hash of a head's content: BLAKE2b-256 of its compact JSON with sorted keys."""
    return blake2b(canonical(content).encode(), digest_size=32).hexdigest()


@dataclass(slots=True)
class _Day:
    hash: Any = field(default_factory=lambda: blake2b(digest_size=32))
    rows: int = 0
    shards: dict[int, list[int]] = field(default_factory=dict)


class DayHeads:
    """Makes heads of rows that come in the order of (shard, epoch, seq)."""

    def __init__(self) -> None:
        self._days: dict[int, _Day] = {}

    def add(self, row: Sequence[Any]) -> None:
        """The next row: (shard, epoch, seq, at_ms, checksum)."""
        shard, epoch, seq, at_ms, checksum = row
        if not isinstance(at_ms, int) or not isinstance(checksum, bytes):
            return  # no drain wrote this; its day will differ
        number = at_ms // DAY_MS
        day = self._days.get(number)
        if day is None:
            day = self._days[number] = _Day()
        day.hash.update(checksum)
        day.rows += 1
        last = day.shards.setdefault(shard, [0, 0, 0])
        last[:] = last[0] + 1, epoch, seq

    def heads(self, connection: Connection, *, now_ms: int) -> list[Head]:
        """The heads of the days that have rows, oldest first."""
        identity = str(connection.execute(select(books.c.id)).scalar() or "")
        passed_ms = _passed_ms(connection.execute(select(cursors.c.at_ms)).scalars().all())
        made: list[Head] = []
        for number, day in sorted(self._days.items()):
            content: dict[str, Any] = {
                "books": identity,
                "day": _name_of(number),
                "rows": day.rows,
                "shards": [[shard, *last] for shard, last in sorted(day.shards.items())],
                "rows_hash": day.hash.hexdigest(),
                "before": made[-1].hash if made else "",
            }
            over_ms = (number + 1) * DAY_MS
            made.append(_head(content | {"hash": hash_of(content), "final": over_ms <= min(now_ms, passed_ms)}))
        return made


def make_heads(database: Database, *, now_ms: int, progress: Progress | None = None) -> list[Head]:
    """The heads of all days of the books, oldest first."""
    days = DayHeads()
    columns = (ledger.c.shard, ledger.c.epoch, ledger.c.seq, ledger.c.at_ms, ledger.c.checksum)
    statement = select(*columns).order_by(*columns[:3]).execution_options(yield_per=_AT_ONCE)
    with database.read() as connection:
        rows = int(connection.execute(select(func.count()).select_from(ledger)).scalar_one())
        advance = advancing(progress, "rows", rows)
        for part in connection.execute(statement).partitions():
            for row in part:
                days.add(row)
            if advance is not None:
                advance(len(part))
        return days.heads(connection, now_ms=now_ms)


def read_heads(lines: Iterable[str], *, field: str = "--heads") -> list[Head]:
    """Read heads that were exported, a line of JSON each. Raises InvalidArgument for anything else."""
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(_head(json.loads(line)))
        except (KeyError, TypeError, ValueError):
            remedy = f"line {number} is no head; pass what `limiter ledger heads --format json` printed"
            raise InvalidArgument(field, line.strip(), remedy) from None
    return found


def _head(line: dict[str, Any]) -> Head:
    shards = tuple(ShardHead(*map(int, shard)) for shard in line["shards"])
    texts = {name: str(line[name]) for name in ("books", "day", "rows_hash", "before", "hash")}
    return Head(**texts, rows=int(line["rows"]), shards=shards, final=bool(line["final"]))


def _passed_ms(at_ms: Sequence[int]) -> int:
    """Up to when the drain has all rows: where its shards stand, those left out that were silent for longer."""
    newest = max(at_ms, default=0)
    return min((at for at in at_ms if at > newest - _PASSED_MS), default=0)


def _name_of(number: int) -> str:
    try:
        return (_EPOCH + timedelta(days=number)).date().isoformat()
    except OverflowError:
        return f"day {number}"  # of a time that no store ever had
