"""What tokens cost by the prices that stand in rows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from math import gcd
from typing import Any, Final, NamedTuple

from limiter.ledger.reconciling.results import Counts, Ours

#: Parts of a nano-USD in which rates are compared: prices have at most so many decimals.
_FINE: Final = 10**6


class Rates(NamedTuple):
    """What a token costs, in nano-USD."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal

    def parts(self, counts: Counts) -> dict[str, Decimal]:
        """What tokens cost, by the field of Rates."""
        plain = counts.input - counts.cache_read - counts.cache_write
        tokens = (plain, counts.output, counts.cache_read, counts.cache_write)
        return {name: rate * count for name, rate, count in zip(self._fields, self, tokens, strict=True)}

    def of(self, counts: Counts) -> Decimal:
        """What tokens cost together."""
        return sum(self.parts(counts).values(), Decimal(0))

    def __str__(self) -> str:
        """Write the rates as price lists do."""
        return f"{self.input / 1000:f} and {self.output / 1000:f} USD per million"


Prices = Mapping[int, Rates | None]  # by the id of the price's text


def rates_of(price: str) -> Rates | None:
    """The rates in a row's price; None where it has none, or they depend on more than tokens."""
    said: Mapping[str, Any] = json.loads(price) if price else {}
    if "input_per_million" not in said and "output_per_million" not in said:
        return None
    per = {name: Decimal(str(said.get(f"{name}_per_million") or 0)) * 1000 for name in ("input", "output")}
    read, write = (said.get(f"cache_{way}_per_million") for way in ("read", "write"))
    return Rates(
        per["input"],
        per["output"],
        per["input"] if read is None else Decimal(str(read)) * 1000,
        per["input"] if write is None else Decimal(str(write)) * 1000,
    )


def usual_rates(ours: Ours, prices: Prices) -> Rates | None:
    """What tokens cost in a cell: at the price of most of its calls."""
    known: dict[Rates, int] = {}
    for number, counts in ours.by_price.items():
        if rates := prices.get(number):
            known[rates] = known.get(rates, 0) + counts.calls
    return max(known, key=lambda rates: known[rates]) if known else None


def grain(rates: Iterable[Decimal]) -> Decimal:
    """What any whole numbers of tokens at these rates cost is a multiple of, in nano-USD; 0: there is no rate."""
    return Decimal(gcd(*(int(rate * _FINE) for rate in rates))) / _FINE
