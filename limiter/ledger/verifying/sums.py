"""Whether all sums of the books are those of the rows, made again from them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, groupby
from operator import add
from typing import Any, Final

from sqlalchemy import BigInteger, Connection, Select, cast, func, select

from limiter.domain.rows import SPENDING, RowKind
from limiter.ledger.entries import HOUR_MS, place_of
from limiter.ledger.periods import month_hours, month_of
from limiter.ledger.progress import Advance
from limiter.ledger.schema import COUNTS, SUMS, charges, hours, ledger, months, refusals
from limiter.ledger.texts import read_texts, text_id
from limiter.ledger.verifying.findings import Findings
from limiter.ledger.verifying.rows import parts
from limiter.ledger.verifying.texts import References

#: Sums that are kept at a time; more are made in several passes.
SUMS_AT_ONCE: Final = 500_000
_PLACES_MAX: Final = 100_000
_PLACE: Final = ("organization", "team", "key", "model", "provider", "operation")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_Sums = Mapping[tuple[Any, ...], Sequence[int]]


def check_hours(connection: Connection, findings: Findings, progress: Advance | None) -> None:
    """Compare `hours` with the rows, hour by hour."""
    kept = select(*hours.columns).order_by(hours.c.hour)
    references = References(connection)
    for hour, expected, found in _side_by_side(_hours_of_rows(connection, progress), _hours_of(connection, kept)):
        findings.look("hours", len(found))
        for key in _differing(expected, found):
            place, tags = _told(connection, key) if findings.shows("hours") else ("", "")
            where = f"hour {_hour(hour)}, place {place}, tags {tags}"
            findings.fault("hours", where, *_apart(expected.get(key), found.get(key), SUMS))
        for number in sorted(references.missing(chain.from_iterable(found))):
            findings.fault("text", f"text {number}, of the sums of hour {_hour(hour)}", "a text", "none")


def _hours_of_rows(connection: Connection, progress: Advance | None) -> Iterator[tuple[int, _Sums]]:
    columns = [ledger.c[name] for name in ("reserved_ms", *_PLACE, "tags", *COUNTS, "amount_nanousd", "held_nanousd")]
    statement = select(*columns).where(ledger.c.kind.in_(SPENDING)).order_by(ledger.c.reserved_ms)
    places: dict[tuple[str, ...], int] = {}
    rows = (row for row in chain.from_iterable(parts(connection, statement, progress)) if isinstance(row[0], int))
    for hour, group in groupby(rows, lambda row: row[0] // HOUR_MS):
        sums: dict[tuple[Any, ...], Sequence[int]] = {}
        for row in group:
            names = row[1:7]
            place = places.get(names)
            if place is None:
                if len(places) >= _PLACES_MAX:
                    places.clear()
                place = places[names] = text_id(place_of(dict(zip(_PLACE, names, strict=True))))
            try:
                adds = (*row[8:15], row[16] * row[8], row[15])
                key = place, row[7]
                sums[key] = tuple(map(add, sums[key], adds)) if key in sums else adds
            except TypeError:
                continue  # a text where there should be a number: its checksum tells
        yield hour, sums


def _hours_of(connection: Connection, statement: Select[Any]) -> Iterator[tuple[int, _Sums]]:
    rows = chain.from_iterable(parts(connection, statement))
    for hour, group in groupby(rows, lambda row: row[0]):
        yield hour, {tuple(row[1:3]): tuple(row[3:]) for row in group}


def _side_by_side(
    left: Iterator[tuple[int, _Sums]], right: Iterator[tuple[int, _Sums]]
) -> Iterator[tuple[int, _Sums, _Sums]]:
    """Both by their common numbers; what only one has is empty in the other."""
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        number = min(pair[0] for pair in (one, other) if pair is not None)
        ours: _Sums = {}
        theirs: _Sums = {}
        if one is not None and one[0] == number:
            ours, one = one[1], next(left, None)
        if other is not None and other[0] == number:
            theirs, other = other[1], next(right, None)
        yield number, ours, theirs


def check_months(connection: Connection, findings: Findings) -> None:
    """Compare `months` with the hours, which are compared with the rows."""
    ends = [connection.execute(select(end(hours.c.hour))).scalar_one() for end in (func.min, func.max)]
    numbers = set(connection.execute(select(months.c.month).distinct()).scalars())
    if None not in ends:
        numbers |= set(range(month_of(ends[0]), month_of(ends[1]) + 1))
    for number in sorted(numbers):
        first, end = month_hours(number)
        kept = select(months.c.tags, months.c.place, *(months.c[name] for name in SUMS)).where(months.c.month == number)
        sums = [cast(func.sum(hours.c[name]), BigInteger) for name in SUMS]
        right = select(hours.c.tags, hours.c.place, *sums).where(hours.c.hour >= first, hours.c.hour < end)
        right = right.group_by(hours.c.tags, hours.c.place)
        findings.look("months", connection.execute(select(func.count()).select_from(kept.subquery())).scalar_one())
        expected = {tuple(row[:2]): tuple(row[2:]) for row in connection.execute(right.except_(kept))}
        found = {tuple(row[:2]): tuple(row[2:]) for row in connection.execute(kept.except_(right))}
        for tags, place in sorted({*expected, *found}):
            where = f"month {1970 + number // 12}-{number % 12 + 1:02}, tags {tags}, place {place}"
            findings.fault("months", where, *_apart(expected.get((tags, place)), found.get((tags, place)), SUMS))


def check_charges(connection: Connection, findings: Findings) -> None:
    """Compare `charges` with the rows."""
    passes = _passes(connection, select(func.count()).select_from(charges))
    for number in range(passes):
        of_rows = select(ledger.c.charged, ledger.c.amount_nanousd).where(
            ledger.c.amount_nanousd != 0, ledger.c.charged % passes == number
        )
        sums: defaultdict[int, int] = defaultdict(int)
        for charged, amount in chain.from_iterable(parts(connection, of_rows)):
            if isinstance(amount, int):  # of anything else its checksum tells
                sums[charged] += amount
        kept = select(charges.c.charged, charges.c.amount_nanousd).where(charges.c.charged % passes == number)
        found = {(row[0],): (row[1],) for row in chain.from_iterable(parts(connection, kept))}
        expected = {(charged,): (amount,) for charged, amount in sums.items()}
        findings.look("charges", len(found))
        for key in _differing(expected, found):
            where = f"counters {_told(connection, key)[0]}" if findings.shows("charges") else ""
            findings.fault("charges", where, *_apart(expected.get(key), found.get(key), ("amount_nanousd",)))


def check_refusals(connection: Connection, findings: Findings) -> None:
    """Compare `refusals` with the rows."""
    passes = _passes(connection, select(func.count()).select_from(refusals))
    for number in range(passes):
        expected: dict[tuple[Any, ...], list[int]] = {}
        for key, count, calls in _refused(connection):
            if hash(key) % passes == number:
                sums = expected.setdefault(key, [0, 0])
                sums[:] = sums[0] + count, sums[1] + calls
        rows = chain.from_iterable(parts(connection, select(*refusals.columns)))
        found = {tuple(row[:-2]): list(row[-2:]) for row in rows if hash(tuple(row[:-2])) % passes == number}
        findings.look("refusals", len(found))
        for key in _differing(expected, found):
            where = f"hour {_hour(key[0])}, {' '.join(str(name) or '-' for name in key[2:])}"
            findings.fault("refusals", where, *_apart(expected.get(key), found.get(key), ("refusals", "calls")))


def _refused(connection: Connection) -> Iterator[tuple[tuple[Any, ...], int, int]]:
    """What rows say of refusals: the key of their sum, refusals and calls."""
    statement = select(ledger.c.organization, ledger.c.detail).where(ledger.c.kind == RowKind.REFUSALS)
    for organization, detail in chain.from_iterable(parts(connection, statement)):
        try:
            for entry in json.loads(detail)["call"]["refusals"]:
                place = tuple(entry[name] for name in ("scope", "limit", "reason", "model", "customer"))
                count = entry["count"]
                yield (entry["minute_ms"] // HOUR_MS, organization, *place), count, entry.get("calls", count)
        except (KeyError, TypeError, ValueError):
            continue  # no drain wrote this: its checksum tells, or the sums


def _passes(connection: Connection, count: Select[Any]) -> int:
    return 1 + int(connection.execute(count).scalar_one()) // SUMS_AT_ONCE


def _differing(expected: _Sums, found: _Sums) -> Iterator[tuple[Any, ...]]:
    """Keys of sums that differ, or that only one side has."""
    yield from (key for key, sums in expected.items() if found.get(key) != sums)
    yield from (key for key in found if key not in expected)


def _apart(expected: Sequence[int] | None, found: Sequence[int] | None, names: Sequence[str]) -> tuple[str, str]:
    """What two sums say where they differ."""
    told = []
    for sums, other in ((expected, found), (found, expected)):
        pairs = zip(names, sums or (), other or (None,) * len(names), strict=False)
        told.append(", ".join(f"{name} {value}" for name, value, beside in pairs if value != beside) or "none")
    return told[0], told[1]


def _told(connection: Connection, ids: Sequence[Any]) -> list[str]:
    found = read_texts(connection, {number for number in ids if isinstance(number, int)})
    return [found.get(number, f"of id {number}") for number in ids]


def _hour(number: int) -> str:
    try:
        return f"{_EPOCH + timedelta(hours=number):%Y-%m-%dT%HZ}"
    except OverflowError:
        return str(number)  # of a time that no store ever had
