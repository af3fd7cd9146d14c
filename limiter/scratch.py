"""A store for one run of something: a Valkey of its own, in memory only, that is gone afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from limiter.store.connection import connect
from limiter.store.embedded import EmbeddedStore
from limiter.store.in_order import InOrder


@asynccontextmanager
async def scratch_store() -> AsyncIterator[InOrder]:
    """Start an empty store in a temporary directory; nothing of it stays. Raises EmbeddedStoreFailed."""
    with tempfile.TemporaryDirectory(prefix="limiter-", ignore_cleanup_errors=True) as directory:
        embedded = EmbeddedStore(Path(directory), durable=False)
        try:
            store = InOrder(await connect(await embedded.start()))
            try:
                yield store
            finally:
                await store.close()
        finally:
            await embedded.stop()
