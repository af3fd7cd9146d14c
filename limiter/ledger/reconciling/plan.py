"""What would bring the books to the bill: corrections of calls, and charges for what the books lack.

A call that the bill has at another cost is set to it. What only the bill has is charged. Where the bill has sums only,
a bucket that lacks money gets one charge for each model; one that has too much gives it back in proportion to what its
calls cost, exactly. Rounding and what a neighbouring bucket has is left alone. Calls that only the books have are left
alone, too, unless they are to be zeroed: a bill may be late.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple

from limiter.domain.reservations import ReservationName
from limiter.ledger.reconciling.books import read_costs
from limiter.ledger.reconciling.calls import allowance, calls
from limiter.ledger.reconciling.results import Bucket, Cell, Kind, shown
from limiter.ledger.reconciling.run import Reconciliation

ADJUST = "adjust"
CHARGE = "charge"


class Step(NamedTuple):
    """One adjusting row. `before` and `after` are what the call costs, nano-USD; a charge begins at 0."""

    kind: str
    model: str
    at_ms: int
    before: int
    after: int
    reservation: str  # organizations/ORG/reservations/ID; "" of charges
    request_id: str  # of charges: the same for the same cause, so that it is charged once
    provider_request_id: str
    why: str

    @property
    def nanousd(self) -> int:
        """What it adds to the books."""
        return self.after - self.before


class Planned(NamedTuple):
    """How many steps of a kind there are, and what they add."""

    kind: str
    steps: int
    nanousd: int


class Plan:
    """The steps of a reconciliation, kept beside what was gathered of the bill."""

    def __init__(self, run: Reconciliation, *, zero_absent: bool = False) -> None:
        self._run = run
        self._scratch = run.gathered.scratch
        made = _of_calls(run, zero_absent=zero_absent) if run.drift.by_call else _of_cells(run, zero_absent=zero_absent)
        self._scratch.execute("DELETE FROM steps")
        self._scratch.execute("BEGIN")
        self._scratch.executemany("INSERT INTO steps VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)", made)
        self._scratch.execute("COMMIT")

    def totals(self) -> list[Planned]:
        """By kind."""
        query = "SELECT kind, count(*), sum(after - before) FROM steps GROUP BY kind ORDER BY kind"
        return [Planned(*row) for row in self._scratch.execute(query)]

    def steps(self, *, most: int = -1) -> Iterator[Step]:
        """The steps in order; at most so many."""
        query = f"SELECT {', '.join(Step._fields)} FROM steps ORDER BY number LIMIT ?"  # noqa: S608 - names of ours
        for row in self._scratch.cursor().execute(query, (most,)):
            yield Step(*row)


def _of_calls(run: Reconciliation, *, zero_absent: bool) -> Iterator[Step]:
    names = run.drift.names
    for call in calls(run.gathered, run.period):
        model = names.get(call.key, call.key)
        reservation = str(ReservationName(call.organization, call.reservation)) if call.reservation else ""
        if call.reservation and (call.lines or zero_absent):
            if abs(call.drift) > (allowance(run.unit, call.lines) if call.lines else 0):
                why = ("paired by time, " if call.by_time else "") + (call.place or "not in the bill")
                yield Step(
                    ADJUST, model, call.at_ms, call.ours, max(call.theirs, 0), reservation, "", call.id or "", why
                )
        elif not call.reservation and call.theirs > 0:
            request = _request_id(run, call.id or call.place)
            yield Step(CHARGE, model, call.at_ms, 0, call.theirs, "", request, call.id or "", call.place)
    for sums in run.gathered.sums():
        if (amount := sums.theirs.nanousd) > 0:
            request = _request_id(run, sums.key, sums.start_ms, sums.end_ms, amount)
            yield Step(
                CHARGE, names.get(sums.key, sums.key), sums.start_ms, 0, amount, "", request, "", "no request id"
            )


def _of_cells(run: Reconciliation, *, zero_absent: bool) -> Iterator[Step]:
    names = run.drift.names
    for bucket, cells in groupby(run.drift.cells, key=lambda cell: cell.bucket):
        give_back: dict[str, Cell] = {}
        for cell in cells:
            amount = cell.harmful
            absent = any(one.kind is Kind.MODEL_OURS for one in cell.explanations)
            if amount > 0:
                request = _request_id(run, cell.key, *bucket, cell.ours.nanousd, cell.theirs.nanousd)
                why = ", ".join(one.kind.value for one in cell.explanations)
                yield Step(CHARGE, names.get(cell.key, cell.key), bucket.start_ms, 0, amount, "", request, "", why)
            elif amount < 0 and cell.ours.nanousd > 0 and (zero_absent or not absent):
                give_back[cell.key] = cell
        if give_back:
            yield from _spread(run, bucket, give_back)


def _spread(run: Reconciliation, bucket: Bucket, cells: dict[str, Cell]) -> Iterator[Step]:
    """Take money back from a bucket's calls in proportion to what they cost: shares of the running sum, so exactly."""
    before: dict[str, int] = dict.fromkeys(cells, 0)
    with run.books.read() as connection:
        for key, organization, reservation, cost in read_costs(connection, run.keys, bucket):
            cell = cells.get(key)
            if cell is None:
                continue
            whole, back = cell.ours.nanousd, -cell.harmful
            sofar = before[key]
            share = back * (sofar + cost) // whole - back * sofar // whole
            before[key] = sofar + cost
            if share:
                name = str(ReservationName(organization, reservation))
                why = f"its share of {shown(-back)} USD"
                model = run.drift.names.get(key, key)
                yield Step(ADJUST, model, bucket.start_ms, cost, cost - share, name, "", "", why)


def _request_id(run: Reconciliation, *cause: object) -> str:
    text = repr((run.gathered.bill.provider, *cause))
    return f"reconcile-{blake2b(text.encode(), digest_size=16).hexdigest()}"
