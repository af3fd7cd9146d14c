"""One price book for all tests."""

from __future__ import annotations

import pytest

from limiter.pricing.book import PriceBook


@pytest.fixture(scope="session")
def book() -> PriceBook:
    return PriceBook.load()
