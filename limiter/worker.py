"""One of several processes that answer calls; started by the serving process, which owns the rest.

Reads its orders as JSON from standard input, and drains when that closes: a worker never outlives
the process that watches it. Its argument is the number of a pipe, in which it says that it serves.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import replace
from typing import Any

import structlog

from limiter.app import Signals, pepper_of, run_loop, sidecar
from limiter.domain.errors import LimiterError
from limiter.observability import logs
from limiter.observability.metrics import Metrics
from limiter.rpc.listeners import Listener
from limiter.serving import split_listeners
from limiter.settings import Settings

_log = structlog.get_logger(__name__)


def worker_listener(listener: Listener, index: int) -> Listener:
    """The worker's own part of a listener: TCP ports are shared, of a Unix socket each has its own path."""
    path = listener.unix_path
    if path is None:
        return listener
    return replace(listener, address=f"unix:{path.with_suffix(f'.{index}{path.suffix}')}")


async def _work(settings: Settings, url: str, index: int, *, word: int) -> None:
    signals = Signals()
    _, shared = split_listeners(settings)
    listeners = [worker_listener(listener, index) for listener in shared]
    async with sidecar(settings, url, pepper_of(settings), Metrics()) as process:
        await process.serve(listeners, engine=settings.engine, reuse_port=True)
        os.write(word, b"serves")
        os.close(word)
        loop = asyncio.get_running_loop()
        # Not by a thread: one that waits for standard input could not be woken, and the loop joins its threads.
        loop.add_reader(sys.stdin, signals.stop.set)
        await signals.stop.wait()
        loop.remove_reader(sys.stdin)
        await process.stop(settings.grace_s)


def main() -> int:
    """Serve until told to stop; 0 after an orderly end."""
    orders: dict[str, Any] = json.loads(sys.stdin.readline())
    settings = Settings.load(orders["settings"])
    logs.configure(level=settings.log_level, style=settings.log_format)
    structlog.contextvars.bind_contextvars(worker=orders["index"])
    try:
        run_loop(_work(settings, orders["url"], orders["index"], word=int(sys.argv[1])))
    except LimiterError as error:
        _log.error("worker.failed", reason=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
