"""A limiter for the tests of the service's parts; see tests/rules for what it promises as a whole."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.plugin import OpenClient, StoreClock

pytest.register_assert_rewrite("tests.rules.desk")

from tests.rules.desk import Limiter  # noqa: E402 - after its asserts were told to explain themselves


class Watch:
    """What this machine's monotonic clock says, in seconds; moved by the test."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
async def limiter(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[Limiter]:
    """One sidecar on an empty store."""
    limiter = Limiter(open_client(), store_clock)
    yield limiter
    await limiter.close()
