"""Which entries of a price file a call falls under: by its model, its time and its terms.

The terms of a call (`context`) are what was agreed for it and changes its price: service_tier, processing, size,
quality, resolution, … An entry's `when` must be met by them, letter case aside; an entry without `when` is met by any.

A call may leave a term open: it does not say it, or says `auto`. It is then charged by the last entry whose terms it
surely meets; only if there is none, by the dearest that it may meet. A hold always takes the dearest that the call may
meet. `service_tier`, `processing` and `speed` are not open where a call does not say them: it is a standard call then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from fnmatch import translate
from typing import Final

from limiter.pricing.overrides import Override

#: What was agreed for a call and changes its price, such as {"service_tier": "priority"}.
Context = tuple[tuple[str, str], ...]

#: Terms that a call has to ask for: a call that does not say them is a standard one.
STANDARD_UNSAID: Final = frozenset({"service_tier", "processing", "speed"})

#: What leaves a term to the provider.
_OPEN: Final = frozenset({"", "auto"})

_GLOB: Final = re.compile(r"[*?\[]")


def is_name(pattern: str) -> bool:
    """Whether a pattern is a name, with nothing of a glob."""
    return _GLOB.search(pattern) is None


class Met(Enum):
    """Whether a call meets what an entry asks for."""

    YES = "yes"
    OPEN = "open"
    NO = "no"


def met(entry: Override, context: Mapping[str, str]) -> Met:
    """Compare the terms of a call with those of an entry."""
    answer = Met.YES
    for term, wanted in entry.when.items():
        told = context.get(term, "").lower()
        if told == wanted.lower():
            continue
        if told not in _OPEN or (not told and term in STANDARD_UNSAID):
            return Met.NO
        answer = Met.OPEN
    return answer


def begun(entries: Iterable[Override], at_ms: int) -> list[Override]:
    """Return the entries that have begun."""
    return [entry for entry in entries if entry.begins_ms is None or entry.begins_ms <= at_ms]


def within_reach(entries: Sequence[Override], context: Mapping[str, str]) -> tuple[Override | None, list[Override]]:
    """Return the last entry that the call surely meets, and later ones that it may meet."""
    possible: list[Override] = []
    for entry in reversed(entries):
        answer = met(entry, context)
        if answer is Met.YES:
            return entry, possible
        if answer is Met.OPEN:
            possible.append(entry)
    return None, possible


class EntryIndex:
    """Finds the entries about a model, however many there are; those with a glob are tried one by one."""

    def __init__(self, entries: Sequence[Override]) -> None:
        self.entries = entries
        self._exact: dict[str, list[int]] = {}
        self._globs: list[tuple[int, re.Pattern[str]]] = []
        for position, entry in enumerate(entries):
            name = entry.match.lower()
            if is_name(name):
                self._exact.setdefault(name, []).append(position)
            else:
                self._globs.append((position, re.compile(translate(name))))

    def about(self, model: str, *, providers: frozenset[str]) -> tuple[Override, ...]:
        """Return the entries on `model` at a provider of these names, in the file's order; no providers: at any."""
        name = model.lower()
        positions = [*self._exact.get(name, ()), *(at for at, glob in self._globs if glob.match(name))]
        return tuple(self._of(sorted(positions), providers))

    def _of(self, positions: Iterable[int], providers: frozenset[str]) -> Iterator[Override]:
        for position in positions:
            entry = self.entries[position]
            if entry.provider is None or not providers or entry.provider.lower() in providers:
                yield entry
