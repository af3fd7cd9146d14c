"""A price sheet: exact prices per unit, by tier of the call's input tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from genai_prices.types import ModelPrice as QuotedPrices
from genai_prices.types import TieredPrices

from limiter.domain.money import NANOUSD_PER_USD
from limiter.pricing.units import REGISTRY, REQUESTS

#: How an override file names the price of a unit, and per how many units.
_LEDGER_NAMES: Final = {
    "input_tokens": ("input_per_million", 1_000_000),
    "output_tokens": ("output_per_million", 1_000_000),
    "cache_read_tokens": ("cache_read_per_million", 1_000_000),
    "cache_write_tokens": ("cache_write_per_million", 1_000_000),
    "output_reasoning_tokens": ("reasoning_per_million", 1_000_000),
    REQUESTS: ("per_request", 1),
}

#: More decimals than any price has.
_DECIMALS_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class PriceSheet:
    """What a model costs, in nano-USD per unit as exact fractions.

    A call with more input tokens than `starts[i]` pays, for all of its units, the prices at `i + 1`;
    every unit has `len(starts) + 1` prices. `requests` is the fee of one call.
    """

    starts: tuple[int, ...]
    prices: Mapping[str, tuple[Fraction, ...]]

    def as_decimals(self) -> dict[str, object]:
        """Write the prices in USD as decimals, ready for JSON, in the words of an override file.

        Prices of higher tiers stand under `above_<tokens>`.
        """
        written = self._tier_as_decimals(0)
        for tier, start in enumerate(self.starts, start=1):
            written[f"above_{start}"] = self._tier_as_decimals(tier)
        return written

    def _tier_as_decimals(self, tier: int) -> dict[str, object]:
        prices = {unit: prices[tier] / NANOUSD_PER_USD for unit, prices in self.prices.items()}
        written: dict[str, object] = {
            name: _decimal(prices.pop(unit) * scale) for unit, (name, scale) in _LEDGER_NAMES.items() if unit in prices
        }
        if prices:
            written["units"] = {unit: _decimal(prices[unit]) for unit in sorted(prices)}
        return written


def from_quoted(quoted: QuotedPrices) -> PriceSheet:
    """Read the prices of genai-prices, which are in USD per thousand, million or hour of a unit."""
    listed = {key: price for key, price in vars(quoted).items() if price is not None}
    tiered = [price for price in listed.values() if isinstance(price, TieredPrices)]
    starts = tuple(sorted({tier.start for price in tiered for tier in price.tiers}))
    prices: dict[str, tuple[Fraction, ...]] = {}
    for key, price in listed.items():
        unit = REGISTRY.unit_for_price_key(key)
        amounts = [price.base if isinstance(price, TieredPrices) else price] * (len(starts) + 1)
        if isinstance(price, TieredPrices):
            for tier in price.tiers:
                at = starts.index(tier.start) + 1
                amounts[at:] = [tier.price] * (len(amounts) - at)
        prices[unit.usage_key] = tuple(Fraction(amount) * NANOUSD_PER_USD / unit.per for amount in amounts)
    return PriceSheet(starts, prices)


def dearest(sheets: Sequence[PriceSheet]) -> PriceSheet:
    """Return a sheet that is nowhere cheaper than any of `sheets` and never gets cheaper with size."""
    starts = tuple(sorted({start for sheet in sheets for start in sheet.starts}))
    prices: dict[str, tuple[Fraction, ...]] = {}
    for unit in sorted({unit for sheet in sheets for unit in sheet.prices}):
        rising: list[Fraction] = [Fraction(0)]
        # The largest input of a tier is the next tier's start: it stands for the tier.
        for largest in (*starts, None):
            rising.append(max(rising[-1], *(_price(sheet, unit, largest) for sheet in sheets)))
        prices[unit] = tuple(rising[1:])
    return PriceSheet(starts, prices)


def _price(sheet: PriceSheet, unit: str, input_tokens: int | None) -> Fraction:
    """Price of `unit` in a call of that size; None is beyond every tier."""
    if unit not in sheet.prices:
        return Fraction(0)
    return sheet.prices[unit][-1 if input_tokens is None else bisect_left(sheet.starts, input_tokens)]


def _decimal(amount: Fraction) -> str:
    """Write `amount` exactly: as a decimal, or divided by 3600 where an hourly price has none."""
    for decimals in range(_DECIMALS_MAX):
        if 10**decimals % amount.denominator == 0:
            whole, part = divmod(amount.numerator * 10**decimals // amount.denominator, 10**decimals)
            return f"{whole}.{part:0{decimals}d}" if decimals else str(whole)
    return f"{_decimal(amount * 3600)}/3600"
