"""Asks the books for sums: those of months and hours, and of the rows themselves where a boundary cuts an hour."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, starmap
from typing import Any, Final, NamedTuple

from sqlalchemy import BigInteger, Connection, Select, String, cast, func, literal, select

from limiter.domain.rows import SPENDING, RowKind
from limiter.ledger.entries import HOUR_MS
from limiter.ledger.periods import Tile
from limiter.ledger.reports.covering import Piece, cover
from limiter.ledger.reports.questions import PLACES
from limiter.ledger.schema import COUNTS, SUMS, hours, ledger, months, refusals, texts
from limiter.ledger.texts import read_texts

#: Sums that are fetched at a time, and texts that are remembered.
_STREAMED: Final = {"yield_per": 10_000}
_REMEMBERED_MAX: Final = 300_000
#: Sums of refusals are written within seconds; later ones are looked for this long after, then for ever.
_LATE_MS: Final = (HOUR_MS, 48 * HOUR_MS, 2**53)

_OF_REFUSALS: Final = ("organization", "scope", "limit_id", "reason", "model", "customer")

#: A call's tags: each name any number of times.
Tags = tuple[tuple[str, str], ...]


class Cell(NamedTuple):
    """What calls of one tile, place (its wanted columns) and set of tags add up to, in the order of SUMS."""

    tile: int
    place: tuple[str, ...]
    tags: Tags
    sums: tuple[int, ...]


class Refused(NamedTuple):
    """Refusals of one tile. `calls` counts a call once, `refusals` once for each limit that refused it."""

    tile: int
    organization: str
    scope: str
    limit: str
    reason: str
    model: str
    customer: str
    refusals: int
    calls: int


class Whole(NamedTuple):
    """Full hours, of one tile, or (`each`) one hour for each tile from the first on."""

    tile: int
    first: int
    end: int
    each: bool = False


class Cut(NamedTuple):
    """A part of an hour or of two, in ms."""

    tile: int
    start_ms: int
    end_ms: int


def extent(connection: Connection) -> tuple[int, int]:
    """The time in which the books have anything, in ms; (0, 0): nothing."""
    found: list[int] = []
    for table in (hours, refusals):
        for end in (func.min, func.max):  # one at a time: each is then a look into the index
            found += [hour for (hour,) in connection.execute(select(end(table.c.hour))) if hour is not None]
    return (min(found) * HOUR_MS, (max(found) + 1) * HOUR_MS) if found else (0, 0)


def divide(tiles: Sequence[Tile]) -> tuple[list[Whole], list[Cut]]:
    """Tell the full hours of tiles from the hours that their boundaries cut."""
    whole: list[Whole] = []
    cuts: list[Cut] = []
    for i, (start, end, _) in enumerate(tiles):
        first, last = -(-start // HOUR_MS), end // HOUR_MS
        if first >= last:
            cuts.append(Cut(i, start, end))
            continue
        whole.append(Whole(i, first, last))
        cuts += [Cut(i, *cut) for cut in ((start, first * HOUR_MS), (last * HOUR_MS, end)) if cut[0] < cut[1]]
    return list(_joined(whole)), cuts


def _joined(parts: Iterable[Whole]) -> Iterator[Whole]:
    """Tiles of one hour each that follow on each other, as one part."""

    def run(part: Whole) -> object:
        return (part.first - part.tile) if part.end - part.first == 1 else part

    for _, found in groupby(parts, run):
        first, *others = found
        yield Whole(first.tile, first.first, others[-1].end, each=True) if others else first


@dataclass(slots=True)
class SpendingReader:
    """Reads what was spent, by those columns of places and, if they are wanted, by tags."""

    connection: Connection
    columns: tuple[str, ...]
    tags: bool
    _places: dict[int, tuple[str, ...]] = field(default_factory=dict)
    _tags: dict[int, Tags] = field(default_factory=dict)

    def read(self, tiles: Sequence[Tile], progress: Callable[[int], object] = lambda _: None) -> Iterator[Cell]:
        """Every cell of the tiles, in no order; tells how far it is by the number of the tile."""
        whole, cuts = divide(tiles)
        for part in whole:
            progress(part.tile)
            pieces = [Piece(part.first, part.end)] if part.each else cover(part.first, part.end)
            for piece in pieces:
                yield from self._cells(self._of_hours(part, piece), placed=True, sign=piece.sign)
        for cut in cuts:
            progress(cut.tile)
            yield from self._cells(self._of_rows(cut), placed=False)

    def _of_hours(self, part: Whole, piece: Piece) -> Select[Any]:
        table = hours if piece.month is None else months
        tile: Any = hours.c.hour - (part.first - part.tile) if part.each else literal(part.tile)
        columns = [*([table.c.place] if self.columns else []), *([table.c.tags] if self.tags else [])]
        sums = (cast(func.sum(table.c[name]), BigInteger) for name in SUMS)
        if piece.month is not None:  # in the order of its key there is nothing to sort
            return select(tile, *columns, *sums).where(months.c.month == piece.month).group_by(*reversed(columns))
        found = select(tile, *columns, *sums).where(hours.c.hour >= piece.first, hours.c.hour < piece.end)
        return found.group_by(*([hours.c.hour] if part.each else []), *columns)

    def _of_rows(self, cut: Cut) -> Select[Any]:
        columns = [*(ledger.c[name] for name in self.columns), *([ledger.c.tags] if self.tags else [])]
        held = ledger.c.held_nanousd * ledger.c.calls
        counted = [*(ledger.c[name] for name in COUNTS), held, ledger.c.amount_nanousd]
        sums = (cast(func.sum(column), BigInteger) for column in counted)
        inside = ledger.c.reserved_ms >= cut.start_ms, ledger.c.reserved_ms < cut.end_ms, ledger.c.kind.in_(SPENDING)
        return select(literal(cut.tile), *columns, *sums).where(*inside).group_by(*columns)

    def _cells(self, query: Select[Any], *, placed: bool, sign: int = 1) -> Iterator[Cell]:
        """Run a query; its columns are the tile, the place (an id, or its columns), the tags and the sums."""
        of_place = bool(self.columns) if placed else len(self.columns)
        at = 1 + of_place
        for part in self.connection.execute(query, execution_options=_STREAMED).partitions():
            if placed and of_place:
                _resolve(self.connection, self._places, (row[1] for row in part), self._place)
            if self.tags:
                _resolve(self.connection, self._tags, (row[at] for row in part), _tags_of)
            for row in part:
                sums = tuple(row[at + self.tags :])
                if sums[0] is None:  # a sum of no rows at all
                    continue
                if sign < 0:
                    sums = tuple(-count for count in sums)
                place = tuple(row[1:at]) if not placed else self._places[row[1]] if of_place else ()
                yield Cell(row[0], place, self._tags[row[at]] if self.tags else (), sums)

    def _place(self, text: str) -> tuple[str, ...]:
        named = dict(zip(PLACES, json.loads(text), strict=True))
        return tuple(named[name] for name in self.columns)


def _tags_of(text: str) -> Tags:
    return tuple((name, value) for name, value in json.loads(text))


def _resolve(connection: Connection, known: dict[int, Any], ids: Iterable[int], read: Callable[[str], Any]) -> None:
    """Have the texts of all these ids among the known ones."""
    wanted = set(ids)
    new = wanted.difference(known)
    if len(known) + len(new) > _REMEMBERED_MAX:
        for number in known.keys() - wanted:
            del known[number]
    known.update({number: read(text) for number, text in read_texts(connection, new).items()})


class RefusalReader:
    """Reads sums of refusals, by model and by customer where that is wanted."""

    def __init__(self, connection: Connection, *, model: bool, customer: bool) -> None:
        self._connection = connection
        self._model = model
        self._customer = customer

    def read(self, tiles: Sequence[Tile]) -> Iterator[Refused]:
        """Every sum of the tiles, in no order. Refusals are told by the minute: one that is cut counts as its start."""
        whole, cuts = divide(tiles)
        for part in whole:
            yield from starmap(Refused, self._connection.execute(self._of_hours(part), execution_options=_STREAMED))
        yield from self._cut(cuts)

    def _of_hours(self, part: Whole) -> Select[Any]:
        named = ["organization", "scope", "limit_id", "reason"]
        named += [name for name, wanted in (("model", self._model), ("customer", self._customer)) if wanted]
        columns: list[Any] = [refusals.c[name] if name in named else literal("", String) for name in _OF_REFUSALS]
        tile: Any = refusals.c.hour - (part.first - part.tile) if part.each else literal(part.tile)
        sums = (cast(func.sum(refusals.c[name]), BigInteger) for name in ("refusals", "calls"))
        found = select(tile, *columns, *sums).where(refusals.c.hour >= part.first, refusals.c.hour < part.end)
        return found.group_by(*([refusals.c.hour] if part.each else []), *(refusals.c[name] for name in named))

    def _cut(self, cuts: Sequence[Cut]) -> Iterator[Refused]:
        touched = {hour for _, start, end in cuts for hour in range(start // HOUR_MS, -(-end // HOUR_MS))}
        counts: dict[int, int] = dict(self._refused_in(touched))
        starts = [cut.start_ms for cut in cuts]
        for first, last in _runs(sorted(counts)):
            wanted = sum(counts[hour] for hour in range(first, last + 1))
            for minute_ms, found in self._minutes(first, last, wanted):
                at = bisect_right(starts, minute_ms) - 1
                if at >= 0 and minute_ms < cuts[at].end_ms:
                    yield found._replace(tile=cuts[at].tile)

    def _refused_in(self, touched: Collection[int]) -> Iterator[tuple[int, int]]:
        numbers = sorted(touched)
        for at in range(0, len(numbers), 500):
            part = numbers[at : at + 500]
            total = cast(func.sum(refusals.c.refusals), BigInteger)
            query = select(refusals.c.hour, total).where(refusals.c.hour.in_(part)).group_by(refusals.c.hour)
            yield from map(tuple, self._connection.execute(query).all())

    def _minutes(self, first: int, last: int, wanted: int) -> list[tuple[int, Refused]]:
        """Refusals of hours by their minutes, from the rows that brought them; `wanted`: how many there must be."""
        start, end = first * HOUR_MS, (last + 1) * HOUR_MS
        found: list[tuple[int, Refused]] = []
        for late_ms in _LATE_MS:
            found.clear()
            written = ledger.c.reserved_ms >= start, ledger.c.reserved_ms < end + late_ms
            query = select(ledger.c.organization, ledger.c.detail).where(*written, ledger.c.kind == RowKind.REFUSALS)
            for organization, detail in self._connection.execute(query, execution_options=_STREAMED):
                found += (
                    (one["minute_ms"], self._refused(organization, one))
                    for one in json.loads(detail)["call"]["refusals"]
                    if start <= one["minute_ms"] < end
                )
            if sum(one.refusals for _, one in found) == wanted:
                break
        return found

    def _refused(self, organization: str, one: dict[str, Any]) -> Refused:
        model, customer = one["model"] if self._model else "", one["customer"] if self._customer else ""
        count = one["count"]
        return Refused(
            -1, organization, one["scope"], one["limit"], one["reason"], model, customer, count, one.get("calls", count)
        )


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Numbers that follow on each other, as first and last."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        found = [number for _, number in run]
        yield found[0], found[-1]


def has_tag(connection: Connection, name: str) -> bool:
    """Whether a call of any time has a tag of that name; a name that other texts begin with, too, is taken for one."""
    # Tags stand in the texts as [["NAME","VALUE"],…]; a name holds no character that JSON or LIKE would escape but _.
    escaped = name.replace("_", r"\_")
    found = select(texts.c.id).where(texts.c.text.like(f'%["{escaped}",%', escape="\\")).limit(1)
    return connection.execute(found).first() is not None
