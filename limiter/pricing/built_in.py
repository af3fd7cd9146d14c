"""Prices that come with this package for what genai-prices lacks: images, speech, video, pages, further models, tools.

`data/listed.json` is a price file like any other, made by `limiter prices import --unpriced`. It stands under
genai-prices and under a file of one's own. Entries are read when a model is asked for that needs them.
`data/tools.json` is a price file, too, written by hand: it adds what tools on the providers' side cost to the prices of
their models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from limiter.pricing.exact import read_json
from limiter.pricing.limits import Limits
from limiter.pricing.overrides import Override, PricesInvalid, read_overrides
from limiter.pricing.selection import EntryIndex
from limiter.pricing.spellings import spellings

DATA: Final = Path(__file__).parent / "data" / "listed.json"
TOOLS: Final = DATA.with_name("tools.json")

_DATE: Final = re.compile(rb'"date": "([0-9-]{10})"')


#: Those who lend the models of others: where no provider is told, only the maker's price counts.
_LENDERS: Final = frozenset(
    {
        "aws",
        "azure",
        "baseten",
        "crusoe",
        "databricks",
        "deepinfra",
        "digitalocean",
        "fireworks",
        "friendli",
        "hyperbolic",
        "lambda",
        "nebius",
        "novita",
        "openrouter",
        "ovhcloud",
        "perplexity",
        "runwayml",
        "sambanova",
        "scaleway",
        "snowflake",
        "together",
        "vercel",
    }
)


class BuiltInPrices:
    """The entries of `data/listed.json`, found by provider and name, and what those of `data/tools.json` add."""

    def __init__(self, file: Path = DATA, tools: Path = TOOLS) -> None:
        self._file = file
        self._tools_file = tools

    @cached_property
    def _content(self) -> bytes:
        return self._file.read_bytes()

    @cached_property
    def date(self) -> str:
        """The day on which the file was made."""
        return _date(self._file, self._content)

    @cached_property
    def version(self) -> str:
        """What names these prices in ledger rows."""
        return f"litellm {self.date}+tools {_date(self._tools_file, self._tools_file.read_bytes())}"

    @cached_property
    def _tools(self) -> EntryIndex:
        return EntryIndex(read_overrides(self._tools_file)[0])

    @cached_property
    def _by_name(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """The raw entries by name, then by provider; makers come before those who lend their models."""
        found: dict[str, dict[str, list[dict[str, Any]]]] = {}
        entries = read_json(self._content)["models"]
        for entry in sorted(entries, key=lambda entry: entry["provider"] in _LENDERS):
            found.setdefault(entry["match"].lower(), {}).setdefault(entry["provider"], []).append(entry)
        return found

    def about(self, model: str, *, providers: frozenset[str]) -> tuple[str, tuple[Override, ...]]:
        """Return the provider, one of `providers`, that has the model, and its entries."""
        for name in spellings(model):
            for provider, entries in self._by_name.get(name.lower(), {}).items():
                if provider in providers:
                    return provider, tuple(map(self._read, entries))
        return "", ()

    def warm(self) -> None:
        """Read the files now."""
        next(self.names(), None)
        self.added(frozenset({""}), ("",))

    def maker(self, model: str) -> str:
        """Return who makes the model of this very name; "": nobody here does."""
        return next((at for at in self._by_name.get(model.lower(), ()) if at not in _LENDERS), "")

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield the provider and the name of every model."""
        return ((provider, name) for name, places in self._by_name.items() for provider in places)

    def added(self, providers: frozenset[str], names: Iterable[str]) -> tuple[Override, ...]:
        """Return what is added to the prices of a model of `providers` by one of these names, in the file's order."""
        found = {id(entry) for name in names for entry in self._tools.about(name, providers=providers)}
        return tuple(entry for entry in self._tools.entries if id(entry) in found) if providers else ()

    def all(self) -> tuple[Override, ...]:
        """Return every entry."""
        return tuple(self._read(entry) for entry in read_json(self._content)["models"])

    def _read(self, entry: dict[str, Any]) -> Override:
        try:
            return Override.model_validate(entry)
        except ValidationError as error:
            raise PricesInvalid(self._file, [f"{entry.get('match')}: {error.errors()[0]['msg']}"]) from None


def _date(file: Path, content: bytes) -> str:
    found = _DATE.search(content, 0, 1024)
    if found is None:
        raise PricesInvalid(file, ["date: is missing"])
    return found[1].decode()


def only_unpriced(
    entries: Iterable[Mapping[str, Any]], *, is_priced: Callable[[str, str], bool]
) -> Iterator[dict[str, Any]]:
    """Yield, of the entries of a price file as they are written, those of models that have no price yet.

    Of a model that has one only what holds take besides is kept. `is_priced` is asked for a provider and a model.
    """
    for entry in entries:
        kept = {name: value for name, value in entry.items() if name not in Limits._fields}
        if not is_priced(entry["provider"], entry["match"]):
            yield kept
        elif "held_units" in entry:
            yield {name: kept[name] for name in ("provider", "match", "when", "held_units", "source") if name in kept}
