"""A handler learns that nobody got its answer, on each engine: the promise behind rule 4 of the design."""

from __future__ import annotations

import asyncio
import threading
import time

import grpc
import pytest

from limiter.domain.errors import Unavailable
from limiter.rpc.context import on_unwritten, remaining_s
from limiter.v1 import limiter_pb2 as pb
from tests.rpc.conftest import Bed, LimiterStub

PATIENCE_S = 20.0
#: How long the event loop stays busy after the caller has left, so that the news reaches this side's socket.
BUSY_S = 0.2


class Caller:
    """A caller in a thread of its own, because the event loop will be blocked."""

    def __init__(self, address: str) -> None:
        self.gone = threading.Event()
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._stub = LimiterStub(self._channel)

    def leave(self, how: str, entered: threading.Event) -> None:
        """Call Reserve and give up while the handler runs."""
        call = self._stub.Reserve.future(pb.ReserveRequest(), timeout=0.1 if how == "deadline" else None)
        assert entered.wait(PATIENCE_S)
        if how == "cancel":
            call.cancel()
        elif how == "disconnect":
            self._channel.close()
        else:
            assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        self.gone.set()

    def close(self) -> None:
        self._channel.close()


@pytest.mark.parametrize("how", ["cancel", "deadline", "disconnect"])
async def test_a_caller_that_left_while_the_loop_was_busy_is_noticed_once(bed: Bed, how: str) -> None:
    entered, told = threading.Event(), asyncio.Semaphore(0)
    finished = asyncio.Event()

    async def grant_late(_request: object, context: grpc.aio.ServicerContext) -> pb.ReserveResponse:
        on_unwritten(context, told.release)
        context.add_done_callback(lambda _context: finished.set())
        entered.set()
        assert caller.gone.wait(PATIENCE_S)
        time.sleep(BUSY_S)  # noqa: ASYNC251 - a busy event loop is the case under test
        return pb.ReserveResponse(reservation="granted")

    server = await bed.serve(behaviour=grant_late)
    caller = Caller(server.bound_addresses[0])
    await asyncio.to_thread(caller.leave, how, entered)

    async with asyncio.timeout(PATIENCE_S):
        await finished.wait()
        await told.acquire()
    assert told.locked()
    caller.close()


@pytest.mark.parametrize("how", ["cancel", "deadline", "disconnect"])
async def test_a_caller_that_left_while_the_handler_waited_cancels_it_and_is_noticed_once(bed: Bed, how: str) -> None:
    entered, told = threading.Event(), asyncio.Semaphore(0)
    cancelled = asyncio.Event()

    async def wait(_request: object, context: grpc.aio.ServicerContext) -> pb.ReserveResponse:
        on_unwritten(context, told.release)
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return pb.ReserveResponse()

    server = await bed.serve(behaviour=wait)
    caller = Caller(server.bound_addresses[0])
    await asyncio.to_thread(caller.leave, how, entered)

    async with asyncio.timeout(PATIENCE_S):
        await cancelled.wait()
        await told.acquire()
    assert told.locked()
    caller.close()


async def test_an_error_in_place_of_the_answer_is_noticed(bed: Bed) -> None:
    told = asyncio.Event()

    async def fail(_request: object, context: grpc.aio.ServicerContext) -> pb.ReserveResponse:
        on_unwritten(context, told.set)
        raise Unavailable("gone")

    server = await bed.serve(behaviour=fail)
    with pytest.raises(grpc.aio.AioRpcError):
        await bed.limiter(server).Reserve(pb.ReserveRequest())

    await asyncio.wait_for(told.wait(), PATIENCE_S)


async def test_a_call_that_the_drain_cut_off_is_noticed(bed: Bed) -> None:
    entered, told = asyncio.Event(), asyncio.Event()

    async def wait(_request: object, context: grpc.aio.ServicerContext) -> pb.ReserveResponse:
        on_unwritten(context, told.set)
        entered.set()
        await asyncio.Event().wait()
        return pb.ReserveResponse()

    server = await bed.serve(behaviour=wait)
    call = bed.limiter(server).Reserve(pb.ReserveRequest())
    await entered.wait()
    await server.drain(0)

    await asyncio.wait_for(told.wait(), PATIENCE_S)
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def test_an_answer_that_arrived_calls_nobody_back(bed: Bed) -> None:
    told, finished = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def grant(_request: object, context: grpc.aio.ServicerContext) -> pb.ReserveResponse:
        on_unwritten(context, told.release)
        context.add_done_callback(lambda _context: finished.release())
        await asyncio.sleep(0)
        return pb.ReserveResponse(reservation="granted")

    stub = bed.limiter(await bed.serve(behaviour=grant))
    answers = await asyncio.gather(*(stub.Reserve(pb.ReserveRequest(), timeout=PATIENCE_S) for _ in range(100)))

    for _ in answers:
        await finished.acquire()
    assert told.locked()


async def test_the_time_left_is_the_callers_and_none_if_it_has_no_deadline(bed: Bed) -> None:
    seen: list[float | None] = []

    async def look(_request: object, context: grpc.aio.ServicerContext) -> pb.ReserveResponse:
        seen.append(remaining_s(context))
        return pb.ReserveResponse()

    stub = bed.limiter(await bed.serve(behaviour=look))
    await stub.Reserve(pb.ReserveRequest(), timeout=100)
    await stub.Reserve(pb.ReserveRequest())

    with_deadline, without = seen
    assert without is None
    assert with_deadline is not None
    assert 90 < with_deadline < 101
