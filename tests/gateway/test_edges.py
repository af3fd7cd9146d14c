"""What the configurations keep from providers, what they answer themselves, and how slow or large a call may be."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import openai
import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.gateway.conftest import Caller, Desk, Open
from tests.gateway.gateways import COST, ORDERS, RESERVATION, Gateway, ended
from tests.integration.sidecars import Fleet, Sidecar, silent
from tests.servers import StartServer, StoreServer

LAYOUTS: Final = ["access-log.yaml", "default.yaml", "ext-proc.yaml"]
MESSAGES: Final[list[Any]] = [{"role": "user", "content": "Hello"}]
MIB: Final = 2**20

#: What tells of the network behind Envoy, or says whose account is to pay.
NOT_FOR_PROVIDERS: Final = [
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-envoy-expected-rq-timeout-ms",
    "openai-organization",
    "openai-project",
]

#: Well above the 0.1 s after which Envoy once gave up, well below the 2 s after which it should.
SLOW_S: Final = 0.4


class Answer(NamedTuple):
    """What a client gets."""

    status: int
    headers: dict[str, str]
    body: bytes


def send(url: str, body: Any = None, **headers: str) -> Answer:  # noqa: ANN401 - JSON
    """A request without an SDK, once."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"} | headers)  # noqa: S310 - http
    try:
        answer = urllib.request.urlopen(request, timeout=20)  # noqa: S310 - http
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read())


async def call(caller: Caller, path: str, body: Any, **headers: str) -> Answer:  # noqa: ANN401 - JSON
    """A request with the caller's key."""
    headers |= {"authorization": f"Bearer {caller.secret}"}
    return await asyncio.to_thread(lambda: send(f"{caller.gateway.envoy.url}{path}", body, **headers))


@dataclass
class Site:
    """A sidecar whose store can be made slow."""

    store: StoreServer
    sidecar: Sidecar
    open_gateway: Open

    def open(self, layout: str) -> Gateway:
        """Start an Envoy at the sidecar."""
        return self.open_gateway(layout, self.sidecar)


@pytest.fixture
def site(sidecars: Fleet, options_file: Path, start_server: StartServer, open_gateway: Open) -> Iterator[Site]:
    """A sidecar and a store of its own."""
    store = start_server("--appendonly", "yes", "--maxmemory-policy", "noeviction")
    site = Site(store, sidecars.start("--envoy", str(options_file), store=store.url), open_gateway)
    yield site
    site.sidecar.stop()


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_slow_decision_is_waited_for(layout: str, site: Site, desk: Desk) -> None:
    gateway = site.open(layout)
    caller = await desk.caller(gateway)
    async with gateway.async_openai(caller.secret, max_retries=0) as client:
        for _ in range(3):
            with silent(site.store.process.pid):
                answer = asyncio.create_task(client.chat.completions.create(model="gpt-4o", messages=MESSAGES))
                await asyncio.sleep(SLOW_S)
            assert (await answer).usage


async def test_the_stream_of_the_access_log_has_no_timeout(at_sidecar: Callable[[str], Gateway], desk: Desk) -> None:
    gateway = at_sidecar("access-log.yaml")
    caller = await desk.caller(gateway)

    async def settled() -> None:
        answer = await call(caller, "/v1/chat/completions", {"model": "gpt-4o", "messages": MESSAGES})
        await ended(caller.connection, answer.headers[RESERVATION])

    await settled()
    await asyncio.sleep(2.5)  # above the max_interval of grpc_stream_retry_policy
    await settled()
    for name in ("upstream_rq_per_try_timeout", "upstream_rq_timeout"):
        assert f"cluster.limiter.{name}: 0" in gateway.envoy.ask("/stats?filter=limiter.upstream_rq")


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_provider_learns_nothing_of_the_network_and_gets_no_account_from_the_client(
    caller: Caller, at_sidecar: Callable[[str], Gateway], layout: str
) -> None:
    caller = caller.by(at_sidecar(layout))
    label = f"headers-{os.urandom(4).hex()}"
    forged = dict.fromkeys(NOT_FOR_PROVIDERS, "10.1.2.3") | {ORDERS: f"call={label}"}
    answer = await call(caller, "/v1/chat/completions", {"model": "gpt-4o", "messages": MESSAGES}, **forged)
    assert answer.status == 200
    (billed,) = caller.gateway.provider.calls(label)
    assert set(billed["headers"]).isdisjoint(NOT_FOR_PROVIDERS)
    assert "10.1.2.3" not in str(billed)
    # Envoy 1.40 adds this one after it has removed the others.
    assert {name for name in billed["headers"] if name.startswith("x-envoy")} <= {"x-envoy-original-host"}


@pytest.mark.parametrize("layout", LAYOUTS)
async def test_a_path_of_no_provider_is_answered_with_what_to_use(
    at_sidecar: Callable[[str], Gateway], layout: str
) -> None:
    gateway = at_sidecar(layout)
    answer = await asyncio.to_thread(send, f"{gateway.envoy.url}/chat/completions", {"model": "gpt-4o"})
    assert (answer.status, answer.headers["content-type"]) == (404, "application/json")
    error = json.loads(answer.body)["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "not_found")
    assert "/v1 for OpenAI" in error["message"]
    with pytest.raises(openai.NotFoundError, match="Base URLs"):
        openai_at_the_wrong_address(gateway).models.list()


def openai_at_the_wrong_address(gateway: Gateway) -> openai.OpenAI:
    """The SDK with Envoy's address alone."""
    return gateway.openai("lk-none", max_retries=0).with_options(base_url=gateway.envoy.url)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("mib", "fits"), [(2.9, True), (3.2, False), (6, False)])
async def test_a_request_is_read_whole_or_refused(
    caller: Caller, at_sidecar: Callable[[str], Gateway], layout: str, mib: float, *, fits: bool
) -> None:
    caller = caller.by(at_sidecar(layout))
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * int(mib * MIB)}]}
    answer = await call(caller, "/v1/chat/completions", body)  # it names no maximum, so ext_proc rewrites it
    assert answer.status == (200 if fits else 413)
    if not fits:
        assert json.loads(answer.body)["limiter"]["reason"] == "BODY_INCOMPLETE"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("inputs", "basis"), [(1000, pb.Settlement.USAGE), (1900, pb.Settlement.ESTIMATED)])
async def test_a_large_answer_passes_and_is_settled(
    caller: Caller, at_sidecar: Callable[[str], Gateway], layout: str, inputs: int, basis: int
) -> None:
    caller = caller.by(at_sidecar(layout))
    body = {"model": "text-embedding-3-small", "input": ["Hello"] * inputs, "encoding_format": "float"}
    answer = await call(caller, "/v1/embeddings", body)
    large = len(answer.body) > 4 * MIB
    assert (answer.status, large) == (200, inputs == 1900)
    assert len(json.loads(answer.body)["data"]) == inputs
    assert (COST in answer.headers) == (not large and layout != "access-log.yaml")
    hold = await ended(caller.connection, answer.headers[RESERVATION])
    assert (hold.state, hold.basis) == (pb.SETTLED, basis)
