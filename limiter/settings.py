"""What `limiter serve` can be told: by flag, by environment (LIMITER_…), by file, else by default; in this order.

The table of them is docs/settings.md, made from this model by `python -m limiter.cli.manual settings`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, Secret, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from limiter.domain.errors import InvalidArgument, LimiterError
from limiter.domain.mistakes import shown
from limiter.ledger.database import books_in, check_url, shown_url
from limiter.policy.mistakes import PolicyInvalid
from limiter.policy.yaml_text import read_yaml
from limiter.rpc.engines import Engine
from limiter.rpc.listeners import Listener, TlsFiles, parse_listener
from limiter.store.address import mask, parse_address

PREFIX: Final = "LIMITER_"

_OWN: Final = "settings"
_HOST_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})", re.ASCII)


class SettingsInvalid(InvalidArgument):
    """Settings that were not accepted. `str(error)` has one line for each of its `mistakes`."""

    def __init__(self, mistakes: list[str]) -> None:
        self.mistakes = tuple(mistakes)
        self.field = "settings"
        self.remedy = "correct the mistakes listed"
        LimiterError.__init__(self, "\n".join(mistakes))


class StoreUrl(Secret[str]):
    """A store's URL, shown without its login."""

    def _display(self) -> str:
        return mask(self.get_secret_value())


class BooksUrl(Secret[str]):
    """The books' URL, shown without its password."""

    def _display(self) -> str:
        return shown_url(self.get_secret_value())


def _words(value: object) -> object:
    """Read a list as it stands in the environment: parts with white space between them."""
    return value.split() if isinstance(value, str) else value


def _nothing(value: object) -> object:
    """Read an empty text as none, so that the environment can take back what a file says."""
    return None if value == "" else value


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
OptionalPath = Annotated[Path | None, BeforeValidator(_nothing)]


class Settings(BaseSettings):
    """The settings of a sidecar.

    `Settings.load(flags)` is the way to make them; the constructor reads the environment and the file as well, and
    raises pydantic's error instead of SettingsInvalid.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True
    )

    config: OptionalPath = None
    """A YAML file with any of these settings, by their names here."""
    data_dir: Path = Path("data")
    """The directory of the embedded store, the ledger, the pepper and the sockets of this machine."""
    store: Annotated[StoreUrl | None, BeforeValidator(_nothing)] = None
    """URL of a Redis or Valkey (redis://, rediss://, unix://, redis+sentinel://, redis+cluster://); none: an embedded
    Valkey in the data directory."""
    books: Annotated[BooksUrl | None, BeforeValidator(_nothing)] = None
    """URL of the books, where ledger rows go for good (sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME); none:
    books.db in the data directory if the store is the embedded one, else no books: rows stay in the store."""
    drain: bool = True
    """Whether this process moves ledger rows into the books; false where `limiter ledger drain` does."""
    listen: Words = ("127.0.0.1:50051",)
    """Where callers are served, besides the data directory's socket: ADDRESS[,OPTION…]; ADDRESS is HOST:PORT,
    [IPV6]:PORT or unix:/PATH; OPTION is trusted, tls, services=limiter+envoy+admin, token-file=PATH, tls-cert=PATH,
    tls-key=PATH, tls-client-ca=PATH or mode=0660."""
    admin_listen: Words = ()
    """Where operators are served, besides the data directory's socket; written like listen. Over TCP it needs
    token-file or tls-client-ca."""
    http: str = "127.0.0.1:9464"
    """HOST:PORT of /metrics, /healthz and /readyz; empty: not served."""
    policy: OptionalPath = None
    """A policy file that is applied at the start."""
    envoy: OptionalPath = None
    """A file that says how requests from Envoy are handled: the providers' keys, headers, bodies that are cut."""
    alerts: OptionalPath = None
    """A file that says where alerts go: webhooks that get them, with what they are signed; none: only the log."""
    prices: OptionalPath = None
    """A file with prices of your own, over those that Limiter brings."""
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes that answer calls."""
    engine: Engine = Engine.AUTO
    """What serves plaintext gRPC: native is the fastest, grpcio runs everywhere, auto takes native if it is installed;
    TLS is always grpcio's."""
    max_backlog: Annotated[int, Field(ge=1, le=1_000_000_000)] = 5_000_000
    """Ledger rows that may await the drain; with more, Reserve answers UNAVAILABLE."""
    fsync: Literal["everysec", "always"] = "everysec"
    """When the embedded store writes through to the disk: everysec may lose the last second when the machine dies,
    always loses nothing and is slower."""
    grace_s: Annotated[float, Field(ge=0, le=3600)] = 20.0
    """Seconds that running calls get to end when the sidecar stops."""
    pepper_file: OptionalPath = None
    """The pepper that key digests are made with, the same for every sidecar of a store; none: one of its own in the
    data directory."""
    token_file: OptionalPath = None
    """A file with the token that callers over TCP must show as `authorization: Bearer …`, where a listener names no
    token-file."""
    tls_cert: OptionalPath = None
    """PEM file with the certificate chain that a listener's option tls means."""
    tls_key: OptionalPath = None
    """PEM file with the key of that certificate."""
    tls_client_ca: OptionalPath = None
    """PEM file with the authority whose certificates callers must show on listeners with tls; none: they show none."""
    log_format: Literal["auto", "json", "console"] = "auto"
    """How log lines are written: auto is text on a terminal, else JSON."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged."""

    @classmethod
    def settings_customise_sources(  # noqa: D102 - pydantic's signature
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, _File(settings_cls)

    @classmethod
    def load(cls, flags: Mapping[str, Any] | None = None) -> Self:
        """Read the settings; `flags` are those given on the command line. Raises SettingsInvalid with every mistake."""
        given = {name: value for name, value in (flags or {}).items() if value is not None}
        try:
            return cls(**given)
        except ValidationError as error:
            raise SettingsInvalid([_line(details, given) for details in error.errors(include_url=False)]) from None

    def listeners(self) -> tuple[Listener, ...]:
        """The listeners of `listen` and `admin_listen`; those of the data directory's sockets are the app's.

        Reads the token files. Raises InvalidArgument.
        """
        token = None if self.token_file is None else _read_token(self.token_file)
        tls = None
        if self.tls_cert is not None and self.tls_key is not None:
            tls = TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)
        texts = [*self.listen, *(_for_admin(text) for text in self.admin_listen)]
        return tuple(parse_listener(text, tls=tls, token=token) for text in texts)

    @property
    def books_url(self) -> str | None:
        """The URL of the books; None: there are none."""
        if self.books is not None:
            return self.books.get_secret_value()
        return books_in(self.data_dir) if self.store is None else None

    @property
    def http_address(self) -> tuple[str, int] | None:
        """Host and port of `http`; None: not served."""
        match = _HOST_PORT.fullmatch(self.http)
        return None if match is None else (match["v6"] or match["host"], int(match["port"]))

    @field_validator("http")
    @classmethod
    def _check_http(cls, value: str) -> str:
        match = _HOST_PORT.fullmatch(value)
        if value and (match is None or int(match["port"]) > 65_535):
            raise _refused(f"{value!r} is not valid; write HOST:PORT, or nothing to serve none")
        return value

    @field_validator("store")
    @classmethod
    def _check_store(cls, value: StoreUrl | None) -> StoreUrl | None:
        if value is not None:
            _accepted(lambda: parse_address(value.get_secret_value(), field_name="store"))
        return value

    @field_validator("books")
    @classmethod
    def _check_books(cls, value: BooksUrl | None) -> BooksUrl | None:
        if value is not None:
            _accepted(lambda: check_url(value.get_secret_value()))
        return value

    @field_validator("log_level", "log_format", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise _refused("tls_cert and tls_key go together; give both or neither")
        _accepted(self.listeners)
        return self


class _File(PydanticBaseSettingsSource):
    """What the file says that `config` names, by a flag or the environment."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        del field
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        named = self.current_state.get("config")
        if not named:
            return {}
        path = Path(named)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SettingsInvalid([f"config: {str(path)!r} cannot be read ({reason}); name a YAML file"]) from None
        try:
            tree, mistakes = read_yaml(text)
        except PolicyInvalid as error:
            raise SettingsInvalid([f"{path}: {mistake}" for mistake in error.mistakes]) from None
        if not isinstance(tree, dict):
            raise SettingsInvalid([f"{path}: write a mapping of names to values, such as workers: 4"])
        fields = [name for name in self.settings_cls.model_fields if name != "config"]
        lines = [str(mistake) for mistake in mistakes]
        lines += [f"{name}: unknown setting; {_hint(name, fields)}" for name in tree if name not in fields]
        if lines:
            raise SettingsInvalid([f"{path}: {line}" for line in lines])
        return dict(tree)


def _for_admin(text: str) -> str:
    if any(option.startswith("services=") for option in text.split(",")[1:]):
        return text
    return f"{text},services=admin"


def _read_token(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise InvalidArgument("token_file", str(path), "name a file that can be read, with printable ASCII") from None


def _accepted(check: Callable[[], object]) -> None:
    """Run check(); its error becomes a mistake."""
    try:
        check()
    except LimiterError as error:
        raise _refused(str(error)) from None


def _refused(message: str) -> PydanticCustomError:
    return PydanticCustomError(_OWN, "{message}", {"message": message})


def _hint(name: str, fields: list[str]) -> str:
    near = difflib.get_close_matches(name[:64], fields, n=1)
    return f"did you mean {near[0]}?" if near else f"the settings are {', '.join(fields)}"


def _line(details: ErrorDetails, flags: Mapping[str, Any]) -> str:
    """Write a mistake under the name that it has where it came from: --log-level, LIMITER_LOG_LEVEL or log_level."""
    name = str(details["loc"][0]) if details["loc"] else ""
    message = details["msg"]
    if details["type"] != _OWN:
        value = "what is given" if name in ("store", "books") else shown(details["input"])
        message = f"{value} is not valid; {message[:1].lower()}{message[1:]}"
    message = message.removeprefix(f"{name}: ")
    if name in flags:
        return f"--{name.replace('_', '-')}: {message}"
    variable = f"{PREFIX}{name.upper()}"
    place = variable if variable in os.environ else name
    return f"{place}: {message}" if place else message
