"""What was spent before limits came, by who spent it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from limiter.domain.scopes import Scope
from limiter.ledger.openings import Later, Spender, Spent
from limiter.policy.matching import models_match


class View:
    """What the books say of a span. `version` counts what changed."""

    def __init__(self, spent: Spent) -> None:
        self.spent = spent
        self.version = 0
        self._index()

    def add(self, further: Spent) -> None:
        """Take in what newer rows say."""
        if self.spent.add(further):
            self.version += 1
            self._index()

    def _index(self) -> None:
        self._sums: defaultdict[Scope, list[tuple[Spender, int]]] = defaultdict(list)
        self._later: defaultdict[Scope, list[Later]] = defaultdict(list)
        for spender, amount in self.spent.sums.items():
            for scope in _path(spender):
                self._sums[scope].append((spender, amount))
        for later in self.spent.later:
            for scope in _path(later.spender):
                self._later[scope].append(later)

    def keys(self, team: str) -> Iterable[str]:
        """The keys of a team that have spent something."""
        return sorted({scope.key for scope in {*self._sums, *self._later} if scope.team == team and scope.key})

    def touches(self, scope: Scope) -> bool:
        """Whether anything was spent under a scope."""
        within = _within(scope)
        return within in self._sums or within in self._later

    def sums(self, scope: Scope) -> Iterable[tuple[Spender, int]]:
        """What was spent under a scope for certain before the limits came; its organization is not asked."""
        return self._sums.get(_within(scope), ())

    def later(self, scope: Scope) -> Iterable[Later]:
        """What was written later of calls from before."""
        return self._later.get(_within(scope), ())


def total_of(view: View, scope: Scope, models: tuple[str, ...], charge: tuple[str, str, int] | None) -> int:
    """What a counter starts from: all that was spent under its scope on its models and did not move it (`charge`)."""
    total = sum(amount for spender, amount in view.sums(scope) if models_match(models, spender.model))
    for later in view.later(scope):
        if charge not in later.charged and models_match(models, later.spender.model):
            total += later.amount
    return total


def _within(scope: Scope) -> Scope:
    return scope._replace(organization="")


def _path(spender: Spender) -> Iterator[Scope]:
    """The scopes on the path of a call, within its organization."""
    yield Scope("")
    yield Scope("", spender.team)
    yield Scope("", spender.team, spender.key)
