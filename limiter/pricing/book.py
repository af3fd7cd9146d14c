"""The price book: finds what a model costs at a time, compiled and cached."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib.metadata import version as installed_version
from itertools import chain
from pathlib import Path
from typing import Final

from genai_prices.data import providers as quoted_providers
from genai_prices.data_snapshot import find_provider_by_id
from genai_prices.types import ModelInfo, Provider

from limiter.domain.calls import MODEL_MAX
from limiter.pricing import limits
from limiter.pricing.built_in import BuiltInPrices
from limiter.pricing.matching import Match
from limiter.pricing.model_price import ModelPrice, compile_price
from limiter.pricing.names import Names
from limiter.pricing.overrides import Override, read_overrides
from limiter.pricing.selection import Context, EntryIndex, is_name
from limiter.pricing.spellings import spellings
from limiter.pricing.switches import DAY_MS

__all__ = ["ModelPrice", "PriceBook"]

#: Names of models come from callers: what is remembered of them has a bound.
_REMEMBERED_MAX: Final = 4096

#: Groq bills at least ten seconds of these transcriptions; genai-prices has the rule in its code.
_LEAST_AUDIO_SECONDS: Final = {("groq", "whisper-large-v3"): 10, ("groq", "whisper-large-v3-turbo"): 10}


#: What no provider's name has, but a host's.
_HOST: Final = re.compile(r"[.:\[]")


class PriceBook:
    """What models cost, by provider, name and time.

    The prices are, one under the other, those of a file of one's own, of genai-prices, and those that come with this
    package for what genai-prices does not price. `version` names them in ledger rows: `genai-prices 0.2.3+litellm
    2026-11-20+tools 2026-11-23`, followed by `+overrides sha256:<8 digits>` if a file of one's own was loaded.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        overrides: Sequence[Override] = (),
        *,
        version: str,
        built_in: BuiltInPrices | None = None,
    ) -> None:
        self.version = version
        self._providers = list(providers)
        self._overrides = EntryIndex(overrides)
        self._built_in = built_in
        self._remembered: dict[tuple[str, str, Context], tuple[int, int | None, ModelPrice | None]] = {}
        self.match = lru_cache(_REMEMBERED_MAX)(self._look_up)

    @classmethod
    def quoted(cls) -> PriceBook:
        """Load the prices of genai-prices alone."""
        return cls(quoted_providers, version=f"genai-prices {installed_version('genai-prices')}")

    @classmethod
    def load(cls, overrides: Path | None = None) -> PriceBook:
        """Load the prices of genai-prices, and those of one's own from the file `overrides`.

        Raises :class:`limiter.pricing.overrides.PricesInvalid` with every mistake of the file.
        """
        built_in = BuiltInPrices()
        version = f"genai-prices {installed_version('genai-prices')}+{built_in.version}"
        if overrides is None:
            return cls(quoted_providers, version=version, built_in=built_in)
        entries, digest = read_overrides(overrides)
        version = f"{version}+overrides sha256:{digest[:8]}"
        return cls(quoted_providers, entries, version=version, built_in=built_in)

    def warm(self) -> None:
        """Read what the first question would read: 50 ms that no event loop should wait for."""
        limits.built_in()
        if self._built_in is not None:
            self._built_in.warm()
        self._names.places("")

    @cached_property
    def _names(self) -> Names:
        quoted = ((provider.id, model.id) for provider in self._providers for model in provider.models)
        return Names(chain(quoted, self._built_in.names() if self._built_in else ()))

    def find(
        self, *, provider: str, model: str, at_ms: int, context: Mapping[str, str] | None = None
    ) -> ModelPrice | None:
        """Return the price of `model` at `at_ms` (ms since the epoch); None: it has no price.

        `provider` "" finds the model by its name, or by a name such as `openai/gpt-4o`; a name that only those have who
        lend the models of others is found if there is one of them. `context` is what
        was agreed for the call and changes its price: {"service_tier": "priority"}, {"processing": "batch"},
        {"size": "1024x1024", "quality": "hd"}. What of that a call leaves open is held at the dearest
        (see :mod:`limiter.pricing.selection`). The answer is the same object until it expires.
        """
        if not model or len(model) > MODEL_MAX or len(provider) > MODEL_MAX:
            return None
        key = (provider, model, tuple(sorted(context.items())) if context else ())
        known = self._remembered.get(key)
        if known is not None and known[0] <= at_ms and (known[1] is None or at_ms < known[1]):
            return known[2]
        found = self._compile(*key, at_ms=at_ms)
        while len(self._remembered) >= _REMEMBERED_MAX:
            del self._remembered[next(iter(self._remembered))]
        self._remembered[key] = found
        return found[2]

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield the provider ("": any) and the name of every model with prices, without those that are globs."""
        for entry in (*self._overrides.entries, *(self._built_in.all() if self._built_in else ())):
            if is_name(entry.match):
                yield entry.provider or "", entry.match
        for provider in self._providers:
            for model in provider.models:
                yield provider.id, model.id

    def _compile(
        self, provider: str, model: str, context: Context, *, at_ms: int
    ) -> tuple[int, int | None, ModelPrice | None]:
        """Return since when and until when (ms) the answer holds, and the answer."""
        match = self.match(provider, model)
        switches = match.switches(at_ms)
        # A hold covers the prices of the coming day, so it changes a day before they do.
        turns = switches | {switch - DAY_MS for switch in switches}
        since = max((turn for turn in turns if turn <= at_ms), default=0)
        until = min((turn for turn in turns if turn > at_ms), default=None)
        charged = match.charged_at(at_ms, context)
        if charged is None:
            return since, until, None
        entry = charged.entry
        model_id = model if entry or match.quoted is None else match.quoted.id
        known = match.limits(entry)
        held, estimated = match.held_sheet(at_ms, context)
        price = compile_price(
            provider=match.provider,
            model=model_id,
            price_version=self.version,
            charged=charged.sheet,
            held=held,
            estimated=estimated,
            ledger=charged.described(),
            context_window=known["context_window"][0],
            max_output_tokens=known["max_output_tokens"][0],
            valid_until_ms=until,
            least_audio_seconds=0 if entry else _LEAST_AUDIO_SECONDS.get((match.provider, model_id), 0),
        )
        return since, until, price

    def _look_up(self, provider: str, model: str) -> Match:
        """Find the entries about a model; genai-prices' own cache is not used, as it has no bound."""
        name = model.lower()
        lender = self._lender(provider)
        if not provider and "/" in name:
            prefix, _, rest = name.partition("/")
            if prefix and rest and (lender := self._lender(prefix)):
                name = rest
        if not provider and lender is None:
            makers = (each for each in self._providers if each.model_match and each.model_match.is_match(name))
            lender = next(makers, None)
        asked = frozenset({provider.lower(), lender.id if lender else ""} - {""})
        own = self._overrides.about(model, providers=asked)
        lenders: tuple[str, ...] = ()
        if not asked:
            asked, name, lenders = self._seller(name)
            lender = self._lender(next(iter(asked), ""))
        place, quoted, built_in = self._listed(lender, name, asked)
        if quoted is None and not built_in and (other := self._names.other_spelling(name, providers=asked)):
            place, quoted, built_in = self._listed(lender, other, asked)
        at = lender.id if lender else provider or place
        if self._built_in is not None and at:
            names = (*spellings(name), *((quoted.id,) if quoted else ()))
            built_in = (*self._built_in.added(frozenset({at.lower()}), names), *built_in)
        return Match(
            provider=at, model=model, own=own, lender=lender, quoted=quoted, built_in=built_in, lenders=lenders
        )

    def _listed(
        self, lender: Provider | None, name: str, asked: frozenset[str]
    ) -> tuple[str, ModelInfo | None, tuple[Override, ...]]:
        """What genai-prices and the prices that come with this package have on a name at these providers."""
        quoted = lender.find_model(name, all_providers=self._providers) if lender else None
        place, entries = self._built_in.about(name, providers=asked) if self._built_in else ("", ())
        return place, quoted, entries

    def _seller(self, name: str) -> tuple[frozenset[str], str, tuple[str, ...]]:
        """Whom a name is of that came without a provider, the name there, and who lends it if that is not clear."""
        places = self._names.places(name)
        maker = self._built_in.maker(name) if self._built_in else ""
        if maker or len(places) == 1:
            return frozenset({maker or places[0]}), name, ()
        prefix, _, rest = name.partition("/")
        return (frozenset({prefix}), rest, ()) if rest and not places else (frozenset(), name, tuple(sorted(places)))

    def _lender(self, name: str) -> Provider | None:
        """Find a provider by its name or a name like it, such as `bedrock`; a host is nobody but itself."""
        return find_provider_by_id(self._providers, name) if name and not _HOST.search(name) else None
