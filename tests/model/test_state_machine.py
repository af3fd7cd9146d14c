"""The store and its reference are driven side by side: every answer is the same, every invariant holds.

LIMITER_THOROUGH=1 looks longer.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
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
from redis.asyncio import Redis

from limiter.domain.limits import Limit, LimitKind
from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag, State
from limiter.domain.scopes import Scope
from limiter.domain.windows import window_bounds
from limiter.store.keys import hold_key
from limiter.store.port import ChargeCall, Code, EndCall, ExtendCall, HoldCall, Plan, StoredKey, StoredPolicy
from limiter.store.redis_store import RedisStore
from tests.fakes.plugin import OpenClient
from tests.model import invariants
from tests.model.books import member
from tests.model.counters import Bucket, Counter, Money
from tests.model.reference import Reference
from tests.model.world import (
    IDS_PER_KEY,
    KEYS,
    MODELS,
    NAMES,
    ORGANIZATIONS,
    ZONES,
    World,
    ceilings,
    costs,
    scope_limits,
    token_counts,
)

T = TypeVar("T")

CHANGES = ("other limits", "fewer limits", "other amounts", "the limits of before", "another zone")
WINDOWS = ("hour", "day", "month", "year")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: The evening before the clocks change in New York.
BEGIN_MS = 1_772_919_000_000

steps_forward = st.sampled_from(
    [0, 1, 2, 999, 1_000, 1_001, 59_999, 60_000, 600_000, 600_001, HOUR_MS, DAY_MS, 31 * DAY_MS, 400 * DAY_MS]
)
steps_back = st.sampled_from([1, 1_000, 30_000, 60_000, 60_000, 60_001, HOUR_MS, 40 * DAY_MS])
lives = st.sampled_from([600_000, 600_000, 1, 1_000, DAY_MS])
fingerprints = st.sampled_from([b"a" * 16, b"a" * 16, b"a" * 16, b"b" * 16])

#: Which call is meant: one that is known (open ones first), or from 8 on any name at all.
subjects = st.integers(0, 9)

Draft = dict[str, Any]


def seldom(usual: T, *others: T) -> st.SearchStrategy[T]:
    """Mostly the usual value."""
    return st.integers(0, 11).map(lambda n: usual if n < 12 - len(others) else others[11 - n])


reserve_drafts = st.fixed_dictionaries(
    {
        "name": st.integers(0, len(NAMES) - 1),
        "model": st.sampled_from(MODELS),
        "age": seldom(0, 1, 2, 5),
        "denial": seldom(0, 2, 4, 5),
        "fingerprint": fingerprints,
        "cost": costs,
        "tokens": token_counts,
        "ttl_ms": lives,
        "lifetime_ms": st.sampled_from([600_000, DAY_MS]),
        "secret_expires_in_ms": seldom(None, 0, 1, -1),
        "output_max": st.sampled_from([-1, 0, 4096]),
        "on_expiry": st.sampled_from(OnExpiry),
        "dry_run": seldom("no", "yes").map("yes".__eq__),
        "all_limits": st.booleans(),
        "consume": seldom("no", "yes").map("yes".__eq__),
    }
)
end_drafts = st.fixed_dictionaries(
    {
        "subject": subjects,
        "basis": st.sampled_from([Basis.ESTIMATED, Basis.USAGE]),
        "cost": costs,
        "tokens": st.sampled_from([-1]) | token_counts,
        "flag": st.sampled_from([RowFlag(0), RowFlag.ABORTED, RowFlag.FAILED]),
        "ending": st.sampled_from([b"", b'{"usage":{}}']),
    }
)
release_drafts = st.fixed_dictionaries(
    {
        "subject": subjects,
        "basis": st.just(Basis.RELEASED),
        "cost": st.just(0),
        "tokens": st.just(0),
        "flag": st.sampled_from([RowFlag(0), RowFlag.UNCLAIMED, RowFlag.FORCED]),
        "ending": st.just(b""),
    }
)
extend_drafts = st.fixed_dictionaries({"subject": subjects, "ttl_ms": lives})
charge_drafts = st.fixed_dictionaries(
    {
        "name": st.integers(0, len(NAMES) - 1),
        "model": st.sampled_from(MODELS),
        "age": seldom(0, 1, 2),
        "fingerprint": fingerprints,
        "cost": costs,
        "ago_ms": st.sampled_from([None, None, 0, 1, HOUR_MS, 40 * DAY_MS]),
    }
)


def _with_other_amount(limit: Limit, data: st.DataObject) -> Limit:
    if limit.kind is LimitKind.SPEND:
        return replace(limit, amount=data.draw(ceilings))
    if limit.kind is LimitKind.CONCURRENCY:
        return replace(limit, amount=data.draw(st.integers(0, 5)))
    return replace(limit, amount=data.draw(st.integers(1, 10**6)), burst=data.draw(st.integers(1, 10**4)))


class StoreMachine(RuleBasedStateMachine):
    """One store, its reference, and a world that gives them the same calls."""

    def __init__(self, open_client: OpenClient) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.client = self.run(_opened(open_client))
        self.reference = Reference(BEGIN_MS)
        self.batches = 0
        self.store = RedisStore(self.client, clock_ms=lambda: self.reference.now_ms, observe=self._observe)
        self.world = World()
        self.limits_before: dict[Scope, tuple[Limit, ...]] = {}
        self.latest_ms = BEGIN_MS
        self.before = invariants.Dump()
        self.forgotten: Tally[str] = Tally()
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
            self.world.limits[scope] = tuple(_with_other_amount(limit, data) for limit in limits)
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

    @rule(organization=st.sampled_from(ORGANIZATIONS), window=st.sampled_from(WINDOWS), off=st.sampled_from([-1, 0, 1]))
    def time_comes_to_the_end_of_a_window(self, organization: str, window: str, off: int) -> None:
        end_ms = window_bounds(window, self.reference.now_ms, self.world.zone(organization))[1]
        self.reference.now_ms = max(self.reference.now_ms, end_ms + off)

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

    @rule(drafts=st.lists(reserve_drafts, min_size=1, max_size=3), rows=st.integers(0, 2))
    def reserve_with_a_backlog(self, drafts: list[Draft], rows: int) -> None:
        most = max(1, max((len(known) for known in self.reference.rows.values()), default=0) - rows)
        self.store._max_backlog = self.reference.max_backlog = most
        try:
            self._reserve(drafts)
        finally:
            self.store._max_backlog = self.reference.max_backlog = 0

    def _reserve(self, drafts: list[Draft]) -> None:
        calls = [self._hold_call(draft) for draft in drafts]
        answers = self.together(lambda call: self.store.reserve(call, deadline=None), calls)
        assert answers == self.reference.reserve(calls)
        # All or nothing: a refusal, an error and a dry run change nothing.
        if not any(
            answer.code == Code.GRANTED and not call.dry_run for answer, call in zip(answers, calls, strict=True)
        ):
            assert self.run(invariants.dump(self.client)).raw == self.before.raw

    def _hold_call(self, draft: Draft) -> HoldCall:
        fields, now_ms = dict(draft), self.reference.now_ms
        name, model = fields.pop("name"), fields.pop("model")
        plan = self._plan(name, model, age=fields.pop("age"), denial=fields.pop("denial"))
        expires_in_ms = fields.pop("secret_expires_in_ms")
        return HoldCall(
            plan=plan,
            name=NAMES[name],
            requests=1,
            retention_ms=HOUR_MS,
            key_expires_ms=0,
            secret_expires_ms=0 if expires_in_ms is None else now_ms + expires_in_ms,
            own_id=False,
            call=b'{"model":"%s"}' % model.encode(),
            **fields,
        )

    def _plan(self, name: int, model: str, *, age: int = 0, denial: int = 0) -> Plan:
        """The present plan of a call, or an older one of the same key."""
        key = KEYS[name // IDS_PER_KEY]
        plan = self.world.plan(key, model, self.reference.now_ms, denial=denial)
        of_key = [old for old in self.world.plans if old.key == key]
        return of_key[-min(age, len(of_key))] if age else plan

    def _subject(self, draft: Draft) -> ReservationName:
        known = sorted(self.reference.holds, key=lambda name: (not self.reference.holds[name].open, str(name)))
        subject = draft["subject"]
        return known[subject % len(known)] if known and subject < 8 else NAMES[subject % len(NAMES)]

    def _end_calls(self, drafts: list[Draft]) -> list[EndCall]:
        return [
            EndCall(
                name=self._subject(draft), retention_ms=HOUR_MS, **{k: v for k, v in draft.items() if k != "subject"}
            )
            for draft in drafts
        ]

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
        calls = [
            ChargeCall(
                plan=self._plan(draft["name"], draft["model"], age=draft["age"]),
                name=NAMES[draft["name"]],
                fingerprint=draft["fingerprint"],
                cost=draft["cost"],
                occurred_ms=0 if draft["ago_ms"] is None else now_ms - draft["ago_ms"],
                retention_ms=HOUR_MS,
                call=b"{}",
                ending=b'{"charged":1}',
            )
            for draft in drafts
        ]
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

    @rule(organization=st.sampled_from(ORGANIZATIONS))
    def append_refusals(self, organization: str) -> None:
        name = f"{organization}/sums"
        self.run(self.store.append_refusals(organization, b'{"refused":3}', {}))
        self.reference.append(organization, name, b'{"refused":3}')

    @precondition(lambda self: any(not hold.open for hold in self.reference.holds.values()))
    @rule(data=st.data())
    def the_retention_of_an_ended_hold_ends(self, data: st.DataObject) -> None:
        ended = sorted((name for name, hold in self.reference.holds.items() if not hold.open), key=str)
        name: ReservationName = data.draw(st.sampled_from(ended))
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
            scope: (known.last_ms, {name: _integers(counter) for name, counter in known.counters.items()})
            for scope, known in self.reference.scopes.items()
        }
        assert all(hold.record.state is not State.HELD or hold.claims >= 1 for hold in self.reference.holds.values())


async def _opened(open_client: OpenClient) -> Redis:
    return open_client()


def _integers(counter: Counter) -> tuple[int, ...]:
    """A counter as the store keeps it: its period, then six integers."""
    if isinstance(counter, Money):
        return (counter.period_ms, *counter.numbers(), counter.warned)
    if isinstance(counter, Bucket):
        return (counter.period_ms, *counter.numbers(), counter.tick_ms)
    return (counter.period_ms, *counter.numbers(), 0)


def test_the_store_and_its_reference_agree_whatever_happens(open_client: OpenClient, back_end: str) -> None:
    thorough = os.environ.get("LIMITER_THOROUGH") == "1"
    examples = {"fakeredis": 30, "valkey": 80}[back_end] * (40 if thorough else 1)
    run_state_machine_as_test(
        lambda: StoreMachine(open_client),  # type: ignore[arg-type, return-value] # it makes machines, as a class does
        settings=settings(
            max_examples=examples,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[phase for phase in Phase if phase is not Phase.explain],
        ),
    )
