"""Commands that are imported when they are run, so that `limiter --help` answers at once."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from limiter.cli.failures import ending

MARKUP: Final = "markdown"

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: the function that is it, as `module:name`, and the first line of that function's docstring."""

    target: str
    help: str


@dataclass(frozen=True, slots=True)
class Section:
    """Commands under a common word."""

    help: str
    commands: Mapping[str, Entry]


def example(*lines: str) -> Callable[[F], F]:
    """Show these command lines at the end of the command's help."""

    def remember(command: F) -> F:
        command.__dict__["epilog"] = "\n\n".join(("Example:" if len(lines) == 1 else "Examples:", *lines_of(lines)))
        return command

    return remember


def lines_of(lines: tuple[str, ...]) -> list[str]:
    """Write command lines as Markdown."""
    return [f"`{line}`" for line in lines]


class LazyCommand(TyperCommand):
    """Knows its name and help; the rest is loaded when it is run, or asked for its own help."""

    def __init__(self, name: str, entry: Entry, panel: str | None) -> None:
        super().__init__(name, help=entry.help, rich_help_panel=panel, rich_markup_mode=MARKUP)
        self.entry = entry

    def load(self) -> Any:  # noqa: ANN401 - Typer does not export the type of its commands
        """Import the function and make the command of it."""
        module, _, name = self.entry.target.partition(":")
        function = getattr(importlib.import_module(module), name)
        app = typer.Typer(add_completion=False, rich_markup_mode=MARKUP)
        app.command(self.name, epilog=getattr(function, "epilog", None))(function)
        return typer.main.get_command(app)

    def make_context(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401 - passed on as they come
        """Parse the arguments by the loaded command, which runs from here on."""
        return self.load().make_context(*args, **extra)


class RootGroup(TyperGroup):
    """The outermost group: here every command ends."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - Typer does not export these types
        """Run the command, and see to its end."""
        with ending():
            return super().invoke(ctx)


def section(name: str, content: Section, panel: str | None) -> TyperGroup:
    """Make the group of a section."""
    return TyperGroup(
        name=name,
        help=content.help,
        commands={word: LazyCommand(word, entry, None) for word, entry in content.commands.items()},
        no_args_is_help=True,
        rich_help_panel=panel,
        rich_markup_mode=MARKUP,
    )
