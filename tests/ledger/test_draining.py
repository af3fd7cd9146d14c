"""What the scripts append arrives in the books exactly once, whoever dies on the way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from limiter.domain.errors import FailedPrecondition, Unavailable
from limiter.domain.money import CALL_MAX_NANOUSD, SUM_MAX_NANOUSD
from limiter.domain.rows import Position, Row
from limiter.domain.scopes import Scope
from limiter.ledger.booking import Booked, Booking, Page
from limiter.ledger.database import Database, sqlite_url
from limiter.ledger.draining import Drain
from limiter.ledger.schema import alerts, hours, ledger
from limiter.observability.metrics import Metrics
from limiter.store import keys
from limiter.store.ledgers import KEPT_ROWS
from tests.fakes.plugin import OpenClient, StoreClock
from tests.ledger.plugin import OpenBooks
from tests.ledger.rows import Ledger
from tests.rules.desk import Limiter, usd

POLICY = """
    version: 1
    organizations:
      acme:
        limits: [{id: monthly, spend: 5000, per: month}]
        teams: {search: {keys: {bot: {}}}}
"""
SHARD = keys.shard_of("acme")


@pytest.fixture
async def limiter(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[Limiter]:
    limiter = Limiter(open_client(), store_clock)
    await limiter.apply(POLICY)
    yield limiter
    await limiter.close()


@pytest.fixture
def books(tmp_path: Path, open_books: OpenBooks) -> Database:
    return open_books(sqlite_url(tmp_path / "books.db"))


async def drain_of(limiter: Limiter, database: Database, *, rows_at_once: int = 100) -> Drain:
    drain = Drain(limiter.store, database, Metrics(), rows_at_once=rows_at_once)
    await drain.open()
    return drain


async def spend(limiter: Limiter, calls: int, *, cost: str = "0.25") -> int:
    """Make calls; answers what they cost in nano-USD."""
    holds = [await limiter.grant(cost="1") for _ in range(calls)]
    for hold in holds:
        await limiter.settle(hold, cost)
    return calls * usd(cost)


def booked(database: Database) -> tuple[int, int]:
    """How many rows the books have, and what their hours add up to."""
    with database.read() as connection:
        rows = connection.execute(select(func.count()).select_from(ledger)).scalar_one()
        return rows, int(connection.execute(select(func.sum(hours.c.amount_nanousd))).scalar_one() or 0)


async def stream(limiter: Limiter) -> list[Row]:
    return await limiter.store.rows(SHARD, after=None, count=100_000)


async def test_all_rows_arrive_and_the_store_hears_how_far_the_books_are(limiter: Limiter, books: Database) -> None:
    drain = await drain_of(limiter, books, rows_at_once=60)
    spent = await spend(limiter, 130)
    assert await limiter.store.waiting([SHARD]) == {SHARD: 130}
    assert await drain.drain() == 130
    assert booked(books) == (130, spent)
    assert await limiter.store.waiting([SHARD]) == {SHARD: 0}
    spent += await spend(limiter, 3)
    assert await limiter.store.waiting([SHARD]) == {SHARD: 3}
    assert await drain.drain() == 3
    assert booked(books) == (133, spent)


async def test_the_store_forgets_only_rows_that_are_in_the_books(limiter: Limiter, books: Database) -> None:
    drain = await drain_of(limiter, books)
    await spend(limiter, KEPT_ROWS + 500)
    assert await drain.drain() == KEPT_ROWS + 500
    kept = await stream(limiter)
    assert KEPT_ROWS <= len(kept) < KEPT_ROWS + 500
    await spend(limiter, 10)
    assert [row.seq for row in (await stream(limiter))[-10:]] == list(range(KEPT_ROWS + 500, KEPT_ROWS + 510))


async def test_two_drains_at_once_write_each_row_once(
    open_client: OpenClient, limiter: Limiter, store_clock: StoreClock, books_url: str, open_books: OpenBooks
) -> None:
    other = Limiter(open_client(), store_clock)
    sides = (limiter, other, limiter, other)
    drains = [await drain_of(side, open_books(books_url), rows_at_once=50) for side in sides]
    spent = 0
    for _ in range(5):
        spent += await spend(limiter, 60)
        await asyncio.gather(*(drain.look() for drain in drains))
    for drain in drains:
        await drain.drain()
    assert booked(open_books(books_url)) == (300, spent)
    await other.close()


class Dying(Booking):
    """Dies at every second page: right after the books have committed it, or right before."""

    before = False
    after = False

    def book(self, pages: dict[int, Page]) -> Booked:  # type: ignore[override] # a dict is what it gets
        if self.before:
            raise KeyboardInterrupt
        written = super().book(pages)
        if self.after:
            raise KeyboardInterrupt
        return written


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_drain_that_dies_is_taken_over_without_loss_or_repetition(
    limiter: Limiter, books: Database, moment: str
) -> None:
    await (await drain_of(limiter, books)).drain()
    spent = 0
    for _ in range(4):
        spent += await spend(limiter, 70)
        drain = await drain_of(limiter, books, rows_at_once=50)
        drain._booking = Dying(books)
        setattr(drain._booking, moment, True)
        with pytest.raises(KeyboardInterrupt):
            await drain.look()
    assert await (await drain_of(limiter, books)).drain() == (280 if moment == "before" else 80)
    assert booked(books) == (280, spent)


async def test_what_a_dead_drain_had_written_is_told_to_the_store_by_the_next(
    limiter: Limiter, books: Database
) -> None:
    drain = await drain_of(limiter, books)
    drain._booking = Dying(books)
    drain._booking.after = True
    await spend(limiter, 20)
    with pytest.raises(KeyboardInterrupt):
        await drain.look()
    assert await limiter.store.waiting([SHARD]) == {SHARD: 20}
    assert await (await drain_of(limiter, books)).drain() == 0
    assert await limiter.store.waiting([SHARD]) == {SHARD: 0}


async def test_rows_wait_in_the_store_while_the_books_are_away(
    limiter: Limiter, books: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain = await drain_of(limiter, books)
    spent = await spend(limiter, 5)

    def away(*_: object) -> Booked:
        raise Unavailable("books: no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(drain._booking, "book", away)
        with pytest.raises(Unavailable, match="no route"):
            await drain.look()
    spent += await spend(limiter, 5)
    assert await drain.drain() == 10
    assert booked(books) == (10, spent)


async def snapshot(limiter: Limiter) -> dict[Any, Any]:
    return {key: await limiter.client.dump(key) for key in await limiter.client.keys("*")}


async def restore(limiter: Limiter, kept: dict[Any, Any]) -> None:
    """Take the store back to an earlier state, as a failover to a replica that was behind does."""
    await limiter.client.flushdb()
    for key, value in kept.items():
        await limiter.client.restore(key, 0, value)


async def test_a_store_that_went_back_and_wrote_on_loses_no_row_and_repeats_none(
    limiter: Limiter, books: Database
) -> None:
    drain = await drain_of(limiter, books)
    spent = await spend(limiter, 20)
    kept = await snapshot(limiter)
    lost = await spend(limiter, 10, cost="0.5")
    assert await drain.drain() == 30
    await restore(limiter, kept)
    spent += await spend(limiter, 15)  # with the numbers of the ten, and further ones
    for _ in range(3):
        await drain.drain()
    assert booked(books) == (45, spent + lost)
    with books.read() as connection:
        epochs = connection.execute(select(ledger.c.epoch, func.count()).group_by(ledger.c.epoch)).all()
        told = connection.execute(select(alerts.c.type, alerts.c.data)).all()
    assert sorted(count for _, count in epochs) == [15, 30]
    assert [type_ for type_, _ in told] == ["store.rolled_back"]
    assert f'"amount_nanousd":{lost}' in told[0].data
    spent += await spend(limiter, 2)
    assert await drain.drain() == 2


async def test_a_store_that_went_back_and_is_idle_is_put_in_order_with_its_next_row(
    limiter: Limiter, books: Database
) -> None:
    drain = await drain_of(limiter, books)
    await spend(limiter, 4)
    kept = await snapshot(limiter)
    await spend(limiter, 4)
    await drain.drain()
    await restore(limiter, kept)
    assert await drain.drain() == 0
    await spend(limiter, 1)
    for _ in range(2):
        await drain.drain()
    assert booked(books)[0] == 9


async def test_a_store_that_goes_back_twice_under_a_clock_that_is_behind_is_put_in_order_at_once(
    limiter: Limiter, books: Database, store_clock: StoreClock
) -> None:
    drain = await drain_of(limiter, books)
    spent = await spend(limiter, 5)
    kept = await snapshot(limiter)
    lost = await spend(limiter, 3, cost="0.5")
    await drain.drain()
    await restore(limiter, kept)
    store_clock.advance(30_000)
    again = await spend(limiter, 2)
    for _ in range(2):
        await drain.drain()
    await restore(limiter, kept)
    store_clock.advance(-30_000)
    spent += await spend(limiter, 1)
    for _ in range(2):
        await drain.drain()
    assert booked(books) == (5 + 3 + 2 + 1, spent + lost + again)
    assert (await stream(limiter))[-1].seq == 0
    with books.read() as connection:
        told = [json.loads(data) for data in connection.execute(select(alerts.c.data)).scalars()]
    assert sorted((one["rows"], one["amount_nanousd"]) for one in told) == [(3, lost), (5, lost + again)]


async def test_sums_of_the_largest_costs_do_not_stop_a_drain(books: Database) -> None:
    books.migrate()
    booking, rows = Booking(books), Ledger()
    for _ in range(1_100):
        rows.row(cost=CALL_MAX_NANOUSD)
    rows.book(booking)
    first, *_, last = rows.made
    assert booking.since(rows.shard, first.position, last.position) == (1_100, 1_100 * CALL_MAX_NANOUSD)
    with books.read() as connection:
        assert connection.execute(select(hours.c.amount_nanousd)).scalar_one() == SUM_MAX_NANOUSD


async def test_a_store_that_was_flushed_begins_a_new_epoch_in_the_same_books(
    limiter: Limiter, books: Database, store_clock: StoreClock
) -> None:
    drain = await drain_of(limiter, books)
    await spend(limiter, 6)
    await drain.drain()
    await limiter.client.flushdb()
    store_clock.advance(1_000)
    await limiter.apply(POLICY)
    await spend(limiter, 3)
    again = await drain_of(limiter, books)
    assert await again.drain() == 3
    assert booked(books)[0] == 9


async def test_a_store_goes_into_one_set_of_books_only(
    limiter: Limiter, books: Database, tmp_path: Path, open_books: OpenBooks
) -> None:
    first = await drain_of(limiter, books)
    other = Drain(limiter.store, open_books(sqlite_url(tmp_path / "other.db")), Metrics())
    with pytest.raises(FailedPrecondition, match="other books"):
        await other.open()
    await other.open(adopt=True)
    await other.open()
    with pytest.raises(FailedPrecondition):
        await drain_of(limiter, books)
    await spend(limiter, 1)
    with pytest.raises(FailedPrecondition):
        await first.look()  # it ran all the while
    assert await other.drain() == 1


async def test_rows_that_somebody_else_deleted_are_told_as_a_gap(limiter: Limiter, books: Database) -> None:
    drain = await drain_of(limiter, books)
    await spend(limiter, 3)
    await drain.drain()
    await spend(limiter, 5)
    rows = await stream(limiter)
    stream_key = keys.shard_keys(SHARD)[1]
    await limiter.client.xdel(stream_key, *(f"{row.epoch}-{row.seq}" for row in rows[2:6]))
    assert await drain.drain() == 2
    assert booked(books)[0] == 5


async def test_counters_come_with_the_row_up_to_which_they_count(limiter: Limiter) -> None:
    spent = await spend(limiter, 3)
    position, counters = await limiter.store.counters("acme", [Scope("acme")])
    assert position == Position((await stream(limiter))[0].epoch, 2)
    assert [(counter.counter, counter.settled, counter.held) for counter in counters] == [
        ("monthly:spend:month", spent, 0)
    ]
