"""Whether the store's counters are what the rows say: settled = opening + the sum of the rows that name the counter."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple

from sqlalchemy import Connection, func, select, tuple_

from limiter.domain.money import format_usd
from limiter.domain.rows import Position
from limiter.ledger.alerting.alerts import ROLLED_BACK
from limiter.ledger.booking import read_positions
from limiter.ledger.database import Database
from limiter.ledger.schema import alerts, charges, ledger, texts
from limiter.ledger.texts import read_texts
from limiter.ledger.verifying.findings import Findings, position_name
from limiter.ledger.verifying.rows import parts

_LOOK_EVERY_S: Final = 0.25


class CounterKey(NamedTuple):
    """A counter in one of its periods: `acme/search`, `monthly:spend:month`, when it began to count."""

    scope: str
    counter: str
    period_ms: int


@dataclass(frozen=True, slots=True)
class Counted:
    """Counters of an organization as its store had them in one moment, in nano-USD.

    `last` is the newest row that they count; None: there is none.
    """

    organization: str
    shard: int
    last: Position | None
    settled: Mapping[CounterKey, int]


def scopes_by_organization(database: Database) -> dict[str, set[str]]:
    """Every scope whose counters the rows have ever moved."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    with database.read() as connection:
        statement = select(texts.c.text).join(charges, charges.c.charged == texts.c.id)
        for (text,) in chain.from_iterable(parts(connection, statement)):
            for key in _counters(text):
                found[key.scope.partition("/")[0]].add(key.scope)
    return dict(found)


def wait_for(database: Database, counted: Sequence[Counted], *, wait_s: float) -> None:
    """Wait until the rows that the counters count are in the books, but no longer than that."""
    end = time.monotonic() + wait_s
    while True:
        with database.read() as connection:
            positions = read_positions(connection)
        if not any(_is_behind(positions, each) for each in counted) or time.monotonic() >= end:
            return
        time.sleep(_LOOK_EVERY_S)


def check_counters(connection: Connection, findings: Findings, counted: Sequence[Counted]) -> None:
    """Compare counters with the sums of the rows up to the one that they count."""
    positions = read_positions(connection)
    sums: dict[CounterKey, int] = {}
    for each in counted:
        stands = positions.get(each.shard)
        if each.last is not None and _is_behind(positions, each):
            where = f"shard {each.shard} ({each.organization})"
            findings.fault("drain", where, f"rows up to {position_name(each.last)}", f"up to {position_name(stands)}")
            continue
        findings.look("drain", 1)
        sums |= dict.fromkeys(each.settled, 0)
    _add_charges(connection, sums)
    for each in counted:
        _take_later(connection, each, sums)
    for each in counted:
        for key, settled in each.settled.items():
            if key not in sums:
                continue
            findings.look("counter", 1)
            if sums[key] != settled:
                lost = _rolled_back(connection, each.shard) if findings.shows("counter") else ""
                where = f"{key.scope} {key.counter} since {key.period_ms} ms{lost}"
                findings.fault("counter", where, f"{_usd(sums[key])} by the rows", f"{_usd(settled)} in the store")


def _is_behind(positions: Mapping[int, Position], counted: Counted) -> bool:
    return counted.last is not None and positions.get(counted.shard, Position(-1, -1)) < counted.last


def _add_charges(connection: Connection, sums: dict[CounterKey, int]) -> None:
    """Add what all rows charged to those counters; `charges` is compared with the rows elsewhere."""
    statement = select(texts.c.text, charges.c.amount_nanousd).join(charges, charges.c.charged == texts.c.id)
    for text, amount in chain.from_iterable(parts(connection, statement)):
        _add(sums, text, int(amount))


def _take_later(connection: Connection, counted: Counted, sums: dict[CounterKey, int]) -> None:
    """Take away what rows charged that were written after the counters were read."""
    last = counted.last or Position(-1, -1)
    later = (
        select(ledger.c.charged, func.sum(ledger.c.amount_nanousd))
        .where(
            ledger.c.shard == counted.shard,
            tuple_(ledger.c.epoch, ledger.c.seq) > tuple_(*last),
            ledger.c.organization == counted.organization,
            ledger.c.amount_nanousd != 0,
        )
        .group_by(ledger.c.charged)
    )
    amounts = {charged: int(amount) for charged, amount in connection.execute(later)}
    found = read_texts(connection, amounts)
    for charged, amount in amounts.items():
        _add(sums, found.get(charged, "[]"), -amount)


def _add(sums: dict[CounterKey, int], charged: str, amount: int) -> None:
    for key in _counters(charged):
        if key in sums:
            sums[key] += amount


def _counters(charged: str) -> list[CounterKey]:
    try:
        return [CounterKey(*counter) for counter in json.loads(charged)]
    except (TypeError, ValueError):
        return []  # a text that was changed: its id tells


def _rolled_back(connection: Connection, shard: int) -> str:
    """Whether the books know that the store lost rows of this shard."""
    statement = select(alerts.c.data).where(alerts.c.type == ROLLED_BACK)
    for (data,) in connection.execute(statement):
        if json.loads(data).get("shard") == shard:
            return " (the store lost rows of this shard: `store.rolled_back`)"
    return ""


def _usd(nanousd: int) -> str:
    return f"{format_usd(nanousd)} USD"
