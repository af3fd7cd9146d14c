"""`limiter --help`, `--version`, and the pages made of the commands."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

import limiter as package
from limiter.cli import manual
from limiter.cli.lazy import Entry, LazyCommand
from limiter.cli.main import COMMANDS, app
from limiter.settings import Settings
from tests.cli.conftest import CommandLine

DOCS = Path(__file__).parents[2] / "docs"

ENTRIES = {
    f"{name} {word}".strip(): entry
    for commands in COMMANDS.values()
    for name, found in commands.items()
    for word, entry in ({"": found} if isinstance(found, Entry) else found.commands).items()
}


def test_the_version_is_the_packages(limiter: CommandLine) -> None:
    assert limiter.run("--version").out == f"limiter {package.__version__}\n"


def test_help_lists_every_command_and_the_exit_codes(limiter: CommandLine) -> None:
    output = limiter.run("--help")

    for commands in COMMANDS.values():
        for name in commands:
            assert f"│ {name} " in output.out
    assert "130: interrupted by Ctrl-C" in output.out


@pytest.mark.parametrize("name", ENTRIES)
def test_every_command_has_help_with_an_example(name: str, limiter: CommandLine) -> None:
    output = limiter.run(*name.split(), "--help")

    assert "Example" in output.out
    assert f"limiter {name}" in output.out.partition("Example")[2]


@pytest.mark.parametrize("name", ENTRIES)
def test_the_table_of_commands_has_the_first_line_of_each_docstring(name: str) -> None:
    loaded = LazyCommand(name, ENTRIES[name], None).load()

    assert loaded.help.splitlines()[0] == ENTRIES[name].help


@pytest.mark.parametrize("name", sorted(ENTRIES.keys() - {"serve", "schema", "ledger drain", "ledger migrate"}))
def test_every_command_prints_for_people_and_for_programs(name: str) -> None:
    loaded = LazyCommand(name, ENTRIES[name], None).load()

    assert "--format" in {word for option in loaded.params for word in option.opts}


def test_help_does_not_wait_for_what_only_commands_need() -> None:
    script = (
        "import sys\nfrom limiter.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(' '.join(name for name in ('grpc', 'pydantic', 'redis', 'asyncio') if name in sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stderr == ""


def test_an_unknown_command_is_a_usage_error_with_a_hint(limiter: CommandLine) -> None:
    assert "Did you mean 'settle'" in limiter.run("setle", exit_code=2).err


def test_no_command_at_all_shows_the_help(limiter: CommandLine) -> None:
    assert "Usage: limiter" in limiter.run(exit_code=2).out


def test_the_shell_can_complete_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_LIMITER_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "limiter keys ro")
    monkeypatch.setenv("COMP_CWORD", "2")

    done = subprocess.run([sys.executable, "-m", "limiter"], capture_output=True, text=True, check=False)

    assert done.stdout.split() == ["rotate"]


def test_the_page_of_commands_is_up_to_date() -> None:
    assert (DOCS / "cli.md").read_text() == manual.cli_page(), "run: python -m limiter.cli.manual cli > docs/cli.md"


def test_the_table_of_settings_is_up_to_date() -> None:
    page = (DOCS / "settings.md").read_text()

    assert page == manual.settings_page(), "run: python -m limiter.cli.manual settings > docs/settings.md"


def test_every_setting_says_what_it_means() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_no_command_reads_a_variable_that_a_setting_of_the_sidecar_has_for_something_else() -> None:
    shared = {"LIMITER_ALERTS", "LIMITER_BOOKS", "LIMITER_DATA_DIR", "LIMITER_HTTP", "LIMITER_PRICES"}
    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    settings = {f"LIMITER_{name.upper()}" for name in Settings.model_fields}

    for name, entry in ENTRIES.items():
        read = {option.envvar for option in LazyCommand(name, entry, None).load().params if option.envvar}
        assert read & settings <= shared, name
