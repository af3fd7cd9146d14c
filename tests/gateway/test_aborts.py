"""Clients that leave, and decisions that come too late: every hold ends, and is charged what the call may have cost."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
from collections.abc import Callable
from typing import Any, Final

import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.gateway.conftest import Caller, Desk, Open
from tests.gateway.gateways import ORDERS, TAGS, Gateway, ended_books, http_filter
from tests.integration.books import Books
from tests.integration.conftest import THOROUGH
from tests.integration.connections import eventually
from tests.integration.sidecars import Sidecar

STREAMS: Final = 500 if THOROUGH else 50
LATE: Final = 500 if THOROUGH else 100

#: About what the stream below has in bytes, headers included.
STREAM_BYTES: Final = 9_000

BODIES: dict[str, Any] = {
    "/v1/chat/completions": {"model": "gpt-4o", "max_tokens": 60},
    "/v1/messages": {"model": "claude-haiku-4-5", "max_tokens": 60},
}


def request_bytes(caller: Caller, path: str, orders: str, tags: str) -> bytes:
    """A request for a stream, as it goes over the wire."""
    body = json.dumps(BODIES[path] | {"stream": True, "messages": [{"role": "user", "content": "Hello" * 20}]})
    lines = [f"POST {path} HTTP/1.1", "host: gateway", f"authorization: Bearer {caller.secret}"]
    lines += [
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"{ORDERS}: {orders}",
        f"{TAGS}: {tags}",
    ]
    return "\r\n".join([*lines, "", body]).encode()


async def leave_after(caller: Caller, request: bytes, offset: int, *, rudely: bool) -> None:
    """Send a request, read so many bytes of the answer, and go; `rudely`: by a reset."""
    reader, writer = await asyncio.open_connection("127.0.0.1", caller.gateway.envoy.places.clients)
    if rudely:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        if offset < 0:  # in the middle of the request
            writer.write(request[:offset])
            await writer.drain()
            return
        writer.write(request)
        while offset > 0 and (read := await reader.read(min(offset, 512))):
            offset -= len(read)
    finally:
        writer.close()


async def nothing_under_way(gateway: Gateway) -> None:
    """Wait until Envoy and the provider have nothing to do."""

    async def look() -> bool:
        active = await asyncio.to_thread(gateway.envoy.statistic, "http.clients.downstream_rq_active")
        return active == 0 and await asyncio.to_thread(gateway.provider.open_calls) == 0

    await eventually(look, what="the end of every call")


def by_tag(books: Books) -> dict[str, dict[str, Any]]:
    """The ledger's rows by the name that each call had in its tags; each must be there once."""
    found: dict[str, dict[str, Any]] = {}
    for row in books.rows:
        name = dict(row["call"]["tags"])["call"]
        assert name not in found, (found[name], row)
        found[name] = row
    return found


async def check_charges(caller: Caller, labels: list[str]) -> None:
    """At least the input where the provider was reached, nothing where it was not, and never more than the hold."""
    await nothing_under_way(caller.gateway)
    rows = by_tag(await ended_books(caller.connection, caller.organization))
    reached = 0
    for label in labels:
        calls = await asyncio.to_thread(caller.gateway.provider.calls, label)
        row = rows.get(label)
        if row is None:  # nothing was granted
            assert calls == []
            continue
        charged = row["amount_nanousd"]
        hold = await caller.connection.reservation(row["reservation"])
        assert hold.state != pb.HELD
        assert charged <= hold.held_nanousd
        reached += bool(calls)
        if calls:
            assert charged >= calls[-1]["input_cost_nanousd"], (row, calls)
        else:
            assert charged == 0, row
        if calls and calls[-1]["finished"] and row["basis"] == "usage":
            assert charged == calls[-1]["cost_nanousd"]
    assert reached > 0


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("layout", ["default.yaml", "access-log.yaml", "ext-proc.yaml"])
async def test_a_stream_that_its_client_left_is_charged_at_least_its_input_and_at_most_its_hold(
    caller: Caller, at_sidecar: Callable[[str], Gateway], layout: str, path: str
) -> None:
    caller = caller.by(at_sidecar(layout))
    dice = random.Random(f"{layout} {path}")
    run = os.urandom(4).hex()
    labels = [f"{run}-{number}" for number in range(STREAMS // 2)]
    room = asyncio.Semaphore(25)

    async def call(label: str) -> None:
        orders = f"call={label},tokens=60,gap_s={dice.choice(['0', '0.002', '0.005'])}"
        request = request_bytes(caller, path, orders, f"call:{label}")
        offset = dice.choice([-20, 0, 1, dice.randrange(STREAM_BYTES), dice.randrange(STREAM_BYTES), 10**6])
        async with room:
            await asyncio.wait_for(leave_after(caller, request, offset, rudely=dice.random() < 0.5), 2) if (
                offset < 10**6
            ) else await read_to_the_end(caller, request)

    await asyncio.gather(*(call(label) for label in labels))
    await check_charges(caller, labels)


async def read_to_the_end(caller: Caller, request: bytes) -> None:
    """Send a request and read until its stream ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", caller.gateway.envoy.places.clients)
    writer.write(request)
    await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    await writer.wait_closed()


async def test_a_decision_that_envoy_did_not_wait_for_holds_nothing(
    desk: Desk, open_gateway: Open, sidecar: Sidecar
) -> None:
    def impatient(tree: dict[str, Any]) -> None:
        http_filter(tree, "ext_authz")["grpc_service"]["timeout"] = "0.005s"

    gateway = open_gateway("default.yaml", sidecar, change=impatient)
    caller = await desk.caller(gateway)
    run = os.urandom(4).hex()
    labels = [f"{run}-{number}" for number in range(LATE)]

    async def call(label: str) -> str:
        request = request_bytes(caller, "/v1/chat/completions", f"call={label}", f"call:{label}")
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.envoy.places.clients)
        try:
            writer.write(request.replace(b"host: gateway", b"host: gateway\r\nconnection: close"))
            return (await reader.read()).split(b" ", 2)[1].decode()
        finally:
            writer.close()

    statuses = await asyncio.gather(*(call(label) for label in labels))
    while "200" not in statuses and len(labels) < 2 * LATE:  # alone, one of them is in time
        labels.append(f"{run}-{len(labels)}")
        statuses.append(await call(labels[-1]))
    assert set(statuses) == {"200", "503"}
    await check_charges(caller, labels)
