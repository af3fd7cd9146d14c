"""A sidecar with its embedded store, started as an operator would, on its own core."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from redis import Redis

from bench import calls
from bench.machine import Cores, cpu_s, pin, started_on
from limiter.v1 import limiter_pb2 as pb
from limiter.v1 import limiter_pb2_grpc

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0
_POLL_S = 0.02
_BATCHES = re.compile(r'^limiter_store_batch_size_(sum|count)\{script="(\w+)"\} (\S+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the processes have used so far: CPU time in seconds, and script calls as (batches, calls in them)."""

    sidecar_s: float
    store_s: float
    batches: dict[str, tuple[float, float]]


class Sidecar:
    """A running sidecar and its store. `secrets` are the API keys of its organizations, one each."""

    def __init__(self, process: subprocess.Popen[bytes], directory: Path, *, port: int, http_port: int) -> None:
        self._process = process
        self._directory = directory
        self._http_port = http_port
        self.port = port
        self.secrets: list[str] = []

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def store_socket(self) -> Path:
        """Where the embedded store listens."""
        note = self._directory / "store" / "socket-directory"
        directory = Path(note.read_text()) if note.exists() else self._directory / "store"
        return directory / "valkey.sock"

    @property
    def store_pid(self) -> int:
        """The process id of the embedded store."""
        return int((self._directory / "store" / "valkey.pid").read_text())

    def store(self) -> Redis:
        """A client of the embedded store."""
        return Redis(unix_socket_path=str(self.store_socket), protocol=2)

    def wait_until_ready(self) -> None:
        """Wait until it answers; exits if it does not."""
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < give_up_at:
            with suppress(OSError):  # the file is written last
                if self._admin_address() and self._get("/readyz")[0] == http.client.OK:
                    return
            time.sleep(_POLL_S)
        sys.exit("the sidecar does not start")

    def mint(self, organizations: int) -> None:
        """Mint an API key for every organization."""
        with grpc.insecure_channel(self._admin_address()) as channel:
            admin = limiter_pb2_grpc.AdminStub(channel)
            self.secrets = [
                admin.CreateKey(pb.CreateKeyRequest(key=calls.key(number))).secret for number in range(organizations)
            ]

    def check(self) -> None:
        """Make one call by grpcio, so that what is wrong is said in words."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            stub = limiter_pb2_grpc.LimiterStub(channel)
            answer = stub.Reserve(pb.ReserveRequest.FromString(calls.reserve_bodies(self.secrets[:1])[0]))
            if answer.decision != pb.ReserveResponse.GRANTED or answer.held_nanousd == 0:
                sys.exit(f"the sidecar should grant this call: {answer}")

    def read(self) -> Reading:
        """What was used up to now."""
        text = self.metrics()
        counted: dict[str, dict[str, float]] = {}
        for kind, script, value in _BATCHES.findall(text):
            counted.setdefault(script, {})[kind] = float(value)
        return Reading(
            cpu_s(self._process.pid),
            cpu_s(self.store_pid),
            {script: (found["count"], found["sum"]) for script, found in counted.items()},
        )

    def metrics(self) -> str:
        """What it tells Prometheus."""
        return self._get("/metrics")[1]

    def _admin_address(self) -> str:
        return (self._directory / "admin.address").read_text().strip()

    def _get(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._http_port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def stop(self) -> None:
        """End it in order; if it hangs, end its store too, and say so."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            print(f"CAUTION: the sidecar did not stop within {_STOP_TIMEOUT_S:.0f} s and was killed", file=sys.stderr)
            self._process.kill()
            self._process.wait()
            os.kill(self.store_pid, signal.SIGTERM)


@contextmanager
def sidecar(organizations: int, on: Cores, *options: str) -> Iterator[Sidecar]:
    """Start a sidecar for so many organizations on a new data directory; everything is gone afterwards.

    `options` are further ones of `limiter serve`.
    """
    with tempfile.TemporaryDirectory(prefix="limiter-bench-") as directory:
        policy = Path(directory) / "policy.yaml"
        policy.write_text(calls.policy_yaml(organizations))
        data = Path(directory) / "data"
        port, http_port = free_port(), free_port()
        command = [sys.executable, "-m", "limiter", "serve", "--data-dir", str(data), "--policy", str(policy)]
        command += [
            "--listen",
            f"127.0.0.1:{port}",
            "--http",
            f"127.0.0.1:{http_port}",
            "--log-level",
            "error",
            *options,
        ]
        with started_on(on.sidecar):
            # Ctrl-C is for us: two signals would end it before its store.
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        running = Sidecar(process, data, port=port, http_port=http_port)
        try:
            running.wait_until_ready()
            pin(running.store_pid, on.rest)
            running.mint(organizations)
            running.check()
            yield running
        finally:
            running.stop()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
