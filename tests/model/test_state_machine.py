"""The store and its reference are driven side by side: every answer is the same, every invariant holds.

LIMITER_THOROUGH=1 looks longer.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from limiter.domain.limits import Limit
from limiter.domain.reservations import ReservationName
from limiter.domain.rows import Taken
from limiter.domain.scopes import Scope
from limiter.store.keys import hold_key
from limiter.store.port import Code, EndCall, ExtendCall, Plan, StoredKey, StoredPolicy
from limiter.store.redis_store import RedisStore
from tests.fakes.plugin import OpenClient
from tests.model import invariants
from tests.model.books import member
from tests.model.counters import Money
from tests.model.drafts import (
    DAY_MS,
    Draft,
    charge_call,
    charge_drafts,
    end_call,
    end_drafts,
    extend_drafts,
    hold_call,
    release_drafts,
    reserve_drafts,
    steps_back,
    steps_forward,
)
from tests.model.reference import Reference
from tests.model.world import (
    IDS_PER_KEY,
    KEYS,
    MODELS,
    NAMES,
    ORGANIZATIONS,
    ZONES,
    World,
    edges,
    other_amount,
    scope_limits,
)

T = TypeVar("T")

CHANGES = ("other limits", "fewer limits", "other amounts", "other amounts", "the limits of before", "another zone")
#: The evening before the clocks change in New York.
BEGIN_MS = 1_772_919_000_000
#: The world ends in 2100, long before windows do.
END_MS = 4_102_444_800_000


class StoreMachine(RuleBasedStateMachine):
    """One store, its reference, and a world that gives them the same calls."""

    def __init__(self, open_client: OpenClient) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client: Any = self.run(_opened(open_client))
        self.reference = Reference(BEGIN_MS)
        self.batches = 0
        self.store = RedisStore(self.client, clock_ms=lambda: self.reference.now_ms, observe=self._observe)
        self.world = World()
        self.limits_before: dict[Scope, tuple[Limit, ...]] = {}
        self.latest_ms = BEGIN_MS
        self.before = invariants.Dump()
        self.forgotten: Tally[str] = Tally()
        self.refused: Tally[tuple[Scope, str]] = Tally()
        self.run(self.client.flushall())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def _observe(self, _script: str, _seconds: float, _calls: int) -> None:
        self.batches += 1

    def teardown(self) -> None:
        self.run(self.store.close())
        self.runner.close()

    def together(self, verb: Callable[[T], Awaitable[Any]], calls: Sequence[T]) -> list[Any]:
        """Ask for all at once: they go in one batch, in their order."""
        before = self.batches

        async def ask() -> list[Any]:
            return list(await asyncio.gather(*(verb(call) for call in calls)))

        answers = self.run(ask())
        assert self.batches == before + 1
        return answers

    # ------------------------------------------------------------------ the policy

    @initialize(first=st.lists(scope_limits, min_size=12, max_size=12))
    def begin(self, first: list[Any]) -> None:
        scopes = sorted({scope for key in KEYS for scope in key.lineage()})
        self.world.limits = dict(zip(scopes, first, strict=True))
        for organization in ORGANIZATIONS:
            self._new_version(organization)

    def _new_version(self, organization: str) -> None:
        version = self.world.versions[organization] + 1
        assert self.run(self.store.replace_policy(StoredPolicy(organization, version, "{}")))
        self.world.versions[organization] = self.reference.versions[organization] = version

    @rule(key=st.sampled_from(KEYS), level=st.integers(0, 2), change=st.sampled_from(CHANGES), data=st.data())
    def change_the_policy(self, key: Scope, level: int, change: str, data: st.DataObject) -> None:
        scope = key.lineage()[level]
        limits = self.world.limits[scope]
        if change == "other limits":
            self.world.limits[scope] = data.draw(scope_limits)
        elif change == "fewer limits":
            shuffled = data.draw(st.permutations(limits))
            self.world.limits[scope] = tuple(shuffled[: data.draw(st.integers(0, len(limits)))])
        elif change == "other amounts":
            self.world.limits[scope] = tuple(other_amount(limit, data.draw) for limit in limits)
        elif change == "the limits of before":
            self.world.limits[scope] = self.limits_before.get(scope, limits)
        else:
            self.world.zones[key.organization] = data.draw(st.sampled_from(ZONES))
        self.limits_before[scope] = limits
        self._new_version(key.organization)

    @rule(key=st.sampled_from(KEYS))
    def change_a_key(self, key: Scope) -> None:
        revision = self.world.revisions[key] + 1
        assert self.run(self.store.replace_key(StoredKey(key, revision, "{}")))
        self.world.revisions[key] = self.reference.revisions[key] = revision

    # ------------------------------------------------------------------ time

    @rule(step=steps_forward)
    def time_passes(self, step: int) -> None:
        self.reference.now_ms += step

    @rule(number=st.integers(0, 30), off=st.sampled_from([-1, 0, 0, 1]))
    def time_comes_to_an_edge(self, number: int, off: int) -> None:
        now_ms = self.reference.now_ms
        coming = sorted({edge for edge in edges(self.world, self.reference) if now_ms < edge < END_MS})
        if coming:
            self.reference.now_ms = max(now_ms, coming[number % len(coming)] + off)

    @rule(step=steps_back)
    def the_clock_is_set_back(self, step: int) -> None:
        self.reference.now_ms -= step

    @precondition(lambda self: self.reference.now_ms < self.latest_ms)
    @rule()
    def the_clock_catches_up(self) -> None:
        self.reference.now_ms = self.latest_ms

    # ------------------------------------------------------------------ calls

    @rule(draft=reserve_drafts)
    def reserve(self, draft: Draft) -> None:
        self._reserve([draft])

    @rule(drafts=st.lists(reserve_drafts, min_size=2, max_size=8))
    def reserve_several(self, drafts: list[Draft]) -> None:
        self._reserve(drafts)

    @precondition(lambda self: any(hold.open for hold in self.reference.holds.values()))
    @rule(draft=reserve_drafts, subject=st.integers(0, 7), times=st.integers(1, 3))
    def ask_again_for_an_open_hold(self, draft: Draft, subject: int, times: int) -> None:
        name = self._subject({"subject": subject})
        fingerprint = self.reference.holds[name].record.fingerprint
        same = {"name": NAMES.index(name), "fingerprint": fingerprint, "denial": 0, "secret_expires_in_ms": None}
        self._reserve([draft | same] * times)

    @rule(drafts=st.lists(reserve_drafts, min_size=1, max_size=3), rows=st.integers(0, 2))
    def reserve_with_a_backlog(self, drafts: list[Draft], rows: int) -> None:
        most = max(1, max((len(known) for known in self.reference.rows.values()), default=0) - rows)
        self.store._max_backlog = self.reference.max_backlog = most
        try:
            self._reserve(drafts)
        finally:
            self.store._max_backlog = self.reference.max_backlog = 0

    def _reserve(self, drafts: list[Draft]) -> None:
        now_ms = self.reference.now_ms
        calls = [hold_call(draft, self._plan(draft), now_ms) for draft in drafts]
        answers = self.together(lambda call: self.store.reserve(call, deadline=None), calls)
        assert answers == self.reference.reserve(calls)
        # All or nothing: a refusal, an error and a dry run change nothing.
        if not any(
            answer.code == Code.GRANTED and not call.dry_run for answer, call in zip(answers, calls, strict=True)
        ):
            assert self.run(invariants.dump(self.client)).raw == self.before.raw

    def _plan(self, draft: Draft) -> Plan:
        """The present plan of a call, or an older one of the same key."""
        key, age = KEYS[draft["name"] // IDS_PER_KEY], draft["age"]
        plan = self.world.plan(key, draft["model"], self.reference.now_ms, denial=draft.get("denial", 0))
        of_key = [old for old in self.world.plans if old.key == key]
        return of_key[-min(age, len(of_key))] if age else plan

    def _subject(self, draft: Draft) -> ReservationName:
        known: list[ReservationName] = sorted(
            self.reference.holds, key=lambda name: (not self.reference.holds[name].open, str(name))
        )
        subject: int = draft["subject"]
        return known[subject % len(known)] if known and subject < 8 else NAMES[subject % len(NAMES)]

    def _end_calls(self, drafts: list[Draft]) -> list[EndCall]:
        return [end_call(draft, self._subject(draft)) for draft in drafts]

    @rule(drafts=st.lists(end_drafts, min_size=1, max_size=5))
    def settle(self, drafts: list[Draft]) -> None:
        calls = self._end_calls(drafts)
        assert self.together(self.store.settle, calls) == self.reference.settle(calls)

    @rule(drafts=st.lists(release_drafts, min_size=1, max_size=3))
    def release(self, drafts: list[Draft]) -> None:
        calls = self._end_calls(drafts)
        assert self.together(self.store.release, calls) == self.reference.release(calls)

    @rule(drafts=st.lists(extend_drafts, min_size=1, max_size=3))
    def extend(self, drafts: list[Draft]) -> None:
        calls = [ExtendCall(self._subject(draft), draft["ttl_ms"]) for draft in drafts]
        assert self.together(self.store.extend, calls) == self.reference.extend(calls)

    @rule(drafts=st.lists(charge_drafts, min_size=1, max_size=3))
    def charge(self, drafts: list[Draft]) -> None:
        now_ms = self.reference.now_ms
        calls = [charge_call(draft, self._plan(draft), now_ms) for draft in drafts]
        assert self.together(self.store.charge, calls) == self.reference.charge(calls)

    @precondition(lambda self: any(hold.open for hold in self.reference.holds.values()))
    @rule(
        wait=st.booleans(),
        organizations=st.lists(st.sampled_from(ORGANIZATIONS), unique=True, min_size=1),
        limit=st.sampled_from([1, 2, 100]),
    )
    def expire(self, wait: bool, organizations: list[str], limit: int) -> None:  # noqa: FBT001 - hypothesis passes by name
        if wait:
            first_ms = min(hold.record.expires_ms for hold in self.reference.holds.values() if hold.open)
            self.reference.now_ms = max(self.reference.now_ms, first_ms)
        answers = self.run(self.store.expire_due(organizations, limit=limit, retention_ms=7 * DAY_MS))
        assert answers == self.reference.expire_due(organizations, limit=limit)

    @rule(
        keys=st.lists(st.sampled_from(KEYS[:3]), min_size=1, max_size=4),
        model=st.sampled_from(MODELS),
        age=st.integers(0, 3),
    )
    def inspect(self, keys: list[Scope], model: str, age: int) -> None:
        plans = [self.world.plan(key, model, self.reference.now_ms) for key in keys]
        older = [plan for plan in self.world.plans if plan.organization == keys[0].organization]
        plans += older[-age - 1 : -1]
        assert self.run(self.store.inspect(plans)) == self.reference.inspect(plans)
        assert self.run(invariants.dump(self.client)).raw == self.before.raw

    @rule(key=st.sampled_from(KEYS), level=st.integers(0, 2), count=st.integers(1, 10**6))
    def append_refusals(self, key: Scope, level: int, count: int) -> None:
        limit = (key.lineage()[level], "budget")
        organization, summary = key.organization, b'{"refused":3}'
        self.run(self.store.append_refusals(organization, summary, {limit: count}))
        self.reference.append(organization, summary)
        self.refused[limit] += count
        assert self.run(self.store.refused(organization, [limit])) == [self.refused[limit]]

    @precondition(lambda self: any(not hold.open for hold in self.reference.holds.values()))
    @rule(data=st.data())
    def the_retention_of_an_ended_hold_ends(self, data: st.DataObject) -> None:
        ended = sorted((name for name, hold in self.reference.holds.items() if not hold.open), key=str)
        name = data.draw(st.sampled_from(ended))
        # The server's own clock decides on lifetimes; what it will do is done here.
        assert self.run(self.client.delete(hold_key(name))) == 1
        del self.reference.holds[name]
        self.forgotten[member(name)] += 1

    # ------------------------------------------------------------------ after every step

    @invariant()
    def everything_is_as_it_must_be(self) -> None:
        self.latest_ms = max(self.latest_ms, self.reference.now_ms)
        self.before = found = self.run(invariants.dump(self.client))
        invariants.check(found, forgotten=self.forgotten)
        assert found.rows == {shard: rows for shard, rows in self.reference.rows.items() if rows}
        assert found.holds == {member(name): hold.record for name, hold in self.reference.holds.items()}
        assert found.scopes == {
            scope: (known.last_ms, {name: counter.stored() for name, counter in known.counters.items()})
            for scope, known in self.reference.scopes.items()
        }
        assert {taken: amount for taken, amount in found.overages.items() if amount and self._still_counts(taken)} == {
            Taken(scope, name, counter.period_ms): counter.overage
            for scope, known in self.reference.scopes.items()
            for name, counter in known.counters.items()
            if isinstance(counter, Money) and counter.overage
        }

    def _still_counts(self, taken: Taken) -> bool:
        known = self.reference.scopes.get(taken.scope)
        counter = known.counters.get(taken.counter) if known is not None else None
        return counter is not None and counter.period_ms == taken.period_ms


async def _opened(open_client: OpenClient) -> Any:  # noqa: ANN401 - redis types replies as str or bytes
    return open_client()


def test_the_store_and_its_reference_agree_whatever_happens(open_client: OpenClient, back_end: str) -> None:
    thorough = os.environ.get("LIMITER_THOROUGH") == "1"
    examples = {"fakeredis": 30, "valkey": 80}[back_end] * (40 if thorough else 1)
    run_state_machine_as_test(
        lambda: StoreMachine(open_client),  # type: ignore[arg-type] # it makes machines, as a class does
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[phase for phase in Phase if phase is not Phase.explain],
        ),
    )
