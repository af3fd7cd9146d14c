"""What goes on with the books beside calls: rows are moved into them, people are told."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import structlog

from limiter.alert_file import ChangedFile, read_endpoints
from limiter.app import Signals
from limiter.domain.errors import FailedPrecondition, LimiterError, Unavailable
from limiter.ledger.alerting.webhooks import Alerts
from limiter.ledger.database import Database
from limiter.ledger.draining import ROWS_AT_ONCE, Drain
from limiter.observability.http import ObservabilityServer
from limiter.observability.metrics import Metrics
from limiter.service.upkeep import end
from limiter.settings import Settings
from limiter.store.connection import connect
from limiter.store.data_directory import DataDirectory
from limiter.store.redis_store import RedisStore

#: The part of the time that a drain works in a process that answers calls, as long as few rows wait.
SHARE: Final = 0.05
#: Rows per transaction there: the shorter its turns, the less calls wait for each.
_ROWS_AT_ONCE: Final = 200
#: How long a thread that waits may be kept from running; the interpreter's 5 ms are long for a call, which may wait
#: many times.
_SWITCH_S: Final = 0.0002
#: How long the end waits for rows that were written last.
_LAST_S: Final = 5.0

_log = structlog.get_logger(__name__)


@asynccontextmanager
async def opened_books(settings: Settings) -> AsyncIterator[Database | None]:
    """The books of the settings; None: there are none."""
    url = settings.books_url
    if url is None:
        if settings.alerts is not None:
            raise FailedPrecondition("alerts: they are found in the books; name those by --books URL")
        _log.warning("books.none", remedy="rows stay in the store until there are: --books URL")
        yield None
        return
    if settings.books is None:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    books = Database(url)
    try:
        yield books
    finally:
        books.close()


@asynccontextmanager
async def draining(store: RedisStore, books: Database, metrics: Metrics, *, share: float) -> AsyncIterator[Drain]:
    """Move rows into the books meanwhile, and at the end what is there then.

    Books that are away are tried again and again: rows wait in the store. Raises FailedPrecondition if the store's
    rows go into other books.
    """
    if share < 1:
        sys.setswitchinterval(_SWITCH_S)
    drain = Drain(store, books, metrics, share=share, rows_at_once=_ROWS_AT_ONCE if share < 1 else ROWS_AT_ONCE)
    try:
        await drain.open()
    except Unavailable as error:
        _log.warning("books.away", reason=str(error), effect="ledger rows wait in the store")
    task = asyncio.get_running_loop().create_task(drain.run())
    try:
        yield drain
    finally:
        await end([task])
        with contextlib.suppress(LimiterError, TimeoutError):
            await asyncio.wait_for(drain.drain(), _LAST_S)


@asynccontextmanager
async def alerting(settings: Settings, books: Database, metrics: Metrics) -> AsyncIterator[None]:
    """Tell people meanwhile what the books give cause for: in the log, and at the endpoints of the file."""
    file = settings.alerts
    changed = ChangedFile(file) if file is not None else None
    endpoints = read_endpoints(file) if file is not None else ()
    alerts = Alerts(books, metrics, endpoints, reload=changed or (lambda: None))
    task = asyncio.get_running_loop().create_task(alerts.run())
    try:
        yield
    finally:
        await end([task])


@asynccontextmanager
async def store_of(settings: Settings) -> AsyncIterator[RedisStore]:
    """The store of the settings: by its URL, or the embedded one of a sidecar that serves the data directory."""
    if settings.store is not None:
        url = settings.store.get_secret_value()
    else:
        socket = DataDirectory(settings.data_dir).socket_there()
        if socket is None:
            raise FailedPrecondition(
                f"store: no sidecar has its own store in {settings.data_dir}; name a store by --store URL"
            )
        url = f"unix://{socket}"
    store = RedisStore(await connect(url))
    try:
        yield store
    finally:
        await store.close()


async def drain_books(settings: Settings, *, once: bool, adopt: bool) -> int:
    """Drain until a signal, or once; answers how many rows were moved once."""
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        books = await stack.enter_async_context(opened_books(settings))
        if books is None:
            raise FailedPrecondition("books: none are named; say where rows go by --books URL")
        store = await stack.enter_async_context(store_of(settings))
        if once or adopt:
            drain = Drain(store, books, metrics)
            await drain.open(adopt=adopt)
            if once:
                return await drain.drain()
        signals = Signals()
        await stack.enter_async_context(draining(store, books, metrics, share=1.0))
        await stack.enter_async_context(alerting(settings, books, metrics))
        address = settings.http_address if "http" in settings.model_fields_set else None
        if address is not None:
            server = ObservabilityServer(metrics.render, _ready)
            await server.start(*address)
            stack.push_async_callback(server.stop)
        _log.info("drain.runs", books=books.shown)
        await signals.stop.wait()
    return 0


async def _ready() -> dict[str, str]:
    return {}


def migrate_books(settings: Settings) -> str:
    """Make the tables of the books or bring them to this version; answers where they are."""
    url = settings.books_url
    if url is None:
        raise FailedPrecondition("books: none are named; say where they are by --books URL")
    books = Database(url)
    try:
        books.migrate()
        return books.shown
    finally:
        books.close()
