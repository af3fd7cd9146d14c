"""What the accelerated engine must not forget, and must not keep."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import pytest

from limiter.rpc.engines import Engine
from limiter.v1 import limiter_pb2 as pb
from tests.rpc.conftest import Bed, LimiterStub

PATIENCE_S = 20.0


@pytest.mark.parametrize("bed", [Engine.NATIVE], indirect=True)
async def test_calls_whose_deadline_passed_in_the_queue_are_not_run_and_leave_nothing_behind(bed: Bed) -> None:
    busy, over = threading.Event(), threading.Event()
    ran: list[str] = []

    async def block(request: pb.ReserveRequest, _context: object) -> pb.ReserveResponse:
        ran.append(request.request_id)
        busy.set()
        assert over.wait(PATIENCE_S)
        time.sleep(0.1)  # noqa: ASYNC251 - a busy event loop is the case under test
        return pb.ReserveResponse()

    server = await bed.serve(behaviour=block)

    def calls() -> None:
        with grpc.insecure_channel(server.bound_addresses[0]) as channel:
            stub = LimiterStub(channel)
            first = stub.Reserve.future(pb.ReserveRequest(request_id="first"))
            assert busy.wait(PATIENCE_S)
            late = [stub.Reserve.future(pb.ReserveRequest(request_id="late"), timeout=0.1) for _ in range(20)]
            assert {call.code() for call in late} == {grpc.StatusCode.DEADLINE_EXCEEDED}
            over.set()
            first.result()

    await asyncio.to_thread(calls)
    await bed.limiter(server).Reserve(pb.ReserveRequest(request_id="after"))

    assert ran == ["first", "after"]
    (opened,) = server._open
    assert len(opened.server._calls) == 0
