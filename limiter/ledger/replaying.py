"""The calls of a period as the books have them, in the order in which they were reserved, for those who replay them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from enum import Enum
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Row, Select, case, func, select

from limiter.domain.reservations import RowFlag, State
from limiter.domain.rows import SPENDING, RowKind
from limiter.domain.scopes import Scope
from limiter.ledger.periods import Tile
from limiter.ledger.reports.reading import SpendingReader
from limiter.ledger.schema import SUMS, ledger, texts

_PAGE: Final = 1_000
_SPENDER: Final = ("organization", "team", "key", "model")
_AMOUNT: Final = SUMS.index("amount_nanousd")


class Way(Enum):
    """How a call came into the books."""

    SETTLED = "settled"  # held, and then charged: settled, expired or corrected
    RELEASED = "released"  # held, and given back
    CONSUMED = "consumed"  # admitted and charged at once
    CHARGED = "charged"  # never held


class PastCall(NamedTuple):
    """A call, with all corrections in it. Times are ms since 1970, money is nano-USD.

    `model` is the one that was asked for. `ended_ms` is when it was first settled, released, expired or charged.
    `cost` is what it costs by the last correction. `bucket_tokens` is what its hold took of token buckets,
    `used_tokens` what it used by its first end; -1: that was not said.
    """

    key: Scope
    model: str
    customer: str
    way: Way
    reserved_ms: int
    ended_ms: int
    held: int
    cost: int
    bucket_tokens: int
    used_tokens: int


class Spent(NamedTuple):
    """What a key spent on a model (after the aliases of the time) with calls that were reserved since then."""

    since_ms: int
    key: Scope
    model: str
    amount: int


def count_calls(connection: Connection, *, start_ms: int, end_ms: int) -> dict[str, int]:
    """How many calls each organization reserved (or spent, without a hold) from `start_ms` to before `end_ms`."""
    query = (
        select(ledger.c.organization, func.count())
        .where(_reserved(start_ms, end_ms), ledger.c.kind.in_((RowKind.SETTLEMENT, RowKind.CHARGE)))
        .group_by(ledger.c.organization)
    )
    return {organization: int(count) for organization, count in connection.execute(query)}


def past_calls(
    connection: Connection, *, start_ms: int, end_ms: int, organizations: Collection[str]
) -> Iterator[PastCall]:
    """The calls that were reserved from `start_ms` to before `end_ms`, in that order; streamed.

    Calls of the same ms come in the order in which they ended in their shard. Grants that nobody received are left out.
    """
    streamed = connection.execution_options(yield_per=_PAGE)
    rows = streamed.execute(_query(start_ms, end_ms, organizations))
    for _, of_call in groupby(rows, key=lambda row: (row.reserved_ms, row.shard, row.first_epoch, row.first_seq)):
        call = _call(of_call)
        if call is not None:
            yield call


def spent(connection: Connection, starts: Iterable[int], *, end_ms: int, organizations: Collection[str]) -> list[Spent]:
    """What each key spent on each model from the first start to before `end_ms`, apart for each start to the next."""
    bounds = [*sorted(start for start in set(starts) if start < end_ms), end_ms]
    stretches = [Tile(start, end, ()) for start, end in pairwise(bounds)]
    sums: Counter[tuple[int, Scope, str]] = Counter()
    for cell in SpendingReader(connection, _SPENDER, tags=False).read(stretches):
        *scope, model = cell.place
        if scope[0] in organizations and scope[2]:
            sums[stretches[cell.tile].start_ms, Scope(*scope), model] += cell.sums[_AMOUNT]
    return [Spent(*place, amount) for place, amount in sorted(sums.items()) if amount]


def _reserved(start_ms: int, end_ms: int) -> Any:  # noqa: ANN401 - an expression of SQL
    return ledger.c.reserved_ms.between(start_ms, end_ms - 1)


def _query(start_ms: int, end_ms: int, organizations: Collection[str]) -> Select[Any]:
    """Rows of calls; those of one call follow each other, the first one first."""
    c = ledger.c
    first = func.coalesce(c.corrects_epoch, c.epoch), func.coalesce(c.corrects_seq, c.seq)
    nothing_counted = c.input_tokens + c.output_tokens == 0
    return (
        select(
            c.organization, c.team, c.key, c.model_asked, c.kind, c.state, c.flags, c.reserved_ms, c.at_ms,
            c.held_nanousd, c.amount_nanousd, c.bucket_tokens, c.input_tokens, c.output_tokens, c.shard,
            case((nothing_counted, c.detail), else_="").label("detail"),
            texts.c.text.label("tags"),
            first[0].label("first_epoch"),
            first[1].label("first_seq"),
        )
        .join(texts, texts.c.id == c.tags)
        .where(_reserved(start_ms, end_ms), c.organization.in_(sorted(organizations)), c.key != "")
        .where(c.kind.in_(SPENDING))
        .order_by(c.reserved_ms, c.shard, *first, c.epoch, c.seq)
    )  # fmt: skip


def _call(rows: Iterable[Row[Any]]) -> PastCall | None:
    """One call of its rows; None: nobody ever had it."""
    first, *corrections = rows
    cost = max(0, first.amount_nanousd + sum(row.amount_nanousd for row in corrections))
    if first.state == State.RELEASED and first.flags & RowFlag.UNCLAIMED and not cost:
        return None
    return PastCall(
        key=Scope(first.organization, first.team, first.key),
        model=first.model_asked,
        customer=_customer(first.tags),
        way=_way(first, cost),
        reserved_ms=first.reserved_ms,
        ended_ms=first.at_ms,
        held=first.held_nanousd,
        cost=cost,
        bucket_tokens=first.bucket_tokens,
        used_tokens=_used(first),
    )


def _way(first: Row[Any], cost: int) -> Way:
    """How it is to be replayed. What was released or consumed, and costs something else by now, was settled."""
    if first.kind != RowKind.SETTLEMENT:  # a correction of a row that these books do not have is spend, too
        return Way.CHARGED
    if first.flags & RowFlag.CONSUMED and cost == first.held_nanousd:
        return Way.CONSUMED
    return Way.RELEASED if first.state == State.RELEASED and not cost else Way.SETTLED


def _used(first: Row[Any]) -> int:
    """The tokens that its buckets were told of when it ended."""
    if first.state != State.SETTLED:
        return -1
    counted = first.input_tokens + first.output_tokens
    return counted if counted or "usage" in json.loads(first.detail).get("end", {}) else -1


@lru_cache(maxsize=10_000)
def _customer(tags: str) -> str:
    """The first value of the tag `customer`, as refusals are counted by."""
    return next((str(value) for name, value in json.loads(tags) if name == "customer"), "")
