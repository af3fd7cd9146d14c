"""The scripts alone: the same FCALL that a sidecar sends, made beforehand, sent through hiredis by one process.

`python -m bench.raw SOCKET ORGANIZATIONS BATCH BATCHES` reserves, then settles what it reserved, and prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import hiredis
from redis import Redis

from bench import calls
from bench.machine import cpu_s, started_on
from limiter.domain.limits import LimitKind
from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag
from limiter.domain.scopes import Scope
from limiter.domain.windows import window_bounds
from limiter.store import encoding, keys
from limiter.store.cargo import Cargo
from limiter.store.connection import connect
from limiter.store.port import EndCall, HoldCall, Plan, PlanLimit, PlanScope
from limiter.store.redis_store import RedisStore
from limiter.store.scripts import library

_HOUR_MS = 3_600_000
_COST = 7_500_000
_CALL = (
    b'{"key": "org0/team/key", "model": "gpt-4o", "provider": "openai", "priced_as": "gpt-4o", "price_version":'
    b' "genai-prices 0.2.3", "request_id": "%s", "tags": [["customer", "customer-0"], ["feature", "chat"]]}'
)
_ENDING = (
    b'{"outcome":"COMPLETED","usage":{"input_tokens":1000,"output_tokens":250},"model_served":"gpt-4o","priced_as":'
    b'"gpt-4o","price_version":"genai-prices 0.2.3","price":{"input_mtok":"2.5","output_mtok":"10"}}'
)


@dataclass(frozen=True, slots=True)
class Verb:
    """What one script did: calls per second, and how long a batch took.

    `script_us` is what the store's commandstats say, per call; `store_s` and `client_s` are CPU seconds per 1,000
    calls; `client_busy` is the share of the time in which the client worked.
    """

    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    script_us: float
    store_s: float
    client_s: float
    client_busy: float


@dataclass(frozen=True, slots=True)
class Raw:
    """Both verbs, in batches of one size."""

    reserve: Verb
    settle: Verb


def measure(store_socket: Path, *, organizations: int, batch: int, batches: int, core: int) -> Raw:
    """Run this module in a process of its own on `core`."""
    command = [sys.executable, "-m", "bench.raw", str(store_socket), str(organizations), str(batch), str(batches)]
    with started_on(core):
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    told = json.loads(done.stdout)
    return Raw(Verb(**told["reserve"]), Verb(**told["settle"]))


async def _plan(store: RedisStore, number: int, now_ms: int) -> Plan:
    """The plan of an organization's key, as the sidecar compiles it."""
    key = Scope.parse_key(calls.key(number))
    policy = await store.policy(key.organization)
    record = await store.key(key)
    limits = tuple(
        PlanLimit(
            limit,
            applies=True,
            window=window_bounds(limit.per, now_ms, ZoneInfo("UTC")) if limit.kind is LimitKind.SPEND else (0, 0, 0),
        )
        for limit in calls.LIMITS
    )
    scopes = (Scope(key.organization), Scope(key.organization, key.team), key)
    return Plan(
        organization=key.organization,
        version=policy.version if policy is not None else 0,
        key=key,
        key_revision=record.revision,
        denial=0,
        scopes=tuple(PlanScope(scope, limits) for scope in scopes),
    )


async def _plans(store_socket: str, organizations: int) -> list[Plan]:
    store = RedisStore(await connect(f"unix://{store_socket}"))
    try:
        now_ms = await store.time_ms()
        return [await _plan(store, number, now_ms) for number in range(organizations)]
    finally:
        await store.close()


def _hold(plan: Plan) -> HoldCall:
    hold_id = uuid.uuid4().hex
    return HoldCall(
        plan=plan,
        name=ReservationName(plan.organization, hold_id),
        fingerprint=bytes(16),
        cost=_COST,
        tokens=calls.INPUT_TOKENS + calls.OUTPUT_TOKENS,
        requests=1,
        ttl_ms=_HOUR_MS,
        lifetime_ms=_HOUR_MS,
        retention_ms=_HOUR_MS,
        key_expires_ms=0,
        secret_expires_ms=0,
        output_max=calls.OUTPUT_TOKENS,
        on_expiry=OnExpiry.CHARGE,
        dry_run=False,
        all_limits=False,
        consume=False,
        own_id=True,
        call=_CALL % hold_id.encode(),
    )


def _reserve_command(holds: Sequence[HoldCall]) -> bytes:
    cargo = Cargo(0)
    items = [encoding.hold_blob(hold, cargo.plan_index(hold.plan)) for hold in holds]
    return _command("reserve", cargo, holds, [*cargo.blobs(), *items])


def _settle_command(holds: Sequence[HoldCall]) -> bytes:
    cargo = Cargo(0)
    ends = [
        EndCall(hold.name, Basis.USAGE, hold.cost // 2, hold.tokens // 2, RowFlag(0), hold.retention_ms, _ENDING)
        for hold in holds
    ]
    items = [encoding.settle_blob(end, cargo.organization_index(end.name.organization)) for end in ends]
    return _command("settle", cargo, holds, items)


def _command(verb: str, cargo: Cargo, holds: Sequence[HoldCall], items: Sequence[bytes]) -> bytes:
    cargo.holds = [keys.hold_key(hold.name) for hold in holds]
    names, heading, placing = cargo.label()
    words: Any = ("FCALL", library().functions[verb], len(names), *names, b"", heading, placing, *items)
    packed: bytes = hiredis.pack_command(words)
    return packed


def _send(store_socket: str, commands: Sequence[bytes], *, under_way: int) -> tuple[float, list[float]]:
    """Send all commands, so many at a time; returns the seconds that it took, and each command's ms."""
    reader: Any = hiredis.Reader()
    sent_at: list[float] = []
    took_ms: list[float] = []
    with socket.socket(socket.AF_UNIX) as store:
        store.connect(store_socket)
        began = time.perf_counter()
        for command in commands[:under_way]:
            sent_at.append(time.perf_counter())
            store.sendall(command)
        for i in range(len(commands)):
            while (reply := reader.gets()) is False:
                reader.feed(store.recv(1 << 18))
            if isinstance(reply, Exception):
                raise reply
            took_ms.append((time.perf_counter() - sent_at[i]) * 1e3)
            if i + under_way < len(commands):
                sent_at.append(time.perf_counter())
                store.sendall(commands[i + under_way])
        return time.perf_counter() - began, took_ms


def _verb(store_socket: str, commands: Sequence[bytes], batch: int) -> Verb:
    with Redis(unix_socket_path=store_socket, protocol=2) as store:
        store.function_load(library().source, replace=True)
        pid = int(store.info("server")["process_id"])
        store.config_resetstat()
        store_before_s, before_s = cpu_s(pid), time.process_time()
        seconds, took_ms = _send(store_socket, commands, under_way=1 if batch == 1 else 2)
        client_s, store_s = time.process_time() - before_s, cpu_s(pid) - store_before_s
        script_us = scripts_us(store)
    count = len(commands) * batch
    took_ms.sort()
    p50_ms, p90_ms, p99_ms = (took_ms[int(q * (len(took_ms) - 1))] for q in (0.5, 0.9, 0.99))
    return Verb(
        per_s=count / seconds,
        p50_ms=p50_ms,
        p90_ms=p90_ms,
        p99_ms=p99_ms,
        script_us=script_us / count,
        store_s=store_s / count * 1000,
        client_s=client_s / count * 1000,
        client_busy=client_s / seconds,
    )


def scripts_us(store: Redis) -> float:
    """What the store's commandstats say of all script calls since they were reset, in µs."""
    stats = store.info("commandstats")
    return float(stats.get("cmdstat_fcall", {"usec": 0})["usec"])


def _batches(plans: Sequence[Plan], batch: int, batches: int) -> Iterator[list[HoldCall]]:
    for b in range(batches):
        yield [_hold(plans[(b * batch + i) % len(plans)]) for i in range(batch)]


def _main(store_socket: str, organizations: int, batch: int, batches: int) -> None:
    holds = list(_batches(asyncio.run(_plans(store_socket, organizations)), batch, batches))
    reserves = [_reserve_command(one) for one in holds]
    settles = [_settle_command(one) for one in holds]
    raw = Raw(_verb(store_socket, reserves, batch), _verb(store_socket, settles, batch))
    print(json.dumps(asdict(raw)))


if __name__ == "__main__":
    _main(sys.argv[1], *map(int, sys.argv[2:]))
