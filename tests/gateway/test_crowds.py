"""Many clients at once spend one small budget to the last call and no further, by the provider's own count."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from typing import Any, Final

import openai

from tests.gateway.conftest import Desk
from tests.gateway.gateways import ORDERS, RESERVATION, Gateway, ended_books
from tests.integration.books import balanced_books
from tests.integration.connections import USD

MESSAGES: list[Any] = [{"role": "user", "content": "Go on."}]
CLIENTS: Final = 200
CEILING: Final = USD // 40


async def test_200_clients_on_one_small_budget_spend_it_all_and_no_more(desk: Desk, default_gateway: Gateway) -> None:
    caller = await desk.caller(default_gateway, f"{{limits: [{{id: day, spend: {CEILING / USD}, per: total}}]}}")
    customer = f"crowd-{os.urandom(4).hex()}"
    reservations: list[str] = []
    told: set[str] = set()

    async def spend(client: openai.AsyncOpenAI) -> None:
        """Call until the money is spent; come again while others hold what is left."""
        chat = client.chat.completions.with_raw_response
        while True:
            try:
                answer = await chat.create(
                    model="gpt-4o",
                    messages=MESSAGES,
                    max_tokens=40,
                    extra_headers={ORDERS: f"customer={customer},delay_s=0.01"},
                )
            except openai.RateLimitError as held:
                told.add(held.response.json()["limiter"]["reason"])
                await asyncio.sleep(0.2)
                continue
            except openai.APIStatusError as refused:
                told.add(str(refused.status_code))
                return
            reservations.append(answer.headers[RESERVATION])

    async with AsyncExitStack() as stack:
        # Each client is a pool of connections; making 200 pools would only cost time.
        clients = [
            await stack.enter_async_context(default_gateway.async_openai(caller.secret, max_retries=0))
            for _ in range(20)
        ]
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(spend(clients[number % len(clients)]))

    books = await balanced_books(caller.connection, caller.organization)
    billed = default_gateway.provider.spent(customer)
    largest = max([(await caller.connection.reservation(name)).held_nanousd for name in reservations[-50:]])
    assert billed == books.settled(caller.key)
    assert CEILING - largest < billed <= CEILING
    assert books.held(caller.key) == 0
    assert len(reservations) > 10
    assert told <= {"402", "SPEND_HELD"}


async def test_a_crowd_of_streams_is_settled_to_the_nano_dollar(desk: Desk, default_gateway: Gateway) -> None:
    caller = await desk.caller(default_gateway)
    customer = f"streams-{os.urandom(4).hex()}"

    async def read(client: openai.AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(
            model="gpt-4o",
            messages=MESSAGES,
            stream=True,
            extra_headers={ORDERS: f"customer={customer},gap_s=0.005"},
        )
        assert len([chunk async for chunk in stream]) > 20

    async with default_gateway.async_openai(caller.secret) as client:
        await asyncio.gather(*(read(client) for _ in range(60)))

    books = await ended_books(caller.connection, caller.organization)
    assert len(books.money_rows()) == 60
    assert default_gateway.provider.spent(customer) == books.settled(caller.organization)
