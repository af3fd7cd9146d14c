"""The compiled price of one model: integer arithmetic, exact, rounded once.

All prices of a model share one denominator, chosen so that each is a whole number of
nano-USD / denominator. A cost is then a sum of integer products and one division.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

from limiter.domain.calls import Usage
from limiter.domain.errors import InvalidArgument
from limiter.pricing.sheets import PriceSheet
from limiter.pricing.units import FIELDS, REGISTRY, REQUESTS, add_units, direction, is_part, specificity

#: Kinds of input that a caller does not announce: any input token may be read from or written to a cache.
_UNANNOUNCED_INPUT = ("input_tokens", "cache_read_tokens", "cache_write_tokens")


@dataclass(frozen=True, slots=True)
class _ChargeTable:
    """Prices of the units proper: what is left of a unit's count when its priced parts are taken off.

    `units` come parts first; `parts` are positions in it. `prices[tier]` is parallel to `units`.
    """

    starts: tuple[int, ...]
    units: tuple[str, ...]
    parts: tuple[tuple[int, ...], ...]
    prices: tuple[tuple[int, ...], ...]
    fees: tuple[int, ...]
    denominator: int

    @classmethod
    def compile(cls, sheet: PriceSheet) -> _ChargeTable:
        denominator = lcm(*(price.denominator for prices in sheet.prices.values() for price in prices))
        units = sorted(sheet.prices.keys() - {REQUESTS}, key=lambda unit: (-specificity(unit), unit))
        tiers = range(len(sheet.starts) + 1)
        nothing = (Fraction(0),) * len(tiers)
        return cls(
            starts=sheet.starts,
            units=tuple(units),
            parts=tuple(tuple(i for i, part in enumerate(units) if is_part(part, unit)) for unit in units),
            prices=tuple(tuple(int(sheet.prices[unit][tier] * denominator) for unit in units) for tier in tiers),
            fees=tuple(int(sheet.prices.get(REQUESTS, nothing)[tier] * denominator) for tier in tiers),
            denominator=denominator,
        )


@dataclass(frozen=True, slots=True)
class _HoldTable:
    """Upper bounds per tier; never falling from tier to tier."""

    starts: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    units: Mapping[str, tuple[int, ...]]
    fees: tuple[int, ...]
    denominator: int

    @classmethod
    def compile(cls, sheet: PriceSheet) -> _HoldTable:
        """`sheet` must not get cheaper with size (see :func:`limiter.pricing.sheets.dearest`)."""
        tiers = range(len(sheet.starts) + 1)
        nothing = (Fraction(0),) * len(tiers)

        def highest(names: Iterable[str]) -> tuple[Fraction, ...]:
            listed = [sheet.prices[name] for name in names if name in sheet.prices]
            return tuple(max(prices[tier] for prices in listed) for tier in tiers) if listed else nothing

        inputs = highest(_UNANNOUNCED_INPUT)
        # What the answer will consist of (reasoning, images, audio) is the model's choice.
        outputs = highest(unit for unit in sheet.prices if direction(unit) == "output")
        units: dict[str, tuple[Fraction, ...]] = {}
        for unit in sheet.prices.keys() - {REQUESTS, *FIELDS}:
            side = direction(unit)
            wholes = [whole for whole in sheet.prices if is_part(unit, whole)]
            paid = {"input": inputs, "output": outputs}.get(side) or highest(wholes)
            units[unit] = _surplus(sheet.prices[unit], paid)
        fees = sheet.prices.get(REQUESTS, nothing)
        every = (*inputs, *outputs, *fees, *(price for prices in units.values() for price in prices))
        denominator = lcm(*(price.denominator for price in every))

        def scaled(prices: Iterable[Fraction]) -> tuple[int, ...]:
            return tuple(int(price * denominator) for price in prices)

        return cls(
            starts=sheet.starts,
            inputs=scaled(inputs),
            outputs=scaled(outputs),
            units={unit: scaled(prices) for unit, prices in units.items()},
            fees=scaled(fees),
            denominator=denominator,
        )


def _surplus(prices: tuple[Fraction, ...], paid: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """What a part costs above what its whole pays for it already; never falling."""
    rising = [Fraction(0)]
    for price, already in zip(prices, paid, strict=True):
        rising.append(max(rising[-1], price - already))
    return tuple(rising[1:])


@dataclass(frozen=True, slots=True, eq=False)
class ModelPrice:
    """What calls of one model cost until `valid_until_ms` (None: until the price book changes).

    `model` is the id in the price book. `context_window` and `max_output_tokens` are None where the
    book does not know them. Made by :meth:`limiter.pricing.book.PriceBook.find`.
    """

    provider: str
    model: str
    price_version: str
    context_window: int | None
    max_output_tokens: int | None
    valid_until_ms: int | None
    _charges: _ChargeTable
    _holds: _HoldTable
    _priced: frozenset[str]
    _ledger: Mapping[str, object]
    _least_audio_seconds: int = 0

    def hold_nanousd(self, *, input_tokens: int, max_output_tokens: int, units: Mapping[str, int]) -> int:
        """Return the most that such a call can cost, in nano-USD, rounded up.

        No usage within the estimate is charged more: input is taken at the dearest of plain, cache-read
        and cache-write price, output at the dearest kind of output, both at the dearest tier up to this
        size, at prices from now to a day from now. Dearer kinds of *input* (input_audio_tokens,
        cache_write_1h_tokens, …) are in the bound if `units` announces them. A unit without a price adds nothing:
        ask :meth:`unpriced_units` first. Raises InvalidArgument for negative or contradictory counts.
        """
        if input_tokens < 0 or max_output_tokens < 0:
            field, count = ("input", input_tokens) if input_tokens < 0 else ("max_output", max_output_tokens)
            raise InvalidArgument(f"estimate.{field}_tokens", count, "counts are 0 or more")
        table = self._holds
        tier = bisect_left(table.starts, input_tokens) if table.starts else 0
        total = table.fees[tier] + table.inputs[tier] * input_tokens + table.outputs[tier] * max_output_tokens
        if units:
            counts = dict.fromkeys(_UNANNOUNCED_INPUT, input_tokens)
            counts["output_tokens"] = counts["output_reasoning_tokens"] = max_output_tokens
            add_units(counts, units, field="estimate.units")
            self._bill_least_audio(counts)
            for unit, prices in table.units.items():
                total += counts.get(unit, 0) * prices[tier]
        return -(-total // table.denominator)

    def charge_nanousd(self, usage: Usage) -> int:
        """Return what a call cost, in nano-USD, rounded half to even.

        Units without a price cost nothing here: ask :meth:`unpriced_units`. Raises InvalidArgument if
        priced parts exceed their whole (more cached tokens than input tokens), or a count is negative.
        """
        counts = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "output_reasoning_tokens": usage.reasoning_tokens,
        }
        if usage.units:
            add_units(counts, usage.units, field="usage.units")
            self._bill_least_audio(counts)
        table = self._charges
        tier = bisect_left(table.starts, usage.input_tokens) if table.starts else 0
        total = table.fees[tier]
        proper: list[int] = []
        for unit, parts, price in zip(table.units, table.parts, table.prices[tier], strict=True):
            count = counts.get(unit, 0)
            for part in parts:
                count -= proper[part]
            if count < 0:
                _refuse_parts(unit, counts, table)
            proper.append(count)
            total += count * price
        nanousd, rest = divmod(total, table.denominator)
        rest *= 2
        if rest > table.denominator or (rest == table.denominator and nanousd & 1):
            nanousd += 1
        return nanousd

    def unpriced_units(self, units: Mapping[str, int]) -> list[str]:
        """Return the units, of those with a count, that this model has no price for.

        A part of something priced is priced: input_audio_tokens cost what input_tokens cost where they
        have no price of their own. `input_tokens` and `output_tokens` may be asked for as well.
        """
        return [name for name, count in units.items() if count and name not in self._priced]

    def for_ledger(self) -> Mapping[str, object]:
        """Return the prices as decimal strings in USD, ready for JSON; the same object every time."""
        return self._ledger

    def _bill_least_audio(self, counts: dict[str, int]) -> None:
        """Some transcriptions are billed as if they had a least length."""
        if self._least_audio_seconds and counts.get("audio_seconds"):
            billed = max(counts["audio_seconds"], self._least_audio_seconds)
            counts["audio_seconds"] = counts["input_audio_seconds"] = billed


def priced_units(sheet: PriceSheet) -> frozenset[str]:
    """Return every unit that `sheet` prices itself or as a part of another."""
    parts = {part for part in REGISTRY.units if any(is_part(part, whole) for whole in sheet.prices)}
    return frozenset(sheet.prices.keys() | parts)


def compile_price(
    *,
    provider: str,
    model: str,
    price_version: str,
    charged: PriceSheet,
    held: PriceSheet,
    ledger: Mapping[str, object],
    estimated: frozenset[str] = frozenset(),
    context_window: int | None = None,
    max_output_tokens: int | None = None,
    valid_until_ms: int | None = None,
    least_audio_seconds: int = 0,
) -> ModelPrice:
    """Compile a price from the sheet to charge by and the (dearest) sheet to hold by.

    `estimated` are units that only holds have a price for: what they count is billed as something else.
    """
    return ModelPrice(
        provider=provider,
        model=model,
        price_version=price_version,
        context_window=context_window,
        max_output_tokens=max_output_tokens,
        valid_until_ms=valid_until_ms,
        _charges=_ChargeTable.compile(charged),
        _holds=_HoldTable.compile(held),
        _priced=priced_units(charged) | estimated,
        _ledger=ledger,
        _least_audio_seconds=least_audio_seconds,
    )


def _refuse_parts(unit: str, counts: Mapping[str, int], table: _ChargeTable) -> None:
    """Say which count cannot be, in the words of the contract."""
    count = counts.get(unit, 0)
    name = FIELDS.get(unit, f"units.{unit}")
    if count < 0:
        raise InvalidArgument(f"usage.{name}", count, "counts are 0 or more")
    parts = [table.units[i] for i in table.parts[table.units.index(unit)]]
    listed = ", ".join(f"{FIELDS.get(part, part)} {counts[part]}" for part in parts if counts.get(part))
    raise InvalidArgument(f"usage.{name}", count, f"it must include its parts ({listed})")
