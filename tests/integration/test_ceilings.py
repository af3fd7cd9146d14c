"""A ceiling holds, whatever happens to callers, sidecars and store while money runs out."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Sized
from functools import partial

import grpc
import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.integration.books import Books, balanced_books, open_holds, read_books
from tests.integration.conftest import THOROUGH, Dial
from tests.integration.connections import USD, Connection, eventually, of_key, wait_for
from tests.integration.sidecars import Fleet, silent
from tests.integration.traffic import Load, Tally, check_refusal
from tests.servers import SentinelSet, StartServer, StoreServer

CENT = USD // 100

#: Team a is the narrowest place of its keys, the keys of team b are, and for team c it is the organization.
POLICY = """
version: 1
organizations:
  {organization}:
    limits: [{{id: all, spend: {all}, per: total}}]
    teams:
      a:
        limits: [{{id: all, spend: 5, per: total}}]
        key_defaults: {{limits: [{{id: all, spend: 4, per: total}}]}}
        keys: {{a1: {{}}, a2: {{}}}}
      b:
        limits: [{{id: all, spend: 5, per: total}}]
        key_defaults: {{limits: [{{id: all, spend: 1, per: total}}]}}
        keys: {{b1: {{}}, b2: {{}}}}
      c:
        limits: [{{id: all, spend: 100, per: total}}]
        keys: {{c1: {{limits: [{{id: all, spend: 100, per: total}}]}}}}
"""
KEYS = ("a/a1", "a/a2", "b/b1", "b/b2", "c/c1", "c/c1")
SIZES = (CENT // 10, 4 * CENT + 1)


@pytest.fixture
def seed() -> int:
    return 20261


async def start_load(connections: list[Connection], organization: str, seed: int, *, usd: int = 20) -> Load:
    """Apply the policy, and make a load that wants several times the money that there is."""
    await connections[0].apply(POLICY.format(organization=organization, all=usd))
    return Load(connections, [f"{organization}/{key}" for key in KEYS], seed, SIZES)


def check_outcome(books: Books, tally: Tally) -> None:
    """Books and callers tell the same, no ceiling was passed, and none was held back from."""
    assert books.open_holds == []
    for name, status in books.limits.items():
        assert status.settled <= status.limit_value, name
        assert status.held == 0, name
    for (scope, limit), ceiling in tally.ceilings_met().items():
        (status,) = [status for status in books.limits.values() if (status.scope, status.limit) == (scope, limit)]
        assert status.settled > ceiling - tally.largest, f"{limit} of {scope} refused with money left"
    booked = {row["reservation"]: 0 for row in books.money_rows()}
    for row in books.money_rows():
        booked[row["reservation"]] += row["amount_nanousd"]
    assert booked == tally.costs
    assert len(books.money_rows()) == len(tally.costs) == len(tally.held)


@pytest.mark.parametrize("seed", range(30 if THOROUGH else 2))
async def test_settled_and_held_never_pass_a_ceiling(three: list[Connection], organization: str, seed: int) -> None:
    load = await start_load(three, organization, seed)
    tally = await load.run(callers=300, calls=60)

    books = await balanced_books(three[0], organization)
    check_outcome(books, tally)
    met = {scope.rpartition("/")[2] for scope, _ in tally.ceilings_met()}
    assert {organization, "a", "b1", "b2"} <= met, "the load was meant to run out of money everywhere"
    assert tally.trouble == {}


async def test_a_refusal_names_every_limit_without_room_and_moves_nothing(
    three: list[Connection], organization: str
) -> None:
    await three[0].apply(
        f"""
version: 1
organizations:
  {organization}:
    limits: [{{id: all, spend: 5, per: total}}, {{id: rpm, requests: 1, per: day, burst: 3}}]
    teams:
      a:
        limits: [{{id: all, spend: 4, per: total}}, {{id: tpm, tokens: 1, per: day, burst: 1000}}]
        keys:
          k:
            limits:
              - {{id: day, spend: 2, per: year}}
              - {{id: one, concurrency: 1}}
              - {{id: wide, spend: 900, per: total}}
"""
    )
    key = f"{organization}/a/k"
    await three[0].grant(of_key(key, 2 * USD))
    before = await balanced_books(three[1], organization)
    answer = await three[2].reserve(of_key(key, 4 * USD, all_limits=True))
    denial = answer.denial
    assert {(status.scope.rpartition("/")[2], status.limit) for status in denial.violations} == {
        (organization, "all"),
        ("a", "all"),
        ("k", "day"),
        ("k", "one"),
    }
    assert denial.reason == pb.Denial.SPEND_CEILING
    assert {status.limit for status in answer.limits} == {"all", "rpm", "tpm", "day", "one", "wide"}
    after = await balanced_books(three[1], organization)
    assert after == before

    rates = await three[0].deny(
        pb.ReserveRequest(key_id=key, model="gpt-4o", estimate=pb.Estimate(input_tokens=1001, max_output_tokens=1))
    )
    assert {status.limit for status in rates.violations} == {"tpm", "one", "day"}
    assert (rates.reason, rates.http_status, rates.retryable) == (pb.Denial.NEVER_FITS, 400, False)
    assert await balanced_books(three[2], organization) == before


async def test_a_dry_run_tells_the_same_and_moves_nothing(three: list[Connection], organization: str) -> None:
    await three[0].apply(POLICY.format(organization=organization, all=12))
    before = await read_books(three[0], organization)
    fits = await three[1].reserve(of_key(f"{organization}/b/b1", USD, "call-1", dry_run=True))
    assert (fits.decision, fits.dry_run, fits.reservation) == (pb.ReserveResponse.GRANTED, True, "")
    request = of_key(f"{organization}/b/b1", USD + 1, "call-1", dry_run=True, all_limits=True)
    refused = await three[2].reserve(request)
    assert refused.dry_run
    check_refusal(request, refused)
    assert await read_books(three[0], organization) == before


async def test_ceilings_hold_when_a_sidecar_is_killed(
    fleet: Fleet, three: list[Connection], books_store: StoreServer, dial: Dial, organization: str
) -> None:
    victim = fleet.start(store=books_store.url)
    connections = [dial(victim), *three[:2]]
    load = await start_load(connections, organization, 20262)
    running = asyncio.create_task(load.run(callers=300, calls=60))
    await _until_granted(load, 300)
    victim.kill()
    tally = await running

    assert tally.trouble, "somebody was meant to notice"
    check_outcome(await balanced_books(connections[1], organization), tally)


async def test_ceilings_hold_when_the_scripts_are_flushed(
    three: list[Connection], books_store: StoreServer, organization: str, seed: int
) -> None:
    load = await start_load(three, organization, seed)
    running = asyncio.create_task(load.run(callers=300, calls=60))
    with books_store.client() as client:
        while not running.done():
            await asyncio.to_thread(client.function_flush)
            await asyncio.sleep(0.05)
    tally = await running

    assert tally.trouble == {}, "a forgotten script is the limiter's own affair"
    check_outcome(await balanced_books(three[0], organization), tally)


async def test_every_acknowledged_settlement_outlives_the_store_that_was_killed(
    fleet: Fleet, dial: Dial, organization: str, seed: int
) -> None:
    owner = fleet.start("--fsync", "always")
    address = f"unix://{owner.directory}/store/valkey.sock"
    sidecars = [owner, fleet.start(store=address), fleet.start(store=address)]
    connections = [dial(sidecar) for sidecar in sidecars]
    load = await start_load(connections, organization, seed, usd=60)  # enough for the load to outlast both kills
    running = asyncio.create_task(load.run(callers=200, calls=60))
    for number in (1, 2):
        restarts = owner.metric("limiter_store_restarts_total")  # before: nothing is sent while it is read
        await _until_granted(load, 200 * number)
        os.kill(owner.store_pid, signal.SIGKILL)

        async def restarted(before: float = restarts) -> bool:
            return await asyncio.to_thread(owner.metric, "limiter_store_restarts_total") > before

        await eventually(restarted, what="the store's restart")
    tally = await running

    assert tally.trouble, "somebody was meant to notice"
    check_outcome(await balanced_books(connections[0], organization), tally)  # the one that has the books
    for sidecar in sidecars[::-1]:
        assert sidecar.stop() == 0


async def test_a_caller_who_leaves_at_any_moment_and_comes_back_has_one_hold(
    three: list[Connection], organization: str, seed: int
) -> None:
    await three[0].apply(POLICY.format(organization=organization, all=1000))
    dice = random.Random(seed)
    received: dict[str, str] = {}
    left = 0

    async def caller(number: int) -> None:
        nonlocal left
        for call in range(4):
            request = of_key(f"{organization}/c/c1", CENT, f"call-{number}-{call}")
            patience_s = [dice.choice((0.001, 0.005, 0.02)), dice.choice((0.005, 0.02))]
            while request.request_id not in received:
                try:
                    answer = await asyncio.wait_for(
                        dice.choice(three).reserve(request), patience_s.pop() if patience_s else None
                    )
                except TimeoutError:
                    left += 1
                except grpc.aio.AioRpcError as error:
                    # HTTP/2 servers close a connection that floods of calls have left: its other calls come back too.
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise
                else:
                    received[request.request_id] = answer.reservation

    async with asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(caller(number))

    assert left > 100, "callers were meant to leave"
    assert len(received) == 800

    async def at_rest() -> bool:
        return len([hold async for hold in open_holds(three[0], organization)]) <= len(received)

    await eventually(at_rest, what="the release of grants that nobody received")
    books = await balanced_books(three[0], organization)
    assert {hold.request_id: hold.reservation for hold in books.open_holds} == received
    assert all(row["flags"] == ["UNCLAIMED"] and not row["amount_nanousd"] for row in books.money_rows())


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_grants_of_callers_that_left_while_the_store_was_silent_are_given_back(
    fleet: Fleet, start_server: StartServer, dial: Dial, organization: str, engine: str
) -> None:
    store = start_server("--appendonly", "yes", "--maxmemory-policy", "noeviction")
    sidecar = fleet.start("--engine", engine, store=store.url)
    connection = dial(sidecar)
    await connection.apply(POLICY.format(organization=organization, all=1000))
    key = f"{organization}/c/c1"
    stays = await connection.grant(of_key(key, CENT, "stays"))
    with silent(store.process.pid):
        leaving = [
            asyncio.create_task(connection.reserve(of_key(key, CENT, f"call-{number}" if number % 2 else "")))
            for number in range(15)
        ]
        staying = [
            asyncio.create_task(connection.reserve(of_key(key, CENT, f"stays-{number}"))) for number in range(15)
        ]
        await connection.reached()
        for asking in leaving:
            asking.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await connection.reached()
    received = {stays.reservation} | {(await asking).reservation for asking in staying}

    async def given_back() -> bool:
        return {hold.reservation async for hold in open_holds(connection, organization)} == received

    await eventually(given_back, what="the release of grants that nobody received")
    books = await balanced_books(connection, organization)
    assert {tuple(row["flags"]) for row in books.money_rows()} <= {("UNCLAIMED",)}
    assert sidecar.metric("limiter_unclaimed_total") == len(books.money_rows())
    assert len(received) == 16


async def test_ceilings_hold_while_the_policy_changes(three: list[Connection], organization: str, seed: int) -> None:
    load = await start_load(three, organization, seed, usd=6)
    load.check_ceilings = False  # a lowered ceiling may be below what is spent
    load.goes_on = True
    running = asyncio.create_task(load.run(callers=150, calls=30))
    for step, usd in enumerate((4, 8, 3, 9, 12)):
        # Of both kinds, so that a lowered ceiling cannot bring it to a halt.
        await wait_for(partial(_has_answers, load, 150 * (step + 1)), what="traffic")
        admin = three[step % 3]
        await admin.apply(POLICY.format(organization=organization, all=usd))
    tally = await running

    books = await balanced_books(three[0], organization)
    assert books.open_holds == []
    assert books.settled(organization) <= 12 * USD
    booked = {row["reservation"]: row["amount_nanousd"] for row in books.money_rows()}
    assert booked == tally.costs


async def test_a_key_that_is_switched_off_and_on_under_load_loses_nothing(
    three: list[Connection], organization: str, seed: int
) -> None:
    await three[0].apply(POLICY.format(organization=organization, all=1000))
    key = f"{organization}/c/c1"
    refusals: list[pb.Denial] = []
    costs: dict[str, int] = {}
    ended = asyncio.Event()

    async def caller(number: int) -> None:
        dice = random.Random(f"{seed}/{number}")
        while not ended.is_set():
            connection = dice.choice(three)
            answer = await connection.reserve(of_key(key, CENT))
            if answer.decision == pb.ReserveResponse.DENIED:
                assert answer.denial.reason == pb.Denial.KEY_DISABLED
                refusals.append(answer.denial)
                await asyncio.sleep(0.005)
                continue
            costs[answer.reservation] = dice.randrange(CENT)
            await dice.choice(three).settle(answer.reservation, costs[answer.reservation])

    callers = [asyncio.create_task(caller(number)) for number in range(50)]
    for step in range(6):
        enabled = bool(step % 2)
        await three[step % 3].admin.UpdateKey(pb.UpdateKeyRequest(key=key, enabled=enabled))
        # What is asked after the answer sees the change, on every sidecar.
        for connection in three:
            answer = await connection.reserve(of_key(key, CENT, dry_run=True))
            assert (answer.decision == pb.ReserveResponse.GRANTED) == enabled
        heard: Sized = costs if enabled else refusals
        seen = len(heard)
        await wait_for(partial(_is_longer, heard, seen), what="traffic")
    ended.set()
    await asyncio.gather(*callers)
    books = await balanced_books(three[0], organization)
    assert books.open_holds == []
    assert {row["reservation"]: row["amount_nanousd"] for row in books.money_rows()} == costs


async def test_ceilings_hold_on_a_cluster(
    fleet: Fleet, cluster_urls: list[str], dial: Dial, organization: str, seed: int
) -> None:
    sidecars = [fleet.start(store=url) for url in cluster_urls]
    connections = [dial(sidecar) for sidecar in sidecars]
    second = f"{organization}-second"  # in another shard, so that a batch has to be parted
    loads = [await start_load(connections, name, seed, usd=6) for name in (organization, second)]
    tallies = await asyncio.gather(*(load.run(callers=150, calls=40) for load in loads))
    for name, tally in zip((organization, second), tallies, strict=True):
        assert tally.trouble == {}
        check_outcome(await balanced_books(connections[1], name), tally)
    for sidecar in sidecars:
        assert sidecar.stop() == 0


async def test_ceilings_hold_when_a_sentinel_promotes_the_replica(
    fleet: Fleet, sentinel_set: SentinelSet, dial: Dial, organization: str, seed: int
) -> None:
    sidecars = [fleet.start(store=sentinel_set.url) for _ in range(2)]
    connections = [dial(sidecar) for sidecar in sidecars]
    load = await start_load(connections, organization, seed, usd=3)
    tally = await load.run(callers=50, calls=20)
    check_outcome(await balanced_books(connections[1], organization), tally)

    with sentinel_set.sentinel.client() as sentinel:
        sentinel.execute_command("SENTINEL", "FAILOVER", "limiter")

    async def granted() -> bool:
        call = connections[0].limiter.Reserve(of_key(f"{organization}/c/c1", 1, dry_run=True))
        code = await call.code()
        assert code in {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        return bool(code == grpc.StatusCode.OK)

    await eventually(granted, what="an answer after the failover")
    check_outcome(await balanced_books(connections[1], organization), tally)
    for sidecar in sidecars:
        assert sidecar.stop() == 0


def _is_longer(heard: Sized, count: int) -> bool:
    return len(heard) > count


def _has_answers(load: Load, count: int) -> bool:
    return len(load.tally.held) + len(load.tally.denials) >= count


async def _until_granted(load: Load, count: int) -> None:
    await wait_for(lambda: len(load.tally.held) >= count, what=f"{count} grants")
