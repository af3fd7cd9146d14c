"""The serving layer: listeners, admission, health, and an end that loses no call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from limiter.rpc.engines import Engine, OpenListener, ServerLimits, choose_engine, open_listener
from limiter.rpc.guard import Guard, Traffic
from limiter.rpc.health import Health
from limiter.rpc.listeners import Listener

#: Called once per listener with what servicers are added to: `add_LimiterServicer_to_server(servicer, guard)`.
Register = Callable[[Listener, Guard], None]

#: How long answers that were made may take to leave; only open health watches use it up.
_FLUSH_S: Final = 0.25

_log = structlog.get_logger(__name__)


class Server:
    """Serves what `register` adds to each listener.

    `reuse_port` lets several processes share a TCP port (SO_REUSEPORT); without it a taken port is an error. One
    server starts once and drains once.
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        register: Register,
        *,
        engine: Engine = Engine.AUTO,
        limits: ServerLimits | None = None,
        reuse_port: bool = False,
    ) -> None:
        self._listeners = tuple(listeners)
        self._register = register
        self._engine = engine
        self._limits = limits or ServerLimits()
        self._reuse_port = reuse_port
        self._traffic = Traffic(max_calls=self._limits.calls_max, max_streams=self._limits.streams_max)
        self._health = Health()
        self._open: list[OpenListener] = []
        self._stopped = asyncio.Event()

    @property
    def bound_addresses(self) -> tuple[str, ...]:
        """The listeners' addresses in their order, with the ports that were chosen for port 0."""
        return tuple(opened.address for opened in self._open)

    @property
    def draining(self) -> asyncio.Event:
        """Set when the server stops taking calls: endless streams should end then, or they last the whole grace."""
        return self._traffic.draining

    async def start(self) -> None:
        """Bind every listener, then serve. Raises InvalidArgument if one of them cannot; then none is left open."""
        try:
            for listener in self._listeners:
                self._open.append(self._prepare(listener))
            await self._health.set_serving(False)
            for opened in self._open:
                await opened.server.start()
        except BaseException:
            await self._stop(grace_s=None)
            raise
        for opened in self._open:
            _announce(opened)
        await self._health.set_serving(True)

    async def set_serving(self, serving: bool) -> None:  # noqa: FBT001 - the value, not a flag
        """Make the health service say whether calls can succeed (the store is there); calls are taken all the same."""
        await self._health.set_serving(serving)

    async def drain(self, grace_s: float) -> None:
        """Stop without losing a call.

        Health says NOT_SERVING, new calls are answered UNAVAILABLE, running ones get up to `grace_s` seconds to end;
        then the listeners close, and calls that still run are cancelled.
        """
        if self._traffic.draining.is_set():
            await self._stopped.wait()
            return
        self._traffic.close()
        await self._health.shut_down()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._traffic.idle.wait(), grace_s)
        cut_off = self._traffic.calls + self._traffic.streams
        await self._stop(grace_s=None if cut_off else min(grace_s, _FLUSH_S))
        _log.info("server_stopped", calls_cut_off=cut_off)

    def _prepare(self, listener: Listener) -> OpenListener:
        engine = choose_engine(listener, self._engine)
        guard = Guard(self._traffic, token=listener.token, last_look=engine is Engine.GRPCIO)
        self._register(listener, guard)
        opened = open_listener(listener, engine, self._limits, reuse_port=self._reuse_port)
        for service, handlers in guard.handlers.items():
            opened.server.add_registered_method_handlers(service, handlers)
        self._health.add_to(opened.server, guard.handlers)
        return opened

    async def _stop(self, *, grace_s: float | None) -> None:
        await asyncio.gather(*(opened.server.stop(grace_s) for opened in self._open))
        for opened in self._open:
            if opened.socket_file is not None:
                opened.socket_file.remove()
        self._stopped.set()


def _announce(opened: OpenListener) -> None:
    listener = opened.listener
    _log.info(
        "listening",
        address=opened.address,
        engine=opened.engine.value,
        services=sorted(listener.services),
        trusted=listener.trusted,
        tls=listener.tls is not None,
        asks_for_proof=listener.asks_for_proof,
    )
    for caution in listener.cautions():
        _log.warning("listener_exposed", address=opened.address, caution=caution)
