"""Rule 4: a grant that nobody received is no grant."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from limiter.domain.errors import DeadlineExceeded
from limiter.domain.reservations import RowFlag, State
from limiter.domain.verdicts import Granted
from limiter.store.port import EndReply
from tests.rules.conftest import OpenLimiter
from tests.rules.desk import Gate, Limiter, name_of, places

POLICY = """
    version: 1
    organizations:
      acme:
        settings: {on_expiry: release}
        teams:
          search:
            limits:
              - {id: day, spend: 10, per: day}
              - {id: tpm, tokens: 1000, per: hour}
              - {id: rpm, requests: 10, per: hour}
              - {id: slots, concurrency: 5}
            keys: {bot: {}}
"""


async def give_back(limiter: Limiter, hold: Granted) -> None:
    limiter.service.give_back(name_of(hold))
    await limiter.service.give_backs.drain()


async def test_a_grant_that_could_not_be_written_is_released_with_all_that_it_took(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    before = await limiter.limits()
    hold = await limiter.grant(tokens=(100, 100), id="r")
    await give_back(limiter, hold)
    assert await limiter.limits() == before
    record = await limiter.record(hold)
    assert (record.state, record.flags, record.cost) == (State.RELEASED, RowFlag.UNCLAIMED, 0)
    (row,) = await limiter.rows()
    assert (row.state, row.flags, row.amount) == (State.RELEASED, RowFlag.UNCLAIMED, 0)
    assert await limiter.count("limiter_unclaimed_total") == 1


async def test_the_same_id_may_be_granted_anew_after_nobody_received_it(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await give_back(limiter, await limiter.grant(cost="1", id="r"))
    again = await limiter.grant(cost="2", id="r")
    assert (again.repeated_call, again.held_nanousd) == (False, 2_000_000_000)
    await limiter.settle(again, "2")
    assert (await limiter.money("acme/search day")).settled == "2.00"


async def test_what_an_unclaimed_call_cost_after_all_is_booked(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="1", id="r")
    await give_back(limiter, hold)
    settled = await limiter.settle(hold, "0.40")
    assert (settled.state, settled.cost_nanousd, settled.repeated_call) == (State.SETTLED, 400_000_000, False)
    assert (await limiter.money("acme/search day")).settled == "0.40"
    assert (await limiter.settle(hold, "0.40")).repeated_call


async def test_a_hold_given_to_two_callers_stays_open_until_both_are_gone(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="1", id="r")
    assert (await limiter.grant(cost="1", id="r")).repeated_call
    await give_back(limiter, hold)
    assert (await limiter.record(hold)).state is State.HELD
    assert (await limiter.money("acme/search day")).held == "1.00"
    await give_back(limiter, hold)
    assert (await limiter.record(hold)).state is State.RELEASED
    assert (await limiter.money("acme/search day")).held == "0.00"


async def test_giving_back_a_settled_hold_changes_nothing(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="1", id="r")
    await limiter.settle(hold, "0.40")
    await give_back(limiter, hold)
    assert (await limiter.record(hold)).state is State.SETTLED
    assert (await limiter.money("acme/search day")).settled == "0.40"


async def settle_down(limiter: Limiter) -> None:
    """Wait until the store has answered and all that is to be given back is."""
    await limiter.store._reserves.drain()
    await limiter.service.give_backs.drain()


async def test_a_call_that_is_cancelled_while_the_store_decides_leaves_no_hold(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    gate = Gate(limiter)
    call = asyncio.create_task(limiter.reserve(cost="1", id="r"))
    await gate.decided.wait()
    assert len((await limiter.dump()).open_holds) == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    gate.open()
    await settle_down(limiter)
    assert await limiter.left("acme/search slots") == 5
    assert (await limiter.money("acme/search day")).held == "0.00"


async def test_one_cancelled_call_never_disturbs_the_others_of_its_batch(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="0", id="warm")
    gate = Gate(limiter)
    calls = [asyncio.create_task(limiter.reserve(cost="1", id=f"r{i}")) for i in range(4)]
    await gate.decided.wait()
    calls[1].cancel()
    gate.open()
    results = await asyncio.gather(*calls, return_exceptions=True)
    await settle_down(limiter)
    assert [type(result).__name__ for result in results] == ["Granted", "CancelledError", "Granted", "Granted"]
    assert (await limiter.money("acme/search day")).held == "3.00"


async def test_a_cancelled_call_never_disturbs_others_that_wait_for_the_same_sweep(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="10", ttl="1 minute")
    limiter.tick("2 minutes")
    expire, asked, go = limiter.store.expire_due, asyncio.Event(), asyncio.Event()

    async def expire_slowly(organizations: Sequence[str], *, limit: int, retention_ms: int) -> list[EndReply]:
        asked.set()
        await go.wait()
        return await expire(organizations, limit=limit, retention_ms=retention_ms)

    monkeypatch.setattr(limiter.store, "expire_due", expire_slowly)
    calls = [asyncio.create_task(limiter.reserve(cost="5", id=f"r{i}")) for i in range(2)]
    await asked.wait()
    calls[0].cancel()
    await asyncio.wait(calls[:1])
    go.set()
    result = await calls[1]
    assert isinstance(result, Granted), result


async def test_a_call_past_its_deadline_never_reaches_the_store(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="0", id="warm")
    before = await limiter.dump()
    with pytest.raises(DeadlineExceeded, match="nothing"):
        await limiter.reserve(cost="1", id="r", deadline=asyncio.get_running_loop().time())
    assert (await limiter.dump()).raw == before.raw


async def test_a_call_past_its_deadline_does_not_even_ask_whose_secret_it_shows(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limiter.apply(POLICY)
    sent: list[object] = []
    monkeypatch.setattr(limiter.client, "execute_command", lambda *arguments: sent.append(arguments))
    with pytest.raises(DeadlineExceeded):
        await limiter.reserve("lk-a-stranger", cost="1", deadline=asyncio.get_running_loop().time())
    assert sent == []


async def test_the_batch_of_a_late_call_goes_on_without_it(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="0", id="warm")
    now = asyncio.get_running_loop().time()
    results = await asyncio.gather(
        limiter.reserve(cost="1", id="late", deadline=now),
        limiter.reserve(cost="1", id="in-time", deadline=now + 60),
        return_exceptions=True,
    )
    assert [type(result).__name__ for result in results] == ["DeadlineExceeded", "Granted"]
    assert (await limiter.money("acme/search day")).held == "1.00"


async def test_a_consumed_call_is_spent_even_if_nobody_heard(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    gate = Gate(limiter)
    call = asyncio.create_task(limiter.reserve(cost="1", id="r", consume=True))
    await gate.decided.wait()
    call.cancel()
    gate.open()
    await asyncio.gather(call, return_exceptions=True)
    await settle_down(limiter)
    assert (await limiter.money("acme/search day")).settled == "1.00"


async def test_a_retry_of_a_lost_call_on_another_sidecar_keeps_its_hold(
    limiter: Limiter, open_limiter: OpenLimiter
) -> None:
    """The first sidecar's give-back comes late: the caller has its grant from the second by then."""
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="1", id="r")
    again = await open_limiter().grant(cost="1", id="r")
    assert again.repeated_call
    await give_back(limiter, hold)
    assert (await limiter.settle(again, "1")).state is State.SETTLED
    assert places(again.limits)
