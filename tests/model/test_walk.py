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

from limiter.domain.reservations import Basis, ReservationName
from limiter.domain.rows import RowKind, Taken
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason
from limiter.store.port import ExtendCall
from tests.fakes.plugin import OpenClient, StoreClock
from tests.model import invariants
from tests.model.city import DAY_MS, KEYS, NANO, City

LARGEST: Final = 3 * NANO
WALKERS: Final = 24

THOROUGH = os.environ.get("LIMITER_THOROUGH") == "1"


@pytest.fixture(params=range(20 if THOROUGH else 2))
def seed() -> str:
    """What the walkers' choices come from; pytest prints it where a test fails."""
    seed = os.environ.get("LIMITER_SEED") or secrets.token_hex(4)
    print(f"LIMITER_SEED={seed}")  # noqa: T201 - pytest shows it with a failure only
    return seed


@pytest.fixture
async def city(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[City]:
    """A city with less money than its walkers want; keys, teams and the organization each run short."""
    ceilings = {Scope("acme"): 150 * NANO, Scope("acme", "search"): 90 * NANO, Scope("acme", "ads"): 80 * NANO}
    ceilings |= dict.fromkeys(KEYS, 50 * NANO)
    city = City(open_client, store_clock, ceilings, mixed=True)
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
        await city.client.function_flush()
        await asyncio.sleep(0.02)


async def test_after_any_walk_the_ledger_adds_up_to_the_counters(city: City, seed: str) -> None:
    walking = asyncio.Event()
    walking.set()
    forgetting = asyncio.create_task(_forget_scripts(city, walking))
    steps = 400 if THOROUGH else 60
    try:
        async with asyncio.TaskGroup() as walkers:
            for walker in range(WALKERS):
                walkers.create_task(_walk(city, Random(f"{seed}-{walker}"), steps))
    finally:
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
    overrun: Tally[Scope] = Tally()
    for row in rows:
        for taken in filter(_is_money, row.taken):
            spent[taken.scope] += row.amount
            # Only what was not held there before can carry a counter over its ceiling.
            overrun[taken.scope] += row.cost if row.kind is RowKind.CHARGE else max(0, row.cost - taken.held)
        for scope, sum_ in spent.items():
            assert sum_ <= city.ceilings[scope] + overrun[scope]
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
