"""A month's usage and a customer's terms → the lines of an invoice. Exact, and rounded once.

In this order: what each line's calls cost (a price of the list, or cost plus markup); what is included; the tiers, on
what is left; the minimum. Where each line is rounded, those after it go by the rounded ones, so that a bill never
falls below zero by a cent. Amounts are fractions of nano-USD until they are rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from itertools import zip_longest
from typing import Final

from limiter.domain.money import NANOUSD_PER_USD, format_usd
from limiter.ledger.invoicing.plan_fields import CENT_NANOUSD
from limiter.ledger.invoicing.plans import Price, Rounding, Terms
from limiter.ledger.invoicing.usages import Usage
from limiter.ledger.schema import COUNTS

_MILLION: Final = 1_000_000
_NO_VALUE: Final = "untagged"


@dataclass(slots=True)
class Line:
    """A line of an invoice. `counts` go by COUNTS; those that bill no calls have none."""

    kind: str  # usage, included, tier, minimum
    about: str
    exact: Fraction
    amount_nanousd: int = 0
    counts: tuple[int, ...] = ()
    units: Mapping[str, int] = field(default_factory=dict)
    cost_nanousd: int = 0
    parts: tuple[tuple[str, int, Decimal, int], ...] = ()  # unit, how many, USD, per so many


@dataclass(frozen=True, slots=True)
class Bill:
    """What a month costs a customer, in whole cents."""

    lines: tuple[Line, ...]
    total_nanousd: int


@dataclass(slots=True)
class _Item:
    """Calls of one line to one model of one provider: priced together."""

    counts: list[int] = field(default_factory=lambda: [0] * len(COUNTS))
    units: dict[str, int] = field(default_factory=dict)
    cost_nanousd: int = 0

    def add(self, usage: Usage) -> None:
        self.counts = [a + b for a, b in zip(self.counts, usage.counts, strict=True)]
        self.cost_nanousd += usage.cost_nanousd
        for unit, count in usage.units.items():
            self.units[unit] = self.units.get(unit, 0) + count

    def count(self, name: str) -> int:
        return self.counts[COUNTS.index(name)]

    @property
    def tokens(self) -> int:
        return self.count("input_tokens") + self.count("output_tokens")


def bill(terms: Terms, usages: Iterable[Usage]) -> Bill:
    """What these calls cost by these terms."""
    items: dict[tuple[str, str, str], _Item] = {}
    for usage in usages:
        items.setdefault((_about(terms, usage), usage.provider, usage.model), _Item()).add(usage)
    made = _Maker(terms, items)
    lines = made.usage()
    lines += made.included(lines)
    lines += made.tiers(lines)
    lines += made.minimum(lines)
    total = sum((line.exact for line in lines), Fraction())
    return Bill(tuple(lines), round_nanousd(total, CENT_NANOUSD, terms.rounding.rule))


class _Maker:
    """Makes the lines of one bill, each kind from those before it."""

    def __init__(self, terms: Terms, items: Mapping[tuple[str, str, str], _Item]) -> None:
        self._terms = terms
        self._items = items
        #: By line: the part of it that models with tokens cost.
        self._of_tokens: dict[str, Fraction] = {}

    def _line(self, kind: str, about: str, exact: Fraction) -> Line:
        """A line with its amount: whole cents where each line is rounded, else what is nearest to show."""
        by_line = self._terms.rounding.each == "line"
        amount = round_nanousd(exact, CENT_NANOUSD if by_line else 1, self._terms.rounding.rule)
        return Line(kind, about, Fraction(amount) if by_line else exact, amount)

    def usage(self) -> list[Line]:
        with_tokens = {key[1:] for key, item in self._items.items() if item.tokens}
        by_line: dict[str, list[tuple[tuple[str, str, str], _Item]]] = {}
        for key, item in sorted(self._items.items()):
            by_line.setdefault(key[0], []).append((key, item))
        lines = []
        for about, found in by_line.items():
            charges = {key[1:]: _charge(self._terms, key[2], key[1], item) for key, item in found}
            exact = sum(charges.values(), Fraction())
            line = self._line("usage", about, exact)
            line.counts = tuple(map(sum, zip(*(item.counts for _, item in found), strict=True)))
            line.cost_nanousd = sum(item.cost_nanousd for _, item in found)
            for _, item in found:
                line.units = {
                    unit: line.units.get(unit, 0) + item.units.get(unit, 0) for unit in {*line.units, *item.units}
                }
            if len(found) == 1 and (price := price_of(self._terms, found[0][0][2], found[0][0][1])) is not None:
                line.parts = tuple(_parts(price, found[0][1]))
            eligible = sum((amount for kind, amount in charges.items() if kind in with_tokens), Fraction())
            self._of_tokens[about] = line.exact * (eligible / exact if exact else 0)
            lines.append(line)
        return sorted(lines, key=lambda line: (-line.exact, line.about))

    def included(self, lines: list[Line]) -> list[Line]:
        included = self._terms.included
        if included is None or not lines:
            return []
        charged = sum((line.exact for line in lines), Fraction())
        if included.usd is not None:
            return [
                self._line("included", f"Included: {_usd(included.usd)} USD", -min(charged, Fraction(included.usd)))
            ]
        items = self._items.values()
        if included.calls is not None:
            used, most, base, word = sum(item.count("calls") for item in items), included.calls, charged, "calls"
        else:
            most = included.tokens or 0
            used, base, word = sum(item.tokens for item in items), sum(self._of_tokens.values(), Fraction()), "tokens"
        if used <= 0:
            return []
        free = min(used, most)
        return [self._line("included", f"Included: {free:,} of {used:,} {word}", -base * Fraction(free, used))]

    def tiers(self, lines: list[Line]) -> list[Line]:
        charged = sum((line.exact for line in lines), Fraction())
        tiers = self._terms.tiers or ()
        found = []
        for tier, following in zip_longest(tiers, tiers[1:]):
            upper = charged if following is None else min(charged, Fraction(following.above))
            part = upper - tier.above
            if part > 0 and tier.percent:
                until = f" to {_usd(following.above)}" if following is not None else ""
                about = f"{tier.percent:+f} % of charges above {_usd(tier.above)}{until} USD"
                found.append(self._line("tier", about, part * Fraction(tier.percent) / 100))
        return found

    def minimum(self, lines: list[Line]) -> list[Line]:
        missing = (self._terms.minimum or 0) - sum((line.exact for line in lines), Fraction())
        if self._terms.minimum is None or missing <= 0:
            return []
        return [self._line("minimum", f"Up to the minimum of {_usd(self._terms.minimum)} USD", missing)]


def _charge(terms: Terms, model: str, provider: str, item: _Item) -> Fraction:
    """What the calls of an item are sold for: by the list, or cost plus markup."""
    price = price_of(terms, model, provider)
    if price is None:
        return Fraction(item.cost_nanousd) * (100 + Fraction(terms.markup_percent or 0)) / 100
    return sum(
        (Fraction(usd) * NANOUSD_PER_USD * count / per for _, count, usd, per in _parts(price, item)), Fraction()
    )


def price_of(terms: Terms, model: str, provider: str) -> Price | None:
    """The last price of the list that matches; letter case aside."""
    for price in reversed(terms.prices or ()):
        named = price.provider is None or price.provider.lower() == provider.lower()
        if named and fnmatchcase(model.lower(), price.match.lower()):
            return price
    return None


def _parts(price: Price, item: _Item) -> Iterable[tuple[str, int, Decimal, int]]:
    """What is counted, how many, and at which price. Cached tokens are input, reasoning is output."""
    rest = {"input": item.count("input_tokens"), "output": item.count("output_tokens")}
    wholes = (("cache_read", "input"), ("cache_write", "input"), ("reasoning", "output"))
    special = []
    for name, whole in wholes:
        usd = getattr(price, f"{name}_per_million")
        if usd is not None:
            count = item.count(f"{name}_tokens")
            rest[whole] -= count
            special.append((f"{name}_tokens", count, usd, _MILLION))
    for name, count in rest.items():
        usd = getattr(price, f"{name}_per_million")
        if usd is not None:
            yield f"{name}_tokens", count, usd, _MILLION
    yield from special
    if price.per_call is not None:
        yield "calls", item.count("calls"), price.per_call, 1
    for unit, usd in price.units.items():
        yield unit, item.units.get(unit, 0), usd, 1


def round_nanousd(exact: Fraction, step: int, rule: str) -> int:
    """Round to a multiple of `step`: half to even, or half up (away from zero)."""
    steps, rest = divmod(abs(exact), step)
    up = 2 * rest > step or (2 * rest == step and (rule == "half-up" or steps % 2 == 1))
    amount = (int(steps) + up) * step
    return -amount if exact < 0 else amount


def rounding_text(rounding: Rounding) -> str:
    """The rule as an invoice states it."""
    how = "half to even" if rounding.rule == "half-even" else "half up, away from zero"
    if rounding.each == "line":
        return f"Each line is rounded to the cent, {how}; the total is the sum of the lines."
    return f"The total is rounded to the cent once, {how}; lines are shown to the nano-dollar."


def _about(terms: Terms, usage: Usage) -> str:
    if terms.lines == "model":
        return usage.model
    return ", ".join(usage.values_of(terms.lines.removeprefix("tag:"))) or _NO_VALUE


def _usd(nanousd: int) -> str:
    whole, _, cents = format_usd(nanousd).partition(".")
    return f"{int(whole):,}.{cents}"
