"""Every name that a model has in the price lists: who has it, and who has one that is only written otherwise."""

from __future__ import annotations

from collections.abc import Iterable

from limiter.pricing.spellings import squeezed


class Names:
    """Names of models by provider, in small letters."""

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        """Take pairs of a provider and a name."""
        self._places: dict[str, list[str]] = {}
        self._alike: dict[tuple[str, str], set[str]] = {}
        for provider, name in names:
            lower = name.lower()
            self._places.setdefault(lower, []).append(provider)
            self._alike.setdefault((provider, squeezed(lower)), set()).add(lower)

    def places(self, name: str) -> tuple[str, ...]:
        """Return the providers that have a model of this very name."""
        return tuple(dict.fromkeys(self._places.get(name.lower(), ())))

    def other_spelling(self, name: str, *, providers: Iterable[str]) -> str:
        """Return the one name at `providers` that differs from `name` in `.`, `-` or `_` alone; "" if it is not one."""
        wanted = squeezed(name)
        alike = {each for provider in providers for each in self._alike.get((provider, wanted), ())}
        return next(iter(alike)) if len(alike) == 1 else ""
