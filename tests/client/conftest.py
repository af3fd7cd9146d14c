"""A scripted limiter, and clients of both faces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from limiter.client import AsyncClient, Client, steps
from tests.client.fake_limiter import FakeLimiter


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIMITER_ADDRESS", "LIMITER_API_KEY", "LIMITER_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(steps, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def limiter() -> Iterator[FakeLimiter]:
    fake = FakeLimiter()
    fake.listen()
    yield fake
    fake.close()


@pytest.fixture(params=[AsyncClient, Client], ids=["async", "sync"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., AsyncClient | Client]]:
    """Make clients of either face; they are closed after the test."""
    async with AsyncExitStack() as stack:

        def connect(address: str, **options: object) -> AsyncClient | Client:
            client: AsyncClient | Client = request.param(address, **options)
            if isinstance(client, Client):
                stack.callback(client.close)
            else:
                stack.push_async_callback(client.close)
            return client

        yield connect


@pytest.fixture
def client(limiter: FakeLimiter, connect: Callable[..., AsyncClient | Client]) -> AsyncClient | Client:
    return connect(limiter.address, api_key="secret-key")
