"""How much a model takes and writes at most: context windows and longest outputs, from `data/limits.json`.

The file holds facts only, by provider and by bare name (:mod:`limiter.pricing.spellings`): the longest input and the
longest output in tokens, null where unknown. It is made by `limiter prices import --limits`.

A limit that is too low would let a call pass that costs more than its hold. So wherever several answers are possible
the largest counts: of several entries with one bare name; of all dates of a model, where this date is not known; of
the maker and of who lends its model; of all providers, where this one does not tell. A name that is known only in part
(`gpt-5-something`) is not known.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from limiter.domain.calls import COUNT_MAX
from limiter.pricing.spellings import bare, undated

DATA: Final = Path(__file__).parent / "data" / "limits.json"


#: Who makes the models that others lend.
_MAKERS: Final = ("anthropic", "cohere", "deepseek", "google", "mistral", "openai", "x-ai")


class Limits(NamedTuple):
    """The most tokens that a model takes in, and the most that it writes; None: not known."""

    context_window: int | None = None
    max_output_tokens: int | None = None

    def or_larger(self, other: Limits) -> Limits:
        """Return the larger of each."""
        return Limits(*(_larger(mine, yours) for mine, yours in zip(self, other, strict=True)))

    def or_else(self, other: Limits) -> Limits:
        """Return these, and the other's where they are not known."""
        return Limits(*(yours if mine is None else mine for mine, yours in zip(self, other, strict=True)))


def _larger(mine: int | None, yours: int | None) -> int | None:
    return max((value for value in (mine, yours) if value is not None), default=None)


class LimitsTable:
    """Limits by provider and bare name."""

    def __init__(self, models: Mapping[str, Mapping[str, Iterable[int | None]]], *, source: str) -> None:
        self.source = source
        self._models = models

    def find(self, *, provider: str, model: str) -> Limits:
        """Return what is known of a model: at this provider, and what that leaves open, anywhere."""
        name = bare(model)
        family = undated(name)
        names = (name, any_date(family), family) if family else (name,)
        found = self._first(names, self._models.get(provider, {}))
        if provider not in _MAKERS:  # a lender's list may be older than the model's present limits
            for maker in _MAKERS:
                found = found.or_larger(self._first(names, self._models.get(maker, {})))
        if None in found:
            everywhere = Limits()
            for models in self._models.values():
                everywhere = everywhere.or_larger(self._first(names, models))
            found = found.or_else(everywhere)
        return found

    @staticmethod
    def _first(names: Iterable[str], models: Mapping[str, Iterable[int | None]]) -> Limits:
        return next((Limits(*models[name]) for name in names if name in models), Limits())


def any_date(family: str) -> str:
    """Return the name under which the largest limits of all dates of a model stand."""
    return f"{family}-*"


def with_families(models: Mapping[str, Limits]) -> dict[str, Limits]:
    """Add to the limits of one provider's models the largest of all dates of each."""
    families: dict[str, Limits] = {}
    for name, limits in models.items():
        if family := undated(name):
            known = families.get(family) or models.get(family) or Limits()
            families[family] = known.or_larger(limits)
    return {**models, **{any_date(family): limits for family, limits in families.items()}}


@lru_cache(1)
def built_in() -> LimitsTable:
    """Read the limits that come with this package, once."""
    document: dict[str, Any] = json.loads(DATA.read_bytes())
    return LimitsTable(document["models"], source=f"{document['source']}, {document['date']}")


def count(value: object) -> int | None:
    """Return a number of tokens as it stands in somebody's data; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if 1 <= value <= COUNT_MAX and value == int(value) else None
