"""What is booked of a call, and for what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from limiter.domain.calls import Outcome, Usage
from limiter.domain.reservations import NO_FLAG, Basis, RowFlag
from limiter.pricing.model_price import ModelPrice
from limiter.service.facts import Facts

_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class Subject:
    """What was reserved, as far as pricing its usage needs it.

    `price` None: free, or the caller's own cost. `held` None: there was no hold. `max_cost` is the policy's for one
    call, None: it has none.
    """

    organization: str
    model: str
    provider: str
    price: ModelPrice | None
    free: bool
    reserved_ms: int
    held: int | None
    context: Mapping[str, str]
    facts: Facts
    max_cost: int | None


@dataclass(slots=True)
class Reckoning:
    """What a call cost and what that rests on. `tokens` -1: unknown. `flags` are the doubts that its row tells of.

    `usage` is what is charged; `said` what was said to be used, where that is not the same.
    """

    cost: int
    tokens: int
    basis: Basis
    outcome: Outcome
    usage: Usage | None = None
    price: ModelPrice | None = None
    model: str = ""
    provider_request_id: str = ""
    warnings: tuple[str, ...] = ()
    flags: RowFlag = NO_FLAG
    said: Usage | None = None

    @property
    def priced_model(self) -> str:
        """The model by which it was priced."""
        return self.price.model if self.price is not None else self.model

    @property
    def price_version(self) -> str:
        """The price book that was used; "" where none was."""
        return self.price.price_version if self.price is not None else ""

    def ending(self) -> bytes:
        """The end of the call as the ledger keeps it (JSON)."""
        facts: dict[str, object] = {"outcome": self.outcome.name}
        for name, usage in (("usage", self.usage), ("usage_said", self.said)):
            if usage is not None:
                facts[name] = {name: count for name in _COUNTS if (count := getattr(usage, name))} | usage.units
        if self.model:
            facts["model_served"] = self.model
        if self.price is not None:
            facts |= {"priced_as": self.price.model, "price_version": self.price.price_version}
            facts["price"] = dict(self.price.for_ledger())
        if self.provider_request_id:
            facts["provider_request_id"] = self.provider_request_id
        if self.warnings:
            facts["warnings"] = self.warnings
        return json.dumps(facts, separators=(",", ":")).encode()
