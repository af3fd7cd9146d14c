"""What the calls of a time add up to, by model and tags: from the sums of hours, or from the rows themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    RowMapping,
    Select,
    and_,
    column,
    func,
    or_,
    select,
    values,
)

from limiter.domain.reservations import RowFlag
from limiter.domain.rows import SPENDING, Position
from limiter.ledger.entries import HOUR_MS
from limiter.ledger.schema import COUNTS, hours, ledger, texts
from limiter.ledger.texts import canonical

_SUMS = (*COUNTS, "amount_nanousd")
#: Of the detail of a row: its usage has a count that is none of COUNTS. PostgreSQL and Python read it alike.
_HAS_UNITS = f'"usage":[{{]([^}}]*,)?"(?!({"|".join(COUNTS[2:])})":)'
#: Rows that are fetched at once.
_AT_ONCE = 2_000

Tags = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Usage:
    """Calls with the same organization, provider, model and tags: what they add up to. `counts` go by COUNTS.

    `units` are the other counts, and come by themselves: with them all the rest is 0. `position` is that of the one
    row that says this; None: several do, up to the positions of the question.
    """

    provider: str
    model: str
    tags: Tags
    counts: tuple[int, ...] = (0,) * len(COUNTS)
    cost_nanousd: int = 0
    units: Mapping[str, int] = field(default_factory=dict)
    organization: str = ""
    position: tuple[int, Position] | None = None

    def values_of(self, tag: str) -> list[str]:
        """The values of a tag, sorted."""
        return [value for name, value in self.tags if name == tag]


@dataclass(frozen=True, slots=True)
class Question:
    """Which calls: those reserved from `since_ms` on and before `until_ms`, with this tag.

    `units`: count what is no field of usage, too. With `positions` all is read from the rows: those up to them summed,
    and those after them one by one; without, from the sums of hours, which takes a part of the time.
    """

    since_ms: int
    until_ms: int
    tag: tuple[str, str] | None = None
    units: bool = False
    positions: Mapping[int, Position] | None = None


def usages(connection: Connection, question: Question) -> Iterator[Usage]:
    """What those calls add up to; of one kind several may come."""
    first, last = -(-question.since_ms // HOUR_MS), question.until_ms // HOUR_MS
    if question.positions is not None or first >= last:
        spans = [(question.since_ms, question.until_ms)]
    else:
        yield from _from_hours(connection, question, first, last)
        spans = [(question.since_ms, first * HOUR_MS), (last * HOUR_MS, question.until_ms)]
    for since_ms, until_ms in spans:  # a time zone's midnight need not be a full hour of UTC
        if since_ms < until_ms:
            yield from _from_rows(connection, question, since_ms, until_ms)
    if question.positions is not None:
        yield from _after(connection, question)
    if question.units:
        yield from _units(connection, question)


def tagged(name: str, value: str) -> ColumnElement[bool]:
    """Whether a text is of tags with this one among them. SQLite takes A for a: look again at what is found."""
    return texts.c.text.contains(canonical([name, value]), autoescape=True)


def _from_hours(connection: Connection, question: Question, first: int, last: int) -> Iterator[Usage]:
    chosen = [hours.c.hour >= first, hours.c.hour < last]
    if question.tag is not None:
        chosen.append(hours.c.tags.in_(select(texts.c.id).where(tagged(*question.tag))))
    sums = [func.sum(hours.c[name]).label(name) for name in _SUMS]
    grouped = select(hours.c.place, hours.c.tags, *sums).where(*chosen).group_by(hours.c.place, hours.c.tags).subquery()
    place, tags = texts.alias(), texts.alias()
    found = (
        select(grouped, place.c.text.label("place_text"), tags.c.text.label("tags_text"))
        .join(place, place.c.id == grouped.c.place)
        .join(tags, tags.c.id == grouped.c.tags)
    )
    for row in _rows(connection, found):
        organization, _, _, model, provider, _ = json.loads(row["place_text"])
        labels = _tags(row["tags_text"])
        if _asked(question, labels):
            yield Usage(provider, model, labels, _counts(row), int(row["amount_nanousd"]), organization=organization)


def _from_rows(connection: Connection, question: Question, since_ms: int, until_ms: int) -> Iterator[Usage]:
    kind = (ledger.c.organization, ledger.c.provider, ledger.c.model, ledger.c.tags)
    summed = select(*kind, *(func.sum(ledger.c[name]).label(name) for name in _SUMS))
    if question.positions is None:
        summed = summed.select_from(ledger)
    else:
        limits, before = _limits(question.positions)
        summed = summed.select_from(ledger).join(limits, before)
    grouped = summed.where(*_spending(question, since_ms, until_ms)).group_by(*kind).subquery()
    found = select(grouped, texts.c.text.label("tags_text")).join(texts, texts.c.id == grouped.c.tags)
    for row in _rows(connection, found):
        labels = _tags(row["tags_text"])
        if _asked(question, labels):
            counts, cost = _counts(row), int(row["amount_nanousd"])
            yield Usage(row["provider"], row["model"], labels, counts, cost, organization=row["organization"])


def _after(connection: Connection, question: Question) -> Iterator[Usage]:
    limits, before = _limits(question.positions or {})
    place = (ledger.c.shard, ledger.c.epoch, ledger.c.seq)
    kind = (ledger.c.organization, ledger.c.provider, ledger.c.model)
    found = (
        select(*place, *kind, *(ledger.c[name] for name in _SUMS), texts.c.text)
        .select_from(ledger)
        .join(texts, texts.c.id == ledger.c.tags)
        .outerjoin(limits, before)
        .where(*_spending(question, question.since_ms, question.until_ms), limits.c.shard.is_(None))
    )
    for row in _rows(connection, found):
        labels = _tags(row["text"])
        if _asked(question, labels):
            counts, cost = _counts(row), int(row["amount_nanousd"])
            yield Usage(
                *(row["provider"], row["model"], labels, counts, cost),
                organization=row["organization"],
                position=_position(row),
            )


def _units(connection: Connection, question: Question) -> Iterator[Usage]:
    """The units that rows add. They stand in the rows only; a correction says the new count of all its call."""
    place = (ledger.c.shard, ledger.c.epoch, ledger.c.seq)
    about = (ledger.c.flags, ledger.c.corrects_epoch, ledger.c.corrects_seq, ledger.c.detail)
    found = (
        select(*place, *about, ledger.c.organization, ledger.c.provider, ledger.c.model, texts.c.text)
        .select_from(ledger)
        .join(texts, texts.c.id == ledger.c.tags)
        .where(
            *_spending(question, question.since_ms, question.until_ms),
            or_(ledger.c.detail.regexp_match(_HAS_UNITS), ledger.c.corrects_seq.is_not(None)),
        )
        .order_by(*place)
    )
    corrected: dict[tuple[int, int, int], dict[str, int]] = {}
    for row in _rows(connection, found):
        labels, units = _tags(row["text"]), _said(row["detail"])
        if row["corrects_seq"] is not None:
            if row["flags"] & RowFlag.ADJUSTED and not json.loads(row["detail"]).get("end", {}).get("usage"):
                continue  # an operator says what the call cost, and no more
            first = row["shard"], row["corrects_epoch"], row["corrects_seq"]
            before = corrected.get(first)
            if before is None:
                same = (part == value for part, value in zip(place, first, strict=True))
                detail = connection.execute(select(ledger.c.detail).where(*same)).scalar_one_or_none()
                before = _said(detail) if detail else {}
            corrected[first] = units
            units = {unit: units.get(unit, 0) - before.get(unit, 0) for unit in {*units, *before}}
        if any(units.values()) and _asked(question, labels):
            yield Usage(
                *(row["provider"], row["model"], labels),
                units=units,
                organization=row["organization"],
                position=_position(row),
            )


def _said(detail: str) -> dict[str, int]:
    usage: dict[str, int] = json.loads(detail).get("end", {}).get("usage") or {}
    return {unit: count for unit, count in usage.items() if unit not in COUNTS}


def _position(row: RowMapping) -> tuple[int, Position]:
    return row["shard"], Position(row["epoch"], row["seq"])


def _spending(question: Question, since_ms: int, until_ms: int) -> list[ColumnElement[bool]]:
    chosen = [
        ledger.c.kind.in_([int(kind) for kind in SPENDING]),
        ledger.c.reserved_ms >= since_ms,
        ledger.c.reserved_ms < until_ms,
    ]
    if question.tag is not None:
        chosen.append(ledger.c.tags.in_(select(texts.c.id).where(tagged(*question.tag))))
    return chosen


def _limits(positions: Mapping[int, Position]) -> tuple[CTE, ColumnElement[bool]]:
    """The positions as a table, and whether a row stands up to them."""
    data = [(shard, *position) for shard, position in sorted(positions.items())]
    limits = (
        values(column("shard", Integer), column("epoch", BigInteger), column("seq", BigInteger), name="positions")
        .data(data or [(-1, 0, 0)])
        .cte("positions")
    )
    before = or_(ledger.c.epoch < limits.c.epoch, and_(ledger.c.epoch == limits.c.epoch, ledger.c.seq <= limits.c.seq))
    return limits, and_(ledger.c.shard == limits.c.shard, before)


def _asked(question: Question, labels: Tags) -> bool:
    return question.tag is None or question.tag in labels


def _rows(connection: Connection, statement: Select[Any]) -> Iterator[RowMapping]:
    with connection.execute(statement.execution_options(yield_per=_AT_ONCE)) as result:
        yield from result.mappings()


def _counts(row: RowMapping) -> tuple[int, ...]:
    return tuple(int(row[name]) for name in COUNTS)


def _tags(text: str) -> Tags:
    return tuple((name, value) for name, value in json.loads(text))
