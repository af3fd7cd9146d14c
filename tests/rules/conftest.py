"""A limiter on a fake and on a real store; whatever a test did, the books balance at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from limiter.ledger.database import Database
from limiter.service.secrets import Pepper
from tests.fakes.plugin import OpenClient, StoreClock

pytest.register_assert_rewrite("tests.rules.stories", "tests.rules.desk")

from tests.rules.desk import PEPPER, Limiter  # noqa: E402 - after its asserts were told to explain themselves

#: Opens one more sidecar on the same store: `open_limiter(max_backlog=5)`.
OpenLimiter = Callable[..., Limiter]


@pytest.fixture
async def open_limiter(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[OpenLimiter]:
    """Open sidecars on one store; the store must be sound when the test is over."""
    opened: list[Limiter] = []

    def open_one(*, max_backlog: int = 0, pepper: Pepper = PEPPER, books: Database | None = None) -> Limiter:
        opened.append(Limiter(open_client(), store_clock, max_backlog=max_backlog, pepper=pepper, books=books))
        return opened[-1]

    yield open_one
    if opened:
        await opened[0].dump()
    for limiter in opened:
        await limiter.close()


@pytest.fixture
def limiter(open_limiter: OpenLimiter) -> Limiter:
    """One sidecar."""
    return open_limiter()


@pytest.fixture
def second(open_limiter: OpenLimiter) -> Limiter:
    """Another sidecar on the same store."""
    return open_limiter()
