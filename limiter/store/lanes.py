"""Connections that carry script calls one after the other, without going through the pool each time.

Taking a connection from redis-py's pool and giving it back costs more than a script call of one hold.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ResponseError, TimeoutError  # noqa: A004 - redis-py's name

#: A connection that was idle for longer may have been closed by the server: it is looked at before use.
_TRUSTED_FOR_S: Final = 1.0


class Lanes:
    """As many connections as calls were ever under way at once; they belong to `pool`."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._timeout_s: float | None = pool.connection_kwargs.get("socket_timeout")
        self._idle: list[tuple[AbstractConnection, float]] = []

    async def call(self, *arguments: str | bytes | int) -> Any:  # noqa: ANN401 - whatever the server replies
        """Send one command and return its reply; errors are redis-py's. The command is sent once."""
        connection: AbstractConnection | None = None
        try:
            # One timeout around all of it, in place of one around each read and write.
            async with asyncio.timeout(self._timeout_s):
                connection = await self._take()
                connection.socket_timeout = None
                command = hiredis.pack_command(arguments)  # type: ignore[arg-type] # its stub says one word only
                await connection.send_packed_command(command, check_health=False)
                reply = await connection.read_response()
        except ResponseError:
            self._keep(connection)
            raise
        except BaseException as error:
            if connection is not None:
                await self._let_go(connection)
            if isinstance(error, asyncio.TimeoutError):
                raise TimeoutError("Timeout reading from the store") from error
            raise
        self._keep(connection)
        return reply

    async def _take(self) -> AbstractConnection:
        if not self._idle:
            connection: AbstractConnection = await self._pool.get_connection()  # type: ignore[no-untyped-call] # redis-py
            return connection
        connection, used_s = self._idle.pop()
        if time.monotonic() - used_s > _TRUSTED_FOR_S:
            connection.socket_timeout = self._timeout_s
            try:
                await self._pool.ensure_connection(connection)
            except BaseException:
                await self._let_go(connection)
                raise
        return connection

    def _keep(self, connection: AbstractConnection | None) -> None:
        if connection is not None:
            self._idle.append((connection, time.monotonic()))

    async def _let_go(self, connection: AbstractConnection) -> None:
        """Give a connection that may be broken back to the pool, as the pool made it."""
        connection.socket_timeout = self._timeout_s
        await connection.disconnect(nowait=True)
        await self._pool.release(connection)
