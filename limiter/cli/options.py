"""The options that many commands have."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

import typer

from limiter.cli.arguments import duration
from limiter.cli.output import Format
from limiter.cli.sidecar import Place, socket_of
from limiter.client.connection import TLS

CONNECTION: Final = "Where the sidecar is"

Output: TypeAlias = Annotated[
    Format, typer.Option("--format", metavar="table|json", help="For people, or for programs.")
]
Scope: TypeAlias = Annotated[
    str, typer.Argument(metavar="SCOPE", help="ORG, ORG/TEAM or ORG/TEAM/KEY; none: all.", show_default=False)
]
Key: TypeAlias = Annotated[str, typer.Argument(metavar="KEY", help="ORG/TEAM/KEY", show_default=False)]
Reservation: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="RESERVATION", help="As `reserve` named it: organizations/ORG/reservations/ID", show_default=False
    ),
]

_AdminAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--admin",
        envvar="LIMITER_ADMIN",
        metavar="ADDRESS",
        help="HOST:PORT or unix:/PATH of an Admin listener, instead of the data directory's socket.",
        rich_help_panel=CONNECTION,
    ),
]
_AdminToken: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token",
        "--admin-token",
        envvar="LIMITER_ADMIN_TOKEN",
        metavar="TOKEN",
        help="The Admin listener's token. Others can see a command line: prefer the environment.",
        rich_help_panel=CONNECTION,
    ),
]
_CallerAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="LIMITER_ADDRESS",
        metavar="ADDRESS",
        help="HOST:PORT or unix:/PATH of a listener, instead of the data directory's socket.",
        rich_help_panel=CONNECTION,
    ),
]
_CallerToken: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token",
        envvar="LIMITER_TOKEN",
        metavar="TOKEN",
        help="The listener's token. Others can see a command line: prefer the environment.",
        rich_help_panel=CONNECTION,
    ),
]

ConfiguredDataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        envvar="LIMITER_DATA_DIR",
        metavar="PATH",
        help="The data directory of a sidecar on this machine.",
        show_default="data, or what the file in LIMITER_CONFIG says",
        rich_help_panel=CONNECTION,
    ),
]
_Tls: TypeAlias = Annotated[
    bool, typer.Option("--tls", help="Connect by TLS, trusting the system's roots.", rich_help_panel=CONNECTION)
]
_TlsCa: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        envvar="LIMITER_TLS_CA",
        metavar="PATH",
        help="Connect by TLS; PEM file of the authority that signed the sidecar's certificate.",
        rich_help_panel=CONNECTION,
    ),
]
_TlsCert: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Connect by TLS; PEM file with the certificate to show.", rich_help_panel=CONNECTION
    ),
]
_TlsKey: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="PATH", help="PEM file with the key of that certificate.", rich_help_panel=CONNECTION),
]
_TlsServerName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The name in the sidecar's certificate, where it differs from the address.",
        rich_help_panel=CONNECTION,
    ),
]
_Timeout: TypeAlias = Annotated[
    timedelta,
    typer.Option(
        parser=duration, metavar="DURATION", help="The longest wait for an answer.", rich_help_panel=CONNECTION
    ),
]


def with_admin(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options by which it finds the Admin service, in place of its parameter `admin: Place`."""

    def admin(*, address: _AdminAddress = None, token: _AdminToken = None, **others: Any) -> Place:  # noqa: ANN401
        return _place("admin", address, token, **others)

    return in_place_of("admin", command, [*own_options(admin), *own_options(_place)], admin)


def with_caller(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options by which it calls as an application does, in place of `caller: Place`."""

    def caller(*, address: _CallerAddress = None, token: _CallerToken = None, **others: Any) -> Place:  # noqa: ANN401
        return _place("limiter", address, token, **others)

    return in_place_of("caller", command, [*own_options(caller), *own_options(_place)], caller)


def in_place_of(
    name: str, command: Callable[..., None], options: list[inspect.Parameter], make: Callable[..., Any]
) -> Callable[..., None]:
    """Return `command` with `options` in place of its parameter `name`, which gets what `make` makes of them.

    An option that the command has already (the data directory, of the books and of a sidecar) is read once, for both.
    """
    own = inspect.signature(command, eval_str=True)
    further = [option for option in options if option.name == name or option.name not in own.parameters]
    parameters = [*(parameter for parameter in own.parameters.values() if parameter.name != name), *further]

    def expanded(**given: Any) -> None:  # noqa: ANN401 - as typer read them
        made = make(**{option.name: given[option.name] for option in options})
        for option in further:
            del given[option.name]
        command(**given, **{name: made})

    functools.update_wrapper(expanded, command)
    del expanded.__dict__["__wrapped__"]  # typer would look through it
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    expanded.__dict__["__signature__"] = own.replace(parameters=parameters)
    return expanded


def own_options(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The options that a function declares as its keyword-only parameters."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return [parameter for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]


def _place(
    socket: Literal["admin", "limiter"],
    address: str | None,
    token: str | None,
    *,
    data_dir: ConfiguredDataDir = None,
    tls: _Tls = False,
    tls_ca: _TlsCa = None,
    tls_cert: _TlsCert = None,
    tls_key: _TlsKey = None,
    tls_server_name: _TlsServerName = None,
    timeout: _Timeout = "10s",  # type: ignore[assignment] # the parser reads the default, too
) -> Place:
    timeout_s = timeout.total_seconds()
    if not address:
        found = socket_of(data_dir or configured_data_dir(), socket)
        return replace(found, token=token, timeout_s=timeout_s)
    files = TLS(ca=tls_ca, cert=tls_cert, key=tls_key, server_name=tls_server_name)
    return Place(address, token=token, tls=files if tls or files != TLS() else None, timeout_s=timeout_s)


def configured_data_dir() -> Path:
    """The data directory where no option and no variable names one."""
    if not os.environ.get("LIMITER_CONFIG"):
        return Path("data")
    return settings_of_file().data_dir  # type: ignore[no-any-return]


def settings_of_file() -> Any:  # noqa: ANN401 - imported where it is needed: most commands do without
    """The sidecar's settings, by the file and the environment."""
    return importlib.import_module("limiter.settings").Settings.load()
