"""Store URLs: reading them, and showing them without their secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote

from limiter.domain.errors import InvalidArgument

Kind = Literal["single", "unix", "sentinel", "cluster"]

_SCHEME = re.compile(r"(redis|rediss|valkey|valkeys)(?:\+(sentinel|cluster))?|unix")
# A stray @ anywhere means that a password was not percent-encoded: then nothing of the URL may be shown.
_URL = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^:@/?#]*)(?::(?P<password>[^@/?#]*))?@)?"
    r"(?P<hosts>[^@/?#]*)(?P<path>/[^@?#]*)?(?:\?(?P<query>[^@#]*))?",
)
_HOST = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<name>[^:\[\]\s]+))(?::(?P<port>[0-9]{1,5}))?")

_TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"})
_SENTINEL_OPTIONS: Final = {"sentinel_username": "username", "sentinel_password": "password"}
_EXAMPLES: Final = (
    "write redis://[user:password@]host:6379/0, unix:///path, redis+sentinel://host:26379,…/service "
    "or redis+cluster://host:6379,… (rediss… for TLS; percent-encode special characters in a password)"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A store URL, read. `str(address)` is the URL without login and options."""

    kind: Kind
    scheme: str
    tls: bool = False
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    login: Mapping[str, str] = field(default_factory=dict, repr=False)
    sentinel_login: Mapping[str, str] = field(default_factory=dict, repr=False)
    tls_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        login = "***@" if self.login else ""  # the user too: some write a password in its place
        service = f"/{self.service}" if self.service else ""
        db = f"/{self.db}" if self.db else ""
        return f"{self.scheme}://{login}{hosts}{self.path}{service}{db}"


def mask(url: str) -> str:
    """Show a URL without its login; of a URL that cannot be read, only the scheme."""
    try:
        return str(parse_address(url))
    except InvalidArgument:
        scheme, separator, _ = url.partition("://")
        return f"{scheme}://…" if separator and _SCHEME.fullmatch(scheme) else "…"


def parse_address(url: str, *, field_name: str = "store") -> Address:
    """Read a store URL. Raises InvalidArgument, which never repeats a password, for anything else."""
    scheme, separator, _ = url.partition("://")
    known = _SCHEME.fullmatch(scheme)
    if not separator or known is None:
        shown = scheme if separator else "…"
        raise InvalidArgument(field_name, shown, _EXAMPLES)
    parts = _URL.fullmatch(url)
    if parts is None:
        raise InvalidArgument(field_name, f"{scheme}://…", _EXAMPLES)
    kind: Kind = "unix" if scheme == "unix" else known[2] or "single"  # type: ignore[assignment] # by _SCHEME
    path = unquote(parts["path"] or "")
    query = dict(parse_qsl(parts["query"] or "", keep_blank_values=True))
    db = _take_db(kind, path, query, field_name=field_name)
    login = {"username": unquote(parts["user"] or ""), "password": unquote(parts["password"] or "")}
    sentinel_login = {own: query.pop(name) for name, own in _SENTINEL_OPTIONS.items() if name in query}
    tls_options = {name: _tls_value(name, query.pop(name)) for name in sorted(_TLS_OPTIONS & query.keys())}
    if query:
        raise InvalidArgument(f"{field_name}: option", ", ".join(sorted(query)), "no such option; see the manual")
    address = Address(
        kind=kind,
        scheme=scheme,
        tls=known[1] in ("rediss", "valkeys"),
        hosts=_hosts(parts["hosts"], default_port=26379 if kind == "sentinel" else 6379, field_name=field_name),
        path=path if kind == "unix" else "",
        service=path.split("/")[1] if kind == "sentinel" and path else "",
        db=db,
        login={name: value for name, value in login.items() if value},
        sentinel_login=sentinel_login,
        tls_options=tls_options,
    )
    _check(address, field_name=field_name)
    return address


def _check(address: Address, *, field_name: str) -> None:
    """Refuse what the grammar allows and no server can serve."""
    remedy = ""
    if address.kind == "unix":
        if address.hosts or address.path in ("", "/"):
            remedy = "write the socket's absolute path: unix:///path/to.sock"
    elif not address.hosts:
        remedy = "name a host"
    elif address.kind == "single" and len(address.hosts) > 1:
        remedy = "name one host, or write redis+sentinel:// or redis+cluster://"
    elif address.kind == "cluster" and address.db:
        remedy = "a Cluster has only database 0"
    elif address.kind == "sentinel" and not address.service:
        remedy = "name the service that the Sentinels watch: redis+sentinel://host:26379/mymaster"
    if not remedy and address.kind != "sentinel" and address.sentinel_login:
        remedy = "sentinel_username and sentinel_password are for redis+sentinel://"
    if not remedy and address.tls_options and not address.tls:
        remedy = "ssl_ options are for rediss://"
    if remedy:
        raise InvalidArgument(field_name, str(address), remedy)


def _take_db(kind: Kind, path: str, query: dict[str, str], *, field_name: str) -> int:
    """The database from the end of the path or from ``?db=``."""
    text = query.pop("db", "")
    if not text and kind != "unix":
        segments = path.split("/")[2 if kind == "sentinel" else 1 :]
        if len(segments) > 1:
            raise InvalidArgument(f"{field_name}: path", path, _EXAMPLES)
        text = segments[0] if segments else ""
    if text and not (text.isascii() and text.isdigit() and len(text) < 6):
        raise InvalidArgument(f"{field_name}: database", text, "write its number, such as 0")
    return int(text or 0)


def _hosts(text: str, *, default_port: int, field_name: str) -> tuple[tuple[str, int], ...]:
    hosts = []
    for part in filter(None, text.split(",")):
        host = _HOST.fullmatch(part)
        port = int(host["port"] or default_port) if host else 0
        if host is None or not 0 < port < 65536:
            # Not shown: without its @, a password would stand here.
            raise InvalidArgument(f"{field_name}: host", "…", _EXAMPLES)
        hosts.append((unquote(host["v6"] or host["name"]), port))
    return tuple(hosts)


def _tls_value(name: str, value: str) -> str | bool:
    if name == "ssl_check_hostname":
        return value.lower() not in ("false", "no", "0")
    return value
