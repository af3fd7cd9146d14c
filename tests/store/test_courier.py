"""The courier: what becomes of an answer whose caller has gone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest

from limiter.store.courier import BATCH_MAX, UNDER_WAY_MAX, Courier


async def _double(calls: Sequence[int]) -> Sequence[int]:
    await asyncio.sleep(0)
    return [2 * call for call in calls]


@pytest.mark.parametrize("turns", range(12))
async def test_an_answer_reaches_its_caller_or_is_told_as_abandoned_whenever_the_caller_goes(turns: int) -> None:
    abandoned: list[tuple[int, int | None]] = []
    sent: list[int] = []

    async def send(calls: Sequence[int]) -> Sequence[int]:
        sent.extend(calls)
        return await _double(calls)

    courier: Courier[int, int] = Courier(send, abandoned=lambda call, reply: abandoned.append((call, reply)))
    staying = asyncio.create_task(courier.carry(1))
    going = asyncio.create_task(courier.carry(21))
    for _ in range(turns):
        await asyncio.sleep(0)
    going.cancel()
    received = [answer for answer in await asyncio.gather(going, return_exceptions=True) if answer == 42]
    assert await staying == 2
    await courier.drain()
    # Sent means decided: the decision is with the caller or with whoever cares for the abandoned, never lost.
    assert len(received) + len(abandoned) == sent.count(21)
    assert abandoned in ([], [(21, 42)])


@pytest.mark.parametrize("seed", range(8))
async def test_every_call_is_carried_whenever_it_comes(seed: int) -> None:
    dice = random.Random(seed)

    async def send(calls: Sequence[int]) -> Sequence[int]:
        for _ in range(dice.randrange(4)):
            await asyncio.sleep(0)
        return [2 * call for call in calls]

    courier: Courier[int, int] = Courier(send)

    async def caller(number: int) -> list[int]:
        answers = []
        for call in range(50):
            for _ in range(dice.randrange(3)):
                await asyncio.sleep(0)
            answers.append(await courier.carry(100 * number + call))
        return answers

    async with asyncio.timeout(30):
        for callers in (1, 2, 100):
            answers = await asyncio.gather(*(caller(number) for number in range(callers)))
            assert answers == [[2 * (100 * number + call) for call in range(50)] for number in range(callers)]
    await courier.drain()


async def test_what_waits_beyond_one_batch_leaves_in_further_ones_at_once() -> None:
    under_way: list[int] = []
    answered = asyncio.Event()

    async def send(calls: Sequence[int]) -> Sequence[int]:
        under_way.append(len(calls))
        await answered.wait()
        return calls

    courier: Courier[int, int] = Courier(send)
    calls = [asyncio.create_task(courier.carry(call)) for call in range(BATCH_MAX * UNDER_WAY_MAX + 1)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert under_way == [BATCH_MAX] * UNDER_WAY_MAX
    answered.set()
    assert await asyncio.gather(*calls) == list(range(BATCH_MAX * UNDER_WAY_MAX + 1))
    assert under_way[-1] == 1
