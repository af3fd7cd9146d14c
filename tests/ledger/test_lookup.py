"""Who reads the ledger does not see where the store ends and the books begin."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.domain.errors import FailedPrecondition
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database, sqlite_url
from limiter.ledger.draining import Drain
from limiter.ledger.lookup import rows_before, rows_behind, rows_of
from limiter.observability.metrics import Metrics
from limiter.store import keys
from tests.fakes.plugin import OpenClient, StoreClock
from tests.ledger.plugin import OpenBooks
from tests.ledger.rows import HOUR, NOVEMBER, Ledger
from tests.rules.desk import Limiter

SHARD = keys.shard_of("acme")

POLICY = """
    version: 1
    organizations: {acme: {teams: {search: {keys: {bot: {}}}}}}
"""


def test_rows_are_found_by_position_and_by_reservation(database: Database, booking: Booking) -> None:
    book = Ledger()
    for cost in range(10):
        book.row(cost=cost)
    book.book(booking)
    anew = Ledger(epoch=NOVEMBER + HOUR, names=10)
    anew.made, anew.booked = book.made, book.booked
    anew.row(cost=11)
    anew.book(booking)
    made = anew.made
    assert [row.position for row in rows_behind(database, 7, after=None, count=3)] == [row.position for row in made[:3]]
    assert [row.cost for row in rows_behind(database, 7, after=made[7].position, count=9)] == [8, 9, 11]
    assert [row.cost for row in rows_before(database, 7, before=None, count=2)] == [9, 11]
    assert [row.cost for row in rows_before(database, 7, before=made[2].position, count=9)] == [0, 1]
    assert [row.cost for row in rows_of(database, "acme", made[4].member.partition("/")[2])] == [4]
    assert not rows_of(database, "other", made[4].member.partition("/")[2])


async def test_rows_that_the_store_has_forgotten_come_from_the_books(
    open_client: OpenClient, store_clock: StoreClock, tmp_path: Path, open_books: OpenBooks
) -> None:
    books = open_books(sqlite_url(tmp_path / "books.db"))
    limiter = Limiter(open_client(), store_clock, books=books)
    await limiter.apply(POLICY)
    drain = Drain(limiter.store, books, Metrics())
    for i in range(12):
        await limiter.settle(await limiter.grant(cost="1", id=f"r{i}"), "0.5")
    await drain.drain()
    last = (await limiter.rows())[-1]
    await limiter.client.xtrim(keys.shard_keys(SHARD)[1], minid=f"{last.epoch}-{last.seq - 3}", approximate=False)
    await limiter.settle(await limiter.grant(cost="1", id="new"), "0.5")
    administration = limiter.service.administration
    assert [row.seq for row in await limiter.store.rows(SHARD, after=None, count=99)] == [8, 9, 10, 11, 12]
    whole = await administration.rows(SHARD, after=None, count=99)  # as far as the books go, then out of the store
    assert [row.seq for row in whole] == list(range(13))
    assert [row.seq for row in await administration.last_rows(SHARD, count=7)] == [6, 7, 8, 9, 10, 11, 12]
    found: list[int] = []
    after = None
    while rows := await administration.rows(SHARD, after=after, count=3):
        found += [row.seq for row in rows]
        after = rows[-1].position
    assert found == list(range(13))
    without = Limiter(open_client(), store_clock)
    with pytest.raises(FailedPrecondition, match="start this one with --books"):
        await without.service.administration.rows(SHARD, after=None, count=3)
    assert [row.seq for row in await without.service.administration.last_rows(SHARD, count=2)] == [11, 12]
    await without.close()
    await limiter.close()
