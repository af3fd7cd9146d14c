"""What a model costs and why, for people: every variant, when it changes, where it is from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from limiter.pricing.book import PriceBook
from limiter.pricing.matching import Match
from limiter.pricing.selection import Context, begun
from limiter.pricing.sheets import PriceSheet

#: So many coming changes are told; some prices change every day at some hours.
_CHANGES_MAX = 4


@dataclass(frozen=True, slots=True)
class Variant:
    """Prices on other terms, or from another instant (ms since the epoch) on; None: the model has none then."""

    prices: Mapping[str, Any] | None
    terms: Mapping[str, str]
    begins_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a call of a model on some terms costs at a time, in the words of a price file.

    `layer` is `file`, `genai-prices` or `built-in`. `added`: which of the prices other entries add, and those entries.
    `held_units` are prices that only holds take. `limits` has each limit with where it is from.
    """

    provider: str
    model: str
    price_version: str
    layer: str
    prices: Mapping[str, Any]
    added: Mapping[str, Mapping[str, object]]
    held_units: Mapping[str, str]
    limits: Mapping[str, tuple[int | None, str]]
    variants: tuple[Variant, ...]
    changes: tuple[Variant, ...]


def explain(
    book: PriceBook, *, provider: str, model: str, at_ms: int, context: Mapping[str, str]
) -> Explanation | None:
    """Explain the price of a model; None: it has none."""
    terms = tuple(sorted(context.items()))
    price = book.find(provider=provider, model=model, at_ms=at_ms, context=context)
    match = book.match(provider, model)
    charged = match.charged_at(at_ms, terms)
    if price is None or charged is None:
        return None
    held, estimated = match.held_sheet(at_ms, terms)
    only_held = {unit: held.prices[unit][:1] for unit in estimated if unit not in charged.sheet.prices}
    written: Any = PriceSheet((), only_held).as_decimals()
    return Explanation(
        provider=price.provider,
        model=price.model,
        price_version=price.price_version,
        layer=charged.layer,
        prices=charged.described(),
        added={unit: entry.described() for unit, entry in sorted(charged.added.items())},
        held_units=written.get("units", {}),
        limits=match.limits(charged.entry),
        variants=tuple(_variants(match, at_ms, terms)),
        changes=tuple(_changes(match, at_ms, terms)),
    )


def close_names(book: PriceBook, model: str) -> list[str]:
    """Return names of priced models that look like this one, as `provider/model`."""
    known: dict[str, str] = {}
    for provider, name in book.names():
        known.setdefault(name.lower(), f"{provider}/{name}" if provider else name)
    wanted = model.lower()
    found = get_close_matches(wanted, known, n=5, cutoff=0.6)
    if not found and "/" in wanted:
        found = get_close_matches(wanted.rsplit("/", 1)[-1], known, n=5, cutoff=0.6)
    return [known[name] for name in found]


def _variants(match: Match, at_ms: int, terms: Context) -> Iterator[Variant]:
    """What other terms would cost, as far as any entry names them."""
    asked: list[dict[str, str]] = [dict(entry.when) for entry in begun((*match.own, *match.built_in), at_ms)]
    if match.quoted is not None:
        asked += [dict(variant.when or {}) for variant in match.quoted.price_variants or ()]
    base = match.charged_at(at_ms, terms)
    told: list[Mapping[str, str]] = [dict(terms)]
    for when in asked:
        others = {**dict(terms), **when}
        if not when or others in told:
            continue
        told.append(others)
        charged = match.charged_at(at_ms, tuple(sorted(others.items())))
        if charged is not None and base is not None and charged.sheet != base.sheet:
            yield Variant(charged.sheet.as_decimals(), others)


def _changes(match: Match, at_ms: int, terms: Context) -> Iterator[Variant]:
    """When the price changes next."""
    last = match.charged_at(at_ms, terms)
    for number, switch in enumerate(sorted(switch for switch in match.switches(at_ms) if switch > at_ms)):
        charged = match.charged_at(switch, terms)
        if number < _CHANGES_MAX and (charged and charged.sheet) != (last and last.sheet):
            yield Variant(charged.sheet.as_decimals() if charged else None, dict(terms), switch)
        last = charged
