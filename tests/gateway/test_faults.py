"""Something dies: answers are as configured and in time, and the books balance once it is back."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.gateway.conftest import Caller, Desk, Open
from tests.gateway.gateways import ORDERS, RESERVATION, Gateway, ended, ended_books, http_filter
from tests.integration.connections import eventually
from tests.integration.sidecars import Fleet, Sidecar, silent
from tests.servers import StartServer, StoreServer

MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]

#: ext_authz waits for a second, and the refusal passes ext_proc, which waits as long; the rest is for a busy machine.
ANSWER_WITHIN_S: Final = 5.0

#: Holds that nobody settles end soon.
BOT: Final = "{settings: {ttl: 3s}}"


@dataclass
class Site:
    """A gateway, a sidecar and a store, all to be broken."""

    fleet: Fleet
    options_file: Path
    store: StoreServer
    directory: Path
    gateway: Gateway

    def start_sidecar(self) -> Sidecar:
        """Start the sidecar at its socket, for the first time or again."""
        return start_sidecar(self.fleet, self.options_file, self.store, self.directory)


def start_sidecar(fleet: Fleet, options_file: Path, store: StoreServer, directory: Path) -> Sidecar:
    """Start a sidecar that Envoy finds at the same place every time."""
    listen = ("--listen", f"unix:{directory}/envoy.sock")
    return fleet.start("--envoy", str(options_file), *listen, store=store.url, directory=directory)


@pytest.fixture
async def site(
    request: pytest.FixtureRequest, sidecars: Fleet, options_file: Path, start_server: StartServer, open_gateway: Open
) -> AsyncIterator[Site]:
    """A site with the configuration that the test asks for."""
    store = start_server("--appendonly", "yes", "--maxmemory-policy", "noeviction")
    directory = sidecars.directory()
    sidecar = start_sidecar(sidecars, options_file, store, directory)
    layout = getattr(request, "param", "default.yaml")
    gateway = open_gateway(layout, sidecar, address=f"unix:{directory}/envoy.sock")
    yield Site(sidecars, options_file, store, directory, gateway)
    gateway.envoy.stop()
    gateway.sidecar.stop()


async def status_of_a_call(caller: Caller) -> int:
    """The status of one request, which must be answered in time."""
    client = caller.gateway.openai(caller.secret, max_retries=0)
    started_at = time.monotonic()
    try:
        await asyncio.to_thread(client.chat.completions.create, model="gpt-4o", messages=MESSAGES, max_tokens=8)
    except openai.APIStatusError as error:
        return error.status_code
    else:
        return 200
    finally:
        assert time.monotonic() - started_at < ANSWER_WITHIN_S


async def works_again(caller: Caller) -> None:
    """Wait until calls are answered."""

    async def look() -> bool:
        return await status_of_a_call(caller) == 200

    await eventually(look, what="an answer")


async def test_nobody_spends_while_the_sidecar_is_away(site: Site, desk: Desk) -> None:
    caller = await desk.caller(site.gateway, BOT)
    assert await status_of_a_call(caller) == 200
    await asyncio.to_thread(site.gateway.sidecar.kill)
    assert [await status_of_a_call(caller) for _ in range(3)] == [503, 503, 503]
    site.gateway.sidecar = await asyncio.to_thread(site.start_sidecar)
    await works_again(caller)
    await ended_books(caller.connection, caller.organization)


@pytest.mark.parametrize("site", ["access-log.yaml"], indirect=True)
async def test_who_would_rather_spend_unseen_may_say_so(site: Site, desk: Desk, open_gateway: Open) -> None:
    def open_mode(tree: dict[str, Any]) -> None:
        http_filter(tree, "ext_authz")["failure_mode_allow"] = True

    gateway = open_gateway(
        "access-log.yaml", site.gateway.sidecar, address=f"unix:{site.directory}/envoy.sock", change=open_mode
    )
    caller = (await desk.caller(site.gateway, BOT)).by(gateway)
    await asyncio.to_thread(site.gateway.sidecar.kill)
    # It goes on with the caller's own key, as nobody put the provider's in its place: this provider refuses it.
    assert await status_of_a_call(caller) == 401


async def test_a_store_that_is_away_is_503_and_no_refusal(site: Site, desk: Desk) -> None:
    caller = await desk.caller(site.gateway, BOT)
    assert await status_of_a_call(caller) == 200
    with silent(site.store.process.pid):
        assert [await status_of_a_call(caller) for _ in range(2)] == [503, 503]
    await works_again(caller)
    await ended_books(caller.connection, caller.organization)


@dataclass
class Stream:
    """A stream of about a second that is being read: by the SDK, in a thread of its own."""

    reservation: str
    events: Any

    @classmethod
    async def begin(cls, caller: Caller, label: str) -> Stream:
        """Ask for one, and read its first event."""
        client = caller.gateway.openai(caller.secret, max_retries=0)
        answer = await asyncio.to_thread(
            client.chat.completions.with_raw_response.create,
            model="gpt-4o",
            messages=MESSAGES,
            max_tokens=50,
            stream=True,
            extra_headers={ORDERS: f"call={label},tokens=50,gap_s=0.02"},
        )
        stream = cls(answer.headers[RESERVATION], iter(answer.parse()))
        await asyncio.to_thread(next, stream.events)
        return stream

    async def rest(self) -> int:
        """Read it to its end, which must come in time; how many events there were."""
        return len(await asyncio.wait_for(asyncio.to_thread(list, self.events), ANSWER_WITHIN_S))


@pytest.mark.parametrize("site", ["default.yaml", "access-log.yaml", "ext-proc.yaml"], indirect=True)
async def test_a_sidecar_that_dies_in_the_middle_of_a_stream_costs_no_more_than_its_hold(
    site: Site, desk: Desk, request: pytest.FixtureRequest
) -> None:
    caller = await desk.caller(site.gateway, BOT)
    label = f"stream-{os.urandom(4).hex()}"
    stream = await Stream.begin(caller, label)
    await asyncio.to_thread(site.gateway.sidecar.kill)
    through = "ext-proc" in request.node.callspec.id
    if through:
        with pytest.raises(openai.APIConnectionError):
            await stream.rest()
    else:
        assert await stream.rest() > 45
    site.gateway.sidecar = await asyncio.to_thread(site.start_sidecar)
    hold = await ended(caller.connection, stream.reservation)
    (billed,) = await asyncio.to_thread(site.gateway.provider.calls, label)
    assert billed["cost_nanousd"] <= hold.cost_nanousd <= hold.held_nanousd
    await works_again(caller)
    await ended_books(caller.connection, caller.organization)


async def test_an_envoy_that_dies_leaves_no_hold_open(site: Site, desk: Desk) -> None:
    caller = await desk.caller(site.gateway, BOT)
    label = f"stream-{os.urandom(4).hex()}"
    stream = await Stream.begin(caller, label)
    envoy = site.gateway.envoy
    envoy.process.kill()
    with pytest.raises(openai.APIConnectionError):
        await stream.rest()
    await asyncio.to_thread(envoy.process.wait)
    await asyncio.to_thread(envoy.restart)
    await works_again(caller)
    hold = await ended(caller.connection, stream.reservation)
    assert hold.state in {pb.EXPIRED, pb.SETTLED}
    (billed,) = await asyncio.to_thread(site.gateway.provider.calls, label)
    assert billed["cost_nanousd"] <= hold.cost_nanousd <= hold.held_nanousd
    await ended_books(caller.connection, caller.organization)


async def test_a_sidecar_that_stops_does_not_wait_for_envoys_log(site: Site, desk: Desk) -> None:
    caller = await desk.caller(site.gateway, BOT)
    assert await status_of_a_call(caller) == 200
    await ended_books(caller.connection, caller.organization)
    assert await asyncio.to_thread(site.gateway.sidecar.stop) == 0
    assert [event["calls_cut_off"] for event in site.gateway.sidecar.events("server_stopped")] == [0]


async def test_a_sidecar_that_stops_waits_for_the_streams_that_it_let_through(site: Site, desk: Desk) -> None:
    caller = await desk.caller(site.gateway, "{settings: {ttl: 60s}}")
    stream = await Stream.begin(caller, "stays")
    stopping = asyncio.create_task(asyncio.to_thread(site.gateway.sidecar.stop))
    await asyncio.to_thread(list, stream.events)
    assert await stopping == 0
    assert [event["calls_cut_off"] for event in site.gateway.sidecar.events("server_stopped")] == [0]
    site.gateway.sidecar = await asyncio.to_thread(site.start_sidecar)
    assert (await ended(caller.connection, stream.reservation)).basis == pb.Settlement.USAGE
