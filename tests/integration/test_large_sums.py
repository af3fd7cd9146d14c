"""Sums stay exact to the nano-dollar where a double no longer is."""

from __future__ import annotations

import asyncio
import random

import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.integration.books import balanced_books
from tests.integration.connections import USD, Connection, of_key

#: The largest cost of one call, 2⁵³ − 1 nano-USD: about 9,007,199 USD.
LARGEST = 2**53 - 1
CEILING_USD = 9_000_000_000

POLICY = """
version: 1
settings: {{max_cost_per_call: 9007199.254740991}}
organizations:
  {organization}:
    limits: [{{id: all, spend: {usd}, per: total}}]
    teams:
      search:
        limits: [{{id: all, spend: {usd}, per: total}}]
        keys: {{bot: {{limits: [{{id: all, spend: {usd}, per: total}}]}}}}
"""


async def test_billions_are_counted_to_the_nano_dollar(three: list[Connection], organization: str) -> None:
    await three[0].apply(POLICY.format(organization=organization, usd=CEILING_USD))
    key = f"{organization}/search/bot"
    dice = random.Random(5)
    costs = [LARGEST - dice.randrange(1000) for _ in range(400)]
    grants = await asyncio.gather(*(three[i % 3].grant(of_key(key, cost)) for i, cost in enumerate(costs)))
    books = await balanced_books(three[0], organization)
    assert books.held(key) == books.held(organization) == sum(costs) > 2**61

    less = [cost - dice.randrange(10) for cost in costs]
    order = list(range(400))
    dice.shuffle(order)
    await asyncio.gather(*(three[i % 3].settle(grants[i].reservation, less[i]) for i in order))
    charges = [LARGEST - dice.randrange(1000) for _ in range(200)]
    requests = [
        pb.ChargeRequest(request_id=f"bill-{i}", key_id=key, cost_nanousd=cost) for i, cost in enumerate(charges)
    ]
    await asyncio.gather(*(three[i % 3].limiter.Charge(request) for i, request in enumerate(requests)))

    books = await balanced_books(three[1], organization)
    assert books.settled(key) == books.settled(organization) == sum(less) + sum(charges)
    assert books.held(key) == 0
    assert sum(row["amount_nanousd"] for row in books.money_rows()) == sum(less) + sum(charges)


@pytest.mark.parametrize("over", [0, 1])
async def test_the_last_nano_dollar_below_a_ceiling_of_billions_decides(
    three: list[Connection], organization: str, over: int
) -> None:
    ceiling = 100 * LARGEST
    usd = f"{ceiling // USD}.{ceiling % USD:09d}"
    await three[0].apply(POLICY.format(organization=organization, usd=usd))
    key = f"{organization}/search/bot"
    grants = await asyncio.gather(*(three[i % 3].grant(of_key(key, LARGEST)) for i in range(99)))
    last = LARGEST - 1 + over
    await three[0].grant(of_key(key, last))
    if not over:
        await three[0].grant(of_key(key, 1))
    denial = await three[1].deny(of_key(key, 1))
    assert denial.reason == pb.Denial.SPEND_HELD
    assert {status.held for status in denial.violations} == {ceiling}
    await asyncio.gather(*(three[2].settle(granted.reservation, LARGEST) for granted in grants))
    denial = await three[1].deny(of_key(key, LARGEST))
    assert denial.reason == pb.Denial.SPEND_HELD, "without what is held it would fit exactly"
    assert {status.settled for status in denial.violations} == {99 * LARGEST}
    await balanced_books(three[1], organization)


async def test_charges_may_pass_a_ceiling_of_billions_and_stay_exact(
    three: list[Connection], organization: str
) -> None:
    await three[0].apply(POLICY.format(organization=organization, usd=1))
    key = f"{organization}/search/bot"
    requests = [pb.ChargeRequest(request_id=f"bill-{i}", key_id=key, cost_nanousd=LARGEST - i) for i in range(300)]
    await asyncio.gather(*(three[i % 3].limiter.Charge(request) for i, request in enumerate(requests)))
    total = sum(request.cost_nanousd for request in requests)
    assert (await balanced_books(three[0], organization)).settled(key) == total
    denial = await three[0].deny(of_key(key, 1))
    assert {(status.settled, status.remaining) for status in denial.violations} == {(total, 0)}
    granted = await three[1].reserve(of_key(key, 0))
    assert granted.decision == pb.ReserveResponse.GRANTED, "what costs nothing fits everywhere"
