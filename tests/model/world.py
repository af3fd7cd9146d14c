"""A small world for the model tests: organizations with a policy that changes, and calls in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final
from zoneinfo import ZoneInfo

from hypothesis import strategies as st

from limiter.domain.limits import SPEND_WINDOWS, Limit, LimitKind
from limiter.domain.reservations import ReservationName
from limiter.domain.scopes import Scope
from limiter.domain.windows import window_bounds
from limiter.store.port import Plan, PlanLimit, PlanScope
from tests.model.books import CLOCK_SLACK_MS
from tests.model.counters import Bucket
from tests.model.reference import Reference

#: acme and org153 share a shard; beta has another.
ORGANIZATIONS: Final = ("acme", "org153", "beta")
KEYS: Final = (
    Scope("acme", "search", "bot"),
    Scope("acme", "search", "ant"),
    Scope("acme", "ads", "bot"),
    Scope("org153", "search", "bot"),
    Scope("beta", "search", "bot"),
)
MODELS: Final = ("gpt", "claude")
ZONES: Final = ("America/New_York", "UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia")

NANO: Final = 10**9
LARGEST: Final = 2**53 - 1

IDS_PER_KEY: Final = 4
#: Few ids per key, so that calls meet holds that are open, ended or another's.
NAMES: Final = tuple(
    ReservationName(key.organization, f"{k:016x}{i:016x}") for k, key in enumerate(KEYS) for i in range(IDS_PER_KEY)
)

_edges = st.sampled_from([0, 1, NANO - 1, NANO, NANO + 1, LARGEST - 1, LARGEST])
costs = st.one_of(st.integers(1, 3 * NANO), st.sampled_from([NANO - 1, NANO, NANO + 1]), _edges)
ceilings = st.one_of(
    st.sampled_from([3 * NANO, 3 * LARGEST, 2**63 - 1]),
    st.integers(2 * NANO, 20 * NANO),
    st.sampled_from([0, 1, NANO - 1, NANO, NANO + 1, LARGEST, LARGEST + 2]),
)
token_counts = st.sampled_from([0, 1, 7, 100, 100, 1_000, 10**6, 10**12])

_rates = st.sampled_from([1, 3, 60, 1_000, 10**6])
_bursts = st.sampled_from([1, 5, 100, 100, 10_000, 10**6])
_models = st.sampled_from([(), (), (MODELS[0],)])
_thresholds = st.lists(st.sampled_from([1, 250_000, 500_000, 333_333, 1_000_000]), unique=True, max_size=3).map(
    lambda found: tuple(sorted(found))
)
_shadow = st.sampled_from([False, False, False, True])

_spend_limits = st.builds(
    Limit,
    id=st.sampled_from(["budget", "cap"]),
    kind=st.just(LimitKind.SPEND),
    amount=ceilings,
    per=st.sampled_from(["hour", "day", "week", "month", "quarter", "year", "total"]),
    models=_models,
    shadow=_shadow,
    warn_at=_thresholds,
)
_rate_limits = st.builds(
    Limit,
    id=st.just("rate"),
    kind=st.sampled_from([LimitKind.REQUESTS, LimitKind.TOKENS]),
    amount=_rates,
    per=st.sampled_from(["second", "minute", "hour", "day"]),
    burst=_bursts,
    models=_models,
    shadow=_shadow,
)
_slot_limits = st.builds(
    Limit,
    id=st.just("slots"),
    kind=st.just(LimitKind.CONCURRENCY),
    amount=st.sampled_from([1, 2, 3, 4, 0]),
    models=_models,
    shadow=_shadow,
)

#: The limits of one scope: each counter at most once, as the policy's document makes sure.
scope_limits = st.lists(
    _spend_limits | _rate_limits | _slot_limits, max_size=3, unique_by=lambda limit: limit.counter
).map(tuple)


def other_amount(limit: Limit, draw: Callable[[st.SearchStrategy[int]], int]) -> Limit:
    """The same counter with another amount."""
    if limit.kind is LimitKind.SPEND:
        return replace(limit, amount=draw(ceilings))
    if limit.kind is LimitKind.CONCURRENCY:
        return replace(limit, amount=draw(st.integers(0, 5)))
    return replace(limit, amount=draw(st.integers(1, 10**6)), burst=draw(st.integers(1, 10**4)))


@dataclass(slots=True)
class World:
    """What the policies say at present. Plans are kept, so that an old one can be sent again."""

    limits: dict[Scope, tuple[Limit, ...]] = field(default_factory=dict)
    zones: dict[str, str] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ORGANIZATIONS, 0))
    revisions: dict[Scope, int] = field(default_factory=lambda: dict.fromkeys(KEYS, 0))
    plans: list[Plan] = field(default_factory=list)

    def plan(self, key: Scope, model: str, now_ms: int, *, denial: int = 0) -> Plan:
        """Compile the plan of a key and model at a time."""
        organization = key.organization
        plan = Plan(
            organization=organization,
            version=self.versions[organization],
            key=key,
            key_revision=self.revisions[key],
            denial=denial,
            scopes=tuple(
                PlanScope(
                    scope, tuple(self._rule(limit, organization, model, now_ms) for limit in self.limits.get(scope, ()))
                )
                for scope in key.lineage()
            ),
        )
        # The same content is the same plan, as in the sidecar.
        for known in self.plans:
            if (known.key, known.version, known.key_revision, known.denial, known.scopes) == (
                plan.key, plan.version, plan.key_revision, plan.denial, plan.scopes,
            ):  # fmt: skip
                return known
        self.plans.append(plan)
        return plan

    def _rule(self, limit: Limit, organization: str, model: str, now_ms: int) -> PlanLimit:
        applies = not limit.models or model in limit.models
        if limit.kind is not LimitKind.SPEND:
            return PlanLimit(limit, applies)
        # Any rule will do by which limits differ in which of a hold's amounts they take.
        lesser = (SPEND_WINDOWS.index(limit.per) + len(limit.warn_at)) % 3
        return PlanLimit(limit, applies, window_bounds(limit.per, now_ms, self.zone(organization)), lesser)

    def zone(self, organization: str) -> ZoneInfo:
        """The zone that an organization counts its windows in."""
        return ZoneInfo(self.zones.get(organization, "UTC"))


def edges(world: World, reference: Reference) -> Iterator[int]:
    """The instants at which something changes by time alone."""
    for plan in world.plans[-6:]:
        for scope in plan.scopes:
            for rule in scope.limits:
                yield from rule.window[1:]
    for hold in reference.holds.values():
        yield hold.record.expires_ms
        yield hold.record.expires_max_ms
    for scope_counters in reference.scopes.values():
        yield scope_counters.last_ms - CLOCK_SLACK_MS
        for counter in scope_counters.counters.values():
            if isinstance(counter, Bucket):
                # When a bucket that was empty is full again, since its last tick and since each reservation.
                full_ms = -(-counter.burst * counter.ticks // counter.amount) * counter.tick_ms
                yield counter.tick * counter.tick_ms + full_ms
                yield from (hold.record.reserved_ms + full_ms for hold in reference.holds.values() if hold.open)
