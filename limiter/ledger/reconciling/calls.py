"""Matches a bill's calls with those of the books: by the provider's request id, and what has none by time.

A line whose id the books do not have is paired with a call of ours that has no id, is of the same model and was open
when the line says that it was made: so a hold that nobody settled finds its bill.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import count
from typing import Any, Final, NamedTuple

from limiter.domain.reservations import Basis, State
from limiter.ledger.reconciling.bill import Gathered
from limiter.ledger.reconciling.bills.lines import NANO
from limiter.ledger.reconciling.results import Bucket, Counts, Example, Kind, half, ratio_note

#: How far a bill's clock may be from ours.
CLOCKS_MS: Final = 5_000
#: The longest that a hold may stay open: calls so long before and after the period may be in the bill.
SLACK_MS: Final = 24 * 3_600_000
#: So many examples of each kind are kept, the largest.
_EXAMPLES_MAX: Final = 10
_LESSER: Final[dict[int, Kind]] = {Basis.EXPIRED: Kind.EXPIRED, Basis.ESTIMATED: Kind.ESTIMATED}
_OURS: Final = """
INSERT INTO ours (organization, reservation, reserved_ms, at_ms, expires_ms, epoch, seq, key, id, basis, state, nanousd,
    calls, input, output, served) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (organization, reservation, reserved_ms) DO UPDATE SET
    nanousd = nanousd + excluded.nanousd, calls = calls + excluded.calls, input = input + excluded.input,
    output = output + excluded.output, at_ms = min(at_ms, excluded.at_ms),
    id = CASE WHEN excluded.id = '' THEN id ELSE excluded.id END,
    key = CASE WHEN excluded.served THEN excluded.key ELSE key END,
    basis = CASE WHEN (excluded.epoch, excluded.seq) > (epoch, seq) THEN excluded.basis ELSE basis END,
    state = CASE WHEN (excluded.epoch, excluded.seq) > (epoch, seq) THEN excluded.state ELSE state END,
    epoch = max(epoch, excluded.epoch), seq = max(seq, excluded.seq)
"""
_BY_ID: Final = """
CREATE INDEX ours_id ON ours (id) WHERE id != '';
INSERT INTO pairs SELECT theirs.number, min(ours.number), 0 FROM theirs JOIN ours ON ours.id = theirs.id
    WHERE ours.id != '' GROUP BY theirs.number;
"""
_LEFT_THEIRS: Final = """
SELECT number, key, at_ms FROM theirs WHERE number NOT IN (SELECT theirs FROM pairs) ORDER BY key, at_ms, number
"""
_LEFT_OURS: Final = """
SELECT number, key, reserved_ms, max(at_ms, expires_ms) AS until FROM ours
    WHERE id = '' AND number NOT IN (SELECT ours FROM pairs) ORDER BY key, reserved_ms, number
"""
_PAIRS: Final = """
SELECT pairs.by_time, theirs.key, theirs.at_ms, theirs.nanousd, theirs.lines, theirs.input, theirs.output, theirs.id,
    theirs.place, theirs.calls, ours.organization, ours.reservation, ours.basis, ours.state, ours.nanousd, ours.calls,
    ours.input, ours.output FROM pairs JOIN theirs ON theirs.number = pairs.theirs JOIN ours ON ours.number = pairs.ours
"""
_ONLY_THEIRS: Final = """
SELECT 0, key, at_ms, nanousd, lines, input, output, id, place, calls, '', '', 0, 0, 0, 0, 0, 0 FROM theirs
    WHERE number NOT IN (SELECT theirs FROM pairs)
"""
_ONLY_OURS: Final = """
SELECT 0, key, reserved_ms, 0, 0, NULL, NULL, id, '', 0, organization, reservation, basis, state, nanousd, calls, input,
    output FROM ours WHERE number NOT IN (SELECT ours FROM pairs) AND reserved_ms >= ? AND reserved_ms < ?
    AND nanousd != 0
"""


class Call(NamedTuple):
    """A line of the bill, a call of ours, or both; what a side does not have is 0 or ""."""

    by_time: int
    key: str
    at_ms: int
    theirs: int  # nano-USD
    lines: int
    their_input: int | None
    their_output: int | None
    id: str | None
    place: str
    their_calls: int
    organization: str
    reservation: str
    basis: int
    state: int
    ours: int  # nano-USD
    calls: int
    input: int
    output: int

    @property
    def drift(self) -> int:
        """Theirs − ours."""
        return self.theirs - self.ours

    @property
    def our_counts(self) -> Counts:
        """What ours counts."""
        return Counts(self.calls, self.input, self.output)

    @property
    def their_counts(self) -> Counts:
        """What theirs counts."""
        return Counts(self.their_calls, self.their_input or 0, self.their_output or 0)


def match(gathered: Gathered, rows: Iterable[tuple[Any, ...]]) -> None:
    """Put the books' calls beside the bill's, and pair them."""
    scratch = gathered.scratch
    scratch.execute("BEGIN")
    scratch.executemany(_OURS, rows)
    scratch.execute("COMMIT")
    scratch.executescript(_BY_ID)
    scratch.execute("BEGIN")
    left = scratch.cursor().execute(_LEFT_THEIRS), scratch.cursor().execute(_LEFT_OURS)
    found = list(_by_time(*left))  # as many as have no id: lost answers, not calls
    scratch.executemany("INSERT INTO pairs VALUES (?, ?, 1)", found)
    scratch.execute("COMMIT")


def calls(gathered: Gathered, period: Bucket) -> Iterator[Call]:
    """Every call of the bill, and every call of the period that is in the books only."""
    cursor = gathered.scratch.cursor()
    for query, bounds in ((_PAIRS, ()), (_ONLY_THEIRS, ()), (_ONLY_OURS, (period.start_ms, period.end_ms))):
        for row in cursor.execute(query, bounds):
            yield Call(*row)


def kind_of(call: Call, unit: Decimal) -> tuple[Kind, str]:
    """Why the two sides of a call differ, and what there is to say of it."""
    if not call.reservation:
        return Kind.ONLY_THEIRS, ""
    if not call.lines:
        return _LESSER.get(call.basis, Kind.ONLY_OURS), "not in the bill"
    if abs(call.drift) <= allowance(unit, call.lines):
        return Kind.ROUNDING, ""
    if call.state == State.RELEASED:
        return Kind.RELEASED, ""
    if call.basis in _LESSER:
        return _LESSER[call.basis], ""
    told = [(call.their_input, call.input), (call.their_output, call.output)]
    other = any(theirs is not None and theirs != ours for theirs, ours in told)
    return (Kind.USAGE, "") if other else (Kind.PRICE, ratio_note(call.ours, call.theirs, allowance(unit, call.lines)))


def allowance(unit: Decimal, lines: int) -> int:
    """How far a call's cost may be off by rounding: the bill's, and half a nano-USD of ours."""
    return max(half(unit, lines), 1) if unit * NANO > 1 else 1


class Examples:
    """Keeps the largest calls of each kind."""

    def __init__(self) -> None:
        self._kept: defaultdict[Kind, list[tuple[int, int, Example]]] = defaultdict(list)
        self._order = count()

    def add(self, kind: Kind, call: Call, name: str) -> None:
        """Keep a call, if it is among the largest of its kind."""
        kept, size = self._kept[kind], abs(call.drift)
        if len(kept) == _EXAMPLES_MAX and size <= kept[0][0]:
            return
        found = Example(
            kind,
            call.ours if call.reservation else None,
            call.theirs if call.lines else None,
            f"{call.organization}/{call.reservation}" if call.reservation else "",
            call.place,
            call.id or "",
            name,
        )
        heapq.heappush(kept, (size, -next(self._order), found))
        if len(kept) > _EXAMPLES_MAX:
            heapq.heappop(kept)

    def all(self) -> list[Example]:
        """All that were kept, the largest first."""
        found = sorted((one for kept in self._kept.values() for one in kept), key=lambda one: (-one[0], -one[1]))
        return [one[2] for one in found]


def _by_time(
    theirs: Iterator[tuple[int, str, int]], ours: Iterator[tuple[int, str, int, int]]
) -> Iterator[tuple[int, int]]:
    """Pair both in the order of model and time; the same whatever they cost, so that it comes out the same again."""
    line = next(theirs, None)
    for number, key, reserved_ms, until in ours:
        while line is not None and (line[1], line[2]) < (key, reserved_ms - CLOCKS_MS):
            line = next(theirs, None)
        if line is None:
            return
        if line[1] == key and line[2] <= until + CLOCKS_MS:
            yield line[0], number
            line = next(theirs, None)
