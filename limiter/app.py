"""The composition root: settings → store → service → servers, and the end of all of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import structlog

from limiter.domain.errors import LimiterError, Unavailable
from limiter.envoy import services as envoy_services
from limiter.envoy.credentials import Credentials
from limiter.envoy.hooks import Hooks
from limiter.envoy.options import EnvoyOptions
from limiter.envoy.settling import Settling
from limiter.ledger.database import Database
from limiter.observability.metrics import Metrics
from limiter.peppers import load_pepper
from limiter.pricing.book import PriceBook
from limiter.rpc.admin_servicer import AdminServicer
from limiter.rpc.context import on_unwritten, remaining_s
from limiter.rpc.engines import Engine
from limiter.rpc.guard import Guard
from limiter.rpc.listeners import Listener
from limiter.rpc.server import Server
from limiter.rpc.servicers import LimiterServicer
from limiter.service.secrets import Pepper
from limiter.service.service import Service
from limiter.service.upkeep import end, repeat
from limiter.settings import Settings
from limiter.store.connection import connect
from limiter.store.diagnosis import check_server
from limiter.store.port import HoldCall, HoldReply
from limiter.store.redis_store import RedisStore
from limiter.v1 import limiter_pb2_grpc

COUNT_EVERY_S = 15.0
PROBE_EVERY_S = 1.0

#: A call makes some hundred objects, none of them in a cycle: looking for cycles every few calls is wasted.
_COLLECT_AFTER = 20_000

T = TypeVar("T")

_log = structlog.get_logger(__name__)


class Sidecar:
    """One process that serves: a store connection, the service, and its listeners."""

    def __init__(self, store: RedisStore, service: Service, options: EnvoyOptions) -> None:
        self.store = store
        self.service = service
        self._options = options
        self._credentials = Credentials(options.upstream_credentials)
        self._settling = Settling(service)
        self.server: Server | None = None
        self.trouble: dict[str, str] = {}
        self._watch: Sequence[asyncio.Task[None]] = ()

    async def serve(self, listeners: Sequence[Listener], *, engine: Engine, reuse_port: bool) -> None:
        """Bind and answer calls."""
        self.server = Server(listeners, self._register, engine=engine, reuse_port=reuse_port)
        await self.server.start()
        # What was loaded so far (price book, code) lives as long as the process: spare it every collection.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, 20, 50)
        self.service.start_upkeep()
        create = asyncio.get_running_loop().create_task
        self._watch = (
            create(self._probe_for_ever()),
            create(repeat(self._count, every_s=COUNT_EVERY_S, what="counts")),
        )

    def _register(self, listener: Listener, guard: Guard) -> None:
        if "limiter" in listener.services:
            servicer = LimiterServicer(self.service, trusted=listener.trusted)
            limiter_pb2_grpc.add_LimiterServicer_to_server(servicer, guard)
        if "envoy" in listener.services and self.server is not None:
            methods = envoy_services.handlers(
                self.service,
                options=self._options,
                credentials=self._credentials,
                hooks=Hooks(on_unwritten, remaining_s, self.server.draining),
                trusted=listener.trusted,
                settling=self._settling,
            )
            for name, handlers in methods.items():
                guard.add_registered_method_handlers(name, handlers)
        if "admin" in listener.services and self.server is not None:
            admin = AdminServicer(self.service, self.server.draining)
            limiter_pb2_grpc.add_AdminServicer_to_server(admin, guard)

    async def ready(self) -> Mapping[str, str]:
        """What keeps this process from deciding; empty: nothing."""
        if self.server is None:
            return {"server": "it starts"}
        return {"server": "it stops"} if self.server.draining.is_set() else self.trouble

    async def _probe_for_ever(self) -> None:
        """Let health tell whether the store is there."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            before = bool(self.trouble)
            try:
                await self.store.time_ms()
            except Unavailable as error:
                self.trouble = {"store": str(error)}
            else:
                self.trouble = {}
            if self.server is not None and bool(self.trouble) != before:
                _log.warning("store.lost" if self.trouble else "store.back", **self.trouble)
                await self.server.set_serving(not self.trouble)

    async def _count(self) -> None:
        organizations = await self.store.organizations()
        self.service.metrics.holds_open.set(await self.store.open_count(organizations))
        waiting = await self.store.waiting({self.store.shard_of(organization) for organization in organizations})
        self.service.metrics.ledger_backlog_rows.set(max(waiting.values(), default=0))

    async def stop(self, grace_s: float) -> None:
        """Finish what is running, write what is to be written."""
        await end(self._watch)
        if self.server is not None:
            await self.server.drain(grace_s)
        await self._settling.drain()
        with contextlib.suppress(LimiterError):
            await self.service.stop()


@asynccontextmanager
async def sidecar(
    settings: Settings, url: str, pepper: Pepper, metrics: Metrics, *, books: Database | None = None
) -> AsyncIterator[Sidecar]:
    """Connect to the store, refusing one that cannot keep the truth, and build the service on it and on the books."""
    options = EnvoyOptions() if settings.envoy is None else EnvoyOptions.read(settings.envoy)
    client = await connect(url)
    abandoned: list[Service] = []

    def give_back(call: HoldCall, reply: HoldReply | None) -> None:
        for service in abandoned:
            service.give_backs.abandoned(call, reply)

    def observe(script: str, seconds: float, calls: int) -> None:
        metrics.store_seconds[script].observe(seconds)
        metrics.store_batch_size[script].observe(calls)

    store = RedisStore(
        client,
        max_backlog=settings.max_backlog,
        abandoned=give_back,
        observe=observe,
        observe_error=lambda kind: metrics.store_errors[kind].inc(),
    )
    try:
        server = await check_server(client)
        for warning in server.warnings:
            _log.warning("store.caution", caution=warning)
        wrong = await store.check_pepper(pepper.fingerprints())
        if wrong:
            raise Unavailable(
                f"the pepper (version {', '.join(wrong)}) is not the one that the store's keys were made with;"
                " give every sidecar of a store the same --pepper-file"
            )
        prices = await asyncio.to_thread(PriceBook.load, settings.prices)
        await asyncio.to_thread(prices.warm)
        service = Service(store, pepper=pepper, prices=prices, metrics=metrics, books=books)
        abandoned.append(service)
        _log.info("store.connected", product=server.product, version=server.version, nodes=server.nodes)
        yield Sidecar(store, service, options)
    finally:
        await store.close()


def pepper_of(settings: Settings) -> Pepper:
    """The pepper of the settings; one of its own in the data directory by default."""
    if settings.pepper_file is not None:
        return load_pepper(settings.pepper_file, create=False)
    return load_pepper(settings.data_dir / "pepper", create=True)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a process's event loop; uvloop's where it is installed."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)


class Signals:
    """The first SIGTERM or SIGINT asks for an orderly end; a second one ends at once."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._received = 0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._receive, number)

    def _receive(self, number: int) -> None:
        self._received += 1
        if self._received > 1:
            os._exit(128 + number)
        self.stop.set()
