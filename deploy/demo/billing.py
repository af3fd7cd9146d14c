"""What the stand-in provider bills: its own prices, its own sums, no code of Limiter's. Money is int nano-USD."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

#: How many calls are remembered one by one; the sums are of all.
REMEMBERED: Final = 20_000


class Price(NamedTuple):
    """Nano-USD per token."""

    input: int
    output: int = 0
    cache_read: int = 0


@dataclass(frozen=True, slots=True)
class Model:
    """A model on offer: how it is called in answers, what it costs, and whether it thinks before it speaks."""

    served_as: str
    price: Price
    reasons: bool = False


#: As the providers' price lists had it in November 2026: 2.50 USD per million tokens are 2,500 nano-USD per token.
MODELS: Final[Mapping[str, Model]] = {
    "gpt-4o": Model("gpt-4o-2024-08-06", Price(2_500, 10_000, 1_250)),
    "gpt-4o-mini": Model("gpt-4o-mini-2024-07-18", Price(150, 600, 75)),
    "gpt-5-mini": Model("gpt-5-mini-2025-08-07", Price(250, 2_000, 25), reasons=True),
    "claude-sonnet-4-5": Model("claude-sonnet-4-5-20250929", Price(3_000, 15_000, 300)),
    "claude-haiku-4-5": Model("claude-haiku-4-5-20251001", Price(1_000, 5_000, 100)),
    "text-embedding-3-small": Model("text-embedding-3-small", Price(20)),
}


@dataclass(slots=True)
class Tokens:
    """What a call used. `input` includes `cached`, `output` includes `reasoning`."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0


@dataclass(slots=True)
class Call:
    """One request that reached the provider. `finished`: its answer was written to the last byte."""

    label: str
    customer: str
    api_key: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    model: str = ""
    status: int = 0
    tokens: Tokens = field(default_factory=Tokens)
    finished: bool = False

    @property
    def cost_nanousd(self) -> int:
        """What it costs: nothing if it failed, what was generated so far if it was broken off."""
        if self.status != 200 or self.model not in MODELS:
            return 0
        price, tokens = MODELS[self.model].price, self.tokens
        fresh = tokens.input - tokens.cached
        return fresh * price.input + tokens.cached * price.cache_read + tokens.output * price.output

    @property
    def input_cost_nanousd(self) -> int:
        """What its input alone costs."""
        return self.cost_nanousd and self.cost_nanousd - self.tokens.output * MODELS[self.model].price.output

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        costs = {"cost_nanousd": self.cost_nanousd, "input_cost_nanousd": self.input_cost_nanousd}
        return asdict(self) | costs


class Books:
    """Every call that ended, in sums."""

    def __init__(self) -> None:
        self.calls: deque[Call] = deque(maxlen=REMEMBERED)
        self.open: dict[int, Call] = {}
        self._sums: dict[str, Counter[str]] = {name: Counter() for name in ("api_key", "customer", "model")}
        self._ended = self._nanousd = 0

    def begin(self, call: Call) -> None:
        """A request has come in."""
        self.open[id(call)] = call

    def end(self, call: Call) -> None:
        """Its answer ended, in one way or another: bill it."""
        del self.open[id(call)]
        self.calls.append(call)
        cost = call.cost_nanousd
        self._ended += 1
        self._nanousd += cost
        for name, sums in self._sums.items():
            sums[getattr(call, name)] += cost

    def spent(self) -> dict[str, Any]:
        """All sums, as JSON."""
        sums = {f"by_{name}": dict(counter) for name, counter in self._sums.items()}
        return {"nanousd": self._nanousd, "calls": self._ended, "open": len(self.open), **sums}

    def labelled(self, label: str) -> list[Call]:
        """The calls of one label, in the order of their ends."""
        return [call for call in self.calls if call.label == label]
