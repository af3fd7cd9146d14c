"""Cost reports: sums of what was spent, by anything that tells calls apart. The same sums as those of the rows."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import product
from typing import Final

from limiter.domain.money import format_usd
from limiter.ledger.database import Database
from limiter.ledger.periods import KINDS, Tile, tiles
from limiter.ledger.reports.questions import PLACES, Condition, Dimension, Question
from limiter.ledger.reports.reading import Cell, RefusalReader, Refused, SpendingReader, Tags, extent
from limiter.ledger.schema import SUMS

_CUSTOMER: Final = Dimension("customer", is_tag=True)
#: What sums of refusals say of a call. Its team and key they say only where a limit of the team or key refused.
_REFUSALS_TELL: Final = {Dimension(name) for name in PLACES[:4]} | {_CUSTOMER}
#: What stands for models and customers where there were too many different ones in a minute.
_OTHER: Final = "(other)"
_RATIO: Final = Decimal("0.000001")
#: Values that a hint names.
_HINTS: Final = 10

#: The value of each dimension of the grouping; None: the call has none.
Group = tuple[str | None, ...]


@dataclass(slots=True)
class Line:
    """What calls add up to: `sums` in the order of SUMS. `refused` by reason; None: not known of such a line.

    `start_ms` is where its time begins.
    """

    group: Group = ()
    start_ms: int = 0
    sums: list[int] = field(default_factory=lambda: [0] * len(SUMS))
    refused: Counter[str] | None = None

    def __getattr__(self, name: str) -> int:
        """One of the sums by its name."""
        if name in SUMS:
            return self.sums[SUMS.index(name)]
        raise AttributeError(name)

    @property
    def cost_nanousd(self) -> int:
        """What they cost."""
        return self.sums[-1]

    @property
    def held_to_cost(self) -> Decimal | None:
        """How many times their cost was held for them, to six places; None: they cost nothing."""
        return _ratio(self.sums[-2], self.sums[-1])

    @property
    def refusals(self) -> int | None:
        """How many calls were refused."""
        return None if self.refused is None else self.refused.total()

    def share(self, total: Line) -> Decimal | None:
        """Its part of the cost of all, to six places; None: they cost nothing."""
        return _ratio(self.cost_nanousd, total.cost_nanousd)


@dataclass(slots=True)
class Report:
    """The answer to a question. `limits`: refusals by scope, limit and reason, each limit's own."""

    question: Question
    lines: list[Line] = field(default_factory=list)
    total: Line = field(default_factory=Line)
    limits: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    tag_names: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether it is about nothing at all."""
        return not any(self.total.sums) and not self.total.refusals


def make_report(
    database: Database, question: Question, progress: Callable[[int, int], object] = lambda _done, _of: None
) -> Report:
    """Read the books as they are now. Tells how far it is as parts of how many."""
    tally = Tally(question)
    with database.read() as connection:
        first, end = extent(connection)
        start_ms, end_ms = max(question.start_ms, first), min(question.end_ms, end)
        parts = list(tiles(start_ms, end_ms, question.kinds, question.zone))
        spending = SpendingReader(connection, question.columns, bool(question.tags))
        for cell in spending.read(parts, lambda done: progress(done, len(parts))):
            tally.add(parts[cell.tile], cell)
        if tally.knows_refusals:
            known = question.dimensions
            reader = RefusalReader(
                connection,
                model=Dimension("model") in known,
                customer=_CUSTOMER in known,
            )
            for refused in reader.read(parts):
                tally.refuse(parts[refused.tile], refused)
    return tally.report()


class Tally:
    """Adds up cells and refusals to a report."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._asked = {condition.dimension for condition in question.where}
        self.knows_refusals = self._asked <= _REFUSALS_TELL
        self._lines_know = self.knows_refusals and {d for d in question.by if not d.is_time} <= _REFUSALS_TELL
        self._total = Line(refused=Counter() if self.knows_refusals else None)
        self._lines: dict[tuple[Group, Group, Group], Line] = {}
        self._places: dict[tuple[str, ...], Group | None] = {}
        self._tags: dict[Tags, list[Group]] = {}
        self._limits: Counter[tuple[str, str, str]] = Counter()
        self._seen: dict[Dimension, set[str]] = {dimension: set() for dimension in question.dimensions}
        self._tag_names: set[str] = set()
        self._unplaced: Counter[tuple[str, ...]] = Counter()  # by what is not known of them
        self._left_out: Counter[tuple[str, ...]] = Counter()

    def add(self, tile: Tile, cell: Cell) -> None:
        """Add what was spent: once to the total, and to the line of each value of its tags."""
        if cell.place not in self._places:
            self._places[cell.place] = self._place(dict(zip(self._question.columns, cell.place, strict=True)))
        if cell.tags not in self._tags:
            self._tag_names |= {name for name, _ in cell.tags}
            self._tags[cell.tags] = self._groups(_by_name(self._question.tags, cell.tags), unknown=())
        place, groups = self._places[cell.place], self._tags[cell.tags]
        if place is None or not groups:
            return
        _add(self._total.sums, cell.sums)
        for group in groups:
            _add(self._line(tile, place, group).sums, cell.sums)

    def refuse(self, tile: Tile, one: Refused) -> None:
        """Add refusals; where it is not known which line they belong to, to the total only."""
        _, team, key = (*one.scope.split("/"), "", "")[:3]
        place = dict(zip(PLACES, (one.organization, team, key, one.model, "", ""), strict=True))
        unknown = {Dimension(name) for name in ("team", "key") if not place[name]}
        unknown |= {Dimension("model")} if one.model == _OTHER else set()
        unknown |= {_CUSTOMER} if one.customer == _OTHER else set()
        group = self._place(place, unknown)
        groups = self._groups({_CUSTOMER.name: [one.customer] if one.customer else []}, unknown)
        if group is None or not groups or self._total.refused is None:
            return
        if self._asked & unknown:
            self._left_out[tuple(sorted(_called(d) for d in self._asked & unknown))] += one.calls
            return
        self._total.refused[one.reason] += one.calls
        self._limits[one.scope, one.limit, one.reason] += one.refusals
        untold = [_called(d) for d in self._question.by if d in unknown or not (d.is_time or d in _REFUSALS_TELL)]
        if untold:
            self._unplaced[tuple(untold)] += one.calls
            return
        for each in groups:
            line = self._line(tile, group, each)
            if line.refused is not None:
                line.refused[one.reason] += one.calls

    def report(self) -> Report:
        """The report of what was added."""
        lines = [line for line in self._lines.values() if any(line.sums) or line.refusals]
        report = Report(self._question, lines, self._total, self._limits, self._tag_names)
        report.notes += self._notes(report)
        return report

    def _place(self, place: Mapping[str, str], unknown: Collection[Dimension] = ()) -> Group | None:
        """The group of a place; None: it is not asked for. What is unknown is taken to be asked for."""
        for condition in self._question.where:
            dimension = condition.dimension
            if not dimension.is_tag and dimension not in unknown:
                names = _names(dimension.name, place)
                self._seen[dimension].add(names[0])
                if not condition.fits(names):
                    return None
        return tuple(place[d.name] or None for d in self._question.by if not d.is_tag and not d.is_time)

    def _groups(self, values: Mapping[str, list[str]], unknown: Collection[Dimension]) -> list[Group]:
        """The groups of tags, one for each value that is asked for; none: they are not asked for."""
        for condition in self._question.where:
            dimension = condition.dimension
            if dimension.is_tag and dimension not in unknown:
                self._seen[dimension].update(values.get(dimension.name, ()))
                if not condition.fits(values.get(dimension.name, ())):
                    return []
        wanted = (self._wanted(d, values.get(d.name, [])) for d in self._question.by if d.is_tag)
        return list(product(*(found or [None] for found in wanted)))

    def _wanted(self, dimension: Dimension, values: list[str]) -> list[str | None]:
        """The values of a tag that get lines: of a tag that is also asked for, only those that are."""
        conditions = [condition for condition in self._question.where if condition.dimension == dimension]
        return [value for value in values if not conditions or any(one.fits_value(value) for one in conditions)]

    def _line(self, tile: Tile, place: Group, tags: Group) -> Line:
        key = tile.names, place, tags
        line = self._lines.get(key)
        if line is None:
            line = Line(self._group(*key), tile.start_ms, refused=Counter() if self._lines_know else None)
            self._lines[key] = line
        return line

    def _group(self, names: Group, place: Group, tags: Group) -> Group:
        """The values of the grouping, in its order."""
        parts = {"time": iter(names), "place": iter(place), "tag": iter(tags)}
        kinds = ("time" if d.is_time else "tag" if d.is_tag else "place" for d in self._question.by)
        return tuple(next(parts[kind]) for kind in kinds)

    def _notes(self, report: Report) -> Iterator[str]:
        twice = sum(line.cost_nanousd for line in report.lines) - report.total.cost_nanousd
        calls = sum(line.calls for line in report.lines) - report.total.calls
        if self._question.by and (twice or calls):
            yield (
                "calls with several values of a tag stand on the line of each and count once in the total: the lines "
                f"add up to {calls} calls and {format_usd(twice)} USD more than it"
            )
        for i, dimension in enumerate(self._question.by):
            if dimension.is_tag and any(report.total.sums) and all(line.group[i] is None for line in report.lines):
                yield f"no call of this time has the tag {dimension.name}"
        yield from self._notes_on_refusals()
        if report.is_empty:
            yield from (
                _hint(one, self._seen[one.dimension]) for one in self._question.where if self._seen_in_vain(one)
            )

    def _notes_on_refusals(self) -> Iterator[str]:
        if not self.knows_refusals:
            unknown = ", ".join(sorted(_called(dimension) for dimension in self._asked - _REFUSALS_TELL))
            yield f"it is not known of refused calls which {unknown} they had: none are counted"
            return
        counted = ((self._unplaced, "they are counted in the total only"), (self._left_out, "they are not counted"))
        for found, effect in counted:
            for names, calls in (+found).most_common():
                yield f"it is not known of {calls} refused calls which {', '.join(names)} they had: {effect}"

    def _seen_in_vain(self, condition: Condition) -> bool:
        seen = self._seen[condition.dimension]
        return bool(seen) and not any(condition.fits([value]) for value in seen)


def _called(dimension: Dimension) -> str:
    """Its name; of a tag that is called like a column or a period with `tag:`."""
    return dimension.text if dimension.name in (*PLACES, *KINDS) else dimension.name


def _hint(condition: Condition, seen: Collection[str]) -> str:
    name, wanted = condition.dimension.text, ",".join(condition.patterns)
    near = difflib.get_close_matches(wanted, seen, n=3) or sorted(seen)[:_HINTS]
    more = "" if len(near) == len(seen) else ", …"
    return f"no call of this time has {name}={wanted}; there is {', '.join(map(repr, near))}{more}"


def _by_name(names: Sequence[str], tags: Tags) -> dict[str, list[str]]:
    """The different values of these tags."""
    return {name: list(dict.fromkeys(value for tag, value in tags if tag == name)) for name in names}


def _names(column: str, place: Mapping[str, str]) -> tuple[str, ...]:
    """By what a value may be asked for: a team and a key by their path, too."""
    value = place[column]
    if column == "team":
        return value, f"{place['organization']}/{value}"
    if column == "key":
        return value, f"{place['team']}/{value}", f"{place['organization']}/{place['team']}/{value}"
    return (value,)


def _add(sums: list[int], more: Sequence[int]) -> None:
    for i, count in enumerate(more):
        if count:
            sums[i] += count


def _ratio(part: int, whole: int) -> Decimal | None:
    return (Decimal(part) / Decimal(whole)).quantize(_RATIO) if whole else None
