"""The HTTP server for what watches us: three paths, and nothing that a client does can hurt it."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import pytest

from limiter.observability import http
from limiter.observability.http import ObservabilityServer
from limiter.observability.metrics import Metrics


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What still comes before the server closes or breaks off."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


@dataclass
class Served:
    """A server under test, and what it will answer."""

    reasons: dict[str, str] = field(default_factory=dict)
    fails: bool = False
    hangs: bool = False
    port: int = 0

    async def check_ready(self) -> Mapping[str, str]:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise RuntimeError("hunter2")
        return self.reasons

    async def say(self, request: bytes) -> bytes:
        """Everything that the server answers until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            return await asyncio.wait_for(rest(reader), 10)
        finally:
            writer.close()

    async def get(self, path: str, *headers: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one request on a connection of its own."""
        lines = "".join(
            f"{header}\r\n" for header in (f"{method} {path} HTTP/1.1", "Host: x", "Connection: close", *headers)
        )
        head, _, body = (await self.say(f"{lines}\r\n".encode())).partition(b"\r\n\r\n")
        status, *fields = head.decode().split("\r\n")
        named = (line.split(": ", 1) for line in fields)
        return int(status.split()[1]), {name.lower(): value for name, value in named}, body


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    served = Served()
    server = ObservabilityServer(lambda accept: (f"metrics for {accept}\n".encode(), "text/x"), served.check_ready)
    await server.start("127.0.0.1", 0)
    ((_, served.port),) = server.addresses
    yield served
    await server.stop()


async def test_metrics_are_rendered_for_what_the_client_accepts(served: Served) -> None:
    status, headers, body = await served.get("/metrics?x=1", "Accept: a/b", "Accept: c/d")
    assert (status, headers["content-type"], body) == (200, "text/x", b"metrics for a/b,c/d\n")


async def test_a_living_process_is_healthy(served: Served) -> None:
    served.hangs = True
    assert (await served.get("/healthz"))[0::2] == (200, b"ok\n")


async def test_readiness_has_its_reasons(served: Served) -> None:
    status, headers, body = await served.get("/readyz")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert json.loads(body) == {"ready": True, "reasons": {}}
    served.reasons["store"] = "the store cannot be reached"
    status, _, body = await served.get("/readyz")
    assert status == 503
    assert json.loads(body) == {"ready": False, "reasons": {"store": "the store cannot be reached"}}


async def test_a_check_that_hangs_is_not_ready(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "READY_TIMEOUT_S", 0.01)
    served.hangs = True
    status, _, body = await served.get("/readyz")
    assert status == 503
    assert "no answer" in json.loads(body)["reasons"]["check"]


async def test_a_check_that_fails_is_an_error_without_details(served: Served) -> None:
    served.fails = True
    status, _, body = await served.get("/readyz")
    assert status == 500
    assert b"hunter2" not in body


async def test_head_has_the_headers_of_get_and_no_body(served: Served) -> None:
    status, headers, body = await served.get("/healthz", method="HEAD")
    assert (status, headers["content-length"], body) == (200, "3", b"")


async def test_other_paths_and_methods_are_refused(served: Served) -> None:
    assert (await served.get("/"))[0] == 404
    assert (await served.get("/metrics/../metrics"))[0] == 404
    status, headers, _ = await served.get("/metrics", "Content-Length: 2", method="POST")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_a_connection_serves_several_requests(served: Served) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /readyz HTTP/1.0\r\n\r\n"
    answers = await served.say(one * 3 + last)
    assert answers.count(b"200") == 4
    assert answers.count(b"ok\n") == 3


@pytest.mark.parametrize(
    ("garbage", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", b"413"),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100_000, b"431"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"404"),
    ],
)
async def test_garbage_gets_an_error_and_an_end(served: Served, garbage: bytes, status: bytes) -> None:
    assert (await served.say(garbage)).startswith(b"HTTP/1.1 " + status)
    assert (await served.get("/healthz"))[0] == 200


async def test_a_client_that_leaves_early_is_no_trouble(served: Served) -> None:
    for said in (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"):
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(said)
        writer.transport.abort()
    assert (await served.get("/healthz"))[0] == 200


async def test_a_client_that_dawdles_is_dropped(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "EXCHANGE_TIMEOUT_S", 0.05)
    assert await served.say(b"GET /metrics HT") == b""
    monkeypatch.setattr(http, "IDLE_TIMEOUT_S", 0.05)
    assert await served.say(b"") == b""


async def test_a_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "EXCHANGE_TIMEOUT_S", 0.05)
    server = ObservabilityServer(lambda _: (b"x" * 50_000_000, "text/plain"), Served().check_ready)
    await server.start("127.0.0.1", 0)
    ((host, port),) = server.addresses
    reader, writer = await asyncio.open_connection(host, port, limit=1024)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    (connection,) = await first(server)
    await asyncio.wait([connection], timeout=10)
    assert connection.done()
    writer.close()
    assert reader is not None
    await server.stop()


async def first(server: ObservabilityServer) -> set[asyncio.Task[None]]:
    """The server's connections, as soon as it has one."""
    while not server._connections:  # noqa: ASYNC110 (nobody sets an event)
        await asyncio.sleep(0)
    return set(server._connections)


async def test_connections_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 2)
    ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    held = []
    for _ in range(2):
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(ask)
        await reader.readuntil(b"ok\n")
        held.append(writer)
    assert await served.say(ask) == b""
    for writer in held:
        writer.close()


async def test_stopping_breaks_off_what_is_open() -> None:
    served = Served(hangs=True)
    server = ObservabilityServer(lambda _: (b"", ""), served.check_ready)
    await server.start("127.0.0.1", 0)
    ((host, port),) = server.addresses
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
    await first(server)
    await asyncio.wait_for(server.stop(), 5)
    await server.stop()
    assert server.addresses == ()
    assert (await rest(reader)) == b""
    writer.close()


async def test_a_real_client_reads_real_metrics() -> None:
    metrics = Metrics()
    metrics.late.inc()
    server = ObservabilityServer(metrics.render, Served().check_ready)
    await server.start("127.0.0.1", 0)
    ((host, port),) = server.addresses

    def fetch(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, ""

    status, text = await asyncio.to_thread(fetch, "/metrics")
    assert status == 200
    assert "\nlimiter_late_total 1.0\n" in text
    assert await asyncio.to_thread(fetch, "/nothing") == (404, "")
    await server.stop()
