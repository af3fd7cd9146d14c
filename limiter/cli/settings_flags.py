"""A flag for every setting of a sidecar, made from the settings' own model."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final

import typer
from pydantic.fields import FieldInfo

from limiter.cli.options import in_place_of
from limiter.settings import PREFIX, Settings

#: What stands for the value of a setting, where it is not simply text.
_METAVARS: Final = {
    "config": "FILE",
    "data_dir": "PATH",
    "store": "URL",
    "books": "URL",
    "drain": "true|false",
    "listen": "ADDRESS[,OPTION…]",
    "admin_listen": "ADDRESS[,OPTION…]",
    "http": "HOST:PORT",
    "workers": "N",
    "max_backlog": "ROWS",
    "grace_s": "SECONDS",
    "engine": "auto|native|grpcio",
    "fsync": "everysec|always",
    "log_format": "auto|json|console",
    "log_level": "debug|info|warning|error",
}


def flag(name: str) -> str:
    """The flag of a setting."""
    return f"--{name.replace('_', '-')}"


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def is_list(field: FieldInfo) -> bool:
    """Whether a setting has many values: the flag is given many times, the variable has white space between them."""
    return isinstance(field.default, tuple)


def meaning(field: FieldInfo) -> str:
    """What a setting is, in one line."""
    return " ".join((field.description or "").split())


def default_text(field: FieldInfo) -> str:
    """The default of a setting, as one would write it."""
    if is_list(field):
        return " ".join(field.default) or "none"
    return "none" if field.default is None else str(field.default)


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a flag for every setting, in place of its parameter `settings: Settings`.

    What is not given as a flag comes from the environment, the file, or the defaults; a mistake is a SettingsInvalid.
    """
    return with_some_settings(*Settings.model_fields)(command)


def with_some_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command flags for some settings; the others come from the environment, the file, or the defaults."""
    options = [_option(name, Settings.model_fields[name]) for name in names]
    return lambda command: in_place_of("settings", command, options, _load)


def _load(**flags: Any) -> Settings:  # noqa: ANN401 - text as given
    return Settings.load({name: value for name, value in flags.items() if value not in (None, [])})


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    # The model reads the environment: to typer, a variable would look like a flag.
    option = typer.Option(
        flag(name),
        metavar=_METAVARS.get(name, "FILE"),
        help=f"{meaning(field)} (env: {variable(name)})",
        show_default=default_text(field),
    )
    kind = list[str] if is_list(field) else str
    annotation = Annotated[kind | None, option]  # type: ignore[valid-type] # made here, for typer to read
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
