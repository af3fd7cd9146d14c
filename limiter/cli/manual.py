"""The pages docs/cli.md and docs/settings.md, made from the commands and the settings themselves.

`python -m limiter.cli.manual cli > docs/cli.md`, and likewise `settings`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, Final

import typer

from limiter.cli.failures import MEANINGS
from limiter.cli.lazy import LazyCommand
from limiter.cli.main import COMMANDS, app
from limiter.cli.options import CONNECTION
from limiter.cli.settings_flags import default_text, flag, is_list, meaning, variable
from limiter.settings import Settings

#: Those among a command's options that every command of its kind has, described once.
_ADMIN: Final = "keys list"
_CALLER: Final = "release"

_CLI_TITLE: Final = """# The command line

This page is made from the commands themselves: `python -m limiter.cli.manual cli > docs/cli.md`.

A scope is written `ORG`, `ORG/TEAM` or `ORG/TEAM/KEY`, a key `ORG/TEAM/KEY`. `limiter COMMAND --help` says the same
as this page; `limiter --install-completion` completes commands and options in the shell.

`--format json` prints one JSON value (`ledger` a line for each row). Fields keep their names from release to release;
amounts are integers of nano-USD (`held_nanousd`), with the same in USD as a decimal text beside them (`held_usd`);
times are ISO 8601 in UTC, durations milliseconds (`retry_after_ms`). Messages for people go to the standard error.

## Exit codes
"""

_CONNECTION: Final = """## Where the sidecar is

Without these options a command takes the sidecar that serves the data directory `data` on this machine, by its
sockets `admin.sock` and `limiter.sock`, which are for the directory's owner only. (Where the directory's path is too
long for a socket, `admin.address` and `limiter.address` there say where the sockets are.)
"""

_SETTINGS_TITLE: Final = """# Settings

This page is made from the settings themselves: `python -m limiter.cli.manual settings > docs/settings.md`.

A setting of `limiter serve` is taken from its flag, else from the environment, else from the YAML file that `--config`
or `LIMITER_CONFIG` names, else it has its default. In the file a setting has its name as in the first column; unknown
names are refused. A setting with many values is a flag given many times, a variable with white space between the
values, or a list in the file. An empty variable takes back what the file says.
"""

_COMMAND_SETTINGS: Final = """
## Settings of the other commands

These say where the sidecar is, and who calls. A flag goes before the environment.
"""


def cli_page() -> str:
    """Return docs/cli.md."""
    lines = [_CLI_TITLE, *_table(("code", "meaning"), ((code.value, text) for code, text in MEANINGS.items())), ""]
    loaded = dict(_commands())
    for panel, entries in COMMANDS.items():
        lines += [f"## {panel}", ""]
        for name, command in loaded.items():
            if name.split()[0] in entries:
                lines += _command(name, command)
    lines.append(_CONNECTION)
    for kind, name in (
        ("Commands that ask the Admin service", _ADMIN),
        ("Commands that call as an application", _CALLER),
    ):
        lines += [f"### {kind}", ""]
        lines += _options(option for option in loaded[name].params if _is_connection(option))
    return "\n".join(lines).rstrip() + "\n"


def settings_page() -> str:
    """Return docs/settings.md."""
    rows = (
        (
            f"`{name}`",
            f"`{flag(name)}`{' …' if is_list(field) else ''}",
            f"`{variable(name)}`",
            f"`{default_text(field)}`" if field.default not in (None, ()) else "none",
            meaning(field),
        )
        for name, field in Settings.model_fields.items()
    )
    lines = [_SETTINGS_TITLE, *_table(("name", "flag", "environment", "default", "meaning"), rows), _COMMAND_SETTINGS]
    found: dict[str, tuple[str, ...]] = {}
    for _, command in sorted(_commands(), key=lambda pair: pair[0] not in (_ADMIN, _CALLER)):  # the common ones first
        for option in command.params:
            if option.envvar:
                found.setdefault(
                    option.envvar,
                    (f"`{option.opts[0]}`", f"`{option.envvar}`", _default(option) or "none", option.help),
                )
    return "\n".join([*lines, *_table(("flag", "environment", "default", "meaning"), found.values())]) + "\n"


def _commands() -> Iterator[tuple[str, Any]]:
    """Every command by its words, loaded."""
    root: Any = typer.main.get_command(app)
    for name, command in root.commands.items():
        for word, inner in getattr(command, "commands", {"": command}).items():
            assert isinstance(inner, LazyCommand)  # noqa: S101 - for the type checker: the table has no others
            yield f"{name} {word}".strip(), inner.load()


def _command(name: str, command: Any) -> Iterator[str]:  # noqa: ANN401 - Typer does not export the type of its commands
    arguments = [option for option in command.params if option.param_type_name == "argument"]
    words = [argument.metavar if argument.required else f"[{argument.metavar}]" for argument in arguments]
    yield from (f"### `{' '.join(['limiter', name, *words])}`", "")
    yield from (command.help.strip(), "")
    examples = [line.strip("`") for line in (command.epilog or "").split("\n\n")[1:]]
    if examples:
        yield from ("```shell", *examples, "```", "")
    own = [option for option in command.params if not _is_connection(option)]
    yield from _options(own)
    if len(own) < len(command.params):
        yield from ("It also has the options under [Where the sidecar is](#where-the-sidecar-is).", "")


def _is_connection(option: Any) -> bool:  # noqa: ANN401 - likewise
    return bool(option.rich_help_panel == CONNECTION)


def _options(options: Iterable[Any]) -> Iterator[str]:
    rows = [(_usage(option), _default(option), option.help or "") for option in options]
    if rows:
        yield from (*_table(("option", "default", "meaning"), rows), "")


def _usage(option: Any) -> str:  # noqa: ANN401 - likewise
    if option.param_type_name == "argument":
        return f"`{_cell(option.metavar)}`"
    values = "" if option.is_flag else f" {option.metavar or '…'}"
    return f"`{_cell(', '.join(option.opts) + values)}`" + (f" (`{option.envvar}`)" if option.envvar else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")  # which would end the cell


def _default(option: Any) -> str:  # noqa: ANN401 - likewise
    if isinstance(option.show_default, str):
        return option.show_default
    if option.required:
        return "required"
    value = getattr(option.default, "value", option.default)
    return "" if value is None or value is False or value in ("", [], ()) else str(value)


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(str(cell) for cell in row)} |"


if __name__ == "__main__":
    sys.stdout.write({"cli": cli_page, "settings": settings_page}[sys.argv[1]]())
