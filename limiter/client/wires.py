"""Two performers of steps: one for asyncio, one that blocks. All that differs between the faces is here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import grpc

from limiter.client.connection import Connection
from limiter.client.steps import Pause, Send, Steps
from limiter.v1.limiter_pb2_grpc import LimiterStub

T = TypeVar("T")


class BlockingWire:
    """Performs steps in the calling thread; threads may share it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel = self._open()
        self._methods = LimiterStub(self._channel)

    def run(self, steps: Steps[T]) -> T:
        """Perform `steps` to their end."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._perform(step)
                except grpc.RpcError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's return value has no type here

    def close(self) -> None:
        """Close the connection; calls under way fail."""
        self._channel.close()

    def _perform(self, step: Send | Pause) -> Any:  # noqa: ANN401  # the answer's type is the method's
        if isinstance(step, Pause):
            return time.sleep(step.seconds)
        method = getattr(self._methods, step.method)
        return method(step.message, timeout=step.timeout_seconds, metadata=self._connection.metadata)

    def _open(self) -> grpc.Channel:
        connection = self._connection
        if connection.tls is None:
            return grpc.insecure_channel(connection.address, connection.options)
        return grpc.secure_channel(connection.address, connection.tls.credentials(), connection.options)


class AsyncWire:
    """Performs steps on the running loop, to which it belongs from its first call until it is closed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._channel: grpc.aio.Channel | None = None
        self._methods: Any = None
        self._under_way: set[asyncio.Future[Any]] = set()

    async def run(self, steps: Steps[T], *, when_abandoned: Callable[[Any], None] | None = None) -> T:
        """Perform `steps` to their end.

        With `when_abandoned`, a cancelled caller does not cancel what is on the wire: its answer, if
        it is one, goes to that function.
        """
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._perform(step, when_abandoned)
                except grpc.RpcError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # a generator's return value has no type here

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin `work` now; it goes on when whoever waits for it is cancelled."""
        task = asyncio.create_task(work)
        self._keep(task)
        return task

    async def close(self) -> None:
        """Wait for what is under way, then close the connection."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        if self._channel is not None:
            channel, self._channel = self._channel, None
            await channel.close()

    async def _perform(self, step: Send | Pause, when_abandoned: Callable[[Any], None] | None) -> Any:  # noqa: ANN401  # the answer's type is the method's
        if isinstance(step, Pause):
            return await asyncio.sleep(step.seconds)
        if self._channel is None:
            self._channel = self._open()
            self._methods = LimiterStub(self._channel)
        method = getattr(self._methods, step.method)
        call = method(step.message, timeout=step.timeout_seconds, metadata=self._connection.metadata)
        if when_abandoned is None:
            return await call
        attempt = asyncio.ensure_future(call)
        try:
            return await asyncio.shield(attempt)
        except asyncio.CancelledError:
            self._keep(attempt)
            attempt.add_done_callback(lambda done: _hand_over(done, when_abandoned))
            raise

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._under_way.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._under_way.discard)

    def _open(self) -> grpc.aio.Channel:
        connection = self._connection
        if connection.tls is None:
            return grpc.aio.insecure_channel(connection.address, connection.options)
        return grpc.aio.secure_channel(connection.address, connection.tls.credentials(), connection.options)


def _hand_over(done: asyncio.Future[T], receive: Callable[[T], None]) -> None:
    if not done.cancelled() and done.exception() is None:
        receive(done.result())
