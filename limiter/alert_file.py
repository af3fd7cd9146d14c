"""The file that says where alerts go: YAML, `limiter serve --alerts FILE`.

::

    endpoints:
      - name: operations
        url: https://hooks.example.com/limiter
        secret_env: LIMITER_WEBHOOK_SECRET          # or secret: [new, old], or secret_file: PATH
        events: ["budget.*", hold.expired]          # default: everything
        organizations: [acme]                       # default: all, and what concerns none
      - {name: slack, url_env: SLACK_WEBHOOK_URL, format: slack}
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import structlog
from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationError

from limiter.domain.errors import InvalidArgument, LimiterError
from limiter.domain.mistakes import Mistake, Place, mistaken, mistakes_in, path, refuse
from limiter.domain.scopes import ID_PATTERN, ID_RULE
from limiter.ledger.alerting.endpoints import TIMEOUT_S, BodyFormat, Endpoint
from limiter.ledger.alerting.queue import LOG
from limiter.policy.fields import choice
from limiter.policy.mistakes import PolicyInvalid
from limiter.policy.part import Part
from limiter.policy.yaml_text import read_yaml

#: Bytes of a signing secret, as the Standard Webhooks want them.
_SECRET_BYTES: Final = range(24, 65)
_TIMEOUTS_S: Final = range(1, 61)
_FILE_MAX_BYTES: Final = 16_384
_CA_MAX_BYTES: Final = 1_048_576

#: A certificate in a file that may have more: comments in any language, a key.
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----\n?", re.ASCII)

_log = structlog.get_logger(__name__)


class AlertFileInvalid(InvalidArgument):
    """A file that was not accepted. `str(error)` has one line for each of its `mistakes`; no secret is in it."""

    def __init__(self, file: Path, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        self.field = "alerts"
        self.remedy = "correct the mistakes listed"
        LimiterError.__init__(self, "\n".join(f"{file}: {mistake}" for mistake in mistakes))


def _name(value: object) -> str:
    if not isinstance(value, str) or ID_PATTERN.fullmatch(value) is None or value == LOG:
        raise refuse(value, f"use {ID_RULE}; {LOG} is taken")
    return value


def _url(value: str) -> str:
    """Accept the URL of a receiver; what is said of a bad one does not repeat it, as it may be a secret."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or not value.isascii() or not value.isprintable() or " " in value or len(value) > 2_048:
        raise mistaken("this is no URL; write https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise mistaken("a URL with a login is refused; receivers know the sender by the signature")
    if parts.fragment:
        raise mistaken("what follows # is never sent; leave it out")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise mistaken("write https://HOST/PATH; http is for this machine only")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(value: str) -> str:
    try:
        key = base64.b64decode(value.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not value.startswith("whsec_") or len(key) not in _SECRET_BYTES:
        raise mistaken("this is no signing secret; write whsec_ and then 24 to 64 random bytes in base64")
    return value


def _authorities(value: str) -> str:
    """Keep the certificates of a PEM file; what else stands there is left out."""
    found = "".join(_CERTIFICATE.findall(value))
    if not found or len(value) >= _CA_MAX_BYTES:
        raise mistaken("this is no list of certificates; name a PEM file of less than 1 MiB with those of authorities")
    try:
        ssl.create_default_context(cadata=found)
    except ssl.SSLError as error:
        raise mistaken(f"a certificate cannot be read ({error.reason or 'it is damaged'})") from None
    return found


def _seconds(value: object) -> int:
    if type(value) is not int or value not in _TIMEOUTS_S:
        raise refuse(value, f"write whole seconds from {_TIMEOUTS_S[0]} to {_TIMEOUTS_S[-1]}")
    return value


def _pattern(value: str) -> str:
    if not value or len(value) > 256 or not value.isprintable():
        raise refuse(value, "write a pattern of names, such as budget.*")
    return value


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


Secret = Annotated[str, AfterValidator(_secret)]
Patterns = Annotated[tuple[Annotated[str, AfterValidator(_pattern)], ...], Field(min_length=1, max_length=256)]


class EndpointPart(Part):
    """One receiver."""

    name: Annotated[str, PlainValidator(_name)]
    """What it is called here, in the log, and in the books: what was delivered to it is remembered by this name."""
    url: Annotated[str, AfterValidator(_url)] | None = None
    url_env: str | None = None
    """The environment variable that has the URL, where that is a secret as well."""
    secret: Annotated[tuple[Secret, ...], BeforeValidator(_listed), Field(min_length=1, max_length=4)] | None = None
    """What deliveries are signed with; of several, with each."""
    secret_file: Path | None = None
    """A file with secrets, white space between them."""
    secret_env: str | None = None
    """The environment variable that has the secrets, likewise."""
    events: Patterns = ("*",)
    organizations: Patterns = ("*",)
    format: Annotated[BodyFormat, PlainValidator(choice({word.value: word for word in BodyFormat}))] = (
        BodyFormat.STANDARD
    )
    timeout_s: Annotated[int, PlainValidator(_seconds)] = TIMEOUT_S
    """How long it may take to answer."""
    ca_file: Path | None = None
    """A file with the certificates (PEM) of the authorities that it is trusted by, instead of this machine's."""

    @classmethod
    def together(cls, data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """Yield a mistake unless there is one URL, and a secret where one is needed."""
        if ("url" in data) + ("url_env" in data) != 1:
            yield (), "name url or url_env, one of them"
        secrets = sum(name in data for name in ("secret", "secret_file", "secret_env"))
        if secrets > 1 or (not secrets and data.get("format") != BodyFormat.SLACK):
            yield (), "name secret, secret_file or secret_env, one of them; only format: slack can do without"


class _File(Part):
    """The whole file."""

    endpoints: tuple[EndpointPart, ...] = Field(max_length=100)

    @classmethod
    def together(cls, data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """Yield a mistake for every name that is taken twice."""
        seen: set[object] = set()
        listed = data.get("endpoints")
        for i, entry in enumerate(listed if isinstance(listed, list) else ()):
            name = entry.get("name") if isinstance(entry, dict) else None
            if isinstance(name, str) and name in seen:
                yield ("endpoints", i, "name"), f"{name!r} is taken; give every endpoint a name of its own"
            seen.add(name if isinstance(name, str) else i)


def read_endpoints(file: Path, *, environment: Mapping[str, str] | None = None) -> tuple[Endpoint, ...]:
    """Read a file of endpoints with their secrets. Raises AlertFileInvalid with every mistake."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidArgument("alerts", str(file), f"name a YAML file that can be read ({reason})") from None
    try:
        tree, mistakes = read_yaml(text)
    except PolicyInvalid as error:
        raise AlertFileInvalid(file, error.mistakes) from None
    try:
        parts = _File.model_validate(tree).endpoints
    except ValidationError as error:
        raise AlertFileInvalid(file, [*mistakes, *mistakes_in(error)]) from None
    known = os.environ if environment is None else environment
    endpoints = [_endpoint(part, ("endpoints", i), known, mistakes) for i, part in enumerate(parts)]
    if mistakes:
        raise AlertFileInvalid(file, mistakes)
    return tuple(endpoints)


def _endpoint(part: EndpointPart, place: Place, environment: Mapping[str, str], mistakes: list[Mistake]) -> Endpoint:
    """Fetch what stands elsewhere; what cannot be had is added to the mistakes."""

    def fetch(name: str, read: Callable[[], str], check: Callable[[str], str], *, many: bool) -> tuple[str, ...]:
        try:
            found = read()
            words = found.split() if many else [found.strip()]
            if not words or len(words) > 4:
                raise mistaken(f"there are {len(words)} secrets; 1 to 4 are needed")
            return tuple(check(word) for word in words)
        except KeyError:
            reason = "this environment variable is not set"
        except (OSError, UnicodeDecodeError) as error:
            reason = f"this file cannot be read ({getattr(error, 'strerror', None) or 'it is not ASCII'})"
        except ValueError as error:  # of a validator
            reason = f"what stands there: {error}"
        mistakes.append(Mistake(path((*place, name)), reason))
        return ()

    url, secrets, ca = part.url or "", part.secret or (), ""
    if (variable := part.url_env) is not None:
        url = "".join(fetch("url_env", lambda: environment[variable], _url, many=False))
    if (named := part.secret_env) is not None:
        secrets = fetch("secret_env", lambda: environment[named], _secret, many=True)
    if (secret_file := part.secret_file) is not None:
        secrets = fetch("secret_file", lambda: _beginning(secret_file).decode("ascii"), _secret, many=True)
    if (ca_file := part.ca_file) is not None:
        found = fetch("ca_file", lambda: _beginning(ca_file, _CA_MAX_BYTES).decode("latin-1"), _authorities, many=False)
        ca = "".join(found)
    return Endpoint(part.name, url, secrets, part.events, part.organizations, part.format, part.timeout_s, ca)


def _beginning(file: Path, most: int = _FILE_MAX_BYTES) -> bytes:
    with file.open("rb") as opened:
        return opened.read(most)


class ChangedFile:
    """Reads a file of endpoints again when it has changed; one with mistakes is told once and not taken."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = self._stamp()

    def __call__(self) -> tuple[Endpoint, ...] | None:
        """Return the endpoints of a file that changed since the last call; None: it did not, or cannot be taken."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            return read_endpoints(self._file)
        except LimiterError as error:
            _log.error("alerts.file_refused", reason=str(error), effect="the endpoints stay as they were")
            return None

    def _stamp(self) -> tuple[int, ...]:
        try:
            found = self._file.stat()
        except OSError:
            return ()
        return found.st_mtime_ns, found.st_size, found.st_ino
