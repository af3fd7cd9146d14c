"""Gathers a bill's lines: sums by bucket and model, and, where lines have request ids, the calls themselves.

Calls stand in a temporary SQLite file that goes away with the process, so that memory does not grow with the bill.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import blake2b
from itertools import pairwise
from math import gcd
from typing import Final

from limiter.domain.errors import InvalidArgument
from limiter.ledger.reconciling.bills import Bill
from limiter.ledger.reconciling.bills.lines import BillLine, nanousd
from limiter.ledger.reconciling.bills.names import key_of
from limiter.ledger.reconciling.results import Bucket, Counts, Theirs

HOUR_MS: Final = 3_600_000
#: The key of everything, where the bill does not say which model a cost is of.
ALL: Final = "all models"
_TABLES: Final = """
PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-65536;
CREATE TABLE seen (identity BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE theirs (
    number INTEGER PRIMARY KEY, id TEXT, key TEXT NOT NULL, at_ms INTEGER NOT NULL, nanousd INTEGER NOT NULL,
    lines INTEGER NOT NULL, calls INTEGER NOT NULL, input INTEGER, output INTEGER, place TEXT NOT NULL
);
CREATE UNIQUE INDEX theirs_id ON theirs (id) WHERE id IS NOT NULL;
CREATE TABLE ours (
    number INTEGER PRIMARY KEY, organization TEXT NOT NULL, reservation TEXT NOT NULL, reserved_ms INTEGER NOT NULL,
    at_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    key TEXT NOT NULL, id TEXT NOT NULL, basis INTEGER NOT NULL, state INTEGER NOT NULL, nanousd INTEGER NOT NULL,
    calls INTEGER NOT NULL, input INTEGER NOT NULL, output INTEGER NOT NULL, served INTEGER NOT NULL,
    UNIQUE (organization, reservation, reserved_ms)
);
CREATE TABLE steps (
    number INTEGER PRIMARY KEY, kind TEXT NOT NULL, model TEXT NOT NULL, at_ms INTEGER NOT NULL,
    before INTEGER NOT NULL, after INTEGER NOT NULL, reservation TEXT NOT NULL, request_id TEXT NOT NULL,
    provider_request_id TEXT NOT NULL,
    why TEXT NOT NULL
);
CREATE TABLE pairs (theirs INTEGER PRIMARY KEY, ours INTEGER NOT NULL UNIQUE, by_time INTEGER NOT NULL);
"""
_THEIRS: Final = """
INSERT INTO theirs (id, key, at_ms, nanousd, lines, calls, input, output, place) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) WHERE id IS NOT NULL DO UPDATE SET
    nanousd = nanousd + excluded.nanousd, lines = lines + 1, input = coalesce(input + excluded.input, input,
    excluded.input), output = coalesce(output + excluded.output, output, excluded.output)
"""


@dataclass(slots=True)
class Sums:
    """Lines of one span of time and model."""

    start_ms: int
    end_ms: int
    key: str
    theirs: Theirs = field(default_factory=Theirs)


class Gathered:
    """A bill, read to its end.

    `from_ms` and `to_ms` choose lines by their beginning. Credits (negative lines) are left out and told of, unless
    they are to be counted. The same line twice counts once.
    """

    def __init__(
        self,
        bill: Bill,
        *,
        from_ms: int | None = None,
        to_ms: int | None = None,
        credits_count: bool = False,
    ) -> None:
        self.bill = bill
        self.scratch = sqlite3.connect("", isolation_level=None)
        self.scratch.executescript(_TABLES)
        self.names: dict[str, str] = {}
        self.by_call = False
        self._sums: dict[tuple[int, int, str], Sums] = {}
        self._nameless = False
        self._asked = from_ms, to_ms
        chosen = self._chosen(bill.lines(), credits_count=credits_count)
        self.scratch.execute("BEGIN")
        self.scratch.executemany(_THEIRS, self._calls(chosen))
        self.scratch.execute("COMMIT")
        if self._nameless and not self.by_call:
            bill.told.note("the bill does not say which model its costs are of: all models are compared as one")
            self._as_one()

    def sums(self) -> Iterable[Sums]:
        """What the lines without a request id come to."""
        return self._sums.values()

    def period(self) -> Bucket:
        """What is compared: as asked, else the bill's own span, in whole hours."""
        spans = [(one.start_ms, one.end_ms) for one in self._sums.values()]
        if self.by_call:
            spans.append(self.scratch.execute("SELECT min(at_ms), max(at_ms) + 1 FROM theirs").fetchone())
        from_ms, to_ms = self._asked
        if not spans:
            if from_ms is None or to_ms is None:
                raise InvalidArgument("--file", "no line to compare", "name --from and --to")
            return Bucket(from_ms, to_ms)
        start = from_ms if from_ms is not None else min(start for start, _ in spans) // HOUR_MS * HOUR_MS
        end = to_ms if to_ms is not None else -(-max(end for _, end in spans) // HOUR_MS) * HOUR_MS
        return Bucket(start, end)

    def close(self) -> None:
        """Forget the calls."""
        self.scratch.close()

    def _chosen(self, lines: Iterable[BillLine], *, credits_count: bool) -> Iterator[BillLine]:
        from_ms, to_ms = self._asked
        told = self.bill.told
        for line in lines:
            digest = blake2b(line.identity.encode() or line.place.encode(), digest_size=16).digest()
            if not self.scratch.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount:
                told.leave_out("lines that the bill has twice", line.cost)
            elif (from_ms is not None and line.start_ms < from_ms) or (to_ms is not None and line.start_ms >= to_ms):
                told.leave_out("lines outside the period", line.cost)
            elif line.cost is not None and line.cost < 0 and not credits_count:
                told.leave_out("credits", line.cost)
            else:
                yield line

    def _calls(self, lines: Iterable[BillLine]) -> Iterator[tuple[object, ...]]:
        """Sum up the lines without an id; yield the others as rows."""
        for line in lines:
            key = self._key(line)
            if line.request_id:
                self.by_call = True
                yield (
                    line.request_id, key, line.start_ms, nanousd(line.cost or Decimal(0)), 1, line.calls or 1,
                    line.input_tokens, line.output_tokens, line.place,
                )  # fmt: skip
            else:
                self._add(line, key)

    def _key(self, line: BillLine) -> str:
        key = key_of(line.model) or line.item.strip().lower()
        if not key and line.cost is not None:
            self._nameless = True
        self.names.setdefault(key, line.model or line.item or ALL)
        return key

    def _add(self, line: BillLine, key: str) -> None:
        start, end = line.start_ms, line.end_ms
        if start == end:  # a call without an id: an hour of them is one bucket
            start = start // HOUR_MS * HOUR_MS
            end = start + HOUR_MS
        if end < start:
            raise InvalidArgument(line.place, end, "a line ends after it begins")
        theirs = self._sums.setdefault((start, end, key), Sums(start, end, key)).theirs
        counts = Counts(
            line.calls or 0,
            line.input_tokens or 0,
            line.output_tokens or 0,
            line.cache_read_tokens or 0,
            line.cache_write_tokens or 0,
        )
        if line.cost is None:
            theirs.counted.add(counts)
            return
        theirs.cost(line.cost, line.part)
        theirs.priced.add(counts)

    def _as_one(self) -> None:
        merged: dict[tuple[int, int, str], Sums] = {}
        for (start, end, _), one in self._sums.items():
            merged.setdefault((start, end, ALL), Sums(start, end, ALL)).theirs.add(one.theirs)
        self._sums = merged
        self.names = {ALL: ALL}


class Grid:
    """The buckets that a bill is in: its widest ones, and the like between them where it has no line."""

    def __init__(self, spans: Iterable[tuple[int, int]], period: Bucket) -> None:
        found = set(spans) or {(period.start_ms, period.start_ms + HOUR_MS)}
        width = max(end - start for start, end in found)
        wide = sorted(span for span in found if 2 * (span[1] - span[0]) > width)
        for before, after in pairwise(wide):
            if after[0] < before[1]:
                raise InvalidArgument("--file", f"buckets {before} and {after}", "the bill's buckets overlap")
        edges: list[Bucket] = []
        at = wide[0][0] - -(-max(0, wide[0][0] - period.start_ms) // width) * width
        for start, end in [*wide, (max(period.end_ms, wide[-1][1]), 0)]:
            while at < start:
                edges.append(Bucket(at, min(at + width, start) if end else at + width))
                at = edges[-1].end_ms
            if end:
                edges.append(Bucket(start, end))
                at = end
        self.buckets = edges
        self._starts = [bucket.start_ms for bucket in edges]
        self.granule = gcd(HOUR_MS, *(edge for bucket in edges for edge in bucket))

    @property
    def span(self) -> Bucket:
        """All of it."""
        return Bucket(self.buckets[0].start_ms, self.buckets[-1].end_ms)

    def edge(self, begin_ms: int, end_ms: int) -> int | None:
        """The bucket that a call went on into from the one before; their number: beyond the last. None: none."""
        begun, ended = self.place(begin_ms), self.place(end_ms)
        last = len(self.buckets) - 1
        if begun == last and end_ms >= self.buckets[last].end_ms:
            return last + 1
        into = ended == begun + 1 if begun >= 0 else ended == 0 and begin_ms < self.buckets[0].start_ms
        return ended if into else None

    def place(self, at_ms: int) -> int:
        """Which bucket a time is in; -1: none."""
        found = bisect_right(self._starts, at_ms) - 1
        return found if found >= 0 and at_ms < self.buckets[found].end_ms else -1
