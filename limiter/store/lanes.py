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

_READ_BYTES: Final = 65_536


class Line(AbstractConnection):
    """A connection that carries one command at a time by the shortest way.

    redis-py's own way to the same bytes takes a dozen coroutines and a timer, as much as a script call of one hold.
    """

    async def exchange(self, command: bytes) -> Any:  # noqa: ANN401 - whatever the server replies
        """Send a packed command and return its reply; errors are redis-py's. Without a timeout."""
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
        if replies.has_data():
            raise ConnectionError("The server said more than one command was to be answered.")
        if isinstance(reply, Exception):
            raise reply
        return reply

    @property
    def is_quiet(self) -> bool:
        """Whether it is open, and the server has said nothing that nobody asked for."""
        stream, writer = self._reader, self._writer
        if stream is None or writer is None or writer.transport.is_closing() or stream.exception() is not None:
            return False
        return not stream.at_eof() and not stream._buffer  # type: ignore[attr-defined] # noqa: SLF001 - no other way


class _Turn:
    """A call under way: of which task, and when it will have taken too long."""

    __slots__ = ("cancels", "ends_s", "is_over", "task")

    def __init__(self, ends_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker: there is no other way to await
        self.task = task
        #: How often others have cancelled the task before, as one that cleans up after that.
        self.cancels = task.cancelling()
        self.ends_s = ends_s
        self.is_over = False

    def check(self) -> None:
        """Raise CancelledError if it took too long: what was awaited since can have taken that for an answer."""
        if self.is_over:
            raise asyncio.CancelledError


class _Patience:
    """One timeout for many calls, which one timer watches: a timer for each call costs as much as a batch of plans."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        #: In the order in which they began.
        self._turns: dict[_Turn, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> _Turn:
        """Watch the running task, which is cancelled when the call takes too long."""
        turn = _Turn(time.monotonic() + self._timeout_s)
        self._turns[turn] = None
        if self._timer is None:
            self._wait_until(turn.ends_s)
        return turn

    def end(self, turn: _Turn) -> bool:
        """Watch it no longer; answers whether it took too long, and nobody else cancelled its task meanwhile."""
        del self._turns[turn]
        return turn.is_over and turn.task.uncancel() <= turn.cancels

    def _wait_until(self, at_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(at_s - time.monotonic(), self._look)

    def _look(self) -> None:
        self._timer = None
        for turn in self._turns:
            if turn.is_over:
                continue
            if turn.ends_s > time.monotonic():
                self._wait_until(turn.ends_s)
                return
            turn.is_over = True
            turn.task.cancel()


class Lanes:
    """As many connections as calls were ever under way at once; they belong to `pool`, whose class is a Line."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._idle: list[Line] = []
        timeout_s: float | None = pool.connection_kwargs.get("socket_timeout")
        self._patience = _Patience(math.inf if timeout_s is None else timeout_s)

    async def call(self, *arguments: str | bytes | int) -> Any:  # noqa: ANN401 - whatever the server replies
        """Send one command and return its reply; errors are redis-py's. The command is sent once."""
        connection: Line | None = None
        turn = self._patience.begin()
        try:
            connection = await self._take()
            turn.check()
            reply = await connection.exchange(hiredis.pack_command(arguments))  # type: ignore[arg-type] # its stub says one word only
        except ResponseError:
            self._patience.end(turn)
            self._keep(connection)
            raise
        except BaseException as error:
            took_too_long = self._patience.end(turn)
            if connection is not None:
                await self._let_go(connection)
            if took_too_long and isinstance(error, asyncio.CancelledError):
                raise TimeoutError("Timeout reading from the store") from error
            raise
        self._patience.end(turn)
        self._keep(connection)
        return reply

    async def _take(self) -> Line:
        if not self._idle:
            connection: Line = await self._pool.get_connection()  # type: ignore[no-untyped-call] # redis-py
            return connection
        connection = self._idle.pop()
        if not connection.is_quiet:  # nothing was sent: another try repeats nothing
            try:
                await connection.disconnect(nowait=True)
                await connection.connect()  # type: ignore[no-untyped-call] # redis-py
            except BaseException:
                await self._let_go(connection)
                raise
        return connection

    def _keep(self, connection: Line | None) -> None:
        if connection is not None:
            self._idle.append(connection)

    async def _let_go(self, connection: Line) -> None:
        """Give a connection that may be broken back to the pool."""
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)
