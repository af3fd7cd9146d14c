"""The sockets in the data directory, by which the command line finds the sidecar."""

from __future__ import annotations

import os
import socket
import tempfile
import zlib
from pathlib import Path

from limiter.domain.errors import InvalidArgument
from limiter.rpc.listeners import Listener

ADMIN = "admin"
LIMITER = "limiter"

#: The longest path of a Unix socket that every system takes.
_PATH_MAX_BYTES = 100
_OWNER_ONLY = 0o600


def socket_address(data_dir: Path, name: str) -> str:
    """`unix:` address of a socket in the data directory; in a short directory if that path is too long."""
    path = data_dir.absolute() / f"{name}.sock"
    if len(os.fsencode(path)) > _PATH_MAX_BYTES:
        digest = zlib.crc32(os.fsencode(path.parent))
        directory = Path(tempfile.gettempdir()) / f"limiter-{os.getuid()}-{digest:08x}"
        directory.mkdir(mode=0o700, exist_ok=True)
        path = directory / path.name
    return f"unix:{path}"


def own_listeners(data_dir: Path) -> tuple[Listener, Listener]:
    """Admin, and a trusted Limiter listener; for the owner of the data directory only."""
    admin = Listener(socket_address(data_dir, ADMIN), frozenset({"admin"}), socket_mode=_OWNER_ONLY)
    limiter = Listener(socket_address(data_dir, LIMITER), trusted=True, socket_mode=_OWNER_ONLY)
    return admin, limiter


def note_addresses(data_dir: Path) -> None:
    """Write where the sockets are into the data directory."""
    for name in (ADMIN, LIMITER):
        (data_dir / f"{name}.address").write_text(socket_address(data_dir, name) + "\n", "utf-8")


def check_shareable(listener: Listener) -> None:
    """Make sure that nobody else listens where several workers are to: they would share the port in silence.

    Raises InvalidArgument.
    """
    if listener.unix_path is not None:
        return
    host, _, port = listener.address.rpartition(":")
    if port == "0":
        raise InvalidArgument("listen", listener.address, "name the port: several workers are to share it")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    ):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not SO_REUSEPORT: that would share it
            try:
                probe.bind(address)
            except OSError as error:
                raise InvalidArgument("listen", listener.address, f"it cannot be bound ({error.strerror})") from error
