"""The three services under Envoy's names, asked by gRPC on both engines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from limiter.domain.money import format_usd
from limiter.domain.reservations import Basis
from limiter.domain.verdicts import Granted
from limiter.envoy.processing import READ, STREAMS_KEY
from limiter.envoy.services import ACCESS_LOG, PROCESSING
from limiter.envoy.v3 import access_log_pb2, ext_proc_pb2
from limiter.store.port import HoldRecord
from tests.envoy.checks import Front
from tests.envoy.exchanges import ANSWER, CHUNK, COST, LAST, POLICY, SSE, Envoy, entry, sent, sse, token_usage

pytestmark = pytest.mark.each_engine


@pytest.fixture
async def hold(front: Front) -> Granted:
    await front.start()
    await front.limiter.apply(POLICY)
    return await front.limiter.grant(tokens=(1_000, 1_000))


@pytest.fixture
async def channel(front: Front, hold: Granted) -> AsyncIterator[grpc.aio.Channel]:
    del hold  # the server has started
    async with grpc.aio.insecure_channel(front._servers[0].bound_addresses[0]) as channel:
        yield channel


async def settled(front: Front, hold: Granted) -> HoldRecord:
    """The record, as soon as the hold has ended."""
    for _ in range(1_000):
        record = await front.limiter.record(hold)
        if record.basis is not None:
            return record
        await asyncio.sleep(0.01)
    raise AssertionError("the hold is still open")


def process(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamMultiCallable:
    return channel.stream_stream(
        f"/{PROCESSING}/Process",
        request_serializer=ext_proc_pb2.ProcessingRequest.SerializeToString,
        response_deserializer=ext_proc_pb2.ProcessingResponse.FromString,
    )


async def test_ext_proc_tells_the_cost(front: Front, hold: Granted, channel: grpc.aio.Channel) -> None:
    envoy = Envoy(hold)
    answers = [answer async for answer in process(channel)(sent([envoy.headers(), envoy.body(ANSWER)]))]
    (option,) = answers[1].response_body.response.header_mutation.set_headers
    assert option.header.raw_value.decode() == COST
    assert format_usd((await settled(front, hold)).cost) == COST


async def test_a_stream_that_envoy_resets_after_a_good_end_is_settled(
    front: Front, hold: Granted, channel: grpc.aio.Channel
) -> None:
    envoy = Envoy(hold)
    call = process(channel)(metadata=((STREAMS_KEY, READ),))
    for message in (envoy.headers(SSE), envoy.body(sse(CHUNK, LAST, b"[DONE]"), end=False)):
        await call.write(message)
        await call.read()
    call.cancel()
    assert (await settled(front, hold)).basis is Basis.USAGE


async def test_a_stream_that_envoy_resets_half_way_is_settled_by_policy(
    front: Front, hold: Granted, channel: grpc.aio.Channel
) -> None:
    envoy = Envoy(hold)
    call = process(channel)(metadata=((STREAMS_KEY, READ),))
    for message in (envoy.headers(SSE), envoy.body(sse(CHUNK), end=False)):
        await call.write(message)
        await call.read()
    call.cancel()
    assert (await settled(front, hold)).basis is Basis.ESTIMATED


async def test_the_access_log_settles_while_its_stream_is_open(
    front: Front, hold: Granted, channel: grpc.aio.Channel
) -> None:
    call = channel.stream_unary(
        f"/{ACCESS_LOG}/StreamAccessLogs",
        request_serializer=access_log_pb2.StreamAccessLogsMessage.SerializeToString,
        response_deserializer=access_log_pb2.StreamAccessLogsResponse.FromString,
    )()
    message = access_log_pb2.StreamAccessLogsMessage()
    message.http_logs.log_entry.append(
        entry(hold, usage=token_usage(input_tokens=200, output_tokens=30, extraction_status=1))
    )
    await call.write(message)
    assert format_usd((await settled(front, hold)).cost) == COST
    await call.done_writing()
    await call
