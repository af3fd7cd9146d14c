"""While the store is away every answer is typed and in time; when it is back, so is everything else."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial

import grpc
import pytest
from grpc_health.v1 import health_pb2

from limiter.v1 import limiter_pb2 as pb
from tests.integration.books import balanced_books
from tests.integration.conftest import Dial
from tests.integration.connections import USD, Connection, eventually, ms, of_key, of_secret, wait_for
from tests.integration.sidecars import Fleet, silent
from tests.integration.traffic import Load
from tests.servers import StartServer, StoreServer, free_port

POLICY = """
version: 1
organizations:
  acme:
    limits: [{id: all, spend: 1000, per: total}, {id: today, spend: 1000, per: hour}]
    teams:
      search:
        limits: [{id: all, spend: 1000, per: total}]
        keys: {bot: {limits: [{id: all, spend: 1000, per: total}]}}
"""
BOT = "acme/search/bot"

#: A command to the store is given up after this.
SOCKET_TIMEOUT_S = 5.0

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def store(start_server: StartServer) -> StoreServer:
    """A store of its own for each test."""
    return start_server("--appendonly", "yes", "--maxmemory-policy", "noeviction")


async def health(connection: Connection) -> int:
    return int((await connection.health.Check(health_pb2.HealthCheckRequest())).status)


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_a_store_that_hangs_is_unavailable_in_time_and_comes_back(
    fleet: Fleet, dial: Dial, store: StoreServer, engine: str
) -> None:
    sidecar = fleet.start("--engine", engine, store=store.url)
    connection = dial(sidecar)
    await connection.apply(POLICY)
    load = Load([connection], [BOT], 7, (USD // 1000, USD // 100))
    running = asyncio.create_task(load.run(callers=50, calls=30))
    await wait_for(lambda: len(load.tally.held) > 100, what="traffic")
    with silent(store.process.pid):
        began = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.reserve(of_key(BOT, USD, "while-it-hangs"))
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert "store" in str(caught.value.details())
        # It may have waited behind a batch that hung before it.
        assert time.monotonic() - began < 2 * SOCKET_TIMEOUT_S + 3
        await eventually(lambda: _health_is(connection, NOT_SERVING), what="NOT_SERVING")
        assert sidecar.metric("limiter_store_errors_total") > 0
    await eventually(lambda: _health_is(connection, SERVING), what="SERVING")
    tally = await running
    assert tally.trouble["UNAVAILABLE"] > 0
    await connection.grant(of_key(BOT, USD, "while-it-hangs"))
    books = await balanced_books(connection, "acme")
    assert [hold.request_id for hold in books.open_holds] == ["while-it-hangs"]
    assert {row["reservation"]: row["amount_nanousd"] for row in books.money_rows() if row["amount_nanousd"]} == {
        name: cost for name, cost in tally.costs.items() if cost
    }


async def test_a_sidecar_stops_whose_store_hung_a_moment_ago(fleet: Fleet, dial: Dial, store: StoreServer) -> None:
    sidecar = fleet.start(store=store.url)
    connection = dial(sidecar)
    await connection.apply(POLICY)
    with silent(store.process.pid):
        for _ in range(2):  # so that the second finds every connection to be made anew
            assert await connection.limiter.Reserve(of_key(BOT, USD)).code() == grpc.StatusCode.UNAVAILABLE
    assert await asyncio.to_thread(sidecar.stop) == 0


async def test_a_store_that_pauses_for_a_moment_disturbs_nobody(fleet: Fleet, dial: Dial, store: StoreServer) -> None:
    connection = dial(fleet.start(store=store.url))
    await connection.apply(POLICY)
    load = Load([connection], [BOT], 8, (USD // 1000, USD // 100))
    running = asyncio.create_task(load.run(callers=50, calls=20))
    for grants in (100, 300):
        await wait_for(partial(_has_granted, load, grants), what="traffic")
        with silent(store.process.pid):
            await asyncio.sleep(0.5)  # the length of the pause is the point
    tally = await running
    assert tally.trouble == {}
    assert len((await balanced_books(connection, "acme")).money_rows()) == len(tally.costs)


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_calls_past_their_deadline_never_reach_the_store(
    fleet: Fleet, dial: Dial, store: StoreServer, engine: str
) -> None:
    connection = dial(fleet.start("--engine", engine, store=store.url))
    await connection.apply(POLICY)
    await connection.grant(of_key(BOT, USD, "warm"))
    with silent(store.process.pid):
        # Two batches are under way at most; what comes later waits in the sidecar.
        under_way = []
        for number in range(2):
            under_way.append(asyncio.create_task(connection.reserve(of_key(BOT, USD, f"under-way-{number}"))))
            await connection.reached()
        late = [connection.limiter.Reserve(of_key(BOT, USD, f"late-{number}"), timeout=0.3) for number in range(30)]
        for error in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await connection.reached()  # the sidecar knows that they have left
    for call in under_way:
        assert (await call).decision == pb.ReserveResponse.GRANTED
    await connection.grant(of_key(BOT, USD, "after"))
    books = await balanced_books(connection, "acme")
    assert {hold.request_id for hold in books.open_holds} == {"warm", "under-way-0", "under-way-1", "after"}
    assert books.money_rows() == []


async def test_a_store_that_dies_is_unavailable_to_every_method_and_used_again_when_it_is_back(
    fleet: Fleet, dial: Dial, start_server: StartServer
) -> None:
    options = ("--appendonly", "yes", "--maxmemory-policy", "noeviction", "--appendfsync", "always")
    store = start_server(*options, port=free_port())
    sidecar = fleet.start(store=store.url)
    connection = dial(sidecar)
    await connection.apply(POLICY)
    granted = await connection.grant(of_key(BOT, USD, "call-1"))
    store.kill()
    for call in (
        connection.reserve(of_key(BOT, USD, "call-2")),
        connection.settle(granted.reservation, USD),
        connection.release(granted.reservation),
        connection.limiter.Extend(pb.ExtendRequest(reservation=granted.reservation, ttl=ms(1000))),
        connection.limiter.Charge(pb.ChargeRequest(request_id="bill", key_id=BOT, cost_nanousd=1)),
        connection.limiter.GetHeadroom(pb.GetHeadroomRequest(key_id=BOT)),
        connection.admin.ListScopes(pb.ListScopesRequest()),
        connection.admin.ListKeys(pb.ListKeysRequest()),
        connection.apply(POLICY.replace("1000", "999")),
        connection.mint("acme/search/new"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE, caught.value
        assert "store" in str(caught.value.details())
    await eventually(lambda: _health_is(connection, NOT_SERVING), what="NOT_SERVING")
    assert "503" in (said := await asyncio.to_thread(sidecar.http, "/readyz"))
    assert "store" in said

    start_server(*options, "--dir", str(store.directory), port=store.port)
    await eventually(lambda: _health_is(connection, SERVING), what="SERVING")
    assert (await connection.settle(granted.reservation, USD)).cost_nanousd == USD
    assert (await balanced_books(connection, "acme")).settled("acme/search") == USD
    assert await asyncio.to_thread(sidecar.stop) == 0


async def test_a_store_that_lost_its_policy_grants_nothing(fleet: Fleet, dial: Dial, store: StoreServer) -> None:
    connection = dial(fleet.start(store=store.url))
    await connection.apply(POLICY)
    secret = await connection.mint(BOT)
    await connection.grant(of_key(BOT, USD, dry_run=True))
    with store.client() as client:
        client.flushall()
    assert (await connection.deny(of_key(BOT, USD))).reason == pb.Denial.KEY_UNKNOWN
    assert (await connection.deny(of_secret(secret, USD))).reason == pb.Denial.KEY_UNKNOWN


#: A sidecar whose own clock is wrong, set before anything of it is imported.
WRONG_CLOCK = """
import datetime, sys, time
shift_s = float(sys.argv.pop(1))
real = time.time
time.time = lambda: real() + shift_s
time.time_ns = lambda: int((real() + shift_s) * 1e9)
class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
    @classmethod
    def utcnow(cls):
        return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)
datetime.datetime = Shifted
from limiter.cli.main import main
main()
"""


@pytest.mark.parametrize("shift_s", [-400 * 86_400, 400 * 86_400], ids=["long behind", "long ahead"])
async def test_a_sidecar_whose_clock_is_wrong_decides_as_any_other(
    fleet: Fleet, dial: Dial, store: StoreServer, shift_s: int
) -> None:
    command = (sys.executable, "-c", WRONG_CLOCK, str(shift_s), "serve")
    wrong, right = dial(fleet.start(store=store.url, command=command)), dial(fleet.start(store=store.url))
    await wrong.apply(POLICY)
    by_store = time.time()  # the store has this machine's clock

    answers = [
        await connection.grant(of_key(BOT, USD, f"call-{number}", all_limits=True, ttl=ms(3_600_000)))
        for number, connection in enumerate((wrong, right, wrong))
    ]
    windows = {
        status.resets_at.ToMilliseconds() for answer in answers for status in answer.limits if status.limit == "today"
    }
    assert len(windows) == 1
    assert 0 < windows.pop() / 1000 - by_store <= 3600
    for answer in answers:
        assert abs(answer.expires_at.ToMilliseconds() / 1000 - by_store - 3600) < 60
    books = await balanced_books(right, "acme")
    assert books.held("acme/search") == 3 * USD
    assert all(abs(hold.reserved_at.ToMilliseconds() / 1000 - by_store) < 60 for hold in books.open_holds)

    # A short hold ends by the store's clock, whoever sweeps; a long one does not.
    short = await wrong.grant(of_key(BOT, USD, "short", ttl=ms(200)))

    async def expired() -> bool:
        return (await wrong.reservation(short.reservation)).state == pb.EXPIRED

    await eventually(expired, what="the short hold's end")
    for answer in answers:
        assert (await wrong.reservation(answer.reservation)).state == pb.HELD
    extended = await wrong.limiter.Extend(pb.ExtendRequest(reservation=answers[0].reservation, ttl=ms(7_200_000)))
    assert abs(extended.expires_at.ToMilliseconds() / 1000 - by_store - 7200) < 60
    charged = await wrong.limiter.Charge(pb.ChargeRequest(request_id="bill", key_id=BOT, cost_nanousd=USD))
    assert charged.cost_nanousd == USD

    secret = await wrong.mint("acme/search/minted")
    rotated = await wrong.admin.RotateKey(pb.RotateKeyRequest(key="acme/search/minted", overlap=ms(60_000)))
    for connection in (wrong, right):
        for shown in (secret, rotated.secret):
            answer = await connection.public.Reserve(pb.ReserveRequest(api_key=shown, cost_nanousd=1))
            assert answer.decision == pb.ReserveResponse.GRANTED, answer
    for row in (await balanced_books(right, "acme")).rows:
        assert abs(row["at_ms"] / 1000 - by_store) < 60


def _has_granted(load: Load, count: int) -> bool:
    return len(load.tally.held) > count


async def _health_is(connection: Connection, status: int) -> bool:
    return await health(connection) == status
