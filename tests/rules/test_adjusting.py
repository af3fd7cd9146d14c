"""An operator's corrections are rows too; they move what still counts, once, whatever the call was settled by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limiter.domain.errors import FailedPrecondition, InvalidArgument, NotFound
from limiter.domain.reservations import Basis, ReservationName, RowFlag, State
from limiter.domain.rows import RowKind
from limiter.ledger.database import sqlite_url
from limiter.ledger.draining import Drain
from limiter.observability.metrics import Metrics
from limiter.store import keys
from tests.ledger.plugin import OpenBooks
from tests.rules.conftest import OpenLimiter
from tests.rules.desk import Limiter, Money, name_of, usd

POLICY = """
    version: 1
    organizations:
      acme:
        limits: [{id: monthly, spend: 100, per: month}]
        teams:
          search:
            limits: [{id: daily, spend: 10, per: day}]
            keys: {bot: {limits: [{id: hourly, spend: 5, per: hour, estimate: learned}]}}
"""
MONTHLY, DAILY, HOURLY = "acme monthly", "acme/search daily", "acme/search/bot hourly"


@pytest.fixture(autouse=True)
async def policy(limiter: Limiter) -> None:
    await limiter.apply(POLICY)


async def settled(limiter: Limiter, where: str = MONTHLY) -> str:
    money = await limiter.money(where)
    assert money == Money(money.settled, "0.00")
    return money.settled


async def test_a_correction_moves_every_counter_and_says_who_and_why(limiter: Limiter) -> None:
    hold = await limiter.grant(cost="2")
    await limiter.settle(hold, "1.5")
    adjusted = await limiter.adjust(hold, "0.25", reason="the provider credited it", by="kim")
    assert (adjusted.cost_nanousd, adjusted.basis, adjusted.state) == (usd("0.25"), Basis.USAGE, State.SETTLED)
    assert [await settled(limiter, where) for where in (MONTHLY, DAILY, HOURLY)] == ["0.25"] * 3
    row = (await limiter.rows())[-1]
    assert (row.kind, row.amount, row.cost) == (RowKind.CORRECTION, usd("-1.25"), usd("0.25"))
    assert RowFlag.ADJUSTED in row.flags
    assert json.loads(row.ending) == {"adjusted_by": "kim", "reason": "the provider credited it"}


async def test_saying_the_same_again_changes_nothing(limiter: Limiter) -> None:
    hold = await limiter.grant(cost="2")
    await limiter.settle(hold, "1.5")
    await limiter.adjust(hold, "3")
    again = await limiter.adjust(hold, "3")
    assert again.repeated_call
    assert len(await limiter.rows()) == 2
    assert await settled(limiter) == "3.00"


async def test_an_operators_word_stands_against_a_later_settlement(limiter: Limiter) -> None:
    hold = await limiter.grant(cost="2")
    await limiter.settle(hold, "1.5", estimated=True)
    await limiter.adjust(hold, "1")
    assert (await limiter.settle(hold, "1.75")).repeated_call
    assert await settled(limiter) == "1.00"


@pytest.mark.parametrize("end", ["expired", "released", "charged"])
async def test_whatever_has_ended_can_be_corrected(limiter: Limiter, end: str) -> None:
    if end == "charged":
        hold = str((await limiter.charge(id="c", actual="2")).name)
    else:
        granted = await limiter.grant(cost="2", ttl="1 minute")
        hold = str(name_of(granted))
        if end == "released":
            await limiter.release(granted)
        else:
            limiter.tick("2 minutes")
            await limiter.service.sweep()
    await limiter.adjust(hold, "0.75")
    assert await settled(limiter) == "0.75"


async def test_an_open_hold_is_left_alone(limiter: Limiter) -> None:
    hold = await limiter.grant(cost="2")
    with pytest.raises(FailedPrecondition, match="still open"):
        await limiter.adjust(hold, "1")
    assert await limiter.money(MONTHLY) == Money("0.00", "2.00")
    assert not await limiter.rows()


async def test_a_window_that_has_closed_is_corrected_in_the_ledger_only(limiter: Limiter) -> None:
    hold = await limiter.grant(cost="2")
    await limiter.settle(hold, "1.5")
    limiter.tick("2 hour")
    await limiter.adjust(hold, "1")
    assert await settled(limiter, HOURLY) == "0.00"
    assert await settled(limiter, MONTHLY) == "1.00"
    assert RowFlag.WINDOW_CLOSED in (await limiter.rows())[-1].flags


async def test_a_call_whose_record_was_retired_is_corrected_from_the_books(
    open_limiter: OpenLimiter, tmp_path: Path, open_books: OpenBooks
) -> None:
    books = open_books(sqlite_url(tmp_path / "books.db"))
    limiter = open_limiter(books=books)
    drain = Drain(limiter.store, books, Metrics())
    hold = await limiter.grant(cost="2", tags={"customer": "globex"})
    await limiter.settle(hold, "6")
    assert await limiter.overage(MONTHLY) == "4.00"
    await drain.drain()
    await limiter.client.delete(keys.hold_key(name_of(hold)))
    adjusted = await limiter.adjust(hold, "3")
    assert adjusted.cost_nanousd == usd("3")
    assert [await settled(limiter, where) for where in (MONTHLY, DAILY, HOURLY)] == ["3.00"] * 3
    assert await limiter.overage(MONTHLY) == "1.00"
    assert (await limiter.adjust(hold, "3")).repeated_call
    await limiter.adjust(hold, "2.5")
    await drain.drain()
    await limiter.client.delete(keys.hold_key(name_of(hold)))
    await limiter.adjust(hold, "2")
    rows = await limiter.rows()
    assert [row.amount for row in rows] == [usd(amount) for amount in ("6", "-3", "-0.5", "-0.5")]
    assert json.loads(rows[-1].call)["tags"] == [["customer", "globex"]]


async def test_what_nobody_knows_cannot_be_corrected(limiter: Limiter) -> None:
    name = str(ReservationName("acme", "0" * 32))
    with pytest.raises(NotFound, match="has no books"):
        await limiter.adjust(name, "1")


@pytest.mark.parametrize(
    ("cost", "reason", "by", "field"),
    [("-1", "r", "b", "cost_nanousd"), ("9007199.254740992", "r", "b", "cost_nanousd"), ("1", "", "b", "reason"),
     ("1", "r", "", "by")],
)  # fmt: skip
async def test_a_correction_without_sense_is_refused(
    limiter: Limiter, cost: str, reason: str, by: str, field: str
) -> None:
    hold = await limiter.grant(cost="2")
    await limiter.settle(hold, "1.5")
    with pytest.raises(InvalidArgument) as raised:
        await limiter.adjust(hold, cost, reason=reason, by=by)
    assert raised.value.field == field
    assert await settled(limiter) == "1.50"
