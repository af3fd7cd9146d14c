"""Cases at an edge, which chance seldom meets: each was, or would be, a bug that costs money."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from limiter.domain.limits import Limit, LimitKind
from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag, State
from limiter.domain.rows import RowKind
from limiter.domain.scopes import Scope
from limiter.store.keys import shard_keys
from limiter.store.port import Code, EndCall, ExtendCall, HoldCall, Plan, PlanLimit, PlanScope, StoredPolicy
from limiter.store.redis_store import RedisStore
from tests.fakes.plugin import StoreClock
from tests.model import invariants

USD: Final = 10**9
MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000

#: Makes the limits of `acme` the next version of its policy and answers the plan of its one key.
Apply = Callable[..., Awaitable[Plan]]


@pytest.fixture
def apply(store: RedisStore) -> Apply:
    version = 0

    async def apply(*limits: PlanLimit) -> Plan:
        nonlocal version
        version += 1
        assert await store.replace_policy(StoredPolicy("acme", version, "{}"))
        return Plan("acme", version, Scope("acme", "search", "bot"), 0, 0, (PlanScope(Scope("acme"), limits),))

    return apply


def money(clock: StoreClock, amount: int, **fields: Any) -> PlanLimit:  # noqa: ANN401 - the fields of a Limit
    start_ms = clock.now_ms - DAY_MS
    window = (start_ms, start_ms + 30 * DAY_MS, start_ms + 60 * DAY_MS)
    return PlanLimit(Limit("cap", LimitKind.SPEND, amount, "month", **fields), applies=True, window=window)


def tokens(amount: int, burst: int) -> PlanLimit:
    return PlanLimit(Limit("tpm", LimitKind.TOKENS, amount, "minute", burst), applies=True)


def name(number: int) -> ReservationName:
    return ReservationName("acme", f"{number:032x}")


def hold(plan: Plan, number: int, *, cost: int = USD, tokens: int = 0) -> HoldCall:
    return HoldCall(
        plan=plan, name=name(number), fingerprint=b"f" * 16, cost=cost, tokens=tokens, requests=1, ttl_ms=MINUTE_MS,
        lifetime_ms=DAY_MS, retention_ms=DAY_MS, key_expires_ms=0, secret_expires_ms=0, output_max=-1,
        on_expiry=OnExpiry.CHARGE, dry_run=False, all_limits=True, consume=False, own_id=False, call=b"{}",
    )  # fmt: skip


async def grant(store: RedisStore, call: HoldCall) -> None:
    assert (await store.reserve(call, deadline=None)).code == Code.GRANTED


def end(number: int, cost: int, basis: Basis = Basis.USAGE, *, tokens: int = -1) -> EndCall:
    return EndCall(name(number), basis, cost, tokens, RowFlag(0), DAY_MS, b"{}")


async def level(store: RedisStore, plan: Plan) -> float:
    """Tokens in the bucket of a plan that has one limit."""
    ((status,),) = [reply.statuses for reply in await store.inspect([plan])]
    return status.b / status.e


async def test_a_counter_that_returns_in_the_same_millisecond_owes_nothing_to_holds_of_before(
    store: RedisStore, store_clock: StoreClock, apply: Apply
) -> None:
    with_money = (money(store_clock, 10 * USD), tokens(60, 100))
    await grant(store, hold(await apply(*with_money), 1))
    await grant(store, hold(await apply(with_money[1]), 2))
    plan = await apply(*with_money)
    await grant(store, hold(plan, 3, cost=1))
    await store.settle(end(1, 5))
    (reply,) = await store.inspect([plan])
    assert reply.statuses[0][4:] == (0, 0, 0, 1), "settled USD and nano-USD, held USD and nano-USD"
    invariants.check(await invariants.dump(store._client))


async def test_a_counter_that_returns_after_the_clock_was_set_back_over_a_window_end_is_a_new_one(
    store: RedisStore, store_clock: StoreClock, apply: Apply
) -> None:
    end_ms = store_clock.now_ms + 29 * DAY_MS
    with_money = (money(store_clock, 10 * USD), tokens(60, 100))
    await grant(store, hold(await apply(*with_money), 1))
    store_clock.now_ms = end_ms + 5_000
    await grant(store, hold(await apply(*with_money), 2))
    store_clock.advance(-10_000)
    await grant(store, hold(await apply(with_money[1]), 3))
    await grant(store, hold(await apply(*with_money), 4))
    store_clock.advance(20_000)
    await grant(store, hold(await apply(*with_money), 5))
    for number in (1, 2, 4):
        await store.settle(end(number, 5))
    invariants.check(await invariants.dump(store._client))


async def test_debt_stays_within_one_burst_when_the_burst_is_lowered(store: RedisStore, apply: Apply) -> None:
    await grant(store, hold(await apply(tokens(60, 1_000)), 1, tokens=1_000))
    await store.settle(end(1, 0, tokens=5_000))
    assert await level(store, await apply(tokens(60, 10))) == -10


# 60 tokens a minute fill a bucket of 10 in 10,000 ms.
@pytest.mark.parametrize(("waited_ms", "expected"), [(9_999, 10), (10_000, 0)])
async def test_tokens_come_back_only_while_the_bucket_would_not_be_full_without_them(
    store: RedisStore, store_clock: StoreClock, apply: Apply, *, waited_ms: int, expected: float
) -> None:
    plan = await apply(tokens(60, 10))
    await grant(store, hold(plan, 1, tokens=10))
    store_clock.advance(waited_ms)
    await grant(store, hold(plan, 2, tokens=9))
    before = await level(store, plan)
    await store.settle(end(1, 0, tokens=0))
    assert await level(store, plan) == min(10, before + expected)


async def test_a_refund_counts_ticks_of_the_bucket_as_refilling_does(
    store: RedisStore, store_clock: StoreClock, apply: Apply
) -> None:
    plan = await apply(PlanLimit(Limit("tph", LimitKind.TOKENS, 3_600, "hour", 10), applies=True))
    store_clock.now_ms = store_clock.now_ms // 1_000 * 1_000 + 999
    await grant(store, hold(plan, 1, tokens=10))
    # Ten ticks of a second begin within 9,001 ms: the bucket is full, and there is nothing to give back.
    store_clock.advance(9_001)
    await grant(store, hold(plan, 2, tokens=10))
    await store.settle(end(1, 0, tokens=0))
    assert await level(store, plan) == 0


async def test_a_hold_has_expired_in_the_millisecond_in_which_it_expires(
    store: RedisStore, store_clock: StoreClock, apply: Apply
) -> None:
    await grant(store, hold(await apply(money(store_clock, 10 * USD)), 1))
    store_clock.advance(MINUTE_MS - 1)
    assert (await store.extend(ExtendCall(name(1), 1))).state is State.HELD
    store_clock.advance(1)
    assert (await store.extend(ExtendCall(name(1), MINUTE_MS))).state is State.EXPIRED


async def test_the_correction_of_a_timely_settlement_is_not_late_and_no_overage_stays(
    store: RedisStore, store_clock: StoreClock, apply: Apply
) -> None:
    await grant(store, hold(await apply(money(store_clock, 10 * USD)), 1))
    assert (await store.settle(end(1, 2 * USD, Basis.ESTIMATED))).flags == RowFlag.OVERAGE
    store_clock.advance(DAY_MS // 2)
    assert (await store.settle(end(1, USD))).flags == RowFlag(0)


async def test_a_threshold_is_reported_although_others_were_taken_away(
    store: RedisStore, store_clock: StoreClock, apply: Apply
) -> None:
    await grant(store, hold(await apply(money(store_clock, 10 * USD, warn_at=(100_000,))), 1, cost=2 * USD))
    await grant(store, hold(await apply(money(store_clock, 10 * USD, warn_at=(500_000,))), 2, cost=4 * USD))
    rows = await store.rows(store.shard_of("acme"), after=None, count=10)
    told = [json.loads(row.call) for row in rows if row.kind is RowKind.EVENT]
    assert [(event["threshold"], event["held_nanousd"]) for event in told] == [(0.1, 2 * USD), (0.5, 6 * USD)]


async def test_a_due_hold_whose_record_is_gone_or_ended_is_not_in_the_way_of_others(
    store: RedisStore, store_clock: StoreClock, apply: Apply
) -> None:
    plan = await apply(money(store_clock, 10 * USD))
    for number in (1, 2, 3):
        await grant(store, hold(plan, number))
    await store.settle(end(1, USD))
    due = shard_keys(store.shard_of("acme"))[0]
    await store._command("ZADD", due, 1, f"acme/{name(1).id}", 2, f"acme/{name(9).id}")
    store_clock.advance(MINUTE_MS)
    for _ in range(4):
        await store.expire_due(["acme"], limit=1, retention_ms=DAY_MS)
    found = await invariants.dump(store._client)
    assert not found.due
    invariants.check(found)


async def test_one_plan_asked_about_twice_is_answered_twice(
    store: RedisStore, store_clock: StoreClock, apply: Apply
) -> None:
    plan = await apply(money(store_clock, 10 * USD))
    first, second = await store.inspect([plan, plan])
    assert first == second
