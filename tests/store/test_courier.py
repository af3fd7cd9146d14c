"""The courier: what becomes of an answer whose caller has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from limiter.store.courier import Courier


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
