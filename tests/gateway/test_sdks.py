"""Unchanged OpenAI and Anthropic SDKs through Envoy: ceilings are hard, and every answer tells what it cost."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.gateway.conftest import Caller, Desk
from tests.gateway.gateways import COST, ORDERS, PROVIDER_KEY, RESERVATION, TAGS, Gateway, ended, nanousd
from tests.integration.books import balanced_books
from tests.integration.connections import USD

MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of Mexico?"}]

#: Which stand-in call is whose, and what came back in the headers.
Told = dict[str, str]


def named(orders: str = "") -> tuple[str, Told]:
    """A label for a call, and the header that gives it to the provider."""
    label = f"call-{os.urandom(6).hex()}"
    return label, {ORDERS: f"call={label},{orders}"}


async def check_settled(caller: Caller, label: str, headers: Any) -> pb.Reservation:  # noqa: ANN401 - of either SDK
    """The provider's bill, the ledger, and the cost header if there is one tell the same; returns the hold."""
    (billed,) = await asyncio.to_thread(caller.gateway.provider.calls, label)
    assert billed["finished"], billed
    hold = await ended(caller.connection, headers[RESERVATION])
    assert (hold.state, hold.basis) == (pb.SETTLED, pb.Settlement.USAGE)
    assert hold.cost_nanousd == billed["cost_nanousd"] > 0
    if COST in headers:
        assert nanousd(headers[COST]) == billed["cost_nanousd"]
    return hold


def openai_chat(gateway: Gateway, secret: str, headers: Told) -> Any:  # noqa: ANN401 - a raw answer
    client = gateway.openai(secret)
    return client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES, extra_headers=headers)


def openai_response(gateway: Gateway, secret: str, headers: Told) -> Any:  # noqa: ANN401 - a raw answer
    client = gateway.openai(secret)
    return client.responses.with_raw_response.create(model="gpt-5-mini", input="Hello", extra_headers=headers)


def openai_embedding(gateway: Gateway, secret: str, headers: Told) -> Any:  # noqa: ANN401 - a raw answer
    client = gateway.openai(secret)
    model = "text-embedding-3-small"
    return client.embeddings.with_raw_response.create(model=model, input=["Hello", "you"], extra_headers=headers)


def anthropic_message(gateway: Gateway, secret: str, headers: Told) -> Any:  # noqa: ANN401 - a raw answer
    messages = gateway.anthropic(secret).messages.with_raw_response
    return messages.create(model="claude-haiku-4-5", max_tokens=64, messages=MESSAGES, extra_headers=headers)


CALLS = [openai_chat, openai_response, openai_embedding, anthropic_message]


@pytest.mark.parametrize("orders", ["", "cached=3", "gzip=1"])
@pytest.mark.parametrize("call", CALLS)
async def test_an_answer_tells_what_the_ledger_and_the_provider_say_that_it_cost(
    caller: Caller, call: Callable[..., Any], orders: str
) -> None:
    label, headers = named(orders)
    answer = await asyncio.to_thread(call, caller.gateway, caller.secret, headers)
    assert COST in answer.headers
    hold = await check_settled(caller, label, answer.headers)
    books = await balanced_books(caller.connection, caller.organization)
    (row,) = books.money_rows(hold.reservation)
    assert nanousd(answer.headers[COST]) == row["amount_nanousd"]
    assert books.held(caller.organization) == 0


def openai_chat_stream(gateway: Gateway, secret: str, headers: Told) -> Any:  # noqa: ANN401 - headers
    chat = gateway.openai(secret).chat.completions
    options: Any = {"include_usage": True}
    answer = chat.with_raw_response.create(
        model="gpt-4o", messages=MESSAGES, stream=True, stream_options=options, extra_headers=headers
    )
    usages = [chunk.usage for chunk in answer.parse()]
    assert usages[-1] is not None
    return answer.headers


def openai_chat_stream_unasked(gateway: Gateway, secret: str, headers: Told) -> Any:  # noqa: ANN401 - headers
    chat = gateway.openai(secret).chat.completions
    answer = chat.with_raw_response.create(model="gpt-4o", messages=MESSAGES, stream=True, extra_headers=headers)
    assert len(list(answer.parse())) > 20
    return answer.headers


def openai_response_stream(gateway: Gateway, secret: str, headers: Told) -> Any:  # noqa: ANN401 - headers
    responses = gateway.openai(secret).responses
    answer = responses.with_raw_response.create(model="gpt-5-mini", input="Hello", stream=True, extra_headers=headers)
    assert [event.type for event in answer.parse()][-1] == "response.completed"
    return answer.headers


def anthropic_stream(gateway: Gateway, secret: str, headers: Told) -> Any:  # noqa: ANN401 - headers
    messages = gateway.anthropic(secret).messages
    with messages.stream(model="claude-haiku-4-5", max_tokens=64, messages=MESSAGES, extra_headers=headers) as stream:
        assert stream.get_final_message().usage.output_tokens > 0
        return stream.response.headers


STREAMS = [openai_chat_stream, openai_chat_stream_unasked, openai_response_stream, anthropic_stream]


@pytest.mark.parametrize("layout", ["default.yaml", "ext-proc.yaml"])
@pytest.mark.parametrize("call", STREAMS)
async def test_a_stream_is_settled_exactly(
    caller: Caller, at_sidecar: Callable[[str], Gateway], call: Callable[..., Any], layout: str
) -> None:
    caller = caller.by(at_sidecar(layout))
    label, orders = named("tokens=40,cached=2")
    headers = await asyncio.to_thread(call, caller.gateway, caller.secret, orders)
    await check_settled(caller, label, headers)
    assert (await balanced_books(caller.connection, caller.organization)).held(caller.organization) == 0


@pytest.mark.parametrize("call", [*CALLS, openai_chat_stream, openai_response_stream, anthropic_stream])
async def test_the_access_log_alone_settles_exactly(
    caller: Caller, at_sidecar: Callable[[str], Gateway], call: Callable[..., Any]
) -> None:
    caller = caller.by(at_sidecar("access-log.yaml"))
    label, orders = named("cached=3")
    answer = await asyncio.to_thread(call, caller.gateway, caller.secret, orders)
    headers = getattr(answer, "headers", answer)
    assert COST not in headers
    await check_settled(caller, label, headers)


async def test_asyncio_clients_are_served_alike(caller: Caller) -> None:
    label, headers = named()
    async with caller.gateway.async_openai(caller.secret) as client:
        chat = client.chat.completions.with_raw_response
        answer = await chat.create(model="gpt-4o", messages=MESSAGES, extra_headers=headers)
        await check_settled(caller, label, answer.headers)
        label, headers = named()
        stream = await chat.create(model="gpt-4o", messages=MESSAGES, stream=True, extra_headers=headers)
        assert len([chunk async for chunk in stream.parse()]) > 20
        await check_settled(caller, label, stream.headers)


@pytest.mark.parametrize("call", [*CALLS, *STREAMS])
async def test_a_call_without_money_is_refused_in_exactly_one_request(
    desk: Desk, default_gateway: Gateway, call: Callable[..., Any]
) -> None:
    caller = await desk.caller(default_gateway, "{limits: [{id: tiny, spend: 0.000000001, per: total}]}")
    label, headers = named()
    before = default_gateway.requests()
    with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as refused:
        await asyncio.to_thread(call, default_gateway, caller.secret, headers)
    assert isinstance(refused.value, openai.APIStatusError | anthropic.APIStatusError)
    answer = refused.value.response
    assert answer.status_code == 402
    assert answer.headers["x-should-retry"] == "false"
    assert COST not in answer.headers
    (violation,) = answer.json()["limiter"]["violations"]
    assert violation["limit"] == "tiny"
    assert default_gateway.requests() - before == 1
    assert default_gateway.provider.calls(label) == []
    assert (await balanced_books(caller.connection, caller.organization)).rows == []


async def test_a_client_waits_out_a_rate_limit(desk: Desk, default_gateway: Gateway) -> None:
    caller = await desk.caller(default_gateway, "{limits: [{id: rps, requests: 1, per: second, burst: 1}]}")
    label, headers = named()
    before = default_gateway.requests()
    started_at = time.monotonic()
    for _ in range(2):
        await asyncio.to_thread(openai_chat, default_gateway, caller.secret, headers)
    assert time.monotonic() - started_at >= 0.9
    assert default_gateway.requests() - before >= 3  # one was refused, and waited as it was told
    assert len(default_gateway.provider.calls(label)) == 2


async def test_a_refused_rate_says_when_to_come_again(desk: Desk, default_gateway: Gateway) -> None:
    caller = await desk.caller(default_gateway, "{limits: [{id: rpm, requests: 6, per: minute, burst: 1}]}")
    client = default_gateway.openai(caller.secret, max_retries=0)
    answer = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    assert answer.headers["x-ratelimit-limit-requests"] == "1"
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(openai.RateLimitError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert 8 <= int(refused.value.response.headers["retry-after"]) <= 10


async def test_tags_are_in_the_ledger_and_not_at_the_provider(caller: Caller) -> None:
    label, headers = named()
    headers |= {TAGS: "customer:acme,feature:assistant", RESERVATION: "organizations/forged/reservations/1", COST: "0"}
    answer = await asyncio.to_thread(openai_chat, caller.gateway, caller.secret, headers)
    hold = await check_settled(caller, label, answer.headers)
    assert {(tag.name, tag.value) for tag in hold.tags} == {("customer", "acme"), ("feature", "assistant")}
    (row,) = (await balanced_books(caller.connection, caller.organization)).money_rows()
    assert dict(row["call"]["tags"]) == {"customer": "acme", "feature": "assistant"}
    (billed,) = caller.gateway.provider.calls(label)
    assert [name for name in billed["headers"] if name.startswith("x-limiter")] == []
    assert "acme" not in str(billed["headers"]) + str(billed["body"])


@pytest.mark.parametrize(("call", "header"), [(openai_chat, "authorization"), (anthropic_message, "x-api-key")])
async def test_the_provider_sees_its_own_key_and_never_the_callers(
    caller: Caller, call: Callable[..., Any], header: str
) -> None:
    label, headers = named()
    await asyncio.to_thread(call, caller.gateway, caller.secret, headers)
    (billed,) = caller.gateway.provider.calls(label)
    assert billed["headers"][header].removeprefix("Bearer ") == PROVIDER_KEY
    assert caller.secret not in str(billed)


async def test_an_unknown_key_never_reaches_the_provider(caller: Caller) -> None:
    label, headers = named()
    before = caller.gateway.requests()
    with pytest.raises(openai.AuthenticationError):
        await asyncio.to_thread(openai_chat, caller.gateway, caller.secret[:-1] + "x", headers)
    with pytest.raises(anthropic.AuthenticationError):
        await asyncio.to_thread(anthropic_message, caller.gateway, "sk-ant-not-ours", headers)
    assert caller.gateway.requests() - before == 2
    assert caller.gateway.provider.calls(label) == []


async def test_a_call_that_names_no_maximum_gets_the_one_that_its_hold_pays_for(
    desk: Desk, default_gateway: Gateway
) -> None:
    caller = await desk.caller(default_gateway, "{settings: {default_max_output_tokens: 10}}")
    label, headers = named("tokens=500")
    answer = await asyncio.to_thread(openai_chat, default_gateway, caller.secret, headers)
    hold = await check_settled(caller, label, answer.headers)
    (billed,) = default_gateway.provider.calls(label)
    assert billed["tokens"]["output"] == 10
    assert hold.cost_nanousd <= hold.held_nanousd


@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_what_the_provider_refuses_costs_nothing(caller: Caller, status: int) -> None:
    _, headers = named(f"status={status}")
    client = caller.gateway.openai(caller.secret, max_retries=0)
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES, extra_headers=headers)
    assert refused.value.status_code == status
    assert COST not in refused.value.response.headers
    hold = await ended(caller.connection, refused.value.response.headers[RESERVATION])
    assert (hold.state, hold.cost_nanousd) == (pb.RELEASED, 0)
    assert (await balanced_books(caller.connection, caller.organization)).settled(caller.organization) == 0


async def test_attempts_that_envoy_repeats_are_one_hold(caller: Caller) -> None:
    label, headers = named("fail_first=2")
    answer = await asyncio.to_thread(openai_chat, caller.gateway, caller.secret, headers)
    attempts = caller.gateway.provider.calls(label)
    assert [attempt["status"] for attempt in attempts] == [503, 503, 200]
    hold = await ended(caller.connection, answer.headers[RESERVATION])
    assert nanousd(answer.headers[COST]) == hold.cost_nanousd == attempts[-1]["cost_nanousd"]
    books = await balanced_books(caller.connection, caller.organization)
    assert len(books.rows) == 1


async def test_the_list_of_models_needs_a_key_and_no_money(desk: Desk, default_gateway: Gateway) -> None:
    caller = await desk.caller(default_gateway, "{limits: [{id: rps, requests: 2, per: minute}]}")
    client = default_gateway.openai(caller.secret, max_retries=0)
    assert "gpt-4o" in [model.id for model in client.models.list()]
    client.models.list()
    with pytest.raises(openai.RateLimitError):
        client.models.list()
    with pytest.raises(openai.AuthenticationError):
        default_gateway.openai("sk-not-ours", max_retries=0).models.list()


async def test_an_agent_that_runs_away_is_stopped_at_its_ceiling(desk: Desk, default_gateway: Gateway) -> None:
    caller = await desk.caller(default_gateway, "{limits: [{id: day, spend: 0.01, per: day}]}")
    client = default_gateway.openai(caller.secret)
    customer = f"agent-{os.urandom(4).hex()}"
    headers = {ORDERS: f"customer={customer}"}
    answered = 0

    def run_away() -> None:
        nonlocal answered
        while True:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=24, extra_headers=headers)
            answered += 1

    before = default_gateway.requests()
    with pytest.raises(openai.APIStatusError) as refused:
        await asyncio.to_thread(run_away)
    assert refused.value.status_code == 402
    assert default_gateway.requests() - before == answered + 1
    assert answered > 10
    billed = default_gateway.provider.spent(customer)
    books = await balanced_books(caller.connection, caller.organization)
    assert billed == books.settled(caller.key) <= USD // 100
