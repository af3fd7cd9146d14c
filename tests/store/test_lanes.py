"""Connections that carry one call each: what they do with late, broken and unwelcome answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis import exceptions
from redis.asyncio import Redis

from limiter.store.connection import _UnixConnection, open_client
from limiter.store.lanes import Lanes, Line

#: What the server of these tests answers to a command that has the word; to any other, as a server without it would.
ANSWERS = {
    b"WHO": b":%d\r\n",
    b"TWO": b":1\r\n:666\r\n",
    b"FAIL": b"-ERR no\r\n",
    b"LOAD": b"-LOADING soon\r\n",
    b"PING": b"+PONG\r\n",
    b"HALF": b"$10\r\nabc",
}

OpenLanes = Callable[[float], Lanes]


@pytest.fixture
def peers() -> list[asyncio.StreamWriter]:
    """The server's ends of the connections, in their order."""
    return []


@pytest.fixture
async def lanes(tmp_path: Path, peers: list[asyncio.StreamWriter]) -> AsyncIterator[OpenLanes]:
    """Lanes to a server that numbers its connections, and never answers WAIT."""
    clients: list[Redis] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peers.append(writer)
        number = len(peers)
        while command := await reader.read(4096):
            word = next((word for word in ANSWERS if word in command), None)
            if word is not None:
                answer = ANSWERS[word]
                writer.write(answer % number if b"%" in answer else answer)
            elif b"WAIT" not in command:
                writer.write(b"+OK\r\n" * command.count(b"*"))
            if word == b"HALF":
                break
        writer.close()

    def open_lanes(timeout_s: float) -> Lanes:
        client = open_client(f"unix://{tmp_path}/s", timeout_s=timeout_s)
        assert isinstance(client, Redis)
        clients.append(client)
        return Lanes(client.connection_pool)

    async with await asyncio.start_unix_server(serve, tmp_path / "s"):
        yield open_lanes
        for client in clients:
            await client.aclose()


async def test_calls_one_after_the_other_share_a_connection_and_calls_at_once_do_not(lanes: OpenLanes) -> None:
    lane = lanes(5.0)
    first = await lane.call("WHO")
    assert await lane.call("WHO") == first
    others = await asyncio.gather(lane.call("WHO"), lane.call("WHO"))
    assert first in others
    assert len(set(others)) == 2


async def test_a_call_that_takes_too_long_is_given_up_with_its_connection(lanes: OpenLanes) -> None:
    lane = lanes(0.05)
    first = await lane.call("WHO")
    with pytest.raises(exceptions.TimeoutError):
        await lane.call("WAIT")
    assert await lane.call("WHO") != first


async def test_each_call_has_the_whole_of_its_time(lanes: OpenLanes) -> None:
    lane, loop = lanes(0.2), asyncio.get_running_loop()

    async def wait() -> float:
        began = loop.time()
        with pytest.raises(exceptions.TimeoutError):
            await lane.call("WAIT")
        return loop.time() - began

    first = asyncio.create_task(wait())
    await asyncio.wait([first], timeout=0.1)
    took = await asyncio.gather(first, wait(), wait())
    # The least is the promise; the most depends on the machine.
    assert min(took) >= 0.2 - 0.01


async def test_who_is_cancelled_is_told_that_and_not_of_a_timeout(lanes: OpenLanes) -> None:
    lane = lanes(5.0)
    call = asyncio.create_task(lane.call("WAIT"))
    await asyncio.wait([call], timeout=0.05)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await lane.call("WHO") > 0


async def test_an_error_is_an_answer_and_its_connection_stays(lanes: OpenLanes) -> None:
    lane = lanes(5.0)
    first = await lane.call("WHO")
    with pytest.raises(exceptions.ResponseError, match="no"):
        await lane.call("FAIL")
    assert await lane.call("WHO") == first


@pytest.mark.parametrize("command", ["LOAD", "HALF"])
async def test_a_server_that_cannot_go_on_costs_the_connection(lanes: OpenLanes, command: str) -> None:
    lane = lanes(5.0)
    first = await lane.call("WHO")
    with pytest.raises(exceptions.ConnectionError):
        await lane.call(command)
    assert await lane.call("WHO") != first


async def noticed(lane: Lanes) -> None:
    """Wait until what the server said to an idle connection has come in."""
    async with asyncio.timeout(10):
        while all(line.is_quiet for line in lane._idle):  # noqa: ASYNC110 - a stream tells nobody what it got
            await asyncio.sleep(0)


async def test_what_nobody_asked_for_is_no_answer_to_the_next_command(
    lanes: OpenLanes, peers: list[asyncio.StreamWriter]
) -> None:
    lane = lanes(5.0)
    first = await lane.call("WHO")
    peers[first - 1].write(b":666\r\n")
    await noticed(lane)
    assert await lane.call("WHO") not in {first, 666}


async def test_a_second_reply_costs_the_connection(lanes: OpenLanes) -> None:
    lane = lanes(5.0)
    first = await lane.call("WHO")
    with pytest.raises(exceptions.ConnectionError):
        await lane.call("TWO")
    assert await lane.call("WHO") > first


async def test_a_connection_that_was_closed_while_idle_costs_no_call(
    lanes: OpenLanes, peers: list[asyncio.StreamWriter]
) -> None:
    lane = lanes(5.0)
    first = await lane.call("WHO")
    peers[first - 1].transport.abort()
    await noticed(lane)
    assert await lane.call("WHO") > first


async def test_a_timeout_is_one_in_a_task_that_cleans_up_after_a_cancel_too(lanes: OpenLanes) -> None:
    lane, told = lanes(0.05), []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            with pytest.raises(exceptions.TimeoutError):
                await lane.call("WAIT")
            told.append("in time")

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told == ["in time"]


async def test_a_call_that_waits_for_its_connection_is_given_up_in_time_too(lanes: OpenLanes) -> None:
    lane = lanes(0.05)
    connect = Line.connect

    async def swallow(line: Line) -> None:
        """As parts of a handshake do: take a cancel for the end of what they wait for."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await connect(line)  # type: ignore[no-untyped-call] # redis-py

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_UnixConnection, "connect", swallow)
        with pytest.raises(exceptions.TimeoutError):
            await lane.call("WAIT")
