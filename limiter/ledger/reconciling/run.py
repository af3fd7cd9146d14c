"""Holds the books against a bill."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from limiter.domain.errors import InvalidArgument
from limiter.domain.reservations import Basis
from limiter.ledger.database import Database
from limiter.ledger.reconciling.bill import ALL, HOUR_MS, Gathered, Grid
from limiter.ledger.reconciling.bills import Bill
from limiter.ledger.reconciling.books import (
    Keys,
    Part,
    read_calls,
    read_largest,
    read_straddlers,
    read_sums,
)
from limiter.ledger.reconciling.calls import SLACK_MS, Examples, calls, kind_of, match
from limiter.ledger.reconciling.cells import Straddler, explain_model
from limiter.ledger.reconciling.rates import Prices, rates_of
from limiter.ledger.reconciling.results import Bucket, Cell, Drift, Example, Kind
from limiter.ledger.texts import read_texts

_EXAMPLES_MAX: Final = 10
#: Straddlers kept of one edge; no two providers' clocks are so far apart that more matter.
_EDGE_MAX: Final = 10_000

Edges = dict[str, dict[int, list[Straddler]]]


class Reconciliation:
    """A bill against the books. Close it when its plan of adjustments is no longer needed."""

    def __init__(
        self,
        books: Database,
        bill: Bill,
        *,
        from_ms: int | None = None,
        to_ms: int | None = None,
        providers: tuple[str, ...] = (),
        credits_count: bool = False,
        rounds_up: bool = False,
    ) -> None:
        self.books = books
        self.gathered = Gathered(bill, from_ms=from_ms, to_ms=to_ms, credits_count=credits_count)
        self.period = self.gathered.period()
        self.unit = bill.told.unit * (2 if rounds_up else 1)  # half of it is what a line may be off
        one = ALL if ALL in self.gathered.names else ""
        self.keys = Keys(providers or bill.providers, self.gathered.names, one)
        if not self.gathered.by_call and not any(sums.theirs.lines for sums in self.gathered.sums()):
            self.gathered.close()
            raise InvalidArgument(
                "--file", f"{bill.told.lines} lines without cost", "give the provider's export of costs, too"
            )
        self.drift = self._by_call() if self.gathered.by_call else self._by_bucket()
        self.drift.names = {**self.keys.names, **{key: name for key, name in self.gathered.names.items() if key}}

    def close(self) -> None:
        """Forget the calls."""
        self.gathered.close()

    def _made(self, period: Bucket) -> Drift:
        provider = self.gathered.bill.provider
        unit = self.gathered.bill.told.unit
        return Drift(provider, period.start_ms, period.end_ms, unit, by_call=self.gathered.by_call)

    def _by_call(self) -> Drift:
        drift = self._made(self.period)
        wider = Bucket(self.period.start_ms - SLACK_MS, self.period.end_ms + SLACK_MS)
        with self.books.read() as connection:
            match(self.gathered, read_calls(connection, self.keys, wider))
        cells: dict[tuple[int, str], Cell] = {}
        examples = Examples()
        ours_known: set[str] = set()
        for call in calls(self.gathered, self.period):
            start = call.at_ms // HOUR_MS * HOUR_MS
            cell = cells.setdefault((start, call.key), Cell(Bucket(start, start + HOUR_MS), call.key))
            cell.theirs.cost(Decimal(call.theirs).scaleb(-9), lines=call.lines)
            cell.theirs.priced.add(call.their_counts)
            if call.reservation:
                cell.ours.add(call.ours, call.our_counts, call.basis, 0)
                ours_known.add(call.key)
            drift.matched += bool(call.reservation and call.lines)
            if call.drift:
                kind, note = kind_of(call, self.unit)
                cell.explain(kind, call.drift, 1, note)
                if kind is not Kind.ROUNDING:
                    examples.add(
                        kind, call, self.gathered.names.get(call.key) or self.keys.names.get(call.key, call.key)
                    )
        self._add_sums(cells)
        for cell in cells.values():
            _name_unknown(cell, ours_known, set(self.gathered.names))
        drift.cells = [cells[place] for place in sorted(cells)]
        drift.examples = examples.all()
        return drift

    def _add_sums(self, cells: dict[tuple[int, str], Cell]) -> None:
        """Lines without an id in a bill of calls: fees, which nothing of ours is the counterpart of."""
        for sums in self.gathered.sums():
            place = sums.start_ms, sums.key
            cell = cells.setdefault(place, Cell(Bucket(sums.start_ms, sums.end_ms), sums.key))
            before = cell.theirs.nanousd
            cell.theirs.cost(sums.theirs.usd, lines=sums.theirs.lines)
            cell.explain(
                Kind.ONLY_THEIRS, cell.theirs.nanousd - before, sums.theirs.lines, "lines without a request id"
            )

    def _by_bucket(self) -> Drift:
        spans = [(sums.start_ms, sums.end_ms) for sums in self.gathered.sums()]
        grid = Grid(spans, self.period)
        drift = self._made(grid.span)
        cells: dict[str, dict[int, Cell]] = defaultdict(dict)

        def cell(key: str, at_ms: int) -> Cell:
            place = grid.place(at_ms)
            return cells[key].setdefault(place, Cell(grid.buckets[place], key))

        for sums in self.gathered.sums():
            cell(sums.key, sums.start_ms).theirs.add(sums.theirs)
        edges: Edges = defaultdict(lambda: defaultdict(list))
        with self.books.read() as connection:
            for part in read_sums(connection, self.keys, grid.span, grid.granule):
                _add(cell(part.key, part.at_ms), part)
            wider = Bucket(grid.span.start_ms - SLACK_MS, grid.span.end_ms)
            for begin_ms, end_ms, key, straddler in read_straddlers(connection, self.keys, wider, grid.granule):
                edge = grid.edge(begin_ms, end_ms)
                if edge is not None and len(edges[key][edge]) < _EDGE_MAX:
                    edges[key][edge].append(straddler)
            found = {price for by_place in cells.values() for one in by_place.values() for price in one.ours.by_price}
            prices = {number: rates_of(text) for number, text in read_texts(connection, found).items()}
            for key in {*cells, *edges}:
                by_place = cells[key]
                self._explain(key, by_place, edges, grid, prices)
            drift.cells = [
                one
                for by_place in cells.values()
                for one in by_place.values()
                if one.drift or one.ours.counts.calls or one.theirs.lines
            ]
            drift.cells.sort(key=lambda one: (one.bucket, one.key))
            kinds = {one.kind for one in drift.explanations()}
            for kind, basis in ((Kind.EXPIRED, Basis.EXPIRED), (Kind.ESTIMATED, Basis.ESTIMATED)):
                if kind in kinds:
                    for row in read_largest(connection, self.keys, grid.span, basis, _EXAMPLES_MAX):
                        drift.examples.append(Example(kind, row[3], None, f"{row[1]}/{row[2]}", "", "", row[0] or ""))
        return drift

    def _explain(self, key: str, by_place: dict[int, Cell], edges: Edges, grid: Grid, prices: Prices) -> None:
        touched = [place for place in {*edges[key], *by_place} if place < len(grid.buckets)] or [len(grid.buckets) - 1]
        places = range(min(touched), max(touched) + 1)
        ordered = [by_place.setdefault(place, Cell(grid.buckets[place], key)) for place in places]
        along = [edges[key].get(place, []) for place in (*places, places[-1] + 1)]
        explain_model(ordered, along, unit=self.unit, prices=prices)


def drift_of(books: Database, bill: Bill, *, from_ms: int | None = None, to_ms: int | None = None) -> Drift:
    """Hold the books against a bill; raises InvalidArgument for a bill that cannot be read, Unavailable."""
    run = Reconciliation(books, bill, from_ms=from_ms, to_ms=to_ms)
    run.close()
    return run.drift


def _add(cell: Cell, part: Part) -> None:
    cell.ours.add(part.nanousd, part.counts, part.basis, part.price, part.sign)


def _name_unknown(cell: Cell, ours: set[str], theirs: set[str]) -> None:
    """A model that only one side knows is that, whatever else there is to say."""
    for one in cell.explanations:
        if one.kind is Kind.ONLY_THEIRS and cell.key not in ours:
            one.kind = Kind.MODEL_THEIRS
        elif one.kind is Kind.ONLY_OURS and cell.key not in theirs:
            one.kind = Kind.MODEL_OURS


def totals(drift: Drift) -> Iterator[tuple[str, int, int]]:
    """By model: its key, ours and theirs."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for cell in drift.cells:
        sums[cell.key][0] += cell.ours.nanousd
        sums[cell.key][1] += cell.theirs.nanousd
    yield from ((key, ours, theirs) for key, (ours, theirs) in sorted(sums.items()))
