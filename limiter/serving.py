"""`limiter serve`: the process that owns the store, the Admin listener, the metrics and the workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from limiter.app import Sidecar, Signals, pepper_of, sidecar
from limiter.domain.errors import AlreadyExists, InvalidArgument
from limiter.domain.scopes import Scope
from limiter.observability.http import ObservabilityServer
from limiter.observability.metrics import Metrics, forget_worker, share_among_workers
from limiter.policy.document import parse_policy
from limiter.rpc.listeners import Listener
from limiter.settings import Settings
from limiter.sockets import note_addresses, own_listeners
from limiter.store.embedded import EmbeddedStore

_RESTART_AFTER_S = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """What is being served, for those who start it. `secret` is that of the example key, if one was asked for."""

    addresses: tuple[str, ...]
    http: str
    secret: str


async def serve(
    settings: Settings, *, example_key: str = "", announce: Callable[[Serving], None] | None = None
) -> None:
    """Serve until a signal; then drain and stop everything that was started. Raises LimiterError if it cannot."""
    signals = Signals()
    async with AsyncExitStack() as stack:
        if settings.workers > 1:
            share_among_workers(settings.data_dir / "metrics")
        metrics = Metrics()
        url = await _store_url(settings, stack, metrics)
        process = await stack.enter_async_context(sidecar(settings, url, pepper_of(settings), metrics))
        if settings.policy is not None:
            await _apply(process, settings.policy)
        secret = await _example_secret(process, example_key) if example_key else ""
        own, shared = split_listeners(settings)
        await process.serve(own, engine=settings.engine, reuse_port=False)
        http = await stack.enter_async_context(_http(settings, metrics, process))
        workers = [Worker(settings, url, index) for index in range(settings.workers if shared else 0)]
        await asyncio.gather(*(worker.start() for worker in workers))
        note_addresses(settings.data_dir)
        bound = process.server.bound_addresses if process.server is not None else ()
        serving = Serving((*(listener.address for listener in shared), *bound), http, secret)
        _log.info("serving", addresses=serving.addresses, http=http)
        if announce is not None:
            announce(serving)
        await signals.stop.wait()
        _log.info("stopping", grace_s=settings.grace_s)
        await asyncio.gather(*(worker.stop() for worker in workers), process.stop(settings.grace_s))
    _log.info("stopped")


async def _store_url(settings: Settings, stack: AsyncExitStack, metrics: Metrics) -> str:
    """The configured store, or one of our own."""
    if settings.store is not None:
        return settings.store.get_secret_value()
    embedded = EmbeddedStore(settings.data_dir, fsync=settings.fsync, on_restart=metrics.store_restarts.inc)
    url = await embedded.start()
    stack.push_async_callback(embedded.stop)
    return url


async def _apply(process: Sidecar, file: Path) -> None:
    try:
        text = await asyncio.to_thread(file.read_text, "utf-8")
    except OSError as error:
        raise InvalidArgument("policy", str(file), error.strerror or "it cannot be read") from error
    policy = await asyncio.to_thread(parse_policy, text)
    result = await process.service.administration.apply(policy, dry_run=False)
    _log.info(
        "policy.applied", file=str(file), changes=len(result.changes), notes=len(result.notes), versions=result.versions
    )
    for note in result.notes:
        _log.debug("policy.note", note=note)


async def _example_secret(process: Sidecar, key_path: str) -> str:
    """A secret to try things with: a new key's, or a further one of a key that exists."""
    key = Scope.parse_key(key_path, field="example_key")
    keyring = process.service.keyring
    try:
        _, secret = await keyring.create(key, limits=None, expires_ms=0)
    except AlreadyExists:
        _, secret = await keyring.rotate(key, overlap_ms=0)
    return secret


@asynccontextmanager
async def _http(settings: Settings, metrics: Metrics, process: Sidecar) -> AsyncIterator[str]:
    """Metrics and health over HTTP; the address, "" where it is disabled."""
    address = settings.http_address
    if address is None:
        yield ""
        return
    server = ObservabilityServer(metrics.render, process.ready)
    try:
        await server.start(*address)
    except OSError as error:
        raise InvalidArgument("http", settings.http, f"{error.strerror or error}; choose another address") from error
    try:
        yield "{}:{}".format(*server.addresses[0])
    finally:
        await server.stop()


def split_listeners(settings: Settings) -> tuple[list[Listener], list[Listener]]:
    """What the serving process answers itself, and what its workers do, if there are several."""
    configured = list(settings.listeners())
    own = [listener for listener in configured if settings.workers == 1 or "admin" in listener.services]
    shared = [listener for listener in configured if listener not in own]
    return [*own, *own_listeners(settings.data_dir)], shared


def _orders(settings: Settings) -> dict[str, Any]:
    """The settings as JSON for a worker; the store's URL travels beside them."""
    return settings.model_dump(mode="json", exclude={"store", "config", "policy"})


class Worker:
    """A process that answers calls; started again if it ends by itself."""

    def __init__(self, settings: Settings, url: str, index: int) -> None:
        self._orders = json.dumps({"settings": _orders(settings), "url": url, "index": index}).encode() + b"\n"
        self._index = index
        self._grace_s = settings.grace_s
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process and watch it."""
        await self._spawn()
        self._watch = asyncio.get_running_loop().create_task(self._watch_for_ever())

    async def _spawn(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "limiter.worker", stdin=asyncio.subprocess.PIPE, start_new_session=True
        )
        if self._process.stdin is not None:
            self._process.stdin.write(self._orders)
            await self._process.stdin.drain()

    async def _watch_for_ever(self) -> None:
        while self._process is not None:
            code = await self._process.wait()
            forget_worker(self._process.pid)
            _log.error("worker.died", worker=self._index, code=code)
            await asyncio.sleep(_RESTART_AFTER_S)
            await self._spawn()

    async def stop(self) -> None:
        """Let the process finish its calls; end it if it does not."""
        if self._watch is not None:
            self._watch.cancel()
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), self._grace_s + 5)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
