"""Prices that LiteLLM lists for one model → entries of our price files, the base first and its variants after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Any, Final

from limiter.pricing.limits import Limits
from limiter.pricing.litellm_listed import Listed, Rates
from limiter.pricing.litellm_names import as_pattern
from limiter.pricing.units import REQUESTS, direction

_FIELDS: Final = {
    "input_tokens": "input_per_million",
    "output_tokens": "output_per_million",
    "cache_read_tokens": "cache_read_per_million",
    "cache_write_tokens": "cache_write_per_million",
    "output_reasoning_tokens": "reasoning_per_million",
}

#: What a call makes or hears, and may be billed for in tokens.
_OUTPUTS: Final = frozenset({"images", "audio_seconds", "video_seconds"})
#: What is embedded beside text, and is not billed in tokens then.
_EMBEDDED: Final = frozenset({"input_images", "audio_seconds", "input_video_seconds"})
_TEXT: Final = frozenset({"embedding", "chat", "completion", "responses"})

_DECIMALS_MAX: Final = 18
_SOURCE_MAX: Final = 512


def entries_of(group: Sequence[Listed]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the entries about one model of one provider, and what could not be said.

    Where LiteLLM lists a model twice on the same terms (for the Gemini API and for Vertex AI, say), the first counts.
    """
    left_out: list[str] = []
    made: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    chosen: dict[tuple[tuple[str, str], ...], Listed] = {}
    group = sorted(group, key=lambda one: (len(one.about.when), not one.name.startswith("gemini/"), one.name))
    by_tokens = any(_billed_by_tokens(one.rates) for one in group if not one.about.when)
    for one in group:
        terms = tuple(sorted(one.about.when.items()))
        if terms in chosen:
            if chosen[terms].rates != one.rates:
                left_out.append(f"{one.name}: other prices than {chosen[terms].name}, which was taken")
            continue
        chosen[terms] = one
        billed, held, reasons = _sorted_out(one, only_held=by_tokens and bool(terms))
        reasons += _without_base(billed)
        left_out += [f"{one.name}: {reason}" for reason in reasons]
        for extra, tiers in _variants(billed):
            when = {**one.about.when, **extra}
            made.setdefault(tuple(sorted(when.items())), _entry(one, when, tiers, limits=not when))
        for extra, tiers in _variants(held):
            when = {**one.about.when, **extra}
            entry = made.setdefault(tuple(sorted(when.items())), _entry(one, when, {}, limits=False))
            entry["held_units"] = _units(tiers[0])
    if () not in made and (usual := made.get((("quality", "standard"), ("size", "1024x1024")))):
        made[()] = {name: value for name, value in usual.items() if name != "when"}
    ordered = [entry for _, entry in sorted(made.items(), key=lambda pair: len(pair[0]))]
    exact = [entry for entry in ordered if not _inexact(entry)]
    left_out += [f"{group[0].name}: a price of more than 18 decimals" for entry in ordered if _inexact(entry)]
    return exact, left_out


def _billed_by_tokens(rates: Rates) -> bool:
    return any(price and direction(unit) for prices in rates.values() for unit, price in prices.items())


def _sorted_out(one: Listed, *, only_held: bool) -> tuple[Rates, Rates, list[str]]:
    """Return the prices that calls are billed by, those that only holds take, and what was left out.

    LiteLLM gives some prices twice: per token, and per picture or second that comes to about the same. Both would be
    charged twice. The tokens are what the provider bills; a price per picture is kept for holds.
    """
    by_tokens = _billed_by_tokens(one.rates) or only_held
    billed: Rates = {}
    held: Rates = {}
    left_out: list[str] = []
    for key, prices in one.rates.items():
        for listed, listed_price in prices.items():
            unit, price = _unit(one, listed, prices, listed_price)
            if unit == "":
                if price:
                    left_out.append(f"{listed} {listed_price:f}: a unit that calls do not tell")
            elif direction(unit) or not by_tokens or unit in {"web_searches", "map_searches", REQUESTS}:
                billed.setdefault(key, {})[unit] = max(price, billed.get(key, {}).get(unit, price))
            elif unit in _OUTPUTS and key[1] == 0 and one.mode not in _TEXT:
                held.setdefault(key, {})[unit] = max(price, held.get(key, {}).get(unit, price))
            elif one.mode == "embedding" and unit in _EMBEDDED:
                billed.setdefault(key, {})[unit] = price
            elif price:
                left_out.append(f"{unit} {price:f}: the same is billed by tokens")
    return billed, held, left_out


def _without_base(rates: Rates) -> list[str]:
    """Take out the prices of higher tiers of what has none in the lowest, and return what they were."""
    base = {unit for (_, start), prices in rates.items() if start == 0 for unit in prices}
    return sorted(
        f"{unit} {prices.pop(unit):f} above {start} tokens: it has no price below"
        for (_, start), prices in rates.items()
        for unit in prices.keys() - base
    )


def _unit(one: Listed, unit: str, prices: Mapping[str, Decimal], price: Decimal) -> tuple[str, Decimal]:
    """Return the unit that calls count, and its price; "": none."""
    if unit == "queries":
        return ("rerank_searches" if one.mode == "rerank" else REQUESTS), price
    if unit == "input_images" and one.mode in {"image_generation", "image_edit"} and "images" not in prices:
        return "images", price
    if unit in {"input_pixels", "output_pixels"}:
        return _of_pixels(one, unit, prices, price)
    if unit in {"input_seconds", "output_seconds"}:
        if one.mode == "video_generation":
            return "video_seconds", price
        return ("audio_seconds" if one.mode.startswith("audio") or one.mode == "realtime" else ""), price
    return unit, price


def _of_pixels(one: Listed, unit: str, prices: Mapping[str, Decimal], price: Decimal) -> tuple[str, Decimal]:
    if one.about.pixels is None:
        return ("input_pixels" if unit == "input_pixels" else ""), price
    if "input_images" in prices:
        return "", Decimal(0)  # the same, less exactly
    return "images", _per_picture(price, one.about.pixels)


def _per_picture(per_pixel: Decimal, pixels: int) -> Decimal:
    """Return the price of a picture: the shortest number that gives LiteLLM's price per pixel, which is cut off."""
    last_digit = Decimal(1).scaleb(int(per_pixel.as_tuple().exponent))
    least, most = (per_pixel - last_digit) * pixels, (per_pixel + last_digit) * pixels
    for decimals in range(_DECIMALS_MAX):
        rounded = (per_pixel * pixels).quantize(Decimal(1).scaleb(-decimals))
        if least <= rounded <= most:
            return rounded
    return per_pixel * pixels


def _variants(rates: Rates) -> list[tuple[dict[str, str], dict[int, dict[str, Decimal]]]]:
    """Return every combination of terms with its prices by tier; what a term does not change is as without it."""
    if not rates:
        return []
    names: dict[str, list[tuple[str, str]]] = {}
    for term, _ in rates:
        # A batch has no tier of service.
        if term is not None and term not in (
            among := names.setdefault(term[0].replace("processing", "service_tier"), [])
        ):
            among.append(term)
    found = []
    for combination in product(*([None, *terms] for terms in names.values())):
        chosen = [term for term in combination if term is not None]
        starts = sorted({start for term, start in rates if term is None or term in chosen} | {0})
        tiers = {start: _at(rates, chosen, start) for start in starts}
        if tiers[0]:
            found.append((dict(chosen), tiers))
    return found


def _at(rates: Rates, chosen: Iterable[tuple[str, str]], start: int) -> dict[str, Decimal]:
    """Return the prices at one tier: of lower ones what it does not change, of the terms what they change."""
    prices: dict[str, Decimal] = {}
    # The standard price of a higher tier is rather taken than the special one of a lower: it is no cheaper.
    for below in sorted({above for _, above in rates if above <= start}):
        for term in (None, *chosen):
            prices |= rates.get((term, below), {})
    return prices


def _entry(
    one: Listed,
    when: Mapping[str, str],
    tiers: Mapping[int, Mapping[str, Decimal]],
    *,
    limits: bool,
) -> dict[str, Any]:
    entry: dict[str, Any] = {"provider": one.about.provider, "match": as_pattern(one.about.model)}
    if when:
        entry["when"] = dict(when)
    for start, prices in sorted(tiers.items()):
        written = _written(prices)
        if start == 0:
            entry |= written
        elif changed := {name: value for name, value in written.items() if entry.get(name) != value}:
            entry[f"above_{start}"] = changed
    if limits:
        told = zip(Limits._fields, one.limits, strict=True)
        entry |= {name: value for name, value in told if value is not None}
    entry["source"] = one.source[:_SOURCE_MAX]
    return entry


def _written(prices: Mapping[str, Decimal]) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for unit, name in _FIELDS.items():
        if unit in prices:
            written[name] = _text(prices[unit] * 1_000_000)
    if REQUESTS in prices:
        written["per_request"] = _text(prices[REQUESTS])
    units = _units({unit: price for unit, price in prices.items() if unit not in _FIELDS and unit != REQUESTS})
    return written | ({"units": units} if units else {})


def _units(prices: Mapping[str, Decimal]) -> dict[str, str]:
    return {unit: _text(price) for unit, price in sorted(prices.items())}


def _text(price: Decimal) -> str:
    """Write a price with every digit, and without an exponent."""
    text = f"{price:f}"
    return text.rstrip("0").rstrip(".") or "0" if "." in text else text


def _inexact(value: object) -> bool:
    """Whether a price has more decimals than our files may have."""
    if isinstance(value, dict):
        return any(_inexact(inner) for name, inner in value.items() if name not in ("source", "match", "when"))
    return isinstance(value, str) and len(value.partition(".")[2]) > _DECIMALS_MAX
