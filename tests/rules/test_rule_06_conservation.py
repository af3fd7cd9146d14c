"""Rule 6: settled = opening + sum of ledger rows, held = sum of open holds, always, to the nano-dollar."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest

from limiter.domain.errors import LimiterError
from limiter.domain.money import CALL_MAX_NANOUSD, SUM_MAX_NANOUSD, format_usd
from limiter.domain.verdicts import DenialReason, Granted
from tests.rules.conftest import OpenLimiter
from tests.rules.desk import Limiter, usd

POLICY = """
    version: 1
    organizations:
      acme:
        timezone: America/New_York
        limits:
          - {id: all, spend: 9000000000, per: total}
          - {id: hour, spend: 40, per: hour}
          - {id: slots, concurrency: 12}
        teams:
          search:
            limits: [{id: day, spend: 100, per: day}, {id: tpm, tokens: 100000, per: minute}]
            keys:
              bot:
                limits:
                  - {id: mine, spend: 30, per: day}
                  - {id: odd, spend: 5, per: hour, models: [dear], mode: shadow}
              dog: {settings: {on_expiry: release}}
"""
LARGE = """
    version: 1
    organizations:
      acme: {limits: [{id: all, spend: 9223372036.854775807, per: total}], teams: {search: {keys: {bot: {}}}}}
"""


@pytest.mark.parametrize("seed", range(3))
async def test_the_books_balance_after_every_step_of_any_story(open_limiter: OpenLimiter, seed: int) -> None:
    """What is checked after each step is in tests/model/invariants.py; what a step answers is in the other rules."""
    chance = random.Random(seed)
    sidecars = [open_limiter(), open_limiter()]
    await sidecars[0].apply(POLICY)
    names: list[str] = []
    for number in range(60):
        with contextlib.suppress(LimiterError):  # an id that has ended is an answer, too
            await do_something(chance, chance.choice(sidecars), names, number)
        await sidecars[0].dump()


async def do_something(chance: random.Random, limiter: Limiter, names: list[str], number: int) -> None:
    what = chance.choice(["price", "cost", "cost", "settle", "settle", "release", "sweep", "charge", "apply"])
    if what in {"price", "cost"}:
        size: dict[str, Any] = {"cost": random_usd(chance, 9)}
        if what == "price":
            size = {"tokens": (chance.randrange(1000), chance.randrange(3, 200_000))}
        verdict = await limiter.reserve(
            chance.choice(["acme/search/bot", "acme/search/dog"]),
            model=chance.choice(["m", "dear"]),
            id=f"r{chance.randrange(40)}",
            ttl=f"{chance.randrange(1, 90)} minutes",
            consume=chance.random() < 0.1,
            **size,
        )
        if isinstance(verdict, Granted):
            names.append(verdict.reservation)
    elif what == "settle" and names:
        await limiter.settle(chance.choice(names), random_usd(chance, 12), estimated=chance.random() < 0.5)
    elif what == "release" and names:
        await limiter.release(chance.choice(names))
    elif what == "charge":
        await limiter.charge(id=f"c{number}", actual=random_usd(chance, 2))
    elif what == "apply":
        await limiter.apply(POLICY.replace("id: day", chance.choice(["id: day", "id: other"])))
    else:
        limiter.tick(f"{chance.randrange(1, 120)} minutes")
        await limiter.service.sweep()


def random_usd(chance: random.Random, most: int) -> str:
    return f"{chance.randrange(most)}.{chance.randrange(10**9):09d}"


async def test_sums_beyond_2_to_the_53rd_are_exact_to_the_nano_dollar(limiter: Limiter) -> None:
    await limiter.apply(LARGE)
    largest = format_usd(CALL_MAX_NANOUSD)
    total = 0
    for number in range(1023):
        if number % 128 == 0:
            odd = CALL_MAX_NANOUSD - number
            await limiter.settle(await limiter.grant(cost=largest), format_usd(odd))
        else:
            odd = CALL_MAX_NANOUSD
            await limiter.grant(cost=largest, consume=True)
        total += odd
    status = (await limiter.limits())["acme all"]
    assert (status.settled, status.held) == (total, 0)
    assert status.remaining == SUM_MAX_NANOUSD - total
    rest = format_usd(status.remaining - CALL_MAX_NANOUSD)
    await limiter.grant(cost=largest)
    assert (await limiter.refusal(cost=format_usd(usd(rest) + 1))).reason is DenialReason.SPEND_HELD
    await limiter.grant(cost=rest)
    status = (await limiter.limits())["acme all"]
    assert status.settled + status.held == SUM_MAX_NANOUSD


@pytest.mark.parametrize("step", ["0.000000001", "0.999999999", "1", "9007199.254740991"])
async def test_carries_between_dollars_and_nano_dollars_are_right_both_ways(limiter: Limiter, step: str) -> None:
    await limiter.apply(LARGE)
    holds = [await limiter.grant(cost=step) for _ in range(5)]
    assert (await limiter.limits())["acme all"].held == 5 * usd(step)
    for hold in holds[:3]:
        await limiter.release(hold)
    await limiter.settle(holds[3], "0.000000001")
    status = (await limiter.limits())["acme all"]
    assert (status.settled, status.held) == (1, usd(step))


async def test_a_ceiling_near_the_largest_sum_still_refuses_the_last_nano_dollar_too_much(limiter: Limiter) -> None:
    await limiter.apply(LARGE.replace("9223372036.854775807", "20000000.000000001"))
    await limiter.grant(cost="9007199.254740991", consume=True)
    await limiter.grant(cost="9007199.254740991", consume=True)
    rest = usd("20000000.000000001") - 2 * CALL_MAX_NANOUSD
    assert (await limiter.refusal(cost=format_usd(rest + 1))).reason is DenialReason.SPEND_CEILING
    await limiter.grant(cost=format_usd(rest))
    assert (await limiter.refusal(cost="0.000000001")).reason is DenialReason.SPEND_HELD
