"""Compares two lists of prices, unit by unit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import translate
from fractions import Fraction
from typing import Any, NamedTuple

from limiter.pricing.book import PriceBook
from limiter.pricing.overrides import Override
from limiter.pricing.selection import is_name
from limiter.pricing.sheets import PriceSheet


class Subject(NamedTuple):
    """What a price is for; "": any provider, any terms, always."""

    provider: str
    model: str
    terms: str
    begins: str

    def __str__(self) -> str:
        name = f"{self.provider}/{self.model}" if self.provider else self.model
        return name + (f" ({self.terms})" if self.terms else "") + (f" from {self.begins}" if self.begins else "")


class Difference(NamedTuple):
    """One price that differs; None: it is not in that list."""

    subject: Subject
    unit: str
    old: str | None
    new: str | None

    @property
    def percent(self) -> str:
        """By how much it rises or falls; "": that cannot be said."""
        if self.old is None or self.new is None or not _number(self.old):
            return ""
        change = (_number(self.new) - _number(self.old)) / _number(self.old) * 100
        return f"{float(change):+.1f} %"


Prices = Mapping[Subject, Mapping[str, str]]


def listed(entries: Sequence[Override]) -> Prices:
    """Return the prices of a file's entries."""
    found: dict[Subject, dict[str, str]] = {}
    for entry in entries:
        terms = ", ".join(f"{term}={value}" for term, value in sorted(entry.when.items()))
        begins = entry.begins.isoformat() if entry.begins else ""
        subject = Subject((entry.provider or "").lower(), entry.match.lower(), terms, begins)
        found.setdefault(subject, {}).update(_flat(entry))
    return found


def built_in(book: PriceBook, about: Sequence[Override], *, at_ms: int) -> tuple[Sequence[Override], Prices]:
    """Return what the built-in prices have for the models that `about` names, and `about` with its globs expanded.

    A glob stands for each built-in model of its provider that it matches; one that matches none stays as it is.
    """
    expanded = [each for entry in about for each in _expanded(entry, book)]
    found: dict[Subject, dict[str, str]] = {}
    for entry, subject in zip(expanded, map(_subject, expanded), strict=True):
        match = book.match((entry.provider or "").lower(), entry.match)
        charged = match.charged_at(at_ms, tuple(sorted(entry.when.items())))
        if charged is not None and (entry.prices or entry.adds):
            sheet = charged.sheet
            if entry.adds:
                sheet = PriceSheet((), {unit: sheet.prices[unit][:1] for unit in entry.units if unit in sheet.prices})
            prices = _flat_decimals(sheet.as_decimals())
            limits = match.limits(charged.entry)
            stated = (name for name in ("context_window", "max_output_tokens") if getattr(entry, name) is not None)
            prices |= {name: str(limits[name][0]) for name in stated if limits[name][0] is not None}
            found.setdefault(subject, {}).update(prices)
    return expanded, found


def differences(old: Prices, new: Prices) -> Iterator[Difference]:
    """Yield every price that differs, in the order of the models' names."""
    for subject in sorted({*old, *new}):
        before, after = old.get(subject, {}), new.get(subject, {})
        for unit in {**before, **after}:
            pair = before.get(unit), after.get(unit)
            if pair[0] is None or pair[1] is None or _number(pair[0]) != _number(pair[1]):
                yield Difference(subject, unit, *pair)


def _subject(entry: Override) -> Subject:
    return next(iter(listed([entry])))


def _expanded(entry: Override, book: PriceBook) -> list[Override]:
    if is_name(entry.match):
        return [entry]
    pattern = re.compile(translate(entry.match.lower()))
    provider = entry.provider and entry.provider.lower()
    names = sorted({(at, name) for at, name in book.names() if provider in (None, at) and pattern.match(name.lower())})
    return [entry.model_copy(update={"provider": at, "match": name}) for at, name in names] or [entry]


def _flat(entry: Override) -> dict[str, str]:
    prices = _flat_decimals(entry.sheet().as_decimals()) if entry.prices or entry.adds else {}
    held = _flat_decimals(entry.held_sheet().as_decimals())
    prices |= {f"held_{unit}": price for unit, price in held.items()}
    limits = {"context_window": entry.context_window, "max_output_tokens": entry.max_output_tokens}
    return prices | {name: str(value) for name, value in limits.items() if value is not None}


def _flat_decimals(written: Mapping[str, Any], path: str = "") -> dict[str, str]:
    """Write nested prices as `above_200000.units.images`."""
    found: dict[str, str] = {}
    for name, value in written.items():
        if isinstance(value, Mapping):
            found |= _flat_decimals(value, f"{path}{name}.")
        else:
            found[f"{path}{name}"] = value
    return found


def _number(text: str) -> Fraction:
    whole, _, divisor = text.partition("/")
    return Fraction(whole) / (int(divisor) if divisor else 1)
