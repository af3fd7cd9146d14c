"""The wire to the server: script calls and commands go out, errors come back as Unavailable."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ResponseError

from limiter.domain.errors import Unavailable
from limiter.store.cargo import Cargo
from limiter.store.diagnosis import STORE_ERRORS, diagnose
from limiter.store.lanes import Lanes
from limiter.store.scripts import library

Client = Redis | RedisCluster

#: A server may forget the library again before it is called.
_LOADS_MAX: Final = 8

_NO_FUNCTION: Final = "Function not found"

#: Look-ups under way at once; further ones wait. Each takes a connection, and a pool that has none left raises.
COMMANDS_UNDER_WAY_MAX = 32


class Wire:
    """One client of a server or Cluster.

    `clock_ms` replaces the store's clock in tests. `observe` gets (script, seconds, calls in the batch),
    `observe_error` the kind of every trouble.
    """

    def __init__(
        self,
        client: Client,
        *,
        clock_ms: Callable[[], int] | None = None,
        observe: Callable[[str, float, int], None] | None = None,
        observe_error: Callable[[str], None] | None = None,
    ) -> None:
        self._client = client
        self._cluster = isinstance(client, RedisCluster)
        if not isinstance(client, RedisCluster):
            self._lanes = Lanes(client.connection_pool)
        self._loading: dict[object, asyncio.Future[Any]] = {}
        self._clock_ms = clock_ms
        self._observe = observe
        self._observe_error = observe_error
        self._room = asyncio.Semaphore(COMMANDS_UNDER_WAY_MAX)

    async def time_ms(self) -> int:
        """The store's clock."""
        if self._clock_ms is not None:
            return self._clock_ms()
        seconds, micros = await self._command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def _run(self, verb: str, cargo: Cargo, items: Sequence[bytes], count: int) -> list[Any]:
        names, heading, placing = cargo.label()
        began = time.perf_counter()
        reply: list[Any] = await self._fcall(verb, names, [self._clock(), heading, placing, *items])
        if self._observe is not None:
            self._observe(verb, time.perf_counter() - began, count)
        return reply

    def _clock(self) -> bytes:
        """What a script is told of the time: nothing, so that it takes the store's, but in tests."""
        return b"" if self._clock_ms is None else str(self._clock_ms()).encode()

    async def _fcall(self, verb: str, names: Sequence[str], arguments: Sequence[bytes | str | int]) -> Any:  # noqa: ANN401 - a reply
        command = ("FCALL", library().functions[verb], len(names), *names, *arguments)
        try:
            for _ in range(_LOADS_MAX):
                try:
                    return await self._call(names[0], *command)
                except ResponseError as error:
                    if str(error) != _NO_FUNCTION:
                        raise
                await self._load(names[0])
            return await self._call(names[0], *command)
        except STORE_ERRORS as error:
            raise self._unavailable(error) from error

    async def _load(self, key: str) -> None:
        """Load the library where `key` is: it is a new server, its functions were flushed, or a replica was behind.

        Calls that find it missing at the same time wait for one load.
        """
        server = self._client.get_node_from_key(key) if isinstance(self._client, RedisCluster) else None
        loading = self._loading.get(server)
        if loading is None:
            loading = asyncio.ensure_future(self._call(key, "FUNCTION", "LOAD", "REPLACE", library().source))
            self._loading[server] = loading

            def loaded(done: asyncio.Future[Any]) -> None:
                del self._loading[server]
                if not done.cancelled():
                    done.exception()  # looked at, even if every caller has left

            loading.add_done_callback(loaded)
        await asyncio.shield(loading)

    def _call(self, key: str, *command: Any) -> Coroutine[Any, Any, Any]:  # noqa: ANN401 - whatever a command takes
        """Send a command once, to the server that has `key`."""
        if isinstance(self._client, RedisCluster):
            # Without a node, redis-py would ask the server which of the words are keys, for each call.
            return self._client.execute_command(*command, target_nodes=self._client.get_node_from_key(key))
        return self._lanes.call(*command)

    async def _command(self, *arguments: Any) -> Any:  # noqa: ANN401 - whatever a command takes and answers
        try:
            async with self._room:
                return await self._client.execute_command(*arguments)
        except STORE_ERRORS as error:
            raise self._unavailable(error) from error

    async def _all(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The answers to many commands, in one exchange where there is one server."""
        if self._cluster:  # a Cluster pipeline does not ask anew where a slot is
            return list(await asyncio.gather(*(self._command(*command) for command in commands)))
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            return list(await pipeline.execute())
        except STORE_ERRORS as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> Unavailable:
        trouble = diagnose(error)
        if self._observe_error is not None:
            self._observe_error(trouble.kind)
        return Unavailable(trouble.text)

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.aclose()
