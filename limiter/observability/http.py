"""A small HTTP server for what watches this process: /metrics, /healthz and /readyz.

/healthz answers 200 as long as the event loop turns. /readyz answers 200, or 503 with the reasons
as JSON. Only GET and HEAD; nothing here reads a body or changes anything.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

import h11
import structlog

log = structlog.get_logger(__name__)

#: Renders the metrics for an Accept header: the body and its content type.
Render = Callable[[str], tuple[bytes, str]]

#: What is not ready, by its name, and why; empty: ready.
CheckReady = Callable[[], Awaitable[Mapping[str, str]]]

#: A request has to be here, and its answer taken, within this time.
EXCHANGE_TIMEOUT_S: Final = 10.0
#: How long a connection may wait for its next request.
IDLE_TIMEOUT_S: Final = 75.0
READY_TIMEOUT_S: Final = 5.0
CONNECTIONS_MAX: Final = 64
HEAD_MAX_BYTES: Final = 16 * 1024
READ_BYTES: Final = 16 * 1024
METHODS: Final = (b"GET", b"HEAD")

_TEXT: Final = "text/plain; charset=utf-8"
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    content_type: str = _TEXT
    allow: str = ""

    def headers(self) -> list[tuple[str, str]]:
        headers = [
            ("content-type", self.content_type),
            ("content-length", str(len(self.body))),
            ("cache-control", "no-store"),
            ("x-content-type-options", "nosniff"),
        ]
        return [*headers, ("allow", self.allow)] if self.allow else headers


class ObservabilityServer:
    """Serves on a TCP address; `start` and `stop` it once."""

    def __init__(self, render_metrics: Render, check_ready: CheckReady) -> None:
        self._render_metrics = render_metrics
        self._check_ready = check_ready
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Where it listens, host and port; empty before the start and after the stop."""
        sockets = self._server.sockets if self._server else ()
        return tuple(socket.getsockname()[:2] for socket in sockets)

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one. Raises OSError if the address cannot be had."""
        self._server = await asyncio.start_server(self._accept, host, port, limit=READ_BYTES)

    async def stop(self) -> None:
        """Stop listening and break off what is still open."""
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            connection = _Connection(reader, writer)
            await self._serve(connection)
            await connection.close()
        except (OSError, TimeoutError, h11.ProtocolError, asyncio.CancelledError):
            pass  # gone, too slow, beyond understanding, or we are stopping: nobody is left to tell
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _serve(self, connection: _Connection) -> None:
        """Answer one request after the other until the client has had enough."""
        while True:
            try:
                request = await connection.next_request()
            except h11.RemoteProtocolError as error:
                await connection.refuse(_Answer(error.error_status_hint, f"{error}\n".encode()))
                return
            if request is None:
                return
            await connection.send(await self._answer(request), is_head=request.method == b"HEAD")
            if not connection.begin_next():
                return

    async def _answer(self, request: h11.Request) -> _Answer:
        path = request.target.partition(b"?")[0]
        answer = {b"/metrics": self._metrics, b"/healthz": self._health, b"/readyz": self._readiness}.get(path)
        if answer is None:
            return _Answer(404, b"not found; there are /metrics, /healthz and /readyz\n")
        if request.method not in METHODS:
            return _Answer(405, b"method not allowed\n", allow="GET, HEAD")
        try:
            return await answer(request)
        except Exception:
            log.exception("observability_answer_failed", path=path.decode(errors="replace"))
            return _Answer(500, b"internal error; see the log\n")

    async def _metrics(self, request: h11.Request) -> _Answer:
        accept = b",".join(value for name, value in request.headers if name == b"accept")
        body, content_type = self._render_metrics(accept.decode("latin-1"))
        return _Answer(200, body, content_type)

    async def _health(self, _: h11.Request) -> _Answer:
        return _Answer(200, b"ok\n")

    async def _readiness(self, _: h11.Request) -> _Answer:
        try:
            reasons = await asyncio.wait_for(self._check_ready(), READY_TIMEOUT_S)
        except TimeoutError:
            reasons = {"check": f"no answer within {READY_TIMEOUT_S:g} s"}
        body = json.dumps({"ready": not reasons, "reasons": dict(reasons)}) + "\n"
        return _Answer(503 if reasons else 200, body.encode(), _JSON)


class _Connection:
    """HTTP/1.1 on one stream: h11 knows the protocol, this moves the bytes in time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_MAX_BYTES)

    async def next_request(self) -> h11.Request | None:
        """The next request without its body; None: the client is done."""
        timeout_s = IDLE_TIMEOUT_S
        request: h11.Request | None = None
        async with asyncio.timeout(timeout_s) as patience:
            while True:
                event = self._http.next_event()
                if event is h11.NEED_DATA:
                    data = await self._reader.read(READ_BYTES)
                    if data and timeout_s != EXCHANGE_TIMEOUT_S:  # from its first byte on, a request is in a hurry
                        timeout_s = EXCHANGE_TIMEOUT_S
                        patience.reschedule(asyncio.get_running_loop().time() + timeout_s)
                    self._http.receive_data(data)
                elif isinstance(event, h11.Request):
                    request = event
                    if event.method not in METHODS:
                        return event  # refused whatever its body is
                elif isinstance(event, h11.Data):
                    raise h11.RemoteProtocolError("no body is expected", error_status_hint=413)
                elif isinstance(event, h11.EndOfMessage):
                    return request
                else:
                    return None

    async def send(self, answer: _Answer, *, is_head: bool) -> None:
        """Write an answer; without its body to HEAD."""
        response = h11.Response(status_code=answer.status, headers=answer.headers())
        parts = [self._http.send(response)]
        if not is_head:
            parts.append(self._http.send(h11.Data(data=answer.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        self._writer.write(b"".join(part for part in parts if part))
        await asyncio.wait_for(self._writer.drain(), EXCHANGE_TIMEOUT_S)

    async def refuse(self, answer: _Answer) -> None:
        """Say what was wrong with a request that cannot be read, if an answer may still be sent."""
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.send(answer, is_head=False)

    def begin_next(self) -> bool:
        """Make ready for the next request; False if this was the last."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def close(self) -> None:
        """End the connection once everything written has gone."""
        self._writer.close()
        await asyncio.wait_for(self._writer.wait_closed(), EXCHANGE_TIMEOUT_S)
