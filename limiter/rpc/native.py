"""The accelerated engine, and the three things in which its server is careless."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
from pathlib import Path
from typing import Any, Final

import grpc
import pygrpc_native.aio  # `from pygrpc_native import aio` recurses in 0.5.0
from pygrpc_native import EVENT_CANCEL

#: How long answers that were handed over may take to leave before the connections are closed.
_LINGER_S: Final = 0.25

#: Calls that are started in one turn of the event loop: what the first of them ask of the store leaves while the next
#: are read. All at once, the callers of a busy sidecar fall into step, and it waits for the store in between.
_TURN: Final = 24

#: What the names of the front's threads begin with, and how nice they are made.
_FRONT_THREADS: Final = "grpc-native"
_NICE: Final = 10


class NativeServer(pygrpc_native.aio.Server):
    """A server that marks a call CANCELLED if its answer found nobody, keeps no dead call, and lets last answers leave.

    The front says whether it could hand over an answer; the library drops that word, and a caller that left while the
    event loop was busy would go unnoticed. A call that is cancelled before its task ever ran would stay in memory for
    good. At the end the library closes the connections over answers on their way. The overrides use what 0.5 keeps
    private: the tests hold each of them to its promise.
    """

    _arrived: list[tuple[Any, ...]]

    async def start(self) -> None:
        """Start as grpc.aio does; the threads that do HTTP/2 step back behind the one that decides."""
        self._arrived = []
        await super().start()
        _make_way()

    async def stop(self, grace: float | None) -> None:
        """Stop as grpc.aio does; with a grace, answers that were made before have left."""
        if grace:
            await asyncio.sleep(_LINGER_S)  # the front does not tell when its buffers are empty
        await super().stop(grace)

    def _on_events(self, events: list[tuple[Any, ...]]) -> None:
        idle = not self._arrived
        self._arrived.extend(events)
        if idle:
            self._take_turn()

    def _take_turn(self) -> None:
        events = self._arrived[:_TURN]
        del self._arrived[:_TURN]
        super()._on_events(events)
        if self._arrived:
            asyncio.get_running_loop().call_soon(self._take_turn)
        for kind, call_id, *_ in events:
            if kind == EVENT_CANCEL and (call := self._calls.get(call_id)) is not None and _never_ran(call.task):
                del self._calls[call_id]

    async def _run_unary(self, call: Any, context: Any, request: Any) -> None:  # noqa: ANN401 - private classes
        # The library asks of each call whether its handler is a coroutine function; the guard made sure of it.
        try:
            response = await call.handler.unary_unary(request, context)
        except Exception as error:  # noqa: BLE001 - the library's way with errors
            self._failed(call, context, error)
            return
        if context.code() not in (None, grpc.StatusCode.OK):
            self._fail(call, context, None)
            return
        if (data := self._encode(call, context, response)) is None:
            return
        written = self._front.respond(  # type: ignore[union-attr] # a running server has its front
            call.call_id,
            data,
            initial_metadata=context._initial_metadata,  # noqa: SLF001 - as in the method that this replaces
            trailing_metadata=context.trailing_metadata() or None,
        )
        if not written:
            context.set_code(grpc.StatusCode.CANCELLED)


def _never_ran(task: asyncio.Task[None] | None) -> bool:
    coroutine = None if task is None else task.get_coro()
    return inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED


def _make_way() -> None:
    """Lower the priority of the front's threads (Linux; elsewhere nothing).

    Each answer wakes one of them, which would take the core from the thread that computes the next ones.
    """
    for task in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError, ValueError):
            if (task / "comm").read_text("ascii").startswith(_FRONT_THREADS):
                os.setpriority(os.PRIO_PROCESS, int(task.name), _NICE)
