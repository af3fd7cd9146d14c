"""A month's usage and a customer's terms → the lines of an invoice. Exact, and rounded once.

In this order: what each line's calls cost (a price of the list, or cost plus markup); what is included; the tiers, on
what is left; the minimum. Where each line is rounded, those after it go by the rounded ones, so that a bill never
falls below zero by a cent. Amounts are fractions of nano-USD until they are rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import zip_longest
from typing import Final

from limiter.domain.money import format_usd
from limiter.ledger.invoicing.plan_fields import CENT_NANOUSD
from limiter.ledger.invoicing.plans import Rounding, Terms
from limiter.ledger.invoicing.prices import Item, Part, Unpriced, sell
from limiter.ledger.invoicing.usages import Usage

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
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Bill:
    """What a month costs a customer, in whole cents, and what of it the terms do not price."""

    lines: tuple[Line, ...]
    total_nanousd: int
    unpriced: tuple[Unpriced, ...] = ()


class Tally:
    """Adds up the calls of a month as the terms want them."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._items: dict[tuple[str, str, str], Item] = {}

    def add(self, usage: Usage) -> None:
        """Count these calls, too."""
        key = (_about(self.terms, usage), usage.provider, usage.model)
        self._items.setdefault(key, Item()).add(usage)

    def bill(self, later: Sequence[Terms] = ()) -> Bill:
        """What they cost. `later` are the terms of later invoices, for what these leave without a price."""
        made = _Maker((self.terms, *later), self._items)
        lines = made.usage()
        lines += made.included(lines)
        lines += made.tiers(lines)
        lines += made.minimum(lines)
        total = sum((line.exact for line in lines), Fraction())
        return Bill(tuple(lines), round_nanousd(total, CENT_NANOUSD, self.terms.rounding.rule), made.unpriced())


class _Maker:
    """Makes the lines of one bill, each kind from those before it."""

    def __init__(self, terms: Sequence[Terms], items: Mapping[tuple[str, str, str], Item]) -> None:
        self._terms = terms[0]
        self._items = items
        self._sales = {key: sell(terms, key[2], key[1], item) for key, item in sorted(items.items())}
        #: By line: the part of it that models with tokens cost.
        self._of_tokens: dict[str, Fraction] = {}

    def _line(self, kind: str, about: str, exact: Fraction) -> Line:
        """A line with its amount: whole cents where each line is rounded, else what is nearest to show."""
        by_line = self._terms.rounding.each == "line"
        amount = round_nanousd(exact, CENT_NANOUSD if by_line else 1, self._terms.rounding.rule)
        return Line(kind, about, Fraction(amount) if by_line else exact, amount)

    def usage(self) -> list[Line]:
        with_tokens = {key[1:] for key, item in self._items.items() if item.tokens}
        by_line: dict[str, list[tuple[str, str, str]]] = {}
        for key in self._sales:
            by_line.setdefault(key[0], []).append(key)
        lines = []
        for about, keys in by_line.items():
            items = [self._items[key] for key in keys]
            exact = sum((self._sales[key].exact for key in keys), Fraction())
            line = self._line("usage", about, exact)
            line.counts = tuple(map(sum, zip(*(item.counts for item in items), strict=True)))
            line.cost_nanousd = sum(item.cost_nanousd for item in items)
            for item in items:
                line.units = {
                    unit: line.units.get(unit, 0) + item.units.get(unit, 0) for unit in {*line.units, *item.units}
                }
            if len(keys) == 1:
                line.parts = self._sales[keys[0]].parts
            eligible = sum((self._sales[key].exact for key in keys if key[1:] in with_tokens), Fraction())
            self._of_tokens[about] = line.exact * (eligible / exact if exact else 0)
            lines.append(line)
        return sorted(lines, key=lambda line: (-line.exact, line.about))

    def unpriced(self) -> tuple[Unpriced, ...]:
        """By model, whatever lines its calls stand on."""
        found: dict[tuple[str, str], Unpriced] = {}
        for key, sale in self._sales.items():
            if (one := sale.unpriced) is not None:
                before = found.get(key[1:], one._replace(calls=0, units={}))
                units = {
                    unit: before.units.get(unit, 0) + one.units.get(unit, 0) for unit in {**before.units, **one.units}
                }
                found[key[1:]] = one._replace(calls=before.calls + one.calls, units=units)
        return tuple(found.values())

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
