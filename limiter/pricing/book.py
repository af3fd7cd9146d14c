"""The price book: finds what a model costs at a time, compiled and cached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Final

from genai_prices.data import providers as quoted_providers
from genai_prices.data_snapshot import find_provider_by_id
from genai_prices.types import ModelInfo, Provider

from limiter.domain.calls import MODEL_MAX
from limiter.pricing.model_price import ModelPrice, compile_price
from limiter.pricing.overrides import Override, read_overrides
from limiter.pricing.sheets import PriceSheet, dearest, from_quoted
from limiter.pricing.switches import DAY_MS, instant, switch_times

__all__ = ["ModelPrice", "PriceBook"]

#: Names of models come from callers: what is remembered of them has a bound.
_REMEMBERED_MAX: Final = 4096

#: Groq bills at least ten seconds of these transcriptions; genai-prices has the rule in its code.
_LEAST_AUDIO_SECONDS: Final = {("groq", "whisper-large-v3"): 10, ("groq", "whisper-large-v3-turbo"): 10}

#: What was agreed for a call and changes its price, such as {"service_tier": "priority"}.
Context = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Match:
    """What the book has on one name of a model."""

    provider: Provider | None
    quoted: ModelInfo | None
    overrides: tuple[Override, ...]

    def override_at(self, at_ms: int) -> Override | None:
        """Return the last entry of one's own that has begun."""
        for entry in reversed(self.overrides):
            if entry.begins_ms is None or entry.begins_ms <= at_ms:
                return entry
        return None

    def sheet_at(self, at_ms: int, context: Context) -> PriceSheet | None:
        """Return the prices at that time; None: no price at all."""
        if entry := self.override_at(at_ms):
            return entry.sheet()
        if self.quoted is None or self.provider is None:
            return None
        # As genai-prices does: a model that another provider lends has no variants here.
        lent = all(model is not self.quoted for model in self.provider.models)
        sheet = from_quoted(self.quoted.get_prices(instant(at_ms), None if lent else dict(context)))
        # No prices may mean that it is free or that nobody wrote them down: not for us to guess.
        return sheet if sheet.prices else None

    def describe(self, override: Override | None, *, asked: str) -> tuple[str, int | None, int | None]:
        """Return the model's id in the book, its context window and its longest output, None if unknown."""
        if override is not None:
            return asked, override.context_window, override.max_output_tokens
        return (self.quoted.id, self.quoted.context_window, None) if self.quoted else (asked, None, None)

    def switches(self, at_ms: int) -> set[int]:
        """Return the instants (ms) around `at_ms` at which prices change."""
        switches = {entry.begins_ms for entry in self.overrides if entry.begins_ms is not None}
        if self.quoted is not None:
            dated = [*(self.quoted.prices if isinstance(self.quoted.prices, list) else ())]
            variants = self.quoted.price_variants or ()
            constraints = [price.constraint for price in (*dated, *variants)]
            switches.update(switch_times(constraints, at_ms=at_ms))
        return switches


class PriceBook:
    """What models cost, by provider, name and time.

    `version` names the prices in ledger rows: `genai-prices 0.2.3`, followed by
    `+overrides sha256:<8 digits>` if a file of one's own was loaded.
    """

    def __init__(self, providers: Sequence[Provider], overrides: Sequence[Override] = (), *, version: str) -> None:
        self.version = version
        self._providers = list(providers)
        self._overrides = tuple(overrides)
        self._remembered: dict[tuple[str, str, Context], tuple[int, int | None, ModelPrice | None]] = {}
        self._match = lru_cache(_REMEMBERED_MAX)(self._look_up)

    @classmethod
    def load(cls, overrides: Path | None = None) -> PriceBook:
        """Load the prices of genai-prices, and those of one's own from the YAML file `overrides`.

        Raises :class:`limiter.pricing.overrides.PricesInvalid` with every mistake of the file.
        """
        version = f"genai-prices {installed_version('genai-prices')}"
        if overrides is None:
            return cls(quoted_providers, version=version)
        entries, digest = read_overrides(overrides)
        return cls(quoted_providers, entries, version=f"{version}+overrides sha256:{digest[:8]}")

    def find(
        self, *, provider: str, model: str, at_ms: int, context: Mapping[str, str] | None = None
    ) -> ModelPrice | None:
        """Return the price of `model` at `at_ms` (ms since the epoch); None: it has no price.

        `provider` "" finds the model by its name, or by a name such as `openai/gpt-4o`. `context` is what
        was agreed for the call and changes its price: {"service_tier": "priority"}, {"processing": "batch"}.
        The answer is the same object until it expires.
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

    def _compile(
        self, provider: str, model: str, context: Context, *, at_ms: int
    ) -> tuple[int, int | None, ModelPrice | None]:
        """Return since when and until when (ms) the answer holds, and the answer."""
        match = self._match(provider, model)
        switches = match.switches(at_ms)
        # A hold covers the prices of the coming day, so it changes a day before they do.
        turns = switches | {switch - DAY_MS for switch in switches}
        since = max((turn for turn in turns if turn <= at_ms), default=0)
        until = min((turn for turn in turns if turn > at_ms), default=None)
        charged = match.sheet_at(at_ms, context)
        if charged is None:
            return since, until, None
        coming = [at_ms, *(switch for switch in switches if at_ms < switch <= at_ms + DAY_MS)]
        held = [sheet for at in coming for asked in {context, ()} if (sheet := match.sheet_at(at, asked))]
        override = match.override_at(at_ms)
        provider_id = match.provider.id if match.provider else provider
        model_id, window, most = match.describe(override, asked=model)
        ledger = charged.as_decimals()
        if override is not None:
            ledger |= {"match": override.match} | ({"source": override.source} if override.source else {})
        price = compile_price(
            provider=provider_id,
            model=model_id,
            price_version=self.version,
            charged=charged,
            held=dearest(held),
            ledger=ledger,
            context_window=window,
            max_output_tokens=most,
            valid_until_ms=until,
            least_audio_seconds=0 if override else _LEAST_AUDIO_SECONDS.get((provider_id, model_id), 0),
        )
        return since, until, price

    def _look_up(self, provider: str, model: str) -> _Match:
        """Find the entries about a model; genai-prices' own cache is not used, as it has no bound."""
        name = model.lower()
        quoted_provider = find_provider_by_id(self._providers, provider) if provider else None
        if not provider and "/" in name:
            prefix, _, rest = name.partition("/")
            if prefix and rest and (quoted_provider := find_provider_by_id(self._providers, prefix)):
                name = rest
        if not provider and quoted_provider is None:
            makers = (each for each in self._providers if each.model_match and each.model_match.is_match(name))
            quoted_provider = next(makers, None)
        quoted = quoted_provider.find_model(name, all_providers=self._providers) if quoted_provider else None
        asked = {provider.lower(), quoted_provider.id if quoted_provider else ""} - {""}
        entries = (each for each in self._overrides if each.matches(providers=frozenset(asked), model=model))
        return _Match(quoted_provider, quoted, tuple(entries))
