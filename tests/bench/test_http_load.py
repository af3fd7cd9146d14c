"""The load generator for Envoy tells the truth about slow and wrong servers."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.http_load import HttpGenerator, upstream
from bench.machine import ANYWHERE

REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}"
PLAIN = b"HTTP/1.1 200 OK\r\nX-Seen: yes\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n"
REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"

Answer = Callable[[], Awaitable[bytes]]

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the load generator is compiled when it is needed"),
]


@pytest.fixture
def generator(tmp_path: Path) -> HttpGenerator:
    return HttpGenerator(tmp_path, ANYWHERE, REQUEST)


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    """A server that answers each request with what `answer` gives."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readexactly(len(REQUEST)):
                writer.write(await answer())
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        yield server.sockets[0].getsockname()[1]


async def always(answer: bytes) -> bytes:
    return answer


@pytest.mark.parametrize("body", [PLAIN, CHUNKED], ids=["with a length", "in chunks"])
async def test_answers_are_read_to_their_end(generator: HttpGenerator, body: bytes) -> None:
    async with serving(lambda: always(body)) as port:
        run = await asyncio.to_thread(generator.run, port, connections=4, seconds=0.1)

    assert run.good > 4
    assert run.refused == run.lacking == 0


async def test_a_refusal_and_an_answer_without_the_wanted_header_do_not_count(generator: HttpGenerator) -> None:
    async with serving(lambda: always(REFUSAL)) as port:
        refused = await asyncio.to_thread(generator.run, port, connections=1, seconds=0.05)
    async with serving(lambda: always(CHUNKED)) as port:
        lacking = await asyncio.to_thread(generator.run, port, connections=1, seconds=0.05, wanted="x-seen")
    async with serving(lambda: always(PLAIN)) as port:
        good = await asyncio.to_thread(generator.run, port, connections=1, seconds=0.05, wanted="x-seen")

    assert (refused.good, refused.lacking) == (0, 0)
    assert refused.refused > 0
    assert (lacking.good, lacking.refused) == (0, 0)
    assert lacking.lacking > 0
    assert good.good > 0
    assert good.lacking == 0


async def test_at_a_fixed_rate_a_slow_server_does_not_slow_the_clock(generator: HttpGenerator) -> None:
    slow_s = 0.01

    async def answer() -> bytes:
        await asyncio.sleep(slow_s)
        return PLAIN

    async with serving(answer) as port:
        run = await asyncio.to_thread(generator.run, port, connections=1, seconds=0.1, rate=1000)

    # A hundred were due within 0.1 s, and are answered one after another: the middle one is half a second late.
    assert 95 <= run.good <= 101
    assert run.p50_ms > 20 * slow_s * 1000
    assert run.p99_ms > run.p50_ms
    assert run.late_p99_ms > 20 * slow_s * 1000


async def test_at_a_fixed_rate_requests_are_sent_when_they_are_due(generator: HttpGenerator) -> None:
    async with serving(lambda: always(PLAIN)) as port:
        run = await asyncio.to_thread(generator.run, port, connections=8, seconds=0.5, rate=100)

    assert 48 <= run.good <= 51
    assert run.seconds >= 0.45


async def test_the_upstream_answers_every_request(generator: HttpGenerator, tmp_path: Path) -> None:
    with upstream(tmp_path, ANYWHERE, PLAIN) as provider:
        run = await asyncio.to_thread(generator.run, provider.port, connections=8, seconds=0.1, wanted="x-seen")

    assert run.good > 8
    assert run.refused == run.lacking == 0
