"""Connections that carry script calls one after the other, without going through the pool each time.

Taking a connection from redis-py's pool and giving it back costs more than a script call of one hold.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError, TimeoutError  # noqa: A004 - redis-py's

#: A connection that was idle for longer may have been closed by the server: it is looked at before use.
_TRUSTED_FOR_S: Final = 1.0

_READ_BYTES: Final = 65_536


class Line(AbstractConnection):
    """A connection that carries one command at a time by the shortest way.

    redis-py's own way to the same bytes takes a dozen coroutines and a timer, as much as a script call of one hold.
    """

    async def exchange(self, command: bytes) -> Any:  # noqa: ANN401 - whatever the server replies
        """Send a packed command and return its reply; errors are redis-py's. Without a timeout."""
        if not self.is_connected:
            await self.connect()  # type: ignore[no-untyped-call] # redis-py
        stream, writer = self._reader, self._writer
        assert stream is not None and writer is not None  # noqa: S101, PT018 - for the type checker: it is connected
        # There is nothing to drain: a connection has one command at a time, and its size is bounded.
        writer.transport.write(command)
        replies = hiredis.Reader(protocolError=InvalidResponse, replyError=self._parser.parse_error)
        while (reply := replies.gets()) is False:
            data = await stream.read(_READ_BYTES)
            if not data:
                raise ConnectionError("Connection closed by server.")
            replies.feed(data)
        if isinstance(reply, Exception):
            raise reply
        return reply


class _Patience:
    """One timeout for many calls, which one timer watches: a timer for each call costs as much as a batch of plans."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        #: When the calls of these tasks have taken too long, in the order in which they began; None: one has.
        self._ends_s: dict[asyncio.Task[Any], float | None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Task[Any]:
        """Watch the running task, of which one call is under way at a time."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: there is no other way to await
        ends_s = self._ends_s[task] = time.monotonic() + self._timeout_s
        if self._timer is None:
            self._wait_until(ends_s)
        return task

    def end(self, task: asyncio.Task[Any]) -> bool:
        """Watch it no longer; answers whether it took too long, and nobody else cancelled it."""
        return self._ends_s.pop(task) is None and task.uncancel() == 0

    def _wait_until(self, at_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(at_s - time.monotonic(), self._look)

    def _look(self) -> None:
        self._timer = None
        for task, ends_s in self._ends_s.items():
            if ends_s is None:
                continue
            if ends_s > time.monotonic():
                self._wait_until(ends_s)
                return
            self._ends_s[task] = None
            task.cancel()


class Lanes:
    """As many connections as calls were ever under way at once; they belong to `pool`, whose class is a Line."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._timeout_s: float | None = pool.connection_kwargs.get("socket_timeout")
        self._idle: list[tuple[Line, float]] = []
        self._patience = _Patience(math.inf if self._timeout_s is None else self._timeout_s)

    async def call(self, *arguments: str | bytes | int) -> Any:  # noqa: ANN401 - whatever the server replies
        """Send one command and return its reply; errors are redis-py's. The command is sent once."""
        connection: Line | None = None
        task = self._patience.begin()
        try:
            connection = await self._take()
            reply = await connection.exchange(hiredis.pack_command(arguments))  # type: ignore[arg-type] # its stub says one word only
        except ResponseError:
            self._patience.end(task)
            self._keep(connection)
            raise
        except BaseException as error:
            took_too_long = self._patience.end(task)
            if connection is not None:
                await self._let_go(connection)
            if took_too_long and isinstance(error, asyncio.CancelledError):
                raise TimeoutError("Timeout reading from the store") from error
            raise
        self._patience.end(task)
        self._keep(connection)
        return reply

    async def _take(self) -> Line:
        if not self._idle:
            connection: Line = await self._pool.get_connection()  # type: ignore[no-untyped-call] # redis-py
            return connection
        connection, used_s = self._idle.pop()
        if time.monotonic() - used_s > _TRUSTED_FOR_S:
            try:
                await self._pool.ensure_connection(connection)
            except BaseException:
                await self._let_go(connection)
                raise
        return connection

    def _keep(self, connection: Line | None) -> None:
        if connection is not None:
            self._idle.append((connection, time.monotonic()))

    async def _let_go(self, connection: Line) -> None:
        """Give a connection that may be broken back to the pool."""
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)
