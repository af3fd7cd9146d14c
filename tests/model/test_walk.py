"""Many callers on several sidecars walk at random over one store; afterwards the ledger must add up.

A failing run prints its seed; LIMITER_SEED=… makes the same choices again (the server's order of
concurrent calls is its own).
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter as Tally
from collections.abc import AsyncIterator
from random import Random
from typing import Final

import pytest

from limiter.domain.limits import Limit, LimitKind
from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason
from limiter.store.port import (
    ChargeCall,
    Code,
    EndCall,
    ExtendCall,
    HoldCall,
    HoldReply,
    Plan,
    PlanLimit,
    PlanScope,
    RowKind,
    StoredPolicy,
    Taken,
    Why,
)
from limiter.store.redis_store import RedisStore
from tests.fakes.plugin import OpenClient, StoreClock
from tests.model import invariants

NANO: Final = 10**9
DAY_MS: Final = 86_400_000
LARGEST: Final = 3 * NANO
SIDECARS: Final = 3
WALKERS: Final = 24
KEYS: Final = tuple(Scope("acme", team, key) for team in ("search", "ads") for key in ("ant", "bot"))
NO_FLAG: Final = RowFlag(0)

THOROUGH = os.environ.get("LIMITER_THOROUGH") == "1"


@pytest.fixture(params=range(20 if THOROUGH else 2))
def seed() -> str:
    """What the walkers' choices come from; pytest prints it where a test fails."""
    seed = os.environ.get("LIMITER_SEED") or secrets.token_hex(4)
    print(f"LIMITER_SEED={seed}")  # noqa: T201 - pytest shows it with a failure only
    return seed


class City:
    """One organization, its sidecars, and everything that was answered to anybody."""

    def __init__(self, open_client: OpenClient, clock: StoreClock, ceilings: dict[Scope, int]) -> None:
        self.clock = clock
        self.ceilings = ceilings
        self.sidecars = [RedisStore(open_client(), clock_ms=clock, abandoned=self._abandoned) for _ in range(SIDECARS)]
        self.client = open_client()
        self.granted: set[str] = set()
        self.lost: list[ReservationName] = []
        self.denied: Tally[DenialReason] = Tally()
        # One for each sidecar: each has a cache of its own.
        self._plans = [{key: self._plan(key) for key in KEYS} for _ in range(SIDECARS)]

    def _plan(self, key: Scope) -> Plan:
        start_ms = self.clock.now_ms - DAY_MS
        window = (start_ms, start_ms + 31 * DAY_MS, start_ms + 62 * DAY_MS)
        scopes = tuple(
            PlanScope(
                scope,
                (
                    PlanLimit(
                        Limit("cap", LimitKind.SPEND, self.ceilings[scope], "month"), applies=True, window=window
                    ),
                    PlanLimit(Limit("slots", LimitKind.CONCURRENCY, 20), applies=True),
                    PlanLimit(Limit("tpm", LimitKind.TOKENS, 60_000, "minute", 5_000), applies=True),
                ),
            )
            for scope in key.lineage()
        )
        return Plan("acme", 1, key, 0, 0, scopes)

    def _abandoned(self, call: HoldCall, reply: HoldReply | None) -> None:
        assert reply is not None
        if reply.code == Code.GRANTED:
            self.granted.add(call.name.id)
            self.lost.append(call.name)

    async def open(self) -> None:
        await self.client.flushall()
        await self.sidecars[0].replace_policy(StoredPolicy("acme", 1, "{}"))

    async def close(self) -> None:
        for sidecar in self.sidecars:
            await sidecar.close()
        await self.client.aclose()

    async def reserve(self, choose: Random, cost: int, *, hurry: bool = False) -> ReservationName | None:
        """Ask a sidecar for a hold; `hurry`: be gone before the answer comes, perhaps."""
        number = choose.randrange(SIDECARS)
        key = choose.choice(KEYS)
        call = HoldCall(
            plan=self._plans[number][key],
            name=ReservationName("acme", choose.randbytes(16).hex()),
            fingerprint=b"f" * 16,
            cost=cost,
            tokens=choose.randrange(200),
            requests=1,
            ttl_ms=choose.choice([500, 5_000, 60_000]),
            lifetime_ms=DAY_MS,
            retention_ms=DAY_MS,
            key_expires_ms=0,
            secret_expires_ms=0,
            output_max=-1,
            on_expiry=choose.choice(list(OnExpiry)),
            dry_run=False,
            all_limits=True,
            consume=choose.random() < 0.1,
            own_id=False,
            call=b'{"model":"m"}',
        )
        asking = asyncio.create_task(self.sidecars[number].reserve(call, deadline=None))
        if hurry:
            for _ in range(choose.randrange(8)):
                await asyncio.sleep(0)
            asking.cancel()
        try:
            reply = await asking
        except asyncio.CancelledError:
            return None
        self._judge(call, reply)
        return call.name if reply.code == Code.GRANTED else None

    def _judge(self, call: HoldCall, reply: HoldReply) -> None:
        """A grant left every counter within its limit; a refusal is justified by the numbers that it tells."""
        assert reply.code in (Code.GRANTED, Code.DENIED)
        reasons = []
        for status in reply.statuses:
            limit = call.plan.scopes[status.scope].limits[status.limit].limit
            if limit.kind is LimitKind.SPEND:
                settled, held = status.b * NANO + status.c, status.d * NANO + status.e
                used, asked = settled + held, call.cost
                reason = DenialReason.SPEND_CEILING if settled + asked > limit.amount else DenialReason.SPEND_HELD
            elif limit.kind is LimitKind.CONCURRENCY:
                used, asked, reason = status.a, 1, DenialReason.CONCURRENCY
            else:
                # Free tokens, rounded down, count as room.
                used, asked = limit.amount - status.b // status.e, call.tokens
                reason = DenialReason.TOKEN_RATE
            # A call that costs nothing needs no room: it is granted even where an overrun has passed the ceiling.
            needs_room = limit.kind is LimitKind.CONCURRENCY or (limit.kind is LimitKind.SPEND and call.cost > 0)
            if reply.code == Code.GRANTED and needs_room:
                assert used <= limit.amount
            if status.why == Why.REFUSES:
                assert used + asked > limit.amount
                reasons.append(reason)
        if reply.code == Code.GRANTED:
            assert not reasons
            self.granted.add(call.name.id)
        else:
            assert reply.state == min(reasons)
            self.denied[min(reasons)] += 1

    async def end(
        self, choose: Random, name: ReservationName, basis: Basis, cost: int, flag: RowFlag = NO_FLAG
    ) -> None:
        """Settle or release through any sidecar."""
        call = EndCall(name, basis, cost, choose.randrange(-1, 400), flag, DAY_MS, b"{}")
        sidecar = choose.choice(self.sidecars)
        reply = await (sidecar.release(call) if basis is Basis.RELEASED else sidecar.settle(call))
        assert reply.found

    async def charge(self, choose: Random, cost: int) -> None:
        number, key = choose.randrange(SIDECARS), choose.choice(KEYS)
        name = ReservationName("acme", choose.randbytes(16).hex())
        call = ChargeCall(self._plans[number][key], name, b"c" * 16, cost, 0, DAY_MS, b"{}", b"{}")
        reply = await self.sidecars[number].charge(call)
        assert (reply.code, reply.repeated) == (0, False)

    async def sweep(self, choose: Random, *, limit: int = 50) -> None:
        await choose.choice(self.sidecars).expire_due(["acme"], limit=limit, retention_ms=7 * DAY_MS)

    async def give_back_lost(self, choose: Random) -> None:
        while self.lost:
            await self.end(choose, self.lost.pop(), Basis.RELEASED, 0, RowFlag.UNCLAIMED)


@pytest.fixture
async def city(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[City]:
    """A city with less money than its walkers want; keys, teams and the organization each run short."""
    ceilings = {Scope("acme"): 150 * NANO, Scope("acme", "search"): 90 * NANO, Scope("acme", "ads"): 80 * NANO}
    ceilings |= dict.fromkeys(KEYS, 50 * NANO)
    city = City(open_client, store_clock, ceilings)
    await city.open()
    yield city
    await city.close()


async def _walk(city: City, choose: Random, steps: int) -> None:
    """One walker: everything that a caller can do, in no sensible order."""
    mine: list[ReservationName] = []
    for _ in range(steps):
        cost = choose.choice([0, 1, NANO - 1, choose.randrange(LARGEST), LARGEST])
        match choose.choice(
            ["reserve"] * 6 + ["settle"] * 5 + ["release", "extend", "charge", "hurry", "sweep", "wait"]
        ):
            case "reserve":
                name = await city.reserve(choose, cost)
                mine += [name] if name is not None else []
            case "hurry":
                await city.reserve(choose, cost, hurry=True)
                await city.give_back_lost(choose)
            case "settle" if mine:  # and perhaps again later, which corrects it
                await city.end(choose, choose.choice(mine), choose.choice([Basis.ESTIMATED, Basis.USAGE]), cost)
            case "release" if mine:
                await city.end(choose, mine.pop(choose.randrange(len(mine))), Basis.RELEASED, 0)
            case "extend" if mine:
                assert (await choose.choice(city.sidecars).extend(ExtendCall(choose.choice(mine), 60_000))).found
            case "charge":
                await city.charge(choose, cost // 10)
            case "sweep":
                await city.sweep(choose, limit=choose.choice([1, 50]))
            case "wait":
                city.clock.advance(choose.choice([1, 50, 1_000]))


async def _forget_scripts(city: City, walking: asyncio.Event) -> None:
    """As after a failover: the server knows no script, again and again."""
    while walking.is_set():
        await city.client.script_flush()
        await asyncio.sleep(0.005)


async def test_after_any_walk_the_ledger_adds_up_to_the_counters(city: City, seed: str) -> None:
    walking = asyncio.Event()
    walking.set()
    forgetting = asyncio.create_task(_forget_scripts(city, walking))
    steps = 400 if THOROUGH else 60
    async with asyncio.TaskGroup() as walkers:
        for walker in range(WALKERS):
            walkers.create_task(_walk(city, Random(f"{seed}-{walker}"), steps))
    walking.clear()
    await forgetting
    choose = Random(f"{seed}-end")
    await city.give_back_lost(choose)
    invariants.check(await invariants.dump(city.client))
    city.clock.advance(2 * DAY_MS)
    await city.sweep(choose, limit=1_000)
    found = await invariants.dump(city.client)
    invariants.check(found)
    assert not found.open_holds
    _check_that_no_grant_is_lost(city, found)
    _check_the_books(city, found)
    assert city.denied, "the walk was too short to meet a limit"


def _check_that_no_grant_is_lost(city: City, found: invariants.Dump) -> None:
    (rows,) = found.rows.values()
    ended = Tally(row.member.removeprefix("acme/") for row in rows if row.kind is RowKind.SETTLEMENT)
    assert ended == Tally(city.granted)


def _check_the_books(city: City, found: invariants.Dump) -> None:
    """Replay the ledger in its order: at key, team and organization, to the nano-dollar."""
    (rows,) = found.rows.values()
    spent: Tally[Scope] = Tally()
    overrun = 0
    for row in rows:
        for taken in row.taken:
            spent[taken.scope] += row.amount if _is_money(taken) else 0
        # Only what was not held before can carry a counter over its ceiling.
        overrun += row.cost if row.kind is RowKind.CHARGE else max(0, row.cost - row.held)
        for scope, sum_ in spent.items():
            assert sum_ <= city.ceilings[scope] + overrun
    for scope, (_, counters) in found.scopes.items():
        assert invariants.money(counters["cap:spend:month"]) == (spent[scope], 0)
    for parent in (Scope("acme"), Scope("acme", "search"), Scope("acme", "ads")):
        children = [scope for scope in spent if scope != parent and parent in scope.lineage() and scope.key]
        assert spent[parent] == sum(spent[child] for child in children)


def _is_money(taken: Taken) -> bool:
    return ":spend:" in taken.counter


async def test_with_more_demand_than_money_all_but_one_hold_of_it_is_spent(
    open_client: OpenClient, store_clock: StoreClock, seed: str
) -> None:
    ceiling = 40 * NANO
    city = City(open_client, store_clock, {scope: ceiling for key in KEYS for scope in key.lineage()})
    await city.open()

    async def spend(choose: Random) -> None:
        while not city.denied[DenialReason.SPEND_CEILING]:
            cost = choose.randrange(1, LARGEST)
            name = await city.reserve(choose, cost)
            if name is not None:
                await city.end(choose, name, Basis.USAGE, cost)
            city.clock.advance(50)

    async with asyncio.TaskGroup() as spenders:
        for spender in range(WALKERS):
            spenders.create_task(spend(Random(f"{seed}-{spender}")))
    found = await invariants.dump(city.client)
    invariants.check(found)
    settled, held = invariants.money(found.scopes[Scope("acme")][1]["cap:spend:month"])
    assert held == 0
    assert ceiling - LARGEST < settled <= ceiling
    await city.close()
