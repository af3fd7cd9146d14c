"""The end of a server loses no call, on each engine."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from limiter.v1 import limiter_pb2 as pb
from tests.rpc.conftest import Bed

GRACE_S = 20.0


class Gate:
    """A behaviour that waits inside until the test opens it."""

    def __init__(self) -> None:
        self.entered = asyncio.Semaphore(0)
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def __call__(self, request: pb.ReserveRequest, _context: object) -> pb.ReserveResponse:
        self.entered.release()
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return pb.ReserveResponse(reservation=request.request_id)


async def running(bed: Bed, gate: Gate, calls: int) -> tuple[Any, Any, list[Any]]:
    server = await bed.serve(behaviour=gate)
    stub = bed.limiter(server)
    begun = [stub.Reserve(pb.ReserveRequest(request_id=str(number))) for number in range(calls)]
    for _ in begun:
        await gate.entered.acquire()
    return server, stub, begun


async def test_running_calls_are_answered_while_new_ones_are_refused_and_health_says_why(bed: Bed) -> None:
    gate = Gate()
    server, stub, calls = await running(bed, gate, 3)
    health = health_pb2_grpc.HealthStub(bed.channel(server))
    await health.Check(health_pb2.HealthCheckRequest())

    draining = asyncio.create_task(server.drain(GRACE_S))
    await server.draining.wait()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Reserve(pb.ReserveRequest())
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in caught.value.details()
    status = (await health.Check(health_pb2.HealthCheckRequest())).status
    assert status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert not draining.done()

    gate.open.set()
    assert [(await call).reservation for call in calls] == ["0", "1", "2"]
    await draining


async def test_every_answer_that_was_made_arrives(bed: Bed) -> None:
    for _ in range(10):
        gate = Gate()
        server, _, calls = await running(bed, gate, 50)
        draining = asyncio.create_task(server.drain(GRACE_S))
        gate.open.set()

        assert [(await call).reservation for call in calls] == [str(number) for number in range(50)]
        await draining


async def test_a_drained_server_takes_no_connection(bed: Bed) -> None:
    server = await bed.serve()
    host, _, port = server.bound_addresses[0].rpartition(":")

    await server.drain(GRACE_S)

    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


async def test_calls_that_outlive_the_grace_are_cut_off(bed: Bed) -> None:
    gate = Gate()
    server, _, (call,) = await running(bed, gate, 1)

    await server.drain(0.05)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    await asyncio.wait_for(gate.cancelled.wait(), GRACE_S)


async def test_draining_twice_waits_for_the_first(bed: Bed) -> None:
    gate = Gate()
    server, _, (call,) = await running(bed, gate, 1)

    both = asyncio.gather(server.drain(GRACE_S), server.drain(0))
    await server.draining.wait()
    gate.open.set()

    assert (await call).reservation == "0"
    await both


async def test_a_server_without_calls_drains_at_once(bed: Bed) -> None:
    server = await bed.serve()

    async with asyncio.timeout(GRACE_S / 4):
        await server.drain(GRACE_S)
