"""What calls are sold for: by a price of the list, or cost plus markup. What neither says is told, and never free."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Final, NamedTuple

from limiter.domain.errors import FailedPrecondition
from limiter.domain.money import NANOUSD_PER_USD
from limiter.ledger.invoicing.plans import PRICED, Price, Terms
from limiter.ledger.invoicing.usages import Usage
from limiter.ledger.schema import COUNTS

_MILLION: Final = 1_000_000
#: Units that are kinds of input or output and counted there, too, such as input_audio_tokens.
_OF_TOKENS: Final = re.compile(r"(input|output|cache)_\w+_tokens", re.ASCII)


class Part(NamedTuple):
    """What is counted, how many, and at which price in USD per so many."""

    unit: str
    quantity: int
    usd: Decimal
    per: int


class Unpriced(NamedTuple):
    """What was used of a model and has no price; `units` are its counts. `whole`: no price matches the model."""

    model: str
    provider: str
    calls: int
    units: Mapping[str, int]
    whole: bool


class UsageUnpriced(FailedPrecondition):
    """The plan does not say what some of the usage costs. `unpriced` is all of it, by month."""

    def __init__(self, customer: str, unpriced: Mapping[str, Sequence[Unpriced]]) -> None:
        self.unpriced = dict(unpriced)
        lines = [f"  {month}: {_said(one)}" for month, found in sorted(self.unpriced.items()) for one in found]
        super().__init__(
            f"prices: the plan does not say what {customer} pays for all that was used:\n"
            + "\n".join(lines)
            + "\nPrice it in the plan; 0 makes it free, and a price of per_call alone pays for all that a call uses."
            " A markup_percent is for models that no price matches."
        )


@dataclass(slots=True)
class Item:
    """Calls of one line to one model of one provider: priced together."""

    counts: list[int] = field(default_factory=lambda: [0] * len(COUNTS))
    units: dict[str, int] = field(default_factory=dict)
    cost_nanousd: int = 0

    def add(self, usage: Usage) -> None:
        """Count these calls, too."""
        self.counts = [a + b for a, b in zip(self.counts, usage.counts, strict=True)]
        self.cost_nanousd += usage.cost_nanousd
        for unit, count in usage.units.items():
            self.units[unit] = self.units.get(unit, 0) + count

    def count(self, name: str) -> int:
        """One of COUNTS."""
        return self.counts[COUNTS.index(name)]

    @property
    def tokens(self) -> int:
        """Input and output."""
        return self.count("input_tokens") + self.count("output_tokens")


class Sale(NamedTuple):
    """What an item is sold for, in nano-USD; its `parts` where a price says so; and what has no price."""

    exact: Fraction
    parts: tuple[Part, ...] = ()
    unpriced: Unpriced | None = None


def sell(terms: Sequence[Terms], model: str, provider: str, item: Item) -> Sale:
    """By the first of the terms. The later ones, those of later invoices, price what it leaves without a price."""
    first, *later = terms
    price = price_of(first, model, provider)
    if price is None and (not first.prices or first.markup_percent is not None):
        return Sale(Fraction(item.cost_nanousd) * (100 + Fraction(first.markup_percent or 0)) / 100)
    if price is None and later:
        return sell(later, model, provider, item)
    parts = [] if price is None else list(_parts(price, item))
    lacking = _lacking(price, item)
    for following in later:
        found = {unit: _price_of_unit(price_of(following, model, provider), unit) for unit in lacking}
        parts += [Part(unit, lacking.pop(unit), *each) for unit, each in found.items() if each is not None]
    exact = sum((Fraction(part.usd) * NANOUSD_PER_USD * part.quantity / part.per for part in parts), Fraction())
    calls, whole = item.count("calls"), price is None
    without = lacking or (whole and (calls or item.cost_nanousd))
    return Sale(exact, tuple(parts), Unpriced(model, provider, calls, lacking, whole) if without else None)


def price_of(terms: Terms, model: str, provider: str) -> Price | None:
    """The last price of the list that matches; letter case aside."""
    for price in reversed(terms.prices or ()):
        named = price.provider is None or price.provider.lower() == provider.lower()
        if named and fnmatchcase(model.lower(), price.match.lower()):
            return price
    return None


def _parts(price: Price, item: Item) -> Iterator[Part]:
    """Cached tokens are input, reasoning is output."""
    special = _special(price)
    for name, count in _rest(price, item).items():
        usd = getattr(price, f"{name}_per_million")
        if usd is not None:
            yield Part(f"{name}_tokens", count, usd, _MILLION)
    for name, usd in special.items():
        yield Part(f"{name}_tokens", item.count(f"{name}_tokens"), usd, _MILLION)
    if price.per_call is not None:
        yield Part("calls", item.count("calls"), price.per_call, 1)
    for unit, usd in price.units.items():
        yield Part(unit, item.units.get(unit, 0), usd, 1)


def _special(price: Price) -> dict[str, Decimal]:
    """The prices of tokens that are else priced as what they are a part of."""
    found = {name: getattr(price, f"{name}_per_million") for name in ("cache_read", "cache_write", "reasoning")}
    return {name: usd for name, usd in found.items() if usd is not None}


def _rest(price: Price | None, item: Item) -> dict[str, int]:
    """Input and output tokens without those that have a price of their own."""
    rest = {"input": item.count("input_tokens"), "output": item.count("output_tokens")}
    for name in _special(price) if price is not None else ():
        rest["output" if name == "reasoning" else "input"] -= item.count(f"{name}_tokens")
    return rest


def _lacking(price: Price | None, item: Item) -> dict[str, int]:
    """What was used and has no price here. A price of calls alone is that of all that a call uses."""
    if price is not None and not price.units and {n for n in PRICED if getattr(price, n) is not None} == {"per_call"}:
        return {}
    units = {unit: count for unit, count in item.units.items() if not _OF_TOKENS.fullmatch(unit)}
    used = {f"{name}_tokens": count for name, count in _rest(price, item).items()} | units
    return {unit: count for unit, count in used.items() if count and _price_of_unit(price, unit) is None}


def _price_of_unit(price: Price | None, unit: str) -> tuple[Decimal, int] | None:
    if price is None:
        return None
    if unit in price.units:
        return price.units[unit], 1
    usd: Decimal | None = getattr(price, f"{unit.removesuffix('_tokens')}_per_million", None)
    return None if usd is None else (usd, _MILLION)


def _said(one: Unpriced) -> str:
    units = ", ".join(f"{count:,} {unit.replace('_', ' ')}" for unit, count in one.units.items())
    calls = f"{one.calls:,} {'call' if one.calls == 1 else 'calls'}"
    if one.whole:
        return f"no price matches {one.model} ({one.provider}): {', '.join(filter(None, (calls, units)))}"
    return f"{one.model} ({one.provider}) has no price for {units} ({calls} to the model)"
