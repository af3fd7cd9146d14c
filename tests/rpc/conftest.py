"""A running server with a scripted servicer, on each engine, and certificates for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from limiter.rpc.engines import Engine, ServerLimits, native_installed
from limiter.rpc.guard import Guard
from limiter.rpc.listeners import Listener
from limiter.rpc.server import Register, Server
from limiter.v1 import limiter_pb2 as pb
from limiter.v1 import limiter_pb2_grpc

Credentials = grpc.ChannelCredentials | None
Behaviour = Callable[[Any, Any], Awaitable[Any]]

# The generated functions carry no types.
LimiterStub: Any = limiter_pb2_grpc.LimiterStub
add_limiter: Any = limiter_pb2_grpc.add_LimiterServicer_to_server


async def _echo(request: pb.ReserveRequest, _context: object) -> pb.ReserveResponse:
    return pb.ReserveResponse(reservation=request.request_id)


class Scripted(limiter_pb2_grpc.LimiterServicer):
    """Answers Reserve by the test's own function and nothing else."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour

    async def Reserve(self, request: pb.ReserveRequest, context: grpc.aio.ServicerContext) -> object:  # noqa: N802 - generated
        return await self._behaviour(request, context)


class Bed:
    """Starts servers and opens channels; everything is closed after the test."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.servers: list[Server] = []
        self.channels: list[grpc.aio.Channel] = []

    async def serve(
        self,
        *listeners: Listener,
        behaviour: Behaviour = _echo,
        register: Register | None = None,
        limits: ServerLimits | None = None,
        reuse_port: bool = False,
    ) -> Server:
        """Start a server whose Reserve runs `behaviour`, or one with what `register` adds."""

        def scripted(_listener: Listener, guard: Guard) -> None:
            add_limiter(Scripted(behaviour), guard)

        server = Server(
            listeners or (Listener("127.0.0.1:0"),),
            register or scripted,
            engine=self.engine,
            limits=limits,
            reuse_port=reuse_port,
        )
        self.servers.append(server)
        await server.start()
        return server

    def channel(
        self, server: Server, at: int = 0, credentials: grpc.ChannelCredentials | None = None
    ) -> grpc.aio.Channel:
        """Open a channel to a server's listener."""
        address = server.bound_addresses[at]
        options = [("grpc.use_local_subchannel_pool", 1)]  # connections of its own
        if credentials is None:
            channel = grpc.aio.insecure_channel(address, options=options)
        else:
            channel = grpc.aio.secure_channel(address, credentials, options=options)
        self.channels.append(channel)
        return channel

    def limiter(
        self, server: Server, at: int = 0, credentials: grpc.ChannelCredentials | None = None
    ) -> grpc.aio.Channel:
        """A stub of the Limiter service at a server's listener."""
        return LimiterStub(self.channel(server, at, credentials))

    async def close(self) -> None:
        """Stop everything that the test started."""
        for channel in self.channels:
            await channel.close()
        for server in self.servers:
            await server.drain(0)


@pytest.fixture(params=[Engine.NATIVE, Engine.GRPCIO])
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    """The same test on each engine."""
    if request.param is Engine.NATIVE and not native_installed():
        pytest.skip("pygrpc-native is not installed here")
    bed = Bed(request.param)
    yield bed
    await bed.close()


@dataclass(frozen=True)
class Certificates:
    """PEM files of a made-up authority: a server at 127.0.0.1 and a client."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made by the openssl program, valid for a day."""
    if shutil.which("openssl") is None:
        pytest.skip("the openssl program is not installed here")
    folder = tmp_path_factory.mktemp("certificates")
    made = Certificates(*(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key")))
    _openssl(made.ca, folder / "ca-key.pem", "-subj", "/CN=test authority")
    signed = ("-CA", str(made.ca), "-CAkey", str(folder / "ca-key.pem"))
    _openssl(made.server, made.server_key, "-subj", "/CN=limiter", "-addext", "subjectAltName=IP:127.0.0.1", *signed)
    _openssl(made.client, made.client_key, "-subj", "/CN=gateway", *signed)
    return made


def _openssl(certificate: Path, key: Path, *options: str) -> None:
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "1",
    ]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate), *options], check=True, capture_output=True)
