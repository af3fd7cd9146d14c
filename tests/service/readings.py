"""Readings of requests that were never written, of sizes that a test names."""

from __future__ import annotations

from typing import NamedTuple

from limiter.pricing.bounds import Size
from limiter.pricing.reading import CallReading


class Sized(NamedTuple):
    """What a request holds of which only the size counts, and no alias."""

    sized: Size

    def size(self) -> Size:
        return self.sized

    def for_model(self, model: str) -> CallReading:
        raise LookupError(model)
