"""Sidecar processes that tests start, stop and kill; the fixtures are in conftest.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.servers import until

SERVE: Final = (sys.executable, "-m", "limiter", "serve")

#: Listen where nobody else does.
ANYWHERE: Final = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")

#: The tests own the settings: nothing of the environment that they run in may reach a sidecar.
_ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")}

#: A sidecar that stops has to finish within this; its grace is 20 seconds by default.
STOP_WITHIN_S: Final = 30.0


@dataclass
class Sidecar:
    """One `limiter serve`, with its data directory and its log."""

    process: subprocess.Popen[bytes]
    directory: Path
    log: Path

    @property
    def trusted(self) -> str:
        """The data directory's own Limiter socket: it believes key_id."""
        return f"unix:{self.directory}/limiter.sock"

    @property
    def admin(self) -> str:
        """The data directory's Admin socket."""
        return f"unix:{self.directory}/admin.sock"

    @property
    def public(self) -> str:
        """The listener that believes nobody: a secret has to be shown there."""
        return str(self.event("serving")["addresses"][0])

    @property
    def store_pid(self) -> int:
        """The process id of the embedded store."""
        return int((self.directory / "store" / "valkey.pid").read_text())

    def events(self, name: str) -> list[dict[str, Any]]:
        """Every line of the log that tells of this event."""
        return [event for event in self._lines() if event.get("event") == name]

    def event(self, name: str) -> dict[str, Any]:
        """The first line of the log that tells of this event; waits for it."""
        return until(lambda: self.events(name), what=f"{name} in the log")[0]

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Lines that are whole: a line that is being written can be read up to the end of a page of the file."""
        for line in self.log.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith("{") and line.endswith("\n"):
                yield json.loads(line)

    def http(self, path: str) -> str:
        """What GET answers on the HTTP address; the status before it unless that is 200."""
        address = self.event("serving")["http"]
        try:
            with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return f"{error.code} {error.read().decode()}"

    def metric(self, name: str, labels: str = "") -> float:
        """The sum of a metric over the label sets that contain `labels`."""
        total = 0.0
        for line in self.http("/metrics").splitlines():
            series, _, value = line.rpartition(" ")
            if series.partition("{")[0] == name and labels in series:
                total += float(value)
        return total

    def wait_until_serving(self) -> None:
        """Wait until every listener of its own is bound."""
        until(lambda: self.process.poll() is not None or self.events("serving"), what="a sidecar that serves")
        assert self.process.poll() is None, self.log.read_text()

    def kill(self) -> None:
        """As a crash: without a chance to write anything."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """Ask for an orderly end; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(STOP_WITHIN_S)


class Fleet:
    """Starts sidecars that share a pepper; whatever still runs at the end is killed and cleaned away."""

    def __init__(self) -> None:
        # The system's own directory for temporary files: a socket's path must be short.
        self._root = Path(tempfile.mkdtemp(prefix="lim-"))
        self._pepper = self._root / "pepper"
        self._pepper.write_text(f"1:{'5a' * 32}\n")
        self._started: list[Sidecar] = []

    def directory(self) -> Path:
        """A directory that no sidecar has used."""
        return Path(tempfile.mkdtemp(dir=self._root))

    def launch(self, *arguments: str, directory: Path | None = None, command: Sequence[str] = SERVE) -> Sidecar:
        """Start a sidecar and do not wait for it."""
        directory = directory or self.directory()
        log = directory.with_name(f"{directory.name}.{len(self._started)}.log")
        line = [*command, "--data-dir", str(directory), "--pepper-file", str(self._pepper)]
        line += ["--log-format", "json", *arguments]
        with log.open("wb") as out:
            process = subprocess.Popen(
                line, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=_ENVIRONMENT
            )
        sidecar = Sidecar(process, directory, log)
        self._started.append(sidecar)
        return sidecar

    def start(
        self, *arguments: str, store: str = "", directory: Path | None = None, command: Sequence[str] = SERVE
    ) -> Sidecar:
        """Start a sidecar on a store (none: one of its own) and wait until it serves."""
        place = [*ANYWHERE, *(("--store", store) if store else ())]
        sidecar = self.launch(*place, *arguments, directory=directory, command=command)
        sidecar.wait_until_serving()
        return sidecar

    def close(self) -> None:
        """Kill what still runs, embedded stores included."""
        running = [sidecar for sidecar in self._started if sidecar.process.poll() is None]
        for sidecar in running:
            sidecar.process.send_signal(signal.SIGTERM)
        for sidecar in running:
            try:
                sidecar.process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                sidecar.kill()
        shutil.rmtree(self._root, ignore_errors=True)


@contextmanager
def silent(pid: int) -> Iterator[None]:
    """Stop a process as if its machine hung; let it go on at the end."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
