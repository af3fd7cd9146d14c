"""A provider that plays answers back, routes by which Envoy leads to any host, and a client that sends the calls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

from deploy.demo.envoy import Envoy, Places, Tree, configuration
from limiter.cli.estimate_lines import as_sent
from limiter.domain.calls import BODY_MAX_BYTES
from tests.docs.pages import blocks, page
from tests.gateway.gateways import Gateway, Provider
from tests.integration.sidecars import Sidecar
from tests.pricing.recordings import Recorded
from tests.servers import free_port

#: By which a request says which answer it wants.
NAME: Final = "x-recorded"

#: An answer that comes in parts comes in about as many.
PARTS: Final = 7

#: Requests that are under way at a time.
AT_ONCE: Final = 8

EXT_AUTHZ: Final = "envoy.filters.http.ext_authz"

#: Each layout, and whether its routes go by the beginning of the path, or by the host that is asked for.
LAYOUTS: Final = {"default.yaml": True, "access-log.yaml": True, "ext-proc.yaml": False}

#: A sidecar with a key for every provider; requests to one region of Bedrock are signed by Envoy.
OPTIONS: Final = """
upstream_credentials:
  - {{host: "*googleapis.com", header: x-goog-api-key, file: {file}}}
  - {{host: api.anthropic.com, header: x-api-key, file: {file}}}
  - {{host: bedrock-runtime.eu-west-1.amazonaws.com, signed: true}}
  - {{host: "*", file: {file}}}
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider answers: in parts, or all of it at once and with its length."""

    status: int
    content_type: str
    body: bytes
    in_parts: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One call and its answer; `path` with its query."""

    name: str
    host: str
    path: str
    body: bytes
    answer: Answer
    content_type: str = "application/json"

    @classmethod
    def of(cls, call: Recorded, source: str) -> Call:
        """A call that was recorded, as compact as any client writes it; `source` for its name."""
        path, query = call.call["path"], call.call["query"]
        answer = Answer(call.status, call.content_type or "application/json", call.body, call.is_stream)
        body = as_sent(call.call["request"])
        return cls(f"{source} {call.line}", call.call["host"], f"{path}?{query}" if query else path, body, answer)

    @property
    def key_header(self) -> tuple[str, str]:
        """Where clients of this host put their key, and what stands before it."""
        if self.host.endswith("googleapis.com"):
            return "x-goog-api-key", ""
        return ("x-api-key", "") if self.host == "api.anthropic.com" else ("authorization", "Bearer ")


@dataclass(frozen=True, slots=True)
class Received:
    """A request as the provider got it."""

    host: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What the client got."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Player:
    """Answers each request by its header NAME; `received` has what came, by that.

    What comes in parts waits before each of them until `parts` allows one; by default all of them are allowed.
    """

    calls: Mapping[str, Call]
    port: int = 0
    received: dict[str, Received] = field(default_factory=dict)
    parts: asyncio.Semaphore | None = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Play an answer."""
        name = request.headers[NAME]
        headers = {header.lower(): value for header, value in request.headers.items()}
        self.received[name] = Received(request.host, request.raw_path, headers, await request.read())
        answer = self.calls[name].answer
        told = {"content-type": answer.content_type}
        if not answer.in_parts:
            return web.Response(status=answer.status, body=answer.body, headers=told)
        response = web.StreamResponse(status=answer.status, headers=told)
        await response.prepare(request)
        step = max(1, len(answer.body) // PARTS)
        for at in range(0, len(answer.body), step):
            if self.parts is not None:
                await self.parts.acquire()
            await response.write(answer.body[at : at + step])
        if self.parts is not None:
            await self.parts.acquire()
        return response


@asynccontextmanager
async def playing(calls: Iterable[Call]) -> AsyncIterator[Player]:
    """A player on a free port, until the end."""
    player = Player({call.name: call for call in calls})
    app = web.Application(client_max_size=2 * BODY_MAX_BYTES)
    app.router.add_route("*", "/{path:.*}", player.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    player.port = runner.addresses[0][1]
    try:
        yield player
    finally:
        await runner.cleanup()


@dataclass(frozen=True, slots=True)
class Stage:
    """Starts layouts of deploy/envoy/ in front of players."""

    binary: Path
    sidecar: Sidecar
    provider: Provider
    directory: Path

    @asynccontextmanager
    async def open(
        self, layout: str, calls: Sequence[Call], change: Callable[[Tree], None] = lambda _: None
    ) -> AsyncIterator[tuple[Gateway, Player]]:
        """Start one, with routes to the hosts of these calls; it ends with the context."""
        tree = configuration(layout)
        (lead_by_prefix if LAYOUTS[layout] else lead_by_authority)(tree, {call.host for call in calls})
        manager(tree)["path_with_escaped_slashes_action"] = "KEEP_UNCHANGED"  # as docs/envoy.md says of Bedrock
        change(tree)
        async with playing(calls) as player:
            places = Places(free_port(), free_port(), self.sidecar.public, player.port)
            envoy = await asyncio.to_thread(Envoy.start, self.binary, tree, places, self.directory)
            try:
                yield Gateway(envoy, self.sidecar, self.provider), player
            finally:
                await asyncio.to_thread(envoy.stop)


def lead_by_prefix(tree: Tree, hosts: Iterable[str]) -> None:
    """Lead /HOST/… to each host, by the route that docs/envoy.md shows."""
    (example,) = [block.text for block in blocks(page("docs/envoy.md"), "yaml") if block.text.startswith("# a route")]
    for host in hosts:
        route = deepcopy(yaml.safe_load(example))
        route["match"]["prefix"] = f"/{host}/"
        route["route"]["host_rewrite_literal"] = host
        extensions = {"host": host, "path_prefix": f"/{host}"}
        route["typed_per_filter_config"][EXT_AUTHZ]["check_settings"]["context_extensions"] = extensions
        _virtual_hosts(tree)[0]["routes"].insert(0, route)


def lead_by_authority(tree: Tree, hosts: Iterable[str]) -> None:
    """Lead each request to the host that it names itself, as a proxy does through which all traffic goes."""
    (everything,) = _virtual_hosts(tree)
    rest = {name: value for name, value in everything.items() if name not in ("name", "domains", "routes")}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "openai", "timeout": "600s"}}]
    _virtual_hosts(tree).append(rest | {"name": "by-authority", "domains": sorted(hosts), "routes": routes})


def manager(tree: Tree) -> Tree:
    """The configuration of the HTTP connection manager."""
    found: Tree = tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def _virtual_hosts(tree: Tree) -> list[Any]:
    found: list[Any] = manager(tree)["route_config"]["virtual_hosts"]
    return found


async def sent(gateway: Gateway, secret: str, calls: Sequence[Call], *, by_prefix: bool) -> dict[str, Result]:
    """Send calls, several at a time; what came of each, by its name."""
    results: dict[str, Result] = {}
    free = asyncio.Semaphore(AT_ONCE)

    async def send(session: aiohttp.ClientSession, call: Call) -> None:
        async with free, posted(session, gateway, secret, call, by_prefix=by_prefix) as answer:
            named = {name.lower(): value for name, value in answer.headers.items()}
            results[call.name] = Result(answer.status, named, await answer.read())

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(60)) as session:
        await asyncio.gather(*(send(session, call) for call in calls))
    return results


def posted(
    session: aiohttp.ClientSession, gateway: Gateway, secret: str, call: Call, *, by_prefix: bool
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    """Send one call; its answer, once that begins."""
    header, scheme = call.key_header
    headers = {header: f"{scheme}{secret}", NAME: call.name, "content-type": call.content_type}
    if not by_prefix:
        headers["host"] = call.host
    url = f"{gateway.envoy.url}/{call.host}{call.path}" if by_prefix else f"{gateway.envoy.url}{call.path}"
    return session.post(URL(url, encoded=True), data=call.body, headers=headers)
