"""The two programs that speak HTTP/2: pygrpc-native where it can, grpcio everywhere else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import grpc

from limiter.domain.calls import BODY_MAX_BYTES
from limiter.domain.errors import InvalidArgument
from limiter.rpc.listeners import Listener
from limiter.rpc.unix_sockets import SocketFile

try:
    from limiter.rpc.native import NativeServer
except ImportError:  # no wheel for this platform
    NativeServer = None  # type: ignore[assignment,misc]


class Engine(StrEnum):
    """Which engine serves plaintext TCP and Unix sockets; TLS is always grpcio's."""

    AUTO = "auto"
    NATIVE = "native"
    GRPCIO = "grpcio"


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server takes before it answers RESOURCE_EXHAUSTED.

    Message and metadata sizes in bytes, per call; streams per connection; calls and streams in progress on all
    listeners together. A message may carry a provider's body of the largest size and 64 KiB around it; pygrpc-native
    0.5 reads a message whole before it refuses it, so callers that are not trusted with memory belong on TLS (grpcio).
    """

    message_bytes_max: int = BODY_MAX_BYTES + 64 * 1024
    metadata_bytes_max: int = 16 * 1024
    connection_streams_max: int = 1024
    calls_max: int = 4096
    streams_max: int = 8192


@dataclass(frozen=True, slots=True)
class OpenListener:
    """A listener whose socket is bound. `address` has the port that was chosen for port 0."""

    listener: Listener
    server: grpc.aio.Server
    engine: Engine
    address: str
    socket_file: SocketFile | None


def native_installed() -> bool:
    """Whether pygrpc-native can be imported here."""
    return NativeServer is not None


def choose_engine(listener: Listener, wanted: Engine) -> Engine:
    """Return the engine for a listener; raises InvalidArgument if the wanted one is not installed."""
    if wanted is Engine.NATIVE and not native_installed():
        raise InvalidArgument("engine", wanted.value, "install pygrpc-native, or use auto or grpcio")
    if wanted is Engine.GRPCIO or listener.tls is not None or not native_installed():
        return Engine.GRPCIO
    return Engine.NATIVE


def open_listener(listener: Listener, engine: Engine, limits: ServerLimits, *, reuse_port: bool) -> OpenListener:
    """Make a server and bind its socket. Raises InvalidArgument if the address or the TLS files do not work."""
    options = _options(limits, reuse_port=reuse_port and listener.unix_path is None)
    # One thread does the HTTP/2 of a listener with ease: the interpreter behind it is what limits the rate.
    server = (
        grpc.aio.server(options=options) if engine is Engine.GRPCIO else NativeServer(options=options, io_threads=1)
    )
    if listener.unix_path is not None:
        socket_file = SocketFile(listener.unix_path, listener.mode)
        with socket_file.bound():
            _bind(listener, server)
        return OpenListener(listener, server, engine, listener.address, socket_file)
    port = _bind(listener, server)
    return OpenListener(listener, server, engine, f"{listener.address.rpartition(':')[0]}:{port}", None)


def _options(limits: ServerLimits, *, reuse_port: bool) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", limits.message_bytes_max),
        # Both: between the two grpcio refuses calls at random.
        ("grpc.max_metadata_size", limits.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes_max),
        ("grpc.max_concurrent_streams", limits.connection_streams_max),
        # grpcio's default is 1: two programs would share a port without a word.
        ("grpc.so_reuseport", int(reuse_port)),
    ]


def _bind(listener: Listener, server: grpc.aio.Server) -> int:
    credentials = None if listener.tls is None else _credentials(listener)
    try:
        if credentials is None:
            return int(server.add_insecure_port(listener.address))
        return int(server.add_secure_port(listener.address, credentials))
    except RuntimeError as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        remedy = f"it cannot be bound{cause}; is it taken, or another machine's"
        if credentials is not None:
            remedy += ", or do certificate and key not belong together"
        raise InvalidArgument("listen", listener.address, f"{remedy}?") from error


def _credentials(listener: Listener) -> grpc.ServerCredentials:
    assert listener.tls is not None  # noqa: S101 - for the type checker; the caller asked
    certificate, key, client_ca = listener.tls.read()
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=client_ca, require_client_auth=client_ca is not None
    )
