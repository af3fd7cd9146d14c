"""`limiter serve`: the process that owns the store, the Admin listener, the metrics and the workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from limiter.app import Sidecar, Signals, pepper_of, sidecar
from limiter.bookkeeping import SHARE, alerting, draining, opened_books
from limiter.domain.errors import AlreadyExists, FailedPrecondition, InvalidArgument, Unavailable
from limiter.domain.scopes import Scope
from limiter.observability.http import ObservabilityServer
from limiter.observability.metrics import Metrics, forget_worker, share_among_workers
from limiter.policy.document import Policy, PolicyInvalid, parse_policy
from limiter.rpc.listeners import Listener
from limiter.service.keyring import OVERLAP_MS
from limiter.settings import Settings
from limiter.sockets import check_shareable, note_addresses, own_listeners
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
    policy = None if settings.policy is None else await asyncio.to_thread(_read_policy, settings.policy)
    async with AsyncExitStack() as stack:
        if settings.workers > 1:
            share_among_workers(settings.data_dir / "metrics")
        metrics = Metrics()
        url = await _store_url(settings, stack, metrics)
        books = await stack.enter_async_context(opened_books(settings))
        process = await stack.enter_async_context(sidecar(settings, url, pepper_of(settings), metrics, books=books))
        if books is not None and settings.drain:
            await stack.enter_async_context(draining(process.store, books, metrics, share=SHARE))
        if books is not None:
            await stack.enter_async_context(alerting(settings, books, metrics))
        if policy is not None:
            await _apply(process, policy, file=settings.policy)
        if not await process.service.administration.organizations():
            _log.warning("no_policy", remedy="every call is refused until one is applied: limiter apply FILE")
        secret = await _example_secret(process, example_key) if example_key else ""
        own, shared = split_listeners(settings)
        workers = [Worker(settings, url, index) for index in range(settings.workers if shared else 0)]
        http = await stack.enter_async_context(_http(settings, metrics, process, workers))
        stack.push_async_callback(_stop, process, workers, settings.grace_s)
        await process.serve(own, engine=settings.engine, reuse_port=False)
        note_addresses(settings.data_dir)
        for listener in shared:
            check_shareable(listener)
        await asyncio.gather(*(worker.start() for worker in workers))
        bound = process.server.bound_addresses if process.server is not None else ()
        serving = Serving((*(listener.address for listener in shared), *bound), http, secret)
        _log.info("serving", addresses=serving.addresses, http=http)
        if announce is not None:
            announce(serving)
        await signals.stop.wait()
        _log.info("stopping", grace_s=settings.grace_s)
    _log.info("stopped")


async def _stop(process: Sidecar, workers: Sequence[Worker], grace_s: float) -> None:
    await asyncio.gather(*(worker.stop() for worker in workers), process.stop(grace_s))


async def _store_url(settings: Settings, stack: AsyncExitStack, metrics: Metrics) -> str:
    """The configured store, or one of our own."""
    if settings.store is not None:
        return settings.store.get_secret_value()
    embedded = EmbeddedStore(settings.data_dir, fsync=settings.fsync, on_restart=metrics.store_restarts.inc)
    url = await embedded.start()
    stack.push_async_callback(embedded.stop)
    return url


def _read_policy(file: Path) -> Policy:
    """Read it before anything is started: with a mistake in it nothing is changed."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidArgument("policy", str(file), f"name a YAML file that can be read ({reason})") from error
    try:
        return parse_policy(text)
    except PolicyInvalid as error:
        raise error.named(str(file)) from None


async def _apply(process: Sidecar, policy: Policy, *, file: Path | None) -> None:
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
        _, secret = await keyring.rotate(key, overlap_ms=OVERLAP_MS)  # who has an older one can go on for a day
    return secret


@asynccontextmanager
async def _http(
    settings: Settings, metrics: Metrics, process: Sidecar, workers: Sequence[Worker]
) -> AsyncIterator[str]:
    """Metrics and health over HTTP; the address, "" where it is disabled."""
    address = settings.http_address
    if address is None:
        yield ""
        return

    async def ready() -> Mapping[str, str]:
        absent = [str(worker.index) for worker in workers if not worker.serves]
        return {**await process.ready(), **({"workers": f"not serving: {', '.join(absent)}"} if absent else {})}

    server = ObservabilityServer(metrics.render, ready)
    try:
        await server.start(*address)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise FailedPrecondition(f"--http {settings.http} cannot be bound: {reason}; choose another address") from error
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
    return settings.model_dump(mode="json", exclude={"store", "books", "config", "policy"})


class Worker:
    """A process that answers calls; started again if it ends by itself. `serves`: whether it does so now."""

    def __init__(self, settings: Settings, url: str, index: int) -> None:
        self.index = index
        self.serves = False
        self._orders = json.dumps({"settings": _orders(settings), "url": url, "index": index}).encode() + b"\n"
        self._grace_s = settings.grace_s
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the process and watch it. Raises Unavailable if it ends before it serves."""
        await self._spawn()
        if not self.serves:
            raise Unavailable(f"worker {self.index} could not start; the log says why")
        self._watch = asyncio.get_running_loop().create_task(self._watch_for_ever())

    async def _spawn(self) -> None:
        """Start the process and wait until it serves or ends: it closes the pipe, after a word if it serves."""
        reading, writing = os.pipe()
        with open(reading, "rb", buffering=0) as pipe:  # noqa: ASYNC230, PTH123 - a pipe that is open already
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "limiter.worker", str(writing)),
                    stdin=asyncio.subprocess.PIPE,
                    pass_fds=(writing,),
                    start_new_session=True,
                )
            finally:
                os.close(writing)
            if self._process.stdin is not None:
                with contextlib.suppress(ConnectionError):  # it ended already
                    self._process.stdin.write(self._orders)
                    await self._process.stdin.drain()
            word = asyncio.StreamReader()
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(word), pipe
            )
            self.serves = bool(await word.read())
            transport.close()

    async def _watch_for_ever(self) -> None:
        while self._process is not None:
            code = await self._process.wait()
            self.serves = False
            forget_worker(self._process.pid)
            _log.error("worker.died", worker=self.index, code=code)
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
