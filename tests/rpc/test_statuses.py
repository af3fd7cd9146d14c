"""What a caller sees of an error, on each engine."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from limiter.domain import errors
from limiter.rpc.statuses import INTERNAL_MESSAGE, STATUSES, status_of
from limiter.v1 import limiter_pb2 as pb
from tests.rpc.conftest import Bed


async def outcome(bed: Bed, error: BaseException) -> tuple[grpc.StatusCode, str]:
    async def fail(_request: object, _context: object) -> pb.ReserveResponse:
        raise error

    server = await bed.serve(behaviour=fail)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bed.limiter(server).Reserve(pb.ReserveRequest())
    return caught.value.code(), caught.value.details()


def test_every_error_of_the_domain_has_a_status_of_its_own() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LimiterError)}

    assert set(STATUSES) == kinds - {errors.LimiterError}
    assert len(set(STATUSES.values())) == len(STATUSES)


def test_a_special_kind_of_an_error_has_its_parents_status() -> None:
    class BacklogFull(errors.Unavailable):
        pass

    assert status_of(BacklogFull("full")) is grpc.StatusCode.UNAVAILABLE
    assert status_of(errors.LimiterError("none of them")) is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("kind", [kind for kind in STATUSES if kind is not errors.InvalidArgument])
async def test_an_error_of_the_domain_arrives_with_its_status_and_message(
    bed: Bed, kind: type[errors.LimiterError]
) -> None:
    assert await outcome(bed, kind("what and how to mend it")) == (STATUSES[kind], "what and how to mend it")


async def test_a_bad_argument_arrives_with_field_value_and_remedy(bed: Bed) -> None:
    code, message = await outcome(bed, errors.InvalidArgument("tags[0].name", "a b", "use letters – no spaces"))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message == "tags[0].name: 'a b' is not valid; use letters – no spaces"


async def test_an_unforeseen_error_tells_the_log_everything_and_the_caller_nothing(bed: Bed) -> None:
    detail = "something that only operators should read"
    with capture_logs() as logs:
        code, message = await outcome(bed, ZeroDivisionError(detail))

    assert (code, message) == (grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE)
    (entry,) = (entry for entry in logs if entry["event"] == "call_failed")
    assert entry["method"] == "/limiter.v1.Limiter/Reserve"
    assert isinstance(entry["exc_info"], ZeroDivisionError)


async def test_a_handler_that_answers_no_message_is_an_internal_error(bed: Bed) -> None:
    async def forget(_request: object, _context: object) -> None:
        return None

    server = await bed.serve(behaviour=forget)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bed.limiter(server).Reserve(pb.ReserveRequest())

    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE)


async def test_a_handler_may_still_abort_by_itself(bed: Bed) -> None:
    async def abort(_request: object, context: grpc.aio.ServicerContext) -> None:
        await context.abort(grpc.StatusCode.DATA_LOSS, "as it says")

    server = await bed.serve(behaviour=abort)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bed.limiter(server).Reserve(pb.ReserveRequest())

    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "as it says")


async def test_one_failed_call_leaves_the_others_alone(bed: Bed) -> None:
    async def some_fail(request: pb.ReserveRequest, _context: object) -> pb.ReserveResponse:
        await asyncio.sleep(0)
        if int(request.request_id) % 2:
            raise errors.NotFound(request.request_id)
        return pb.ReserveResponse(reservation=request.request_id)

    stub = bed.limiter(await bed.serve(behaviour=some_fail))
    calls = (stub.Reserve(pb.ReserveRequest(request_id=str(number))) for number in range(40))
    results: list[Any] = await asyncio.gather(*calls, return_exceptions=True)

    assert [result.reservation for result in results[0::2]] == [str(number) for number in range(0, 40, 2)]
    assert [result.details() for result in results[1::2]] == [str(number) for number in range(1, 40, 2)]


async def test_a_handler_whose_own_task_was_cancelled_still_answers_its_caller(bed: Bed) -> None:
    async def stumble(_request: object, _context: object) -> None:
        inner = asyncio.get_running_loop().create_future()
        inner.cancel()
        await inner

    server = await bed.serve(behaviour=stumble)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bed.limiter(server).Reserve(pb.ReserveRequest(), timeout=20)

    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE)
