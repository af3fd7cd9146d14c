"""Where the server listens, for whom, and what a caller must show there."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from limiter.domain.errors import InvalidArgument

#: What a listener can offer. The names mean something to whoever registers the servicers.
SERVICES: Final = ("limiter", "envoy", "admin")

#: What a listener offers that does not say.
USUAL_SERVICES: Final = frozenset({"limiter", "envoy"})

TOKEN_CHARACTERS_MIN: Final = 16
TOKEN_CHARACTERS_MAX: Final = 4096

#: The kernel's room for a socket path, the closing NUL not counted (macOS has the least).
UNIX_PATH_BYTES_MAX: Final = 103

SYNTAX: Final = (
    "write ADDRESS[,OPTION…]; ADDRESS is HOST:PORT, [IPV6]:PORT or unix:/PATH; OPTION is trusted, tls, "
    "services=limiter+envoy+admin, token-file=PATH, tls-cert=PATH, tls-key=PATH, tls-client-ca=PATH or mode=0660"
)

_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_TOKEN = re.compile(rf"[!-~]{{{TOKEN_CHARACTERS_MIN},{TOKEN_CHARACTERS_MAX}}}", re.ASCII)
_FLAGS: Final = ("trusted", "tls")
_VALUES: Final = ("services", "token-file", "tls-cert", "tls-key", "tls-client-ca", "mode")


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. With `client_ca`, callers must show a certificate that it signed (mTLS)."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Return certificate chain, key and client CA; raises InvalidArgument naming the file."""
        client_ca = None if self.client_ca is None else _read_file("tls-client-ca", self.client_ca)
        return _read_file("tls-cert", self.certificate), _read_file("tls-key", self.key), client_ca


@dataclass(frozen=True, slots=True)
class Listener:
    """One address and its rules.

    `address` is `HOST:PORT`, `[IPV6]:PORT` (port 0: a free one) or `unix:/absolute/path`. Only on a `trusted` listener
    may callers name a key instead of showing its secret. `token` is what callers must send as
    `authorization: Bearer <token>`; None: nothing. `socket_mode` is the permission of a Unix socket; None: 0600 for an
    admin listener, 0660 otherwise. Raises InvalidArgument for what cannot work or must not be offered.
    """

    address: str
    services: frozenset[str] = USUAL_SERVICES
    trusted: bool = False
    tls: TlsFiles | None = None
    token: str | None = field(default=None, repr=False)
    socket_mode: int | None = None

    def __post_init__(self) -> None:
        if self.unix_path is None:
            _check_tcp(self.address)
        else:
            _check_unix(self)
        if not self.services or not self.services <= set(SERVICES):
            raise InvalidArgument("services", "+".join(sorted(self.services)), f"choose from {', '.join(SERVICES)}")
        if self.socket_mode is not None and self.unix_path is None:
            raise InvalidArgument("mode", f"{self.socket_mode:04o}", "only a Unix socket has a mode")
        if self.token is not None and _TOKEN.fullmatch(self.token) is None:
            raise InvalidArgument(
                "token", "(hidden)", f"use {TOKEN_CHARACTERS_MIN} to {TOKEN_CHARACTERS_MAX} printable ASCII characters"
            )
        if "admin" in self.services and not self.asks_for_proof:
            raise InvalidArgument(
                "listen", self.address, "admin over TCP needs token-file=PATH or tls-client-ca=PATH; or use unix:/PATH"
            )

    @property
    def unix_path(self) -> Path | None:
        """The socket's path; None for TCP."""
        return Path(self.address[5:]) if self.address.startswith("unix:") else None

    @property
    def mode(self) -> int:
        """The permission bits that a Unix socket gets."""
        if self.socket_mode is not None:
            return self.socket_mode
        return 0o600 if "admin" in self.services else 0o660

    @property
    def asks_for_proof(self) -> bool:
        """Whether a caller must show something: file permission, a token, or a certificate."""
        return (
            self.unix_path is not None
            or self.token is not None
            or (self.tls is not None and self.tls.client_ca is not None)
        )

    def cautions(self) -> tuple[str, ...]:
        """What an operator should know before this is offered beyond this machine."""
        if self.unix_path is not None or _is_loopback(self.address):
            return ()
        found = []
        if self.trusted and not self.asks_for_proof:
            found.append("trusted without a token or client certificates: whoever reaches it can spend for any key")
        if self.tls is None:
            found.append("no TLS: API keys and tokens cross the network in the clear")
        return tuple(found)


def parse_listener(text: str, *, tls: TlsFiles | None = None, token: str | None = None) -> Listener:
    """Read `ADDRESS[,OPTION…]`, for example `unix:/run/limiter.sock,trusted` or `0.0.0.0:50051,tls`.

    `tls` are the files that the bare option `tls` means; `token` is demanded on TCP where no `token-file` is named.
    Reads the token file. Raises InvalidArgument naming the option, its value and the remedy.
    """
    address, *options = text.split(",")
    given = _options(text, options)
    services = given.get("services")
    if (path := given.get("token-file")) is not None:
        token = _read_token(path)
    elif address.startswith("unix:"):
        token = None
    return Listener(
        address=address,
        services=USUAL_SERVICES if services is None else frozenset(services.split("+")),
        trusted="trusted" in given,
        tls=_tls(text, given, tls),
        token=token,
        socket_mode=_mode(given.get("mode")),
    )


def _options(text: str, options: list[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        known = name in _VALUES if equals else name in _FLAGS
        if not known or (equals and not value):
            raise InvalidArgument("listen", option, SYNTAX)
        if name in given:
            raise InvalidArgument("listen", text, f"name {name} once")
        given[name] = value
    return given


def _tls(text: str, given: dict[str, str], default: TlsFiles | None) -> TlsFiles | None:
    if not given.keys() & {"tls", "tls-cert", "tls-key", "tls-client-ca"}:
        return None
    certificate = given.get("tls-cert") or (default and default.certificate)
    key = given.get("tls-key") or (default and default.key)
    if not certificate or not key:
        raise InvalidArgument("listen", text, "TLS needs a certificate and a key: add tls-cert=PATH,tls-key=PATH")
    client_ca = given.get("tls-client-ca") or (default and default.client_ca)
    return TlsFiles(Path(certificate), Path(key), Path(client_ca) if client_ca else None)


def _mode(text: str | None) -> int | None:
    if text is None:
        return None
    if re.fullmatch(r"0?[0-7]{3}", text, re.ASCII) is None:
        raise InvalidArgument("mode", text, "write three octal digits, such as 0660")
    return int(text, 8)


def _read_token(path: str) -> str:
    try:
        return _read_file("token-file", Path(path)).decode("ascii").strip()
    except UnicodeDecodeError:
        raise InvalidArgument("token-file", path, "the token must be printable ASCII") from None


def _read_file(option: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidArgument(option, str(path), f"name a file that can be read ({error.strerror})") from None


def _check_tcp(address: str) -> None:
    match = _HOST_PORT.fullmatch(address)
    if match is None:
        raise InvalidArgument("listen", address, SYNTAX)
    if int(match["port"]) > 65_535:
        raise InvalidArgument("listen", address, "a port is 0 to 65535")
    if match["v6"] is not None:
        try:
            ipaddress.IPv6Address(match["v6"])
        except ValueError:
            raise InvalidArgument("listen", address, "write an IPv6 address in the brackets, such as [::1]") from None


def _check_unix(listener: Listener) -> None:
    path = listener.address[5:]
    if not path.startswith("/") or "\0" in path:
        raise InvalidArgument("listen", listener.address, "write an absolute path, such as unix:/run/limiter.sock")
    if len(os.fsencode(path)) > UNIX_PATH_BYTES_MAX:
        raise InvalidArgument("listen", listener.address, f"a socket's path has at most {UNIX_PATH_BYTES_MAX} bytes")
    if listener.tls is not None:
        raise InvalidArgument("listen", listener.address, "TLS is for TCP; a Unix socket has file permissions")


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
