"""Envoy, a sidecar and a stand-in provider as processes, and clients of both SDKs; the fixtures are in conftest.py."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from anthropic import Anthropic
from openai import AsyncOpenAI, OpenAI

from deploy.demo.envoy import Envoy, Places, Tree, configuration
from limiter.v1 import limiter_pb2 as pb
from tests.integration.books import Books, balanced_books, open_holds
from tests.integration.connections import Connection, eventually
from tests.integration.sidecars import Sidecar
from tests.servers import free_port, until

PROVIDER_KEY: Final = "sk-provider-0123456789"

RESERVATION: Final = "x-limiter-reservation"
COST: Final = "x-limiter-request-cost"
TAGS: Final = "x-limiter-tags"
ORDERS: Final = "x-stand-in"

#: The name of the address that deploy/envoy/mtls.yaml expects in the sidecar's certificate.
TLS_NAME: Final = "limiter.internal"

#: A sidecar whose policy lets it spend on a provider's account.
OPTIONS: Final = """
upstream_credentials:
  - {{host: api.openai.com, file: {file}}}
  - {{host: api.anthropic.com, header: x-api-key, file: {file}}}
"""

#: With room for everything; the organization's name is put in.
POLICY: Final = """
version: 1
organizations:
  {organization}:
    limits: [{{id: all, spend: 1000, per: total}}]
    teams: {{team: {{keys: {{bot: {bot}}}}}}}
"""


@dataclass
class Provider:
    """A stand-in provider in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int

    @classmethod
    def start(cls, directory: Path) -> Provider:
        """Start one, on a free port."""
        log = directory / "provider.log"
        command = [sys.executable, "-m", "deploy.demo.provider", "--key", PROVIDER_KEY]
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        until(lambda: process.poll() is not None or ":" in log.read_text(), what="the provider")
        assert process.poll() is None, log.read_text()
        return cls(process, int(log.read_text().splitlines()[0].rpartition(":")[2]))

    def calls(self, label: str) -> list[dict[str, Any]]:
        """The calls of one label that ended, in the order of their ends."""
        found: list[dict[str, Any]] = self._ask(f"/stand-in/calls?call={urllib.parse.quote(label)}")
        return found

    def spent(self, customer: str) -> int:
        """What it bills for a customer, in nano-USD."""
        return int(self._ask("/stand-in/spent")["by_customer"].get(customer, 0))

    def open_calls(self) -> int:
        """How many calls are being answered."""
        return int(self._ask("/stand-in/spent")["open"])

    def _ask(self, path: str) -> Any:  # noqa: ANN401 - JSON
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: an authority, and a pair for each side."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Certificates:
        """Make them by the openssl program."""
        authority = ("-subj", "/CN=test authority", "-addext", "basicConstraints=critical,CA:TRUE")
        signed = ("-CA", str(directory / "ca.pem"), "-CAkey", str(directory / "ca.key"))
        for name, options in (
            ("ca", authority),
            ("server", ("-subj", "/CN=sidecar", "-addext", f"subjectAltName=DNS:{TLS_NAME}", *signed)),
            ("client", ("-subj", "/CN=envoy", *signed)),
        ):
            command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
            command += ["-days", "1", "-out", str(directory / f"{name}.pem"), "-keyout", str(directory / f"{name}.key")]
            subprocess.run([*command, *options], check=True, capture_output=True)
        return cls(directory)

    def file(self, name: str) -> str:
        """The path of a file."""
        return str(self.directory / name)

    @property
    def listener(self) -> str:
        """A listener that asks for a client's certificate."""
        files = f"tls-cert={self.file('server.pem')},tls-key={self.file('server.key')}"
        return f"127.0.0.1:0,{files},tls-client-ca={self.file('ca.pem')}"

    @property
    def of_envoy(self) -> dict[str, str]:
        """Where the files are that deploy/envoy/mtls.yaml names."""
        return {f"/etc/envoy/limiter/{name}": self.file(name) for name in ("client.pem", "client.key", "ca.pem")}


@dataclass
class Gateway:
    """A running Envoy in front of a sidecar and the provider."""

    envoy: Envoy
    sidecar: Sidecar
    provider: Provider
    clients: ExitStack = field(default_factory=ExitStack)

    def openai(self, secret: str, **options: Any) -> OpenAI:  # noqa: ANN401 - the SDK's own
        """The unchanged SDK, with the gateway as its base URL; closed after the test."""
        client = OpenAI(base_url=f"{self.envoy.url}/v1", api_key=secret, **options)
        return self.clients.enter_context(client)

    def async_openai(self, secret: str, **options: Any) -> AsyncOpenAI:  # noqa: ANN401 - the SDK's own
        """Likewise for asyncio; to be closed by the test."""
        return AsyncOpenAI(base_url=f"{self.envoy.url}/v1", api_key=secret, **options)

    def anthropic(self, secret: str, **options: Any) -> Anthropic:  # noqa: ANN401 - the SDK's own
        """The unchanged SDK, with the gateway as its base URL; closed after the test."""
        return self.clients.enter_context(Anthropic(base_url=self.envoy.url, api_key=secret, **options))

    def requests(self) -> int:
        """How many requests its clients have sent to it, ever."""
        return self.envoy.statistic("http.clients.downstream_rq_completed")


def start_gateway(
    binary: Path,
    name: str,
    sidecar: Sidecar,
    provider: Provider,
    directory: Path,
    *,
    address: str = "",
    files: dict[str, str] | None = None,
    change: Callable[[Tree], None] = lambda _: None,
) -> Gateway:
    """Start an Envoy with a configuration of deploy/envoy/, after `change` has had a look at it."""
    places = Places(
        clients=free_port(),
        admin=free_port(),
        sidecar=address or sidecar.public,
        provider=provider.port,
        files=files or {},
    )
    tree = configuration(name)
    change(tree)
    return Gateway(Envoy.start(binary, tree, places, directory), sidecar, provider)


def http_filter(tree: Tree, name: str) -> Tree:
    """The configuration of one filter, to be changed."""
    chain = tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"]
    (found,) = [one["typed_config"] for one in chain if one["name"].endswith(name)]
    config: Tree = found
    return config


def nanousd(usd: str) -> int:
    """USD in decimals, as headers have them."""
    exact = Decimal(usd).scaleb(9)
    assert exact == int(exact), usd
    return int(exact)


async def ended(connection: Connection, reservation: str) -> pb.Reservation:
    """Wait for the end of a reservation."""

    async def look() -> pb.Reservation | None:
        found = await connection.reservation(reservation)
        return None if found.state == pb.HELD else found

    return await eventually(look, what=f"the end of {reservation}")


async def ended_books(connection: Connection, organization: str) -> Books:
    """Wait until no hold is open, and read the books, which must balance."""

    async def look() -> bool:
        return not [hold async for hold in open_holds(connection, organization)]

    await eventually(look, what="the end of every hold")
    return await balanced_books(connection, organization)
