"""The Python client against a real sidecar, async and blocking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import pytest

from limiter.client import (
    AlreadyExists,
    AsyncClient,
    AsyncHold,
    Basis,
    Client,
    DenialReason,
    Hold,
    HoldEnded,
    HoldNotFound,
    InvalidRequest,
    KeyRefused,
    LimiterUnavailable,
    ModelRefused,
    NeverFits,
    NotPermitted,
    RateLimited,
    SpendCeilingReached,
    State,
)
from limiter.client.requests import ReserveArguments
from tests.integration.books import balanced_books
from tests.integration.connections import USD, Connection
from tests.servers import free_port

POLICY = """
version: 1
organizations:
  {organization}:
    limits: [{{id: all, spend: 1, per: total}}]
    teams:
      search:
        models: ["gpt-*", "claude-*", "no-price-*"]
        keys:
          bot: {{limits: [{{id: all, spend: 1, per: total}}]}}
          slow: {{limits: [{{id: rpm, requests: 1, per: minute, burst: 1}}]}}
          narrow: {{limits: [{{id: tpm, tokens: 1000, per: minute}}]}}
"""

OPENAI = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt-4o-2024-08-06",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 900,
        "completion_tokens": 100,
        "total_tokens": 1000,
        "prompt_tokens_details": {"cached_tokens": 0},
    },
}
ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": "Hello!"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 700,
        "output_tokens": 80,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 200,
    },
}
TAGS = {"customer": "a"}
CALLS: Mapping[str, tuple[ReserveArguments, Mapping[str, object], tuple[int, int]]] = {
    "openai": ({"model": "gpt-4o", "input_tokens": 1000, "max_output_tokens": 200, "tags": TAGS}, OPENAI, (900, 100)),
    "anthropic": (
        {"model": "claude-sonnet-4-5", "input_tokens": 1000, "max_output_tokens": 200, "tags": TAGS},
        ANTHROPIC,
        (900, 80),
    ),
}


@pytest.fixture
async def place(three: list[Connection], organization: str) -> tuple[str, str]:
    """The address of a public listener, and the secret of a key with one dollar."""
    await three[0].apply(POLICY.format(organization=organization))
    return three[0].sidecar.public, await three[1].mint(f"{organization}/search/bot")


@pytest.fixture
async def client(place: tuple[str, str]) -> AsyncIterator[AsyncClient]:
    address, secret = place
    async with AsyncClient(address, api_key=secret) as client:
        yield client


async def in_thread(place: tuple[str, str], work: Callable[[Client], Any]) -> Any:  # noqa: ANN401 - whatever it returns
    """Run blocking code with a client of its own."""

    def run() -> Any:  # noqa: ANN401 - as above
        with Client(place[0], api_key=place[1]) as client:
            return work(client)

    return await asyncio.to_thread(run)


@pytest.mark.parametrize("provider", CALLS)
async def test_a_response_of_a_provider_settles_what_it_used(
    three: list[Connection], organization: str, place: tuple[str, str], client: AsyncClient, provider: str
) -> None:
    arguments, response, (input_tokens, output_tokens) = CALLS[provider]
    async with client.reserve(**arguments) as hold:
        assert hold.max_output_tokens == 200
        settlement = await hold.settle(response)
    assert (settlement.state, settlement.basis) == (State.SETTLED, Basis.USAGE)
    assert settlement.usage is not None
    assert (settlement.usage.input_tokens, settlement.usage.output_tokens) == (input_tokens, output_tokens)
    assert 0 < settlement.cost_nanousd < hold.held_nanousd

    def block(client: Client) -> Any:  # noqa: ANN401 - a settlement
        with client.reserve(**arguments) as hold:
            return hold.settle(response)

    again = await in_thread(place, block)
    assert (again.cost_nanousd, again.usage) == (settlement.cost_nanousd, settlement.usage)
    books = await balanced_books(three[2], organization)
    assert books.settled(organization) == 2 * settlement.cost_nanousd
    assert books.open_holds == []
    assert books.money_rows()[0]["call"]["tags"] == [["customer", "a"]]
    assert books.money_rows()[0]["end"]["provider_request_id"] == response["id"]


async def test_a_spent_ceiling_is_an_error_of_its_own(place: tuple[str, str], client: AsyncClient) -> None:
    hold = await client.reserve(cost_usd="0.9")
    await hold.settle(cost_usd="0.9")
    with pytest.raises(SpendCeilingReached) as caught:
        await client.reserve(model="gpt-4o", input_tokens=1000, max_output_tokens=15_000)
    refused = caught.value
    assert (refused.reason, refused.http_status) == (DenialReason.SPEND_CEILING, 402)
    assert [status.settled for status in refused.violations] == [900_000_000, 900_000_000]
    assert refused.fits_max_output_tokens is not None
    fits = await client.reserve(
        model="gpt-4o", input_tokens=1000, max_output_tokens=refused.fits_max_output_tokens, dry_run=True
    )
    assert fits.held_nanousd <= USD // 10
    with pytest.raises(SpendCeilingReached):
        await client.reserve(
            model="gpt-4o", input_tokens=1000, max_output_tokens=refused.fits_max_output_tokens + 1, dry_run=True
        )
    with pytest.raises(SpendCeilingReached):
        await in_thread(place, lambda client: client.reserve(cost_usd="0.2"))


async def test_a_rate_says_when_to_come_back(
    three: list[Connection], organization: str, place: tuple[str, str], client: AsyncClient
) -> None:
    slow = await three[0].mint(f"{organization}/search/slow")
    await client.reserve(api_key=slow, cost_nanousd=1)
    with pytest.raises(RateLimited) as caught:
        await client.reserve(api_key=slow, cost_nanousd=1)
    assert caught.value.reason == DenialReason.REQUEST_RATE
    assert timedelta(seconds=30) < caught.value.retry_after <= timedelta(seconds=60)
    narrow = await three[0].mint(f"{organization}/search/narrow")
    with pytest.raises(NeverFits) as never:
        await client.reserve(api_key=narrow, model="gpt-4o", input_tokens=900, max_output_tokens=101)
    assert never.value.fits_max_output_tokens == 100
    held = await client.reserve(cost_usd="0.6")
    with pytest.raises(RateLimited) as waiting:
        await in_thread(place, lambda client: client.reserve(cost_usd="0.6"))
    assert waiting.value.reason == DenialReason.SPEND_HELD
    assert waiting.value.retry_after > timedelta(0)

    # Who may wait gets it as soon as the other call has ended.
    patient = asyncio.create_task(in_thread(place, lambda client: client.reserve(cost_usd="0.6", wait_for_rate=10)))
    await held.release()
    assert (await patient).held_nanousd == 600_000_000


async def test_every_refusal_and_failure_has_a_class(place: tuple[str, str], client: AsyncClient) -> None:
    with pytest.raises(KeyRefused):
        await client.reserve(api_key="lk-nobody", cost_nanousd=1)
    with pytest.raises(ModelRefused, match="allow"):
        await client.reserve(model="gemini-2.5-pro", input_tokens=1)
    with pytest.raises(ModelRefused, match="price"):
        await client.reserve(model="no-price-1", input_tokens=1)
    with pytest.raises(InvalidRequest, match="ttl"):
        await client.reserve(cost_nanousd=1, ttl=timedelta(hours=25))
    with pytest.raises(NotPermitted):
        await AsyncClient(place[0], key_id="a/b/c").reserve(cost_nanousd=1)
    with pytest.raises(HoldNotFound):
        await client.settle(f"organizations/acme/reservations/{'0' * 32}", cost_nanousd=1)
    hold = await client.reserve(cost_nanousd=5, request_id="call-1")
    with pytest.raises(AlreadyExists):
        await client.reserve(cost_nanousd=6, request_id="call-1")
    await hold.release()
    with pytest.raises(HoldEnded):
        await hold.extend(60)
    with pytest.raises(HoldEnded):
        await client.reserve(cost_nanousd=5, request_id="call-1")
    with pytest.raises(LimiterUnavailable):
        await AsyncClient(f"127.0.0.1:{free_port()}", api_key="lk-a", timeout=0.5).reserve(cost_nanousd=1)


class _Broken(Exception):
    pass


@pytest.mark.parametrize("face", ["async", "blocking"])
async def test_a_block_ends_its_hold_however_it_is_left(
    three: list[Connection], organization: str, place: tuple[str, str], client: AsyncClient, face: str
) -> None:
    outcomes: dict[str, tuple[State, Basis, int, list[str]]] = {}

    async def leave(name: str, *, assume_sent: bool = True, marks: tuple[str, ...] = (), error: bool = False) -> None:
        reservation = ""

        def body(hold: AsyncHold | Hold) -> None:
            nonlocal reservation
            reservation = hold.reservation
            for mark in marks:
                getattr(hold, mark)()
            if error:
                raise _Broken

        def block(client: Client) -> None:
            with client.reserve(cost_nanousd=1000, assume_sent=assume_sent) as hold:
                body(hold)

        with pytest.raises(_Broken) if error else nullcontext():
            if face == "async":
                async with client.reserve(cost_nanousd=1000, assume_sent=assume_sent) as hold:
                    body(hold)
            else:
                await in_thread(place, block)
        ended = await three[1].reservation(reservation)
        (row,) = (await balanced_books(three[2], organization)).money_rows(reservation)
        outcomes[name] = (State(ended.state), Basis(ended.basis), ended.cost_nanousd, row["flags"])

    await leave("silently")
    await leave("by an error", error=True)
    await leave("before it was sent", assume_sent=False, error=True)
    await leave("after it was sent", assume_sent=False, marks=("sent",), error=True)
    await leave("marked as not sent", marks=("not_sent",))
    assert outcomes == {
        "silently": (State.SETTLED, Basis.ESTIMATED, 1000, []),
        "by an error": (State.SETTLED, Basis.ESTIMATED, 1000, ["ABORTED"]),
        "before it was sent": (State.RELEASED, Basis.RELEASED, 0, []),
        "after it was sent": (State.SETTLED, Basis.ESTIMATED, 1000, ["ABORTED"]),
        "marked as not sent": (State.RELEASED, Basis.RELEASED, 0, []),
    }


async def test_a_cancelled_task_leaves_no_hold_open(
    three: list[Connection], organization: str, client: AsyncClient
) -> None:
    async def call(number: int) -> None:
        async with client.reserve(cost_nanousd=1000, request_id=f"call-{number}"):
            await asyncio.sleep(3600)

    calls = [asyncio.create_task(call(number)) for number in range(40)]
    for task in calls:
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await client.close()
    books = await balanced_books(three[1], organization)
    assert books.open_holds == []


async def test_spend_without_a_hold_is_booked_once(
    three: list[Connection], organization: str, place: tuple[str, str], client: AsyncClient
) -> None:
    charged = await client.charge(OPENAI, model="gpt-4o", request_id="bill-1")
    again = await in_thread(place, lambda client: client.charge(OPENAI, model="gpt-4o", request_id="bill-1"))
    assert again.repeated_call
    assert again.cost_nanousd == charged.cost_nanousd > 0
    assert (await balanced_books(three[0], organization)).settled(organization) == charged.cost_nanousd


async def test_headroom_is_what_a_reserve_can_still_take(place: tuple[str, str], client: AsyncClient) -> None:
    await client.reserve(cost_usd="0.25")
    left = {
        (status.scope.path.count("/"), status.limit.id): status.remaining for status in await client.headroom("gpt-4o")
    }
    assert left == {(0, "all"): 750_000_000, (2, "all"): 750_000_000}
    blocking = await in_thread(place, lambda client: client.headroom("gpt-4o"))
    assert {status.remaining for status in blocking} == {750_000_000}
    assert (await client.reserve(cost_nanousd=750_000_000)).held_nanousd == 750_000_000
