"""The command line, run in a directory of its own beside a scripted sidecar."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from limiter.cli.main import app
from tests.cli.fake_sidecar import FakeSidecar


class CommandLine:
    """Runs `limiter …` in this process."""

    def run(self, *words: str, exit_code: int = 0, stdin: str = "") -> Output:
        """Run a command that ends with this exit code."""
        result = CliRunner().invoke(app, list(words), input=stdin, prog_name="limiter")
        output = Output(result.stdout, result.stderr)
        assert result.exit_code == exit_code, f"exit code {result.exit_code}: {output}\n{result.exception!r}"
        return output


class Output:
    """What a command wrote."""

    def __init__(self, out: str, err: str) -> None:
        self.out = out
        self.err = err

    def __repr__(self) -> str:
        return f"{self.out}\n--- standard error\n{self.err}"

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever was printed
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    def row(self, *words: str) -> list[str]:
        """The only line that has all these words, by its columns."""
        (found,) = [line for line in self.lines if all(word in line for word in words)]
        return [cell.strip() for cell in found.split("  ") if cell.strip()]


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory whose path is short enough for sockets; no setting from outside."""
    for name in [name for name in os.environ if name.startswith("LIMITER_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("LIMITER_HTTP", "")  # nobody's metrics
    with tempfile.TemporaryDirectory(prefix="lim-") as path:
        monkeypatch.chdir(path)
        yield Path(path)


@pytest.fixture
def sidecar(directory: Path) -> Iterator[FakeSidecar]:
    """A scripted sidecar that serves the default data directory."""
    (directory / "data").mkdir(exist_ok=True)
    fake = FakeSidecar(directory / "data")
    fake.start()
    yield fake
    fake.close()


@pytest.fixture
def limiter() -> CommandLine:
    return CommandLine()
