"""Whoever copies an example from the README or the docs gets what stands there: all are run against a real sidecar."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, Block, blocks, page
from tests.servers import free_port, until

#: Pages whose blocks of `sh` and `python` are run, in their order; each page against a sidecar of its own.
PAGES: Final = ("README.md", "docs/operations.md", "docs/store.md", "docs/decisions.md", "CONTRIBUTING.md")

#: Where the examples find the sidecar, if nobody says otherwise.
LISTEN, HTTP = "127.0.0.1:50051", "127.0.0.1:9464"

#: What differs from run to run.
_VARIABLE: Final = (
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r"\b[0-9a-f]{32}\b"), "ID"),
    (re.compile(r"\blk-[A-Za-z0-9_-]{20,}"), "lk-…"),
    (re.compile(r"…[A-Za-z0-9_-]{4}\b"), "…HINT"),
    (
        re.compile(r"genai-prices \d+(\.\d+)*(\+litellm \d{4}-\d\d-\d\d)?(\+tools \d{4}-\d\d-\d\d)?"),
        "genai-prices VERSION",
    ),
    (re.compile(r"─+|-{3,}"), "LINE"),
    (re.compile(r" +"), " "),
)

OPENAI: Final = """
class OpenAI:
    def __init__(self):
        self.chat = self.completions = self

    def create(self, *, model, messages, max_completion_tokens):
        return Answer()


class Answer:
    usage = None

    def model_dump(self, **_):
        return {"model": "gpt-4o", "usage": {"prompt_tokens": 1000, "completion_tokens": 120}}
"""


@dataclass(frozen=True, slots=True)
class Place:
    """A directory in which a sidecar runs as `make run` starts it, on ports of its own."""

    directory: Path
    environment: dict[str, str]
    listen: str
    http: str

    def run(self, block: Block) -> str:
        """Run a block of code; what it wrote."""
        text = block.text.replace(LISTEN, self.listen).replace(HTTP, self.http)
        command, environment = ["sh", "-c", text], self.environment
        if block.kind == "python":
            command = [sys.executable, "-c", text]
            secret = re.search(r"lk-[A-Za-z0-9_-]+", (self.directory / "log").read_text())
            assert secret is not None
            environment = environment | {"LIMITER_ADDRESS": self.listen, "LIMITER_API_KEY": secret[0]}
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"exit code {done.returncode}: {done.stdout}"
        return done.stdout


@pytest.fixture
def place() -> Iterator[Place]:
    # The system's own directory for temporary files: a socket's path must be short.
    directory = Path(tempfile.mkdtemp(prefix="lim-"))
    (directory / "bin").mkdir()
    (directory / "bin" / "limiter").write_text(f'#!/bin/sh\nexec {sys.executable} -m limiter "$@"\n')
    (directory / "bin" / "limiter").chmod(0o755)
    (directory / "openai.py").write_text(OPENAI)
    (directory / "deploy").symlink_to(ROOT / "deploy")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")}
    environment |= {
        "PATH": f"{directory / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:{directory}",
        "COLUMNS": "240",
    }
    found = Place(directory, environment, f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}")
    started = "limiter serve --policy deploy/policy.example.yaml --example-key acme/search/bot"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", f"exec {started} --listen {found.listen} --http {found.http}"],
            cwd=directory,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        until(
            lambda: process.poll() is not None or "Ctrl-C" in (directory / "log").read_text(),
            what="the sidecar's announcement",
        )
        assert process.poll() is None, (directory / "log").read_text()
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        shutil.rmtree(directory)


def _steps(name: str) -> list[tuple[Block, Block | None]]:
    """The blocks of a page that are run, each with the output that stands directly after it."""
    text = page(name)
    found = blocks(text)
    steps = []
    for number, block in enumerate(found):
        if block.kind not in ("sh", "python") or block.not_run:
            continue
        after = found[number + 1] if number + 1 < len(found) else None
        end = block.line + block.text.count("\n") + 2
        steps.append((block, after if after is not None and after.kind == "text" and after.line == end + 1 else None))
    return steps


def _constant(text: str) -> list[str]:
    """The lines of an output without what differs from run to run."""
    for pattern, stand_in in _VARIABLE:
        text = pattern.sub(stand_in, text)
    return [line.strip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", [name for name in PAGES if _steps(name)])
def test_the_examples_of_a_page_do_what_it_says(name: str, place: Place) -> None:
    for block, expected in _steps(name):
        written = place.run(block)
        if expected is not None:
            shown = textwrap.indent(written, "  ")
            assert _constant(written) == _constant(expected.text), f"{name}, line {expected.line}:\n{shown}"


def test_the_readme_shows_calls_and_their_answers() -> None:
    assert sum(expected is not None for _, expected in _steps("README.md")) >= 3
    assert any(block.kind == "python" for block, _ in _steps("README.md"))


def test_the_sidecar_announces_itself_as_the_readme_shows(place: Place) -> None:
    (shown,) = (block for block in blocks(page("README.md"), "text") if "Limiter serves on" in block.text)
    log = (place.directory / "log").read_text().replace(place.listen, LISTEN).replace(place.http, HTTP)
    log = log.replace(f"unix:{place.directory}/data", "unix:…/data")
    assert set(_constant(shown.text)) <= set(_constant(log))
