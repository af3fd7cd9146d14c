"""What the price book has on one name of a model: prices of one's own, genai-prices', and those that come with us."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from genai_prices.types import ModelInfo, Provider

from limiter.pricing.additions import BUILT_IN, OWN_FILE, QUOTED, additions, with_additions
from limiter.pricing.limits import Limits, built_in
from limiter.pricing.overrides import Override
from limiter.pricing.selection import STANDARD_UNSAID, Context, begun, within_reach
from limiter.pricing.sheets import PriceSheet, dearest, from_quoted
from limiter.pricing.switches import DAY_MS, instant, switch_times


@dataclass(frozen=True, slots=True)
class Charged:
    """The prices that a call is charged by; `entry` None: they are genai-prices'.

    `open_terms` are those that the call left open, where that made it the dearest of several entries. `added` are the
    units in `sheet` that another entry prices.
    """

    sheet: PriceSheet
    layer: str
    entry: Override | None = None
    open_terms: tuple[str, ...] = ()
    added: Mapping[str, Override] = field(default_factory=dict)

    def described(self) -> dict[str, object]:
        """Return the prices and where they are from, ready for JSON."""
        found = self.sheet.as_decimals()
        if self.entry is not None:
            found |= self.entry.described()
        if self.open_terms:
            found = {name: value for name, value in found.items() if name != "when"} | {
                "dearest_of": [*self.open_terms]
            }
        if self.added:
            found["added"] = sorted(self.added)
        return found


@dataclass(frozen=True, slots=True)
class Match:
    """The entries about a model, layer by layer; the first layer that has a price for a call prices it.

    `lenders`: no provider was told, and these have the name at prices of their own, so that it has none.
    """

    provider: str
    model: str
    own: tuple[Override, ...]
    lender: Provider | None
    quoted: ModelInfo | None
    built_in: tuple[Override, ...]
    lenders: tuple[str, ...] = ()

    def charged_at(self, at_ms: int, context: Context) -> Charged | None:
        """Return the prices at that time; None: no price at all."""
        base = self._base_at(at_ms, context)
        if base is None:
            return None
        added = self._added(base.sheet, base.layer, at_ms, context, held=False)
        return replace(base, sheet=with_additions(base.sheet, added), added=added) if added else base

    def _base_at(self, at_ms: int, context: Context) -> Charged | None:
        possible: list[tuple[str, Override]] = []
        for layer, entries in ((OWN_FILE, self.own), (BUILT_IN, self.built_in)):
            sure, others = self._reach(entries, at_ms, context)
            if sure is not None:
                return Charged(sure.sheet(), layer, sure)
            possible += [(layer, entry) for entry in others]
            if layer == OWN_FILE and (sheet := self._quoted_at(at_ms, context)):
                return Charged(sheet, QUOTED)
        if not possible:
            return None
        layer, entry = possible[0]
        open_terms = tuple(sorted({term for _, other in possible for term in other.when}))
        return Charged(dearest([other.sheet() for _, other in possible]), layer, entry, open_terms)

    def held_at(self, at_ms: int, context: Context) -> Iterator[tuple[PriceSheet, bool]]:
        """Yield every sheet that a call on these terms may be charged by; True: one that only holds take."""
        for sheet, layer in self._sheets_at(at_ms, context):
            if layer:
                added = self._added(sheet, layer, at_ms, context, held=True)
                yield with_additions(sheet, added), False
            else:
                yield sheet, True

    def _sheets_at(self, at_ms: int, context: Context) -> Iterator[tuple[PriceSheet, str]]:
        """Yield the sheets, each with its list; "": one that only holds take."""
        for layer, entries in ((OWN_FILE, self.own), (BUILT_IN, self.built_in)):
            sure, others = self._reach(entries, at_ms, context)
            for entry in (*others, *([sure] if sure else [])):
                yield entry.sheet(), layer
                yield entry.held_sheet(), ""
            yield from self._estimates(entries, at_ms, context)
            if sure is not None:
                return
            if layer == OWN_FILE and (sheet := self._quoted_at(at_ms, context)):
                yield sheet, QUOTED
                yield from self._estimates(self.built_in, at_ms, context)
                return

    def held_sheet(self, at_ms: int, context: Context) -> tuple[PriceSheet, frozenset[str]]:
        """Return the dearest from now to a day from now, and the units that only holds take.

        A cheaper tier of service is not relied on: it may be refused, and the call served as a standard one.
        """
        standard = tuple(term for term in context if term[0] not in STANDARD_UNSAID)
        coming = [at_ms, *(switch for switch in self.switches(at_ms) if at_ms < switch <= at_ms + DAY_MS)]
        found = [pair for at in coming for asked in {context, standard} for pair in self.held_at(at, asked)]
        held = frozenset(unit for sheet, estimated in found if estimated for unit in sheet.prices)
        return dearest([sheet for sheet, _ in found]), held

    def switches(self, at_ms: int) -> set[int]:
        """Return the instants (ms) around `at_ms` at which prices change."""
        entries = (*self.own, *self.built_in)
        switches = {entry.begins_ms for entry in entries if entry.begins_ms is not None}
        if self.quoted is not None:
            dated = [*(self.quoted.prices if isinstance(self.quoted.prices, list) else ())]
            variants = self.quoted.price_variants or ()
            constraints = [price.constraint for price in (*dated, *variants)]
            switches.update(switch_times(constraints, at_ms=at_ms))
        return switches

    def limits(self, entry: Override | None) -> Mapping[str, tuple[int | None, str]]:
        """Return `context_window` and `max_output_tokens`, each with where it is from."""
        own = Limits(entry.context_window, entry.max_output_tokens) if entry else Limits()
        names = {self.model, self.quoted.id if self.quoted else self.model}
        listed = Limits()
        for spelling in names:
            listed = listed.or_larger(built_in().find(provider=self.provider, model=spelling))
        quoted = Limits(self.quoted.context_window if self.quoted else None)
        found: dict[str, tuple[int | None, str]] = {}
        for name in Limits._fields:
            sources = ((own, OWN_FILE), (listed, f"limits ({built_in().source})"), (quoted, QUOTED))
            told = [(value, source) for limits, source in sources if (value := getattr(limits, name)) is not None]
            if told and told[0][1] != OWN_FILE:
                told.sort(key=lambda pair: -pair[0])  # too low a limit would let a call pass that costs more
            found[name] = told[0] if told else (None, "")
        return found

    def _added(self, sheet: PriceSheet, layer: str, at_ms: int, context: Context, *, held: bool) -> dict[str, Override]:
        return additions(self.own, self.built_in, to=sheet, layer=layer, at_ms=at_ms, context=context, held=held)

    def _quoted_at(self, at_ms: int, context: Context) -> PriceSheet | None:
        if self.quoted is None or self.lender is None:
            return None
        # As genai-prices does: a model that another provider lends has no variants here.
        lent = all(model is not self.quoted for model in self.lender.models)
        sheet = from_quoted(self.quoted.get_prices(instant(at_ms), None if lent else dict(context)))
        # No prices may mean that it is free or that nobody wrote them down: not for us to guess.
        return sheet if sheet.prices else None

    @staticmethod
    def _reach(entries: tuple[Override, ...], at_ms: int, context: Context) -> tuple[Override | None, list[Override]]:
        return within_reach([entry for entry in begun(entries, at_ms) if entry.prices], dict(context))

    @staticmethod
    def _estimates(entries: tuple[Override, ...], at_ms: int, context: Context) -> Iterator[tuple[PriceSheet, str]]:
        """Yield what entries without prices of their own add to holds."""
        estimates = [entry for entry in begun(entries, at_ms) if not entry.prices and entry.held_units]
        sure, others = within_reach(estimates, dict(context))
        for entry in (*others, *([sure] if sure else [])):
            yield entry.held_sheet(), ""
