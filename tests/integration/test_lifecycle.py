"""How a sidecar starts, stops, and is many."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from limiter.cli.failures import MEANINGS, ExitCode
from limiter.v1 import limiter_pb2 as pb
from tests.integration.books import balanced_books
from tests.integration.conftest import Dial
from tests.integration.connections import USD, Connection, channel, eventually, of_key, of_secret
from tests.integration.sidecars import ANYWHERE, Fleet, Sidecar, silent
from tests.servers import StartServer, free_port, until

POLICY = """
version: 1
organizations:
  acme:
    limits: [{id: all, spend: 1000, per: total}]
    teams:
      search:
        limits: [{id: all, spend: 1000, per: total}]
        keys: {bot: {limits: [{id: all, spend: 1000, per: total}]}}
"""
BOT = "acme/search/bot"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(connection: Connection, service: str = "") -> int:
    answer = await connection.health.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_the_first_signal_lets_running_calls_end(
    fleet: Fleet, dial: Dial, start_server: StartServer, engine: str
) -> None:
    store = start_server("--appendonly", "yes", "--maxmemory-policy", "noeviction")
    sidecar = fleet.start("--engine", engine, store=store.url)
    connection, other = dial(sidecar), dial(fleet.start(store=store.url))
    await connection.apply(POLICY)
    await connection.grant(of_key(BOT, USD))
    assert await health(connection) == SERVING
    with silent(store.process.pid):
        running = [asyncio.create_task(connection.reserve(of_key(BOT, USD))) for _ in range(20)]
        await connection.reached()
        sidecar.process.send_signal(signal.SIGTERM)

        async def not_serving() -> bool:
            return bool(await health(connection) == NOT_SERVING)

        await eventually(not_serving, what="the drain")
        with pytest.raises(grpc.aio.AioRpcError, match="shutting down"):
            await connection.reserve(of_key(BOT, USD))
    answers = await asyncio.gather(*running, return_exceptions=True)
    granted = {answer.reservation for answer in answers if isinstance(answer, pb.ReserveResponse)}
    too_late = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(granted) + len(too_late) == 20
    assert granted, "some were meant to be running"
    # gRPC itself answers CANCELLED where a call had arrived and nobody had read it.
    assert {error.code() for error in too_late} <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert await asyncio.to_thread(sidecar.wait) == 0
    assert sidecar.event("server_stopped")["calls_cut_off"] == 0
    books = await balanced_books(other, "acme")
    assert granted < {hold.reservation for hold in books.open_holds}
    assert len(books.open_holds) == len(granted) + 1


async def test_a_second_signal_ends_at_once(fleet: Fleet, dial: Dial) -> None:
    sidecar = fleet.start()
    connection = dial(sidecar)
    await connection.apply(POLICY)
    granted = await connection.grant(of_key(BOT, USD, "call-1"))
    with silent(sidecar.store_pid):
        running = asyncio.create_task(connection.reserve(of_key(BOT, USD)))
        await connection.reached()
        sidecar.process.send_signal(signal.SIGTERM)
        until(lambda: sidecar.events("stopping"), what="the drain")
        sidecar.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(sidecar.process.wait, 5) == 128 + signal.SIGTERM
        with pytest.raises(grpc.aio.AioRpcError):
            await running

    # Its store outlived it, and is taken over with all that is in it.
    again = fleet.start(directory=sidecar.directory)
    store_pid = again.store_pid
    connection = dial(again)
    assert (await connection.grant(of_key(BOT, USD, "call-1"))).reservation == granted.reservation
    assert await asyncio.to_thread(again.stop) == 0
    assert not _running(store_pid)


async def test_what_the_embedded_store_keeps_outlives_a_restart(fleet: Fleet, dial: Dial) -> None:
    directory = fleet.directory()
    sidecar = fleet.start(directory=directory)
    connection = dial(sidecar)
    await connection.apply(POLICY)
    secret = await connection.mint(BOT)
    settled = await connection.grant(of_secret(secret, 5 * USD, "call-1"))
    await connection.settle(settled.reservation, 3 * USD)
    open_call = await connection.grant(of_secret(secret, 7 * USD, "call-2"))
    before = await balanced_books(connection, "acme")
    store_pid = sidecar.store_pid
    assert await asyncio.to_thread(sidecar.stop) == 0
    with pytest.raises(ProcessLookupError):
        os.kill(store_pid, 0)

    connection = dial(fleet.start(directory=directory))
    assert await balanced_books(connection, "acme") == before
    assert (await connection.grant(of_secret(secret, 7 * USD, "call-2"))).repeated_call
    ended = await connection.settle(open_call.reservation, 6 * USD)
    assert (ended.cost_nanousd, ended.released_nanousd) == (6 * USD, USD)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await connection.reserve(of_secret(secret, 5 * USD, "call-1"))
    assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert (await balanced_books(connection, "acme")).settled("acme") == 9 * USD


async def test_a_killed_sidecar_loses_nothing(fleet: Fleet, dial: Dial) -> None:
    directory = fleet.directory()
    sidecar = fleet.start(directory=directory)
    connection = dial(sidecar)
    await connection.apply(POLICY)
    grants = [await connection.grant(of_key(BOT, USD, f"call-{number}")) for number in range(20)]
    sidecar.kill()
    connection = dial(fleet.start(directory=directory))
    for number, granted in enumerate(grants):
        assert (await connection.grant(of_key(BOT, USD, f"call-{number}"))).reservation == granted.reservation
    assert (await balanced_books(connection, "acme")).held("acme") == 20 * USD


def refusal(sidecar: Sidecar) -> str:
    """What a sidecar that must not start says; in a line or few, and without a traceback."""
    code = sidecar.wait()
    text = sidecar.log.read_text()
    assert code in set(MEANINGS) - {ExitCode.OK, ExitCode.BROKEN_PIPE}, text
    assert "Traceback" not in text
    return " ".join(line for line in text.splitlines() if not line.startswith("{"))


async def test_a_data_directory_is_served_once(fleet: Fleet, dial: Dial) -> None:
    sidecar = fleet.start()
    said = refusal(fleet.launch(*ANYWHERE, directory=sidecar.directory))
    assert str(sidecar.directory) in said
    assert str(sidecar.process.pid) in said
    assert "--data-dir" in said
    assert await health(dial(sidecar)) == SERVING


def test_a_port_is_served_once(fleet: Fleet) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for workers in "1", "2":
            said = refusal(fleet.launch("--listen", address, "--http", "127.0.0.1:0", "--workers", workers))
            assert address in said
            assert "listen" in said
        assert address in refusal(fleet.launch("--listen", "127.0.0.1:0", "--http", address))


def test_workers_of_two_sidecars_never_share_a_port(fleet: Fleet) -> None:
    address = f"127.0.0.1:{free_port()}"
    first = fleet.launch("--listen", address, "--http", "127.0.0.1:0", "--workers", "2")
    first.wait_until_serving()
    assert address in refusal(fleet.launch("--listen", address, "--http", "127.0.0.1:0", "--workers", "2"))
    assert first.stop() == 0
    assert "port" in refusal(fleet.launch("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--workers", "2"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--bananas",), "--bananas"),
        (("--workers", "0"), "--workers"),
        (("--workers", "many"), "--workers"),
        (("--engine", "steam"), "--engine"),
        (("--listen", "nowhere"), "nowhere"),
        (("--listen", "127.0.0.1:99999"), "99999"),
        (("--listen", "127.0.0.1:0,bribe"), "bribe"),
        (("--listen", "127.0.0.1:0,services=admin"), "token-file"),
        (("--store", "mysql://localhost"), "store"),
        (("--store", "redis://user:geheim@"), "store"),
        (("--policy", "/no/such/file.yaml"), "/no/such/file.yaml"),
        (("--pepper-file", "/no/such/pepper"), "/no/such/pepper"),
        (("--prices", "/no/such/prices"), "/no/such/prices"),
        (("--config", "/no/such/config"), "/no/such/config"),
        (("--grace-s", "-1"), "--grace-s"),
        (("--max-backlog", "0"), "--max-backlog"),
        (("--fsync", "never"), "--fsync"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(fleet: Fleet, arguments: tuple[str, ...], said: str) -> None:
    text = refusal(fleet.launch(*ANYWHERE, *arguments))
    assert said in text
    assert "geheim" not in text


def test_a_policy_with_mistakes_keeps_a_sidecar_from_starting_and_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(POLICY.replace("spend: 1000, per: total", "spend: -1, per: total", 1).replace("keys:", "keyz:"))
    sidecar = fleet.launch(*ANYWHERE, "--policy", str(file))
    said = refusal(sidecar)
    assert f"{file}: organizations.acme.limits[0].spend" in said
    assert "keyz" in said
    assert not (sidecar.directory / "pepper").exists()


def test_a_store_that_evicts_is_refused_with_the_remedy(fleet: Fleet, start_server: StartServer) -> None:
    store = start_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    said = refusal(fleet.launch(*ANYWHERE, "--store", store.url))
    assert "CONFIG SET maxmemory-policy noeviction" in said
    with store.client() as client:
        assert client.dbsize() == 0, "nothing is written into a store that is refused"


def test_a_store_that_is_away_at_the_start_is_named_without_its_password(fleet: Fleet) -> None:
    said = refusal(fleet.launch(*ANYWHERE, "--store", f"redis://me:geheim@127.0.0.1:{free_port()}"))
    assert "cannot be reached" in said
    assert "127.0.0.1" in said
    assert "geheim" not in said


def test_a_sidecar_with_another_pepper_is_refused(fleet: Fleet, start_server: StartServer, tmp_path: Path) -> None:
    store = start_server("--maxmemory-policy", "noeviction")
    fleet.start(store=store.url)
    (tmp_path / "pepper").write_text(f"1:{'a5' * 32}\n")
    said = refusal(fleet.launch(*ANYWHERE, "--store", store.url, "--pepper-file", str(tmp_path / "pepper")))
    assert "pepper" in said
    assert "a5a5" not in said


async def test_health_and_reflection_tell_what_is_served(trio: list[Sidecar], dial: Dial) -> None:
    for sidecar in trio:
        connection = dial(sidecar)
        for service in ("", "limiter.v1.Limiter"):
            assert await health(connection, service) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(connection, "no.such.Service")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        for address, own in ((sidecar.public, "limiter.v1.Limiter"), (sidecar.admin, "limiter.v1.Admin")):
            assert await _reflected(address) >= {own, "grpc.health.v1.Health"}
        assert sidecar.http("/healthz")
        assert sidecar.http("/readyz")


async def test_admin_is_not_served_to_everybody(three: list[Connection]) -> None:
    for connection in three:
        public = channel(connection.sidecar.public)
        for method in ("ListScopes", "CreateKey", "ApplyPolicy", "ReadLedger"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await public.unary_unary(f"/limiter.v1.Admin/{method}")(b"")
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        await public.close()
        for name in ("admin", "limiter"):
            assert (connection.sidecar.directory / f"{name}.sock").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("engine", ["native", "grpcio"])
async def test_every_worker_answers_and_a_killed_one_comes_back(fleet: Fleet, dial: Dial, engine: str) -> None:
    directory = fleet.directory()
    address = f"127.0.0.1:{free_port()}"
    listen = ("--listen", address, "--listen", f"unix:{directory}/w.sock,trusted", "--http", "127.0.0.1:0")
    sidecar = fleet.launch(*listen, "--workers", "3", "--engine", engine, directory=directory)
    sidecar.wait_until_serving()
    assert sidecar.http("/readyz")
    connection = dial(sidecar)
    await connection.apply(POLICY)
    secret = await connection.mint(BOT)

    async def call_each(number: int) -> None:
        for worker in range(3):
            await _one_call(f"unix:{directory}/w.{worker}.sock", of_key(BOT, USD, f"{number}-{worker}"))
        for call in range(12):  # a connection each: the system spreads them over the workers
            await _one_call(address, of_secret(secret, USD, f"{number}-tcp-{call}"))

    await call_each(1)
    assert sidecar.metric("limiter_decisions_total", 'decision="GRANTED"') == 15
    workers = _children(sidecar.process.pid) - {sidecar.store_pid}
    assert len(workers) == 3
    os.kill(min(workers), signal.SIGKILL)

    async def replaced() -> bool:
        now = _children(sidecar.process.pid) - {sidecar.store_pid}
        return len(now) == 3 and now != workers and len(sidecar.events("listening")) == 2 + 8

    await eventually(replaced, what="another worker")
    await call_each(2)
    assert sidecar.metric("limiter_decisions_total", 'decision="GRANTED"') == 30
    assert sidecar.metric("limiter_call_seconds_count", 'method="Reserve"') == 30
    assert len(sidecar.events("worker.died")) == 1
    assert (await balanced_books(connection, "acme")).held("acme") == 30 * USD

    workers = _children(sidecar.process.pid)
    assert await asyncio.to_thread(sidecar.stop) == 0
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_workers_end_with_the_process_that_watches_them(fleet: Fleet) -> None:
    sidecar = fleet.launch("--listen", f"127.0.0.1:{free_port()}", "--http", "127.0.0.1:0", "--workers", "2")
    sidecar.wait_until_serving()
    workers = _children(sidecar.process.pid) - {sidecar.store_pid}
    sidecar.kill()
    until(lambda: not any(_running(pid) for pid in workers), what="the end of the workers")
    fleet.start(directory=sidecar.directory)  # takes over the store, which is left behind


async def test_a_running_call_of_a_worker_ends_before_the_worker(
    fleet: Fleet, dial: Dial, start_server: StartServer
) -> None:
    store = start_server("--appendonly", "yes", "--maxmemory-policy", "noeviction")
    directory = fleet.directory()
    listen = ("--listen", f"unix:{directory}/w.sock,trusted", "--http", "127.0.0.1:0", "--store", store.url)
    sidecar = fleet.launch(*listen, "--workers", "2", directory=directory)
    sidecar.wait_until_serving()
    connection = dial(sidecar)
    await connection.apply(POLICY)
    worker = channel(f"unix:{directory}/w.1.sock")
    await _reserve(worker, of_key(BOT, USD, "first"))
    with silent(store.process.pid):
        running = asyncio.create_task(_reserve(worker, of_key(BOT, USD, "running")))
        await asyncio.sleep(0)  # so that it is sent first
        with pytest.raises(grpc.aio.AioRpcError, match="reservation"):
            await worker.unary_unary("/limiter.v1.Limiter/Settle")(b"")
        sidecar.process.send_signal(signal.SIGTERM)
        until(lambda: sidecar.events("stopping"), what="the drain")
    await running
    assert await asyncio.to_thread(sidecar.wait) == 0
    await worker.close()


async def _one_call(address: str, request: pb.ReserveRequest) -> None:
    one = channel(address)
    try:
        await _reserve(one, request)
    finally:
        await one.close()


async def _reserve(one: grpc.aio.Channel, request: pb.ReserveRequest) -> None:
    reserve = one.unary_unary(
        "/limiter.v1.Limiter/Reserve",
        request_serializer=pb.ReserveRequest.SerializeToString,
        response_deserializer=pb.ReserveResponse.FromString,
    )
    answer = await reserve(request, timeout=20)
    assert answer.decision == pb.ReserveResponse.GRANTED, answer


async def _reflected(address: str) -> set[str]:
    one = channel(address)
    try:
        stub = reflection_pb2_grpc.ServerReflectionStub(one)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        answers = [answer async for answer in stub.ServerReflectionInfo(iter([asked]))]
    finally:
        await one.close()
    return {service.name for service in answers[0].list_services_response.service}


def _children(pid: int) -> set[int]:
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return {int(line) for line in listed.split()}


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
