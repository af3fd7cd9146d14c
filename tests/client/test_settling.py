"""Settle, release, extend, charge: what is sent for what the caller gives."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from limiter.client import AsyncClient, Basis, CallFailed, Client, InvalidRequest, Outcome, State, Usage
from limiter.domain.calls import BODY_MAX_BYTES
from limiter.v1 import limiter_pb2 as pb
from tests.client.faces import result
from tests.client.fake_limiter import RESERVATION, FakeLimiter, granted

Either = AsyncClient | Client


class Tokens(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    details: None = None


class ChatCompletion(BaseModel):
    """Stands for an SDK's response object."""

    model_config = ConfigDict(extra="allow")
    id: str
    model: str
    choices: list[dict[str, Any]]
    usage: Tokens


class GenerateContent(BaseModel):
    """An SDK whose Python names differ from those of its API."""

    model_config = ConfigDict(populate_by_name=True)
    usage_metadata: dict[str, int] = Field(alias="usageMetadata")
    candidates: list[str]


@dataclass
class HttpResponse:
    """Stands for the response of an HTTP library."""

    status_code: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


COMPLETION = ChatCompletion(
    id="c-1",
    model="gpt-4o-2024-08-06",
    choices=[{"message": {"content": "confidential"}}],
    usage=Tokens(prompt_tokens=9, completion_tokens=4),
)
USAGE_JSON = {"id": "c-1", "model": "gpt-4o-2024-08-06", "usage": {"prompt_tokens": 9, "completion_tokens": 4}}


@pytest.mark.parametrize("response", [COMPLETION, {**USAGE_JSON, "choices": ["confidential"]}], ids=["sdk", "dict"])
async def test_a_response_is_passed_on_without_what_the_model_said(
    client: Either, limiter: FakeLimiter, response: object
) -> None:
    hold = await result(client.reserve(model="m"))
    settlement = await result(hold.settle(response))
    assert (settlement.state, settlement.basis, settlement.cost_usd) == (State.SETTLED, Basis.USAGE, Decimal("0.00125"))
    [request] = limiter.requests("Settle")
    assert request.reservation == RESERVATION
    assert request.outcome == pb.SettleRequest.COMPLETED
    assert (request.provider_response.status, request.provider_response.content_type) == (200, "application/json")
    assert json.loads(request.provider_response.body) == USAGE_JSON


async def test_an_sdk_object_is_passed_on_in_the_names_of_its_api(client: Either, limiter: FakeLimiter) -> None:
    response = GenerateContent(usage_metadata={"promptTokenCount": 3}, candidates=["confidential"])
    await result(client.settle(RESERVATION, response))
    assert json.loads(limiter.requests("Settle")[0].provider_response.body) == {
        "usageMetadata": {"promptTokenCount": 3}
    }


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b'{"usage":{}}', (200, "application/json", b'{"usage":{}}')),
        ('{"usage":{}}', (200, "application/json", b'{"usage":{}}')),
        (b"data: {}\n\n", (200, "text/event-stream", b"data: {}\n\n")),
        (b"event: x\ndata: {}\n\n", (200, "text/event-stream", b"event: x\ndata: {}\n\n")),
        (HttpResponse(200, b"{}", {"content-type": "application/json; v=1"}), (200, "application/json; v=1", b"{}")),
        (HttpResponse(529, b"busy"), (529, "application/json", b"busy")),
    ],
)
async def test_a_raw_answer_is_passed_on_as_it_is(
    client: Either, limiter: FakeLimiter, response: object, expected: tuple[int, str, bytes]
) -> None:
    await result(client.settle(RESERVATION, response))
    sent = limiter.requests("Settle")[0].provider_response
    assert (sent.status, sent.content_type, sent.body) == expected


async def test_an_error_answer_of_the_provider_makes_the_call_failed(client: Either, limiter: FakeLimiter) -> None:
    await result(client.settle(RESERVATION, HttpResponse(500, b"{}")))
    await result(client.settle(RESERVATION, HttpResponse(500, b"{}"), outcome=Outcome.ABORTED))
    assert [request.outcome for request in limiter.requests("Settle")] == [Outcome.FAILED, Outcome.ABORTED]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"input_tokens": 9, "output_tokens": 0, "cache_read_tokens": 5},
            pb.SettleRequest(usage=pb.Usage(input_tokens=9, output_tokens=0, cache_read_tokens=5)),
        ),
        (
            {"usage": Usage(input_tokens=9, output_tokens=4)},
            pb.SettleRequest(
                usage=pb.Usage(
                    input_tokens=9, output_tokens=4, cache_read_tokens=0, cache_write_tokens=0, reasoning_tokens=0
                )
            ),
        ),
        ({"units": {"images": 2}}, pb.SettleRequest(usage=pb.Usage(units={"images": 2}))),
        ({"cost_nanousd": 0, "estimated": True}, pb.SettleRequest(cost_nanousd=0, estimated=True)),
        (
            {"cost_usd": "0.25", "model": "gpt-4o-mini", "provider_request_id": "req-1"},
            pb.SettleRequest(cost_nanousd=250_000_000, model="gpt-4o-mini", provider_request_id="req-1"),
        ),
    ],
)
async def test_counts_and_costs_reach_the_limiter(
    client: Either, limiter: FakeLimiter, arguments: dict[str, Any], expected: pb.SettleRequest
) -> None:
    hold = await result(client.reserve(model="m"))
    await result(hold.settle(**arguments))
    expected.reservation = RESERVATION
    expected.outcome = pb.SettleRequest.COMPLETED
    assert limiter.requests("Settle") == [expected]


@pytest.mark.parametrize(
    ("response", "arguments", "words"),
    [
        (None, {}, "nothing is given"),
        ({}, {"input_tokens": 1}, "provider_response and usage"),
        (None, {"cost_usd": "1", "input_tokens": 1}, "cost_nanousd and usage"),
        (None, {"cost_usd": 0.5}, "cost_usd"),
        (None, {"usage": Usage(), "input_tokens": 1}, "usage"),
        (None, {"usage": {"input_tokens": 1}}, "usage"),
        (object(), {}, "a object cannot be read"),
        ({"usage": object()}, {}, "not JSON"),
        (b" " * (BODY_MAX_BYTES + 1), {}, str(BODY_MAX_BYTES)),
    ],
)
async def test_what_cannot_be_settled_is_named_before_anything_is_sent(
    client: Either, limiter: FakeLimiter, response: object, arguments: dict[str, Any], words: str
) -> None:
    hold = await result(client.reserve(model="m"))
    with pytest.raises(InvalidRequest, match=words):
        await result(hold.settle(response, **arguments))
    assert limiter.methods() == ["Reserve"]


async def test_a_hold_can_be_released_and_extended(client: Either, limiter: FakeLimiter) -> None:
    hold = await result(client.reserve(model="m"))
    await result(hold.extend(90))
    assert hold.expires_at == datetime.fromtimestamp(1_900_000_000, UTC)
    released = await result(hold.release(reason="cache hit"))
    assert (released.state, released.basis, released.usage) == (State.RELEASED, Basis.RELEASED, None)
    assert limiter.requests("Extend")[0].ttl.ToSeconds() == 90
    assert limiter.requests("Release") == [pb.ReleaseRequest(reservation=RESERVATION, reason="cache hit")]


async def test_a_settlement_says_what_the_limiter_read(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers(
        "Settle",
        pb.SettleResponse(
            state=pb.SETTLED,
            cost_nanousd=9,
            overage_nanousd=4,
            basis=pb.Settlement.ESTIMATED,
            late=True,
            repeated_call=True,
            usage=pb.Usage(input_tokens=9, output_tokens=4, reasoning_tokens=2, units={"images": 1}),
            model="gpt-4o",
            price_version="2025-06-01",
            warnings=["over the hold"],
        ),
    )
    settlement = await result(client.settle(RESERVATION, cost_nanousd=9))
    assert settlement.usage == Usage(input_tokens=9, output_tokens=4, reasoning_tokens=2, units={"images": 1})
    assert (settlement.overage_nanousd, settlement.late, settlement.repeated_call) == (4, True, True)
    assert (settlement.model, settlement.price_version) == ("gpt-4o", "2025-06-01")
    assert settlement.warnings == ("over the hold",)
    assert settlement.reservation == RESERVATION


async def test_a_settlement_in_words_of_a_newer_limiter_is_a_typed_error(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers("Settle", pb.SettleResponse(state=99, basis=pb.Settlement.USAGE))  # type: ignore[arg-type]  # newer
    with pytest.raises(CallFailed, match="state 99"):
        await result(client.settle(RESERVATION, cost_nanousd=9))


async def test_spend_without_a_hold_is_charged_under_a_request_id(client: Either, limiter: FakeLimiter) -> None:
    moment = datetime(2025, 6, 1, tzinfo=UTC)
    booked = await result(
        client.charge(COMPLETION, model="gpt-4o", provider="openai", tags={"customer": "acme"}, occurred_at=moment)
    )
    assert (booked.cost_nanousd, booked.reservation) == (7, RESERVATION)
    [request] = limiter.requests("Charge")
    assert request.request_id
    assert (request.api_key, request.model, request.provider) == ("secret-key", "gpt-4o", "openai")
    assert request.tags == [pb.Tag(name="customer", value="acme")]
    assert request.occurred_at.ToDatetime(UTC) == moment
    assert json.loads(request.provider_response.body) == USAGE_JSON


async def test_a_charge_without_a_time_zone_is_refused(client: Either) -> None:
    with pytest.raises(InvalidRequest, match="time zone"):
        await result(client.charge(cost_nanousd=1, occurred_at=datetime(2025, 6, 1)))  # noqa: DTZ001  # the subject


@pytest.mark.parametrize("answer", [granted(reservation="", dry_run=True)])
async def test_a_dry_run_holds_nothing_that_could_be_settled(
    client: Either, limiter: FakeLimiter, answer: pb.ReserveResponse
) -> None:
    limiter.answers("Reserve", answer)
    hold = await result(client.reserve(model="m", dry_run=True))
    assert hold.dry_run
    for attempt in (lambda: hold.settle(cost_nanousd=1), hold.release):
        with pytest.raises(InvalidRequest, match="without a hold"):
            await result(attempt())
