"""Leaving the block of a hold: what becomes of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import pytest

from limiter.client import AsyncClient, Client, HoldNotFound, InvalidRequest
from limiter.v1 import limiter_pb2 as pb
from tests.client.endings import ABORTED, COMPLETED, endings, failed, in_full, name, released, settled
from tests.client.faces import Held, leave_block, result
from tests.client.fake_limiter import HELD_NANOUSD, RESERVATION, Fails, FakeLimiter, granted

Either = AsyncClient | Client

NOTHING: list[object] = []


class ConnectError(Exception):
    """httpx raises it before anything is written."""


class ReadTimeout(Exception):
    """httpx raises it after the request was written."""


class APIConnectionError(Exception):
    """What the SDKs of OpenAI and Anthropic make of both."""


class APITimeoutError(APIConnectionError):
    pass


@dataclass
class HttpAnswer:
    status_code: int
    content: bytes = b'{"error": {}}'


class APIStatusError(Exception):
    """What those SDKs raise when the provider answers with an error."""

    def __init__(self, status_code: int) -> None:
        super().__init__(status_code)
        self.response = HttpAnswer(status_code)


class RateLimitError(APIStatusError):
    pass


class HTTPStatusError(Exception):
    """What httpx raises for any service."""

    response = HttpAnswer(500)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def settle(hold: Held) -> None:
    hold.settle(cost_nanousd=3)


def release(hold: Held) -> None:
    hold.release(reason="cache hit")


def sent(hold: Held) -> None:
    hold.sent()


def not_sent(hold: Held) -> None:
    hold.not_sent()


def unmarked(_hold: Held) -> None:
    pass


BUG = ValueError("bug")
CANCELLED = asyncio.CancelledError()
UNREACHED = caused(APIConnectionError(), ConnectError())
READ_TIMEOUT = caused(APITimeoutError(), ReadTimeout())
OUTCOMES: list[tuple[Callable[[Held], None], BaseException | None, list[object]]] = [
    (settle, None, [settled()]),
    (settle, BUG, [settled()]),
    (settle, CANCELLED, [settled()]),
    (settle, RateLimitError(429), [settled()]),
    (release, None, [released("cache hit")]),
    (release, BUG, [released("cache hit")]),
    (unmarked, None, [in_full(COMPLETED)]),
    (unmarked, BUG, [in_full(ABORTED)]),
    (unmarked, CANCELLED, [in_full(ABORTED)]),
    (unmarked, UNREACHED, [released("not sent: APIConnectionError")]),
    (unmarked, READ_TIMEOUT, [in_full(ABORTED)]),
    (unmarked, ConnectError(), [in_full(ABORTED)]),  # it may come from any other service
    (unmarked, caused(RuntimeError(), ConnectError()), [in_full(ABORTED)]),
    (unmarked, HTTPStatusError(), [in_full(ABORTED)]),
    (unmarked, RateLimitError(429), [failed(429)]),
    (unmarked, APIStatusError(500), [failed(500)]),
    (unmarked, APIStatusError(200), [in_full(ABORTED)]),  # the answer broke off on the way
    (sent, None, [in_full(COMPLETED)]),
    (sent, BUG, [in_full(ABORTED)]),
    (sent, UNREACHED, [in_full(ABORTED)]),  # the mark stands before the guess
    (sent, APIStatusError(400), [failed(400)]),
    (not_sent, None, [released("not sent")]),
    (not_sent, BUG, [released("not sent: ValueError")]),
    (not_sent, KeyboardInterrupt(), [released("not sent: KeyboardInterrupt")]),
]


@pytest.mark.parametrize(("mark", "error", "expected"), OUTCOMES, ids=name)
async def test_leaving_the_block_ends_the_hold(
    client: Either,
    limiter: FakeLimiter,
    mark: Callable[[Held], None],
    error: BaseException | None,
    expected: list[object],
) -> None:
    def body(hold: Held) -> None:
        mark(hold)
        if error is not None:
            raise error

    if error is None:
        await leave_block(client, body, model="m")
    else:
        with pytest.raises(type(error)) as caught:
            await leave_block(client, body, model="m")
        assert caught.value is error
    assert endings(limiter) == expected


@pytest.mark.parametrize(
    ("mark", "error", "expected"),
    [
        (unmarked, BUG, released("not sent: ValueError")),
        (unmarked, None, released("not sent")),
        (sent, BUG, in_full(ABORTED)),
    ],
    ids=name,
)
async def test_a_promise_to_mark_makes_an_unmarked_exception_release_the_hold(
    client: Either, limiter: FakeLimiter, mark: Callable[[Held], None], error: Exception | None, expected: object
) -> None:
    def body(hold: Held) -> None:
        mark(hold)
        if error is not None:
            raise error

    if error is None:
        await leave_block(client, body, model="m", assume_sent=False)
    else:
        with pytest.raises(ValueError, match="bug"):
            await leave_block(client, body, model="m", assume_sent=False)
    assert endings(limiter) == [expected]


@pytest.mark.parametrize("answer", [granted(reservation="", dry_run=True), granted(reservation="")])
async def test_where_nothing_is_held_leaving_sends_nothing(
    client: Either, limiter: FakeLimiter, answer: pb.ReserveResponse
) -> None:
    limiter.answers("Reserve", answer)
    await leave_block(client, unmarked, model="m")
    assert endings(limiter) == NOTHING


async def test_a_consumed_call_is_settled_already(client: Either, limiter: FakeLimiter) -> None:
    await leave_block(client, unmarked, model="m", consume=True)
    assert limiter.requests("Reserve")[0].consume
    assert endings(limiter) == NOTHING


async def test_a_forgotten_settlement_is_logged(client: Either, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "limiter.client"):
        await leave_block(client, unmarked, model="m")
    assert "neither settled nor released" in caplog.text
    assert RESERVATION not in caplog.text


async def test_a_settlement_that_failed_is_raised_by_the_block(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers("Settle", Fails(grpc.StatusCode.NOT_FOUND, "retired"))
    with pytest.raises(HoldNotFound, match="retired"):
        await leave_block(client, settle, model="m")
    assert limiter.methods() == ["Reserve", "Settle"]


async def test_a_settlement_that_the_limiter_cannot_read_becomes_an_estimate_in_full(
    client: Either, limiter: FakeLimiter
) -> None:
    limiter.answers("Settle", Fails(grpc.StatusCode.INVALID_ARGUMENT, "no usage"))
    with pytest.raises(InvalidRequest, match="no usage"):
        await leave_block(client, settle, model="m")
    assert limiter.requests("Settle")[1].cost_nanousd == HELD_NANOUSD


async def test_an_exception_of_the_block_is_not_hidden_by_a_limiter_that_is_gone(
    limiter: FakeLimiter, connect: Callable[..., Either], caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(limiter.address, api_key="k", retries=0)
    limiter.answers("Settle", Fails(grpc.StatusCode.UNAVAILABLE, "store down"))

    def body(_hold: Held) -> None:
        raise ValueError("bug")

    with pytest.raises(ValueError, match="bug") as caught, caplog.at_level(logging.WARNING, "limiter.client"):
        await leave_block(client, body, model="m")
    assert caught.value.__notes__ == ["limiter: store down"]
    assert "could not be settled" in caplog.text


async def test_a_hold_that_was_awaited_first_can_be_entered_later(client: Either, limiter: FakeLimiter) -> None:
    hold = await result(client.reserve(model="m"))
    if isinstance(client, AsyncClient):
        async with hold:
            hold.settle(cost_nanousd=3)
    else:
        with hold:
            hold.settle(cost_nanousd=3)
    assert endings(limiter) == [settled()]
