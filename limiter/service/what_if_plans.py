"""A policy that is only proposed: the plans by which it would have decided calls of the past."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from limiter.domain.limits import Limit, LimitKind
from limiter.domain.scopes import Scope
from limiter.domain.windows import window_bounds
from limiter.domain.zones import zone
from limiter.policy.document import OrganizationPolicy
from limiter.policy.matching import KeyPolicy, resolve
from limiter.service.directory import KeyRecord
from limiter.service.memory import Memory
from limiter.service.plans import denial_of, plan_scopes
from limiter.store.port import Plan

#: The version under which a proposed policy is in force where it is tried.
VERSION: Final = 1

_REMEMBERED = 20_000

#: Every key of the past exists; what Admin gave it of its own is not in the books.
_MINTED: Final = KeyRecord()


class DatedPlan(NamedTuple):
    """A plan and how long its windows are right: to before `until_ms`. `max_cost` is for a single call, in nano-USD."""

    plan: Plan
    model: str
    max_cost: int
    until_ms: float


class Proposal:
    """Compiles and remembers plans of a policy that is nowhere in force. Times never go back."""

    def __init__(self, organizations: Mapping[str, OrganizationPolicy]) -> None:
        self.organizations = organizations
        self._keys: Memory[Scope, KeyPolicy] = Memory(_REMEMBERED)
        self._plans: Memory[tuple[Scope, str], DatedPlan] = Memory(_REMEMBERED)

    def names(self, key: Scope) -> bool:
        """Whether the policy names the key."""
        return self._key(key).declared

    def plan(self, key: Scope, model: str, at_ms: int) -> DatedPlan:
        """The plan of a key and model at a time; aliases are applied."""
        known = self._plans.get((key, model))
        if known is None or known.until_ms <= at_ms:
            known = self._compile(self._key(key), key, model, at_ms)
            self._plans.forget((key, model))
            self._plans.put((key, model), known)
        return known

    def opening_plan(self, key: Scope, model: str, at_ms: int) -> Plan:
        """The plan by which spend of before is booked: shadow limits start from it too, with or without room."""
        policy = self._key(key)
        scopes = tuple(
            (scope, tuple(replace(limit, shadow=False, warn_at=()) for limit in limits))
            for scope, limits in policy.scopes
        )
        return self._compile(replace(policy, scopes=scopes), key, model, at_ms).plan

    def window_starts(self, at_ms: int) -> set[int]:
        """When the windows began that spend limits are in at a time."""
        return {
            window_bounds(limit.per, at_ms, zone(policy.rules.timezone))[0]
            for policy in self.organizations.values()
            for limit in _limits(policy)
            if limit.kind is LimitKind.SPEND
        }

    def _key(self, key: Scope) -> KeyPolicy:
        known = self._keys.get(key)
        if known is None:
            known = resolve(self.organizations[key.organization], key=key, own_limits=None)
            self._keys.put(key, known)
        return known

    def _compile(self, policy: KeyPolicy, key: Scope, asked: str, at_ms: int) -> DatedPlan:
        model = policy.model_for(asked)
        scopes = plan_scopes(policy.scopes, model=model, zone_name=policy.zone, now_ms=at_ms)
        plan = Plan(
            organization=key.organization,
            version=VERSION,
            key=None,  # the store that it is tried in has no records of keys
            key_revision=0,
            denial=denial_of(policy, _MINTED, model, unpriced=False),
            scopes=scopes,
        )
        spends = (rule for scope in scopes for rule in scope.limits if rule.limit.kind is LimitKind.SPEND)
        until_ms = min((rule.window[2] for rule in spends), default=float("inf"))
        return DatedPlan(plan, model, policy.settings.max_cost_per_call_nanousd, until_ms)


def _limits(policy: OrganizationPolicy) -> Iterator[Limit]:
    """Every limit that stands anywhere in the policy."""
    yield from policy.rules.limits
    for team in policy.rules.teams.values():
        yield from (*team.limits, *(team.key_defaults.limits or ()))
        for key in team.keys.values():
            yield from key.limits or ()
