"""Every row in its place and as it was written: one pass over the ledger in the order of its sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import Connection, Select, select, type_coerce
from sqlalchemy.types import NullType

from limiter.domain.rows import Position, RowKind
from limiter.ledger.entries import COLUMNS, checksum_of
from limiter.ledger.progress import Advance
from limiter.ledger.schema import cursors, ledger
from limiter.ledger.verifying.findings import Findings, position_name, row_name
from limiter.ledger.verifying.heads import DayHeads
from limiter.ledger.verifying.texts import References, shown

#: Rows that are read at a time.
ROWS_AT_ONCE: Final = 5_000

_KIND, _AT, _AMOUNT, _COST = (COLUMNS.index(name) for name in ("kind", "at_ms", "amount_nanousd", "cost_nanousd"))
_REFERRING: Final = tuple((name, COLUMNS.index(name)) for name in ("tags", "charged", "price"))
_FIRST: Final = (RowKind.SETTLEMENT, RowKind.CHARGE)


def parts(connection: Connection, statement: Select[Any], progress: Advance | None = None) -> Iterator[Sequence[Any]]:
    """The rows of a statement, a bounded number at a time."""
    for part in connection.execute(statement.execution_options(yield_per=ROWS_AT_ONCE)).partitions():
        yield part
        if progress is not None:
            progress(len(part))


def check_rows(connection: Connection, findings: Findings, *, heads: DayHeads | None, progress: Advance | None) -> None:
    """Check sequences, checksums, references and cursors; `heads` are made of the same pass."""
    raw = type_coerce(ledger.c.checksum, NullType())  # whatever stands there
    statement = select(*[*ledger.columns][:-1], raw).order_by(ledger.c.shard, ledger.c.epoch, ledger.c.seq)
    sequences, references = _Sequences(findings), References(connection)
    for part in parts(connection, statement, progress):
        for row in part:
            sequences.follow(row)
            if not _is_whole(row):
                _tell_checksum(findings, row)
            if row[_KIND] in _FIRST and row[_AMOUNT] != row[_COST]:
                findings.fault("cost", row_name(row[0], row[1:3]), f"amount_nanousd {row[_COST]}", row[_AMOUNT])
            if heads is not None:
                heads.add((row[0], row[1], row[2], row[_AT], row[-1]))
        for name, place in _REFERRING:
            by_id = {row[place]: row for row in reversed(part)}
            for number in sorted(references.missing(by_id)):
                row = by_id[number]
                findings.fault("text", f"text {number}, {name} of {row_name(row[0], row[1:3])}", "a text", "none")
        for check in ("sequence", "checksum", "cost"):
            findings.look(check, len(part))
    sequences.end_shard()
    _check_cursors(connection, findings, sequences.last)


class _Sequences:
    """Follows the numbers of the rows, shard by shard."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._shard: int | None = None
        self._epoch = self._seq = self._at_ms = 0
        #: The last row of each shard, and when it was written.
        self.last: dict[int, tuple[Position, int]] = {}

    def follow(self, row: Sequence[Any]) -> None:
        """The next row; tells those that are missing before it."""
        shard, epoch, seq = row[0], row[1], row[2]
        if seq != self._seq + 1 or epoch != self._epoch or shard != self._shard:
            self._begin(shard, epoch, seq)
        self._shard, self._epoch, self._seq, self._at_ms = shard, epoch, seq, row[_AT]

    def _begin(self, shard: int, epoch: int, seq: int) -> None:
        """A row that does not follow on the last one: the first of a shard or an epoch is number 0."""
        same = shard == self._shard
        expected = self._seq + 1 if same and epoch == self._epoch else 0
        if seq != expected:
            after = f"after {self._epoch}-{self._seq}" if same else "at the beginning"
            several = f" to {epoch}-{seq - 1}" if seq - expected > 1 else ""
            where = f"{row_name(shard, (epoch, expected))}{several}"
            self._findings.fault("sequence", where, "there", f"missing: {after} comes {epoch}-{seq}")
        if not same:
            self.end_shard()

    def end_shard(self) -> None:
        """Remember where the shard ends."""
        if self._shard is not None:
            self.last[self._shard] = Position(self._epoch, self._seq), self._at_ms


def _is_whole(row: Sequence[Any]) -> bool:
    try:
        return bool(checksum_of(row[:-1]) == row[-1])
    except (TypeError, ValueError):  # bytes where there should be a text
        return False


def _tell_checksum(findings: Findings, row: Sequence[Any]) -> None:
    written = row[-1].hex() if isinstance(row[-1], bytes) else shown(row[-1])
    try:
        found = checksum_of(row[:-1]).hex()
    except (TypeError, ValueError):
        found = "none: a column holds neither a number nor a text"
    findings.fault("checksum", row_name(row[0], (row[1], row[2])), written, found)


def _check_cursors(connection: Connection, findings: Findings, last: dict[int, tuple[Position, int]]) -> None:
    found = {row.shard: (Position(row.epoch, row.seq), row.at_ms) for row in connection.execute(select(cursors))}
    for shard in sorted(last.keys() | found.keys()):
        expected, stands = last.get(shard), found.get(shard)
        if expected != stands:
            findings.fault("cursor", f"shard {shard}", f"the last row, {_told(expected)}", f"{_told(stands)}")
    findings.look("cursor", len(found))


def _told(place: tuple[Position, int] | None) -> str:
    return "none" if place is None else f"{position_name(place[0])} written at {place[1]} ms"
