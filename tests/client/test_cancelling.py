"""What only the async client can do: send without waiting, and be cancelled."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from limiter.client import AsyncClient, AsyncHold, LimiterUnavailable
from limiter.v1 import limiter_pb2 as pb
from tests.client.endings import ABORTED, endings, in_full, name, released, settled
from tests.client.fake_limiter import Fails, FakeLimiter, NeverAnswers, granted


@pytest.fixture
async def aclient(limiter: FakeLimiter) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(limiter.address, api_key="k", retries=0) as client:
        yield client


async def test_awaiting_a_settlement_gives_it_at_once(aclient: AsyncClient, limiter: FakeLimiter) -> None:
    async with aclient.reserve(model="m") as hold:
        settlement = await hold.settle(cost_nanousd=3)
        assert limiter.methods() == ["Reserve", "Settle"]
    assert settlement.cost_nanousd == 1_250_000
    assert limiter.methods() == ["Reserve", "Settle"]


async def test_an_awaited_failure_that_was_handled_is_not_raised_again(
    aclient: AsyncClient, limiter: FakeLimiter
) -> None:
    limiter.answers("Settle", Fails(grpc.StatusCode.UNAVAILABLE))
    async with aclient.reserve(model="m") as hold:
        with pytest.raises(LimiterUnavailable):
            await hold.settle(cost_nanousd=3)
    assert limiter.methods() == ["Reserve", "Settle"]


async def test_an_estimate_can_be_followed_by_the_usage(aclient: AsyncClient, limiter: FakeLimiter) -> None:
    async with aclient.reserve(model="m") as hold:
        await hold.settle(cost_nanousd=9, estimated=True)
        hold.settle(input_tokens=1)
    assert [request.estimated for request in limiter.requests("Settle")] == [True, False]


async def test_a_settlement_outlives_the_cancelled_task_that_made_it(limiter: FakeLimiter) -> None:
    client = AsyncClient(limiter.address, api_key="k")
    reached = asyncio.Event()

    async def work() -> None:
        async with client.reserve(model="m") as hold:
            hold.settle(cost_nanousd=3)
            reached.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])
    await client.close()
    assert endings(limiter) == [settled()]


async def forget(_hold: AsyncHold) -> None:
    await asyncio.Event().wait()


async def settle_and_await(hold: AsyncHold) -> None:
    await hold.settle(cost_nanousd=3)


async def settle_and_leave(hold: AsyncHold) -> None:
    hold.settle(cost_nanousd=3)


async def settle_and_wait(hold: AsyncHold) -> None:
    hold.settle(cost_nanousd=3)
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (forget, in_full(ABORTED)),
        (settle_and_await, settled()),
        (settle_and_leave, settled()),
        (settle_and_wait, settled()),
    ],
    ids=name,
)
async def test_cancelling_again_and_again_does_not_stop_a_settlement(
    limiter: FakeLimiter, body: Callable[[AsyncHold], Awaitable[None]], expected: object
) -> None:
    client = AsyncClient(limiter.address, api_key="k")
    entered, cancelled = asyncio.Event(), asyncio.Event()
    holds: list[AsyncHold] = []
    loop = asyncio.get_running_loop()

    def settled_once_cancelled(_request: object) -> pb.SettleResponse:
        asyncio.run_coroutine_threadsafe(cancelled.wait(), loop).result()
        return pb.SettleResponse(state=pb.SETTLED, basis=pb.Settlement.ESTIMATED)

    limiter.answers("Settle", settled_once_cancelled)

    async def work() -> None:
        async with client.reserve(model="m") as hold:
            holds.append(hold)
            entered.set()
            await body(hold)

    task = asyncio.create_task(work())
    await entered.wait()
    await asyncio.to_thread(limiter.arrived.acquire)  # the Reserve
    if body is forget:
        task.cancel()
    await asyncio.to_thread(limiter.arrived.acquire)  # the settlement is on its way
    for _ in range(3):
        task.cancel()
        await asyncio.wait([task], timeout=0)
    await asyncio.wait([task])
    assert task.cancelled()
    cancelled.set()
    await client.close()
    assert endings(limiter) == [expected]
    assert holds[0]._ended  # the answer was waited for


async def test_a_grant_that_arrives_for_a_cancelled_caller_is_given_back(limiter: FakeLimiter) -> None:
    client = AsyncClient(limiter.address, api_key="k")
    cancelled = asyncio.Event()
    loop = asyncio.get_running_loop()

    def grant_once_cancelled(_request: object) -> pb.ReserveResponse:
        asyncio.run_coroutine_threadsafe(cancelled.wait(), loop).result()
        return granted()

    limiter.answers("Reserve", grant_once_cancelled)
    task = asyncio.ensure_future(client.reserve(model="m"))
    await asyncio.to_thread(limiter.arrived.acquire)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    cancelled.set()
    await client.close()
    assert endings(limiter) == [released("the caller was cancelled")]


async def test_a_cancelled_caller_is_not_asked_for_again(limiter: FakeLimiter) -> None:
    client = AsyncClient(limiter.address, api_key="k", timeout=0.4, retries=1)
    limiter.answers("Reserve", NeverAnswers())
    task = asyncio.ensure_future(client.reserve(model="m"))
    await asyncio.to_thread(limiter.arrived.acquire)
    task.cancel()
    await asyncio.wait([task])
    await client.close()
    assert limiter.methods() == ["Reserve"]


async def test_a_reserve_that_nobody_awaits_is_warned_about(aclient: AsyncClient) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        aclient.reserve(model="m")
        gc.collect()
    assert "never awaited" in str(caught[0].message)
