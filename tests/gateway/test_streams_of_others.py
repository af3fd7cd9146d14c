"""Streams of other providers than OpenAI and Anthropic reach their clients as they are written, however these leave."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import aiohttp
import pytest

from deploy.demo.envoy import Tree
from limiter.v1 import limiter_pb2 as pb
from tests.gateway.conftest import Desk
from tests.gateway.gateways import RESERVATION, ended, ended_books
from tests.gateway.made_calls import MADE, MESSAGES
from tests.gateway.playback import LAYOUTS, PARTS, Answer, Call, Stage, manager, posted, sent

STREAMS = [call for call in MADE if call.name in ("gemini list", "converse-stream", "invoke stream", "gemini sse")]


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_part_reaches_the_client_before_the_next_one_is_written(layout: str, stage: Stage, desk: Desk) -> None:
    async with stage.open(layout, STREAMS) as (gateway, player):
        caller = await desk.caller(gateway)
        for call in STREAMS:
            player.parts = asyncio.Semaphore(1)
            async with (
                aiohttp.ClientSession() as session,
                posted(session, gateway, caller.secret, call, by_prefix=LAYOUTS[layout]) as answer,
            ):
                assert answer.status == 200, await answer.text()
                got = await asyncio.wait_for(answer.content.readany(), 10)
                while len(got) < len(call.answer.body):
                    player.parts.release()
                    part = await asyncio.wait_for(answer.content.readany(), 10)
                    assert part, "the answer ended early"
                    got += part
                player.parts.release()
                player.parts.release()
                assert got + await asyncio.wait_for(answer.content.read(), 10) == call.answer.body
        await ended_books(caller.connection, caller.organization)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", STREAMS, ids=lambda call: call.name)
async def test_a_client_that_leaves_is_charged_by_what_it_got(
    layout: str, call: Call, stage: Stage, desk: Desk
) -> None:
    async with stage.open(layout, [call]) as (gateway, player):
        caller = await desk.caller(gateway)

        async def charged(parts: int) -> pb.Reservation:
            player.parts = asyncio.Semaphore(parts)
            size = len(call.answer.body)
            async with (
                aiohttp.ClientSession() as session,
                posted(session, gateway, caller.secret, call, by_prefix=LAYOUTS[layout]) as answer,
            ):
                assert answer.status == 200, await answer.text()
                await asyncio.wait_for(answer.content.readexactly(min(size // PARTS * parts, size)), 10)
                answer.close()  # without a look at what comes next
            hold = await ended(caller.connection, answer.headers[RESERVATION])
            player.parts.release()
            for _ in range(PARTS + 2):
                player.parts.release()
            return hold

        whole = await charged(PARTS + 1)
        early = await charged(2)
        assert whole.basis == pb.Settlement.USAGE
        assert early.basis == pb.Settlement.ESTIMATED
        assert 0 < early.cost_nanousd <= early.held_nanousd
        assert 0 < whole.cost_nanousd <= whole.held_nanousd
        await ended_books(caller.connection, caller.organization)


SIGNED = Call(
    "signed",
    "bedrock-runtime.eu-west-1.amazonaws.com",
    "/model/amazon.nova-micro-v1%3A0/converse",
    json.dumps({"messages": [{"role": "user", "content": [{"text": MESSAGES[0]["content"]}]}]}).encode(),
    Answer(200, "application/json", b'{"usage": {"inputTokens": 14, "outputTokens": 8, "totalTokens": 22}}'),
)


def signing(tree: Tree) -> None:
    """Have Envoy sign requests as AWS wants them, last before the router."""
    kind = "type.googleapis.com/envoy.extensions.filters.http.aws_request_signing.v3.AwsRequestSigning"
    keys = {"access_key_id": "AKIDEXAMPLE", "secret_access_key": "made-up"}
    config: dict[str, Any] = {
        "@type": kind,
        "service_name": "bedrock",
        "region": "eu-west-1",
        "credential_provider": {"inline_credential": keys},
    }
    filters = manager(tree)["http_filters"]
    filters.insert(-1, {"name": "envoy.filters.http.aws_request_signing", "typed_config": config})


async def test_envoy_signs_the_request_that_limiter_has_completed(stage: Stage, desk: Desk) -> None:
    async with stage.open("default.yaml", [SIGNED], signing) as (gateway, player):
        caller = await desk.caller(gateway)
        results = await sent(gateway, caller.secret, [SIGNED], by_prefix=True)
        books = await ended_books(caller.connection, caller.organization)
    got = player.received["signed"]
    assert results["signed"].status == 200
    assert json.loads(got.body)["inferenceConfig"]["maxTokens"] > 0
    assert got.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert got.headers["x-amz-content-sha256"] == hashlib.sha256(got.body).hexdigest()
    assert caller.secret not in str(got.headers)
    assert books.settled(caller.organization) > 0
