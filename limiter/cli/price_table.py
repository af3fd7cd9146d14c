"""What a model costs, as `prices show` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from limiter.cli.output import facts, table, write
from limiter.pricing.explaining import Explanation, Variant

_LAYERS: Final = {
    "file": "the price file",
    "genai-prices": "genai-prices",
    "built-in": "the prices that Limiter brings",
}


def plain(found: Explanation, at_ms: int, terms: Mapping[str, str]) -> dict[str, Any]:
    """Return what a model costs for programs."""
    limits: dict[str, Any] = {}
    for name, (value, source) in found.limits.items():
        limits |= {name: value, f"{name}_source": source or None}
    return {
        "provider": found.provider,
        "model": found.model,
        "at": _instant(at_ms),
        "context": dict(terms),
        "priced_by": found.layer,
        "price_version": found.price_version,
        "prices": found.prices,
        "added": found.added,
        "held_units": found.held_units,
        **limits,
        "variants": [{"context": one.terms, "prices": one.prices} for one in found.variants],
        "changes": [{"at": _instant(one.begins_ms or 0), "prices": one.prices} for one in found.changes],
    }


def show_table(found: Explanation, terms: Mapping[str, str]) -> None:
    """Print what a model costs for people."""
    limits = {
        name: f"{value} tokens, by {_LAYERS.get(source, source)}" if value is not None else "not known"
        for name, (value, source) in found.limits.items()
    }
    entry = found.prices
    write(
        facts(
            [
                ("model", f"{found.provider}/{found.model}" if found.provider else found.model),
                ("terms", _told(terms)),
                ("priced by", _LAYERS[found.layer]),
                ("price version", found.price_version),
                ("entry", _entry(entry)),
                ("source", str(entry.get("source", ""))),
                ("context window", limits["context_window"]),
                ("maximum output", limits["max_output_tokens"]),
            ]
        )
    )
    rows = list(_rows(entry, "", "", added=found.added))
    rows += [["", "", f"{unit} (held only)", price, "each"] for unit, price in found.held_units.items()]
    for variant in found.variants:
        rows += _rows(variant.prices or {}, _told({k: v for k, v in variant.terms.items() if terms.get(k) != v}), "")
    for change in found.changes:
        rows += _change(change)
    write("", table(("terms", "input above", "unit", "USD>", "per"), rows))


def _entry(prices: Mapping[str, Any]) -> str:
    if "match" not in prices:
        return ""
    told = _told(prices.get("when", {}))
    if "dearest_of" in prices:
        told = f"the dearest, as the call leaves open its {', '.join(prices['dearest_of'])}"
    return f"match {prices['match']}" + (f" ({told})" if told else "")


def _change(change: Variant) -> Iterator[list[str]]:
    since = f"from {_instant(change.begins_ms or 0)}"
    if change.prices is None:
        yield [since, "", "no price", "", ""]
    else:
        yield from _rows(change.prices, since, "")


def _rows(
    prices: Mapping[str, Any], terms: str, above: str, *, added: Mapping[str, Mapping[str, object]] | None = None
) -> Iterator[list[str]]:
    for name, value in prices.items():
        if name.startswith("above_"):
            yield from _rows(value, terms, name.removeprefix("above_"))
        elif name == "units":
            by = {unit: f" (added by {entry['match']})" for unit, entry in (added or {}).items()}
            yield from ([terms, above, unit + by.get(unit, ""), price, "each"] for unit, price in value.items())
        elif name == "per_request":
            yield [terms, above, "request", value, "each"]
        elif name.endswith("_per_million"):
            unit = name.removesuffix("_per_million")
            yield [terms, above, f"{unit} tokens", value, "million"]


def _told(terms: Mapping[str, str]) -> str:
    return ", ".join(f"{term}={value}" for term, value in terms.items())


def _instant(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
