"""Streaming methods of any service pass the same guard, on each engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress

import grpc

from limiter.domain.errors import NotFound
from limiter.rpc.engines import ServerLimits
from limiter.rpc.guard import Guard
from limiter.rpc.listeners import Listener
from limiter.rpc.statuses import INTERNAL_MESSAGE
from tests.rpc.conftest import Bed

PATIENCE_S = 20.0
TOKEN = "a-token-" + "that-is-long-enough"


class Counting:
    """A service of raw bytes: one number in, many out; many in, one out; many in, many out."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()

    async def count(self, request: bytes, _context: object) -> AsyncIterator[bytes]:
        try:
            for number in range(int(request)):
                yield str(number).encode()
            if request == b"0":
                raise NotFound("nothing to count")
            if request == b"-1":
                yield b"and so on"
                await asyncio.Event().wait()
            if request == b"-2":
                raise ZeroDivisionError("private")
        finally:
            self.ended.set()

    async def add(self, requests: AsyncIterator[bytes], _context: object) -> bytes:
        return str(sum([int(request) async for request in requests])).encode()

    async def double(self, requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for request in requests:
            if request == b"0":
                raise NotFound("nothing here")
            yield request * 2

    def register(self, _listener: Listener, guard: Guard) -> None:
        guard.add_registered_method_handlers(
            "test.Counting",
            {
                "Count": grpc.unary_stream_rpc_method_handler(self.count),
                "Add": grpc.stream_unary_rpc_method_handler(self.add),
                "Double": grpc.stream_stream_rpc_method_handler(self.double),
            },
        )


def numbers(*texts: bytes) -> Iterator[bytes]:
    return iter(texts)


async def ending(call: grpc.aio.UnaryStreamCall) -> grpc.StatusCode:
    with suppress(grpc.aio.AioRpcError):
        _ = [row async for row in call]
    return await call.code()


async def test_answers_and_requests_may_be_streams(bed: Bed) -> None:
    channel = bed.channel(await bed.serve(register=Counting().register))

    assert [row async for row in channel.unary_stream("/test.Counting/Count")(b"3")] == [b"0", b"1", b"2"]
    assert await channel.stream_unary("/test.Counting/Add")(numbers(b"1", b"2")) == b"3"
    assert [row async for row in channel.stream_stream("/test.Counting/Double")(numbers(b"1", b"2"))] == [b"11", b"22"]


async def test_an_error_in_a_stream_arrives_with_its_status(bed: Bed) -> None:
    channel = bed.channel(await bed.serve(register=Counting().register))

    for call, expected in [
        (channel.unary_stream("/test.Counting/Count")(b"0"), (grpc.StatusCode.NOT_FOUND, "nothing to count")),
        (channel.unary_stream("/test.Counting/Count")(b"-2"), (grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE)),
        (
            channel.stream_stream("/test.Counting/Double")(numbers(b"0")),
            (grpc.StatusCode.NOT_FOUND, "nothing here"),
        ),
        (channel.stream_unary("/test.Counting/Add")(numbers(b"x")), (grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE)),
    ]:
        assert (await call.code(), await call.details()) == expected


async def test_a_stream_needs_the_listeners_token(bed: Bed) -> None:
    server = await bed.serve(Listener("127.0.0.1:0", token=TOKEN), register=Counting().register)
    call = bed.channel(server).unary_stream("/test.Counting/Count")

    assert await call(b"1").code() is grpc.StatusCode.UNAUTHENTICATED
    shown = call(b"1", metadata=(("authorization", f"Bearer {TOKEN}"),))
    assert [row async for row in shown] == [b"0"]


async def test_a_stream_whose_caller_leaves_ends_and_makes_room_for_another(bed: Bed) -> None:
    service = Counting()
    server = await bed.serve(register=service.register, limits=ServerLimits(streams_max=1))
    count = bed.channel(server).unary_stream("/test.Counting/Count")
    endless = count(b"-1")
    await endless.initial_metadata()

    assert await ending(count(b"1")) is grpc.StatusCode.RESOURCE_EXHAUSTED
    endless.cancel()
    async with asyncio.timeout(PATIENCE_S):
        await service.ended.wait()
        assert await ending(count(b"1")) is grpc.StatusCode.OK


async def test_a_drain_waits_for_streams_that_end(bed: Bed) -> None:
    held, release = asyncio.Event(), asyncio.Event()

    async def rows(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        held.set()
        await release.wait()
        yield b"last row"

    def register(_listener: Listener, guard: Guard) -> None:
        guard.add_registered_method_handlers("test.Rows", {"Read": grpc.unary_stream_rpc_method_handler(rows)})

    server = await bed.serve(register=register)
    call = bed.channel(server).unary_stream("/test.Rows/Read")(b"")
    await held.wait()
    draining = asyncio.create_task(server.drain(PATIENCE_S))
    await server.draining.wait()
    release.set()

    assert [row async for row in call] == [b"last row"]
    await draining


async def test_an_endless_stream_can_end_when_the_server_drains(bed: Bed) -> None:
    async def follow(_request: bytes, _context: object) -> AsyncIterator[bytes]:
        yield b"first row"
        await server.draining.wait()

    def register(_listener: Listener, guard: Guard) -> None:
        guard.add_registered_method_handlers("test.Rows", {"Read": grpc.unary_stream_rpc_method_handler(follow)})

    server = await bed.serve(register=register)
    call = bed.channel(server).unary_stream("/test.Rows/Read")(b"")
    assert await call.read() == b"first row"

    async with asyncio.timeout(PATIENCE_S / 2):
        await server.drain(PATIENCE_S)
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
