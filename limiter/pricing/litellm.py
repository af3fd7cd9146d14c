"""Reads LiteLLM's list of models (`model_prices_and_context_window.json`) into entries of our price files.

Numbers are read digit by digit. What our files cannot say is told in `Imported.left_out`, never dropped in silence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final

from limiter.domain.calls import MODEL_MAX
from limiter.domain.errors import SHOWN_VALUE_MAX
from limiter.pricing.exact import Literal, read_json, unreadable
from limiter.pricing.limits import Limits, count, with_families
from limiter.pricing.litellm_entries import entries_of
from limiter.pricing.litellm_fields import is_price, read_field
from limiter.pricing.litellm_listed import Listed, Rates
from limiter.pricing.litellm_names import Subject, subjects
from limiter.pricing.overrides import PricesInvalid
from limiter.pricing.spellings import bare

#: Entries of the file that are about no model.
_NO_MODELS: Final = frozenset({"sample_spec", "fallback_generalizations"})

#: Modes whose "output" is no text that a model writes: what is told of it there is no limit.
_NO_OUTPUT: Final = frozenset({"embedding", "rerank", "moderation", "search", "ocr", "guardrail", "vector_store"})

_SEARCH_SIZES: Final = {
    "search_context_size_low": "low",
    "search_context_size_medium": "medium",
    "search_context_size_high": "high",
}


@dataclass(slots=True)
class Imported:
    """Entries for a price file, as they are written there, and what could not be said."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def read_list(file: Path, *, origin: str) -> dict[str, Listed]:
    """Read LiteLLM's list; `origin` says of which release and day it is, and is added to the source of each model.

    Raises PricesInvalid with every mistake and where it is: for a file that cannot be read, that is no JSON object of
    objects, and for prices that are no numbers of 0 or more.
    """
    try:
        document = read_json(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise PricesInvalid(file, [unreadable(error)]) from None
    if not isinstance(document, dict):
        raise PricesInvalid(file, ["give LiteLLM's list of models: a JSON object with an object for each model"])
    mistakes: list[str] = []
    found: dict[str, Listed] = {}
    for name, entry in document.items():
        provider = "" if name in _NO_MODELS else _provider(name, entry, mistakes)
        for number, about in enumerate(subjects(name, provider) if provider else ()):
            found[name + " " * number] = _read(name, entry, about, origin, mistakes)
    if not found and not mistakes:
        mistakes.append("it lists no model: give LiteLLM's model_prices_and_context_window.json")
    if mistakes:
        raise PricesInvalid(file, mistakes)
    return found


def import_prices(listed: Mapping[str, Listed]) -> Imported:
    """Make the entries of a price file."""
    made = Imported()
    groups: dict[tuple[str, str], list[Listed]] = {}
    for one in listed.values():
        made.left_out += [f"{one.name}: {reason}" for reason in one.left_out]
        if one.about.obstacle:
            made.left_out.append(f"{one.name}: {one.about.obstacle}")
        elif not one.rates:
            continue  # it has no price there
        elif not any(price for prices in one.rates.values() for price in prices.values()):
            made.left_out.append(f"{one.name}: every price is 0; name the model free, or write its price")
        else:
            groups.setdefault((one.about.provider, one.about.model.lower()), []).append(one)
    for _, group in sorted(groups.items()):
        entries, left_out = entries_of(group)
        made.entries += entries
        made.left_out += left_out
    return made


def import_limits(listed: Mapping[str, Listed]) -> dict[str, dict[str, list[int | None]]]:
    """Return the limits by provider and bare name, the larger where several entries have one name."""
    found: dict[str, dict[str, Limits]] = {}
    for one in listed.values():
        name = bare(one.about.model)
        if name and one.limits != Limits():
            names = found.setdefault(one.about.provider, {})
            names[name] = names.get(name, Limits()).or_larger(one.limits)
    return {
        provider: {name: list(limits) for name, limits in sorted(with_families(names).items())}
        for provider, names in sorted(found.items())
    }


def _provider(name: str, entry: object, mistakes: list[str]) -> str:
    """Return LiteLLM's name of an entry's provider; "": the entry is about none, or is not valid."""
    provider = entry.get("litellm_provider", "") if isinstance(entry, dict) else None
    if not isinstance(provider, str) or isinstance(provider, Literal):
        mistakes.append(f"{name}: write an object with litellm_provider, a text")
        return ""
    if len(name) > MODEL_MAX or not name.isprintable() or not provider.isprintable():
        mistakes.append(f"{_shown(name)}: write names of at most {MODEL_MAX} characters, without control characters")
        return ""
    return provider


def _read(name: str, entry: Mapping[str, object], about: Subject, origin: str, mistakes: list[str]) -> Listed:
    rates: Rates = {}
    left_out: list[str] = []
    for key, value in entry.items():
        if key == "search_context_cost_per_query":
            _add_searches(f"{name}.{key}", value, rates, mistakes)
        elif key == "tiered_pricing":
            left_out += _add_tiers(f"{name}.{key}", value, rates, mistakes)
        elif known := read_field(key):
            price = _price(f"{name}.{key}", value, mistakes)
            if price is not None:
                rates.setdefault((known.term, known.above), {})[known.unit] = price
        elif is_price(key) and value:
            left_out.append(f"{key}: {_shown(value)}")
    mode = str(entry.get("mode") or "")
    longest = None if mode in _NO_OUTPUT else _tokens(entry.get("max_output_tokens"))
    source = entry.get("source")
    return Listed(
        name=name,
        mode=mode,
        about=about,
        rates=rates,
        limits=Limits(_tokens(entry.get("max_input_tokens")), longest),
        source=f"{source} ({origin})" if isinstance(source, str) and source.isprintable() else origin,
        left_out=tuple(left_out),
    )


def _add_searches(path: str, value: object, rates: Rates, mistakes: list[str]) -> None:
    """Web searches, which may cost more the more of the web they bring: `medium` is what is brought unasked."""
    prices = {
        _SEARCH_SIZES[size]: price
        for size, told in (value if isinstance(value, dict) else {}).items()
        if size in _SEARCH_SIZES and (price := _price(f"{path}.{size}", told, mistakes)) is not None
    }
    if not prices:
        return
    rates.setdefault((None, 0), {})["web_searches"] = prices.get("medium", max(prices.values()))
    if len(set(prices.values())) > 1:
        for size, price in prices.items():
            rates.setdefault((("search_context_size", size), 0), {})["web_searches"] = price


def _add_tiers(path: str, value: object, rates: Rates, mistakes: list[str]) -> list[str]:
    """Tiers by the input's size, each with all of its prices; the whole call is billed at one of them.

    Returns what cannot be said: tiers by something else.
    """
    for index, tier in enumerate(value if isinstance(value, list) else ()):
        where = f"{path}[{index}]"
        if not isinstance(tier, dict) or "range" not in tier:
            return [f"tiered_pricing: {_shown(tier)}"]
        bounds = tier["range"]
        start = _price(f"{where}.range[0]", bounds[0], mistakes) if isinstance(bounds, list) and bounds else None
        if start is None or start != int(start):
            mistakes.append(f"{where}.range: write the least and the most tokens of the tier")
            continue
        for key, told in tier.items():
            if known := read_field(key):
                price = _price(f"{where}.{key}", told, mistakes)
                if price is not None:
                    rates.setdefault((known.term, int(start)), {})[known.unit] = price
    return []


def _price(path: str, value: object, mistakes: list[str]) -> Decimal | None:
    if value is None:
        return None
    try:
        price = Decimal(value) if isinstance(value, Literal) and len(value) <= 40 else None
    except InvalidOperation:
        price = None
    if price is None or not price.is_finite() or price < 0 or price > 10**9 or price.adjusted() < -30:
        if price is not None and price == 0:
            return Decimal(0)
        mistakes.append(f"{path}: {_shown(value)} is not valid; write a number of USD, 0 or more")
        return None
    return price


def _tokens(value: object) -> int | None:
    return count(float(value)) if isinstance(value, Literal) else None


def _shown(value: object) -> str:
    return json.dumps(value)[:SHOWN_VALUE_MAX]
