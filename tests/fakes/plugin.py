"""The store for tests, on a fake and on a real server; time moves only by `store_clock`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import redis
from fakeredis import FakeServer
from redis.asyncio import Redis

from limiter.store import connection
from limiter.store.redis_store import RedisStore
from tests.fakes.fake_store import fake_client

#: Opens one more client of the same, at first empty, store.
OpenClient = Callable[[], Redis]

BACK_ENDS = ("fakeredis", "valkey")


@dataclass(slots=True)
class StoreClock:
    """What a store takes for its time, in ms since the epoch: 21 September 2026, 13:33:20 UTC at first."""

    now_ms: int = 1_790_000_000_000

    def __call__(self) -> int:
        return self.now_ms

    def advance(self, ms: int) -> None:
        self.now_ms += ms


def valkey_client(url: str) -> Redis:
    """Open a client as a sidecar does."""
    client = connection.open_client(url)
    assert isinstance(client, Redis)
    return client


@pytest.fixture
def store_clock() -> StoreClock:
    """The clock of `store`: set `now_ms` or call `advance`."""
    return StoreClock()


@pytest.fixture(params=BACK_ENDS)
def back_end(request: pytest.FixtureRequest) -> str:
    """Which server: every test that asks for a store runs on each."""
    return str(request.param)


@pytest.fixture
def open_client(request: pytest.FixtureRequest, back_end: str) -> OpenClient:
    """Open clients of one store, which is empty when the test begins."""
    if back_end == "fakeredis":
        server = FakeServer()
        return lambda: fake_client(server)
    url = str(request.getfixturevalue("valkey_url"))
    with redis.Redis.from_url(url, protocol=2) as client:
        client.flushall()
    return lambda: valkey_client(url)


@pytest.fixture
async def store(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[RedisStore]:
    """An empty store whose time is `store_clock`."""
    store = RedisStore(open_client(), clock_ms=store_clock)
    yield store
    await store.close()
