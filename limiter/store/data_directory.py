"""The data directory of the embedded store: who may use it, where its socket is, what its log said.

::

    limiter.lock       locked by the process that serves this directory; holds its pid
    store/lock         locked by that process and by its Valkey: whoever holds it has the files open
    store/valkey.sock  the only way in; if this path is too long, store/socket-directory names another
    store/valkey.pid   written by Valkey
    store/valkey.log   Valkey's own log; a long one is put aside as valkey.log.1
    store/appendonlydir/
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

#: A Unix socket's path has to fit into 104 bytes on macOS, 108 on Linux, with the closing NUL.
SOCKET_PATH_MAX_BYTES: Final = 103

LOG_MAX_BYTES: Final = 8 * 1024 * 1024


class DataDirectory:
    """Paths and locks; every method may raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.store = self.path / "store"
        self.log = self.store / "valkey.log"
        self.pid_file = self.store / "valkey.pid"
        self._lock: int | None = None
        self._store_lock: int | None = None

    @property
    def store_lock(self) -> int | None:
        """The file descriptor of the store's lock, for Valkey to inherit; None: not ours."""
        return self._store_lock

    def create(self) -> None:
        """Make what is missing; the store's part is readable by its owner only."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.store.mkdir(mode=0o700, exist_ok=True)
        self.store.chmod(0o700)

    def try_lock(self) -> bool:
        """Lock the directory for this process and note its pid; False: another one serves it."""
        self._lock = _try_lock(self.path / "limiter.lock")
        if self._lock is None:
            return False
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        return True

    def try_lock_store(self) -> bool:
        """Lock the store's files; False: a Valkey of an earlier run still has them open."""
        self._store_lock = _try_lock(self.store / "lock")
        return self._store_lock is not None

    def unlock(self) -> None:
        """Give both locks back; harmless without them."""
        for lock in (self._store_lock, self._lock):
            if lock is not None:
                os.close(lock)
        self._store_lock = self._lock = None

    @property
    def server_pid(self) -> str:
        """The pid of the process that locked the directory, as it noted it."""
        return _read_pid(self.path / "limiter.lock")

    @property
    def valkey_pid(self) -> str:
        """The pid of the Valkey that last started here, as it noted it."""
        return _read_pid(self.pid_file)

    def socket(self) -> Path:
        """Where the socket is to be: in the store's part or, if that is too long, in a private short directory."""
        socket = self.store / "valkey.sock"
        if len(os.fsencode(socket)) <= SOCKET_PATH_MAX_BYTES:
            return socket
        note = self.store / "socket-directory"
        with contextlib.suppress(OSError):
            noted = Path(note.read_text())
            status = noted.lstat()
            # Somebody else may have made a directory of that name after ours was cleaned away.
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                return noted / socket.name
        short = Path(tempfile.mkdtemp(prefix="limiter-"))
        note.write_text(str(short))
        return short / socket.name

    def socket_there(self) -> Path | None:
        """Where the socket of a Valkey is that runs on this directory; None: it is not there."""
        if not self.store.exists():
            return None
        note = self.store / "socket-directory"
        socket = (Path(note.read_text()) if note.exists() else self.store) / "valkey.sock"
        return socket if socket.exists() else None

    def forget_socket(self, socket: Path) -> None:
        """Remove the socket of a Valkey that has ended."""
        socket.unlink(missing_ok=True)
        if socket.parent != self.store:
            socket.parent.rmdir()
            (self.store / "socket-directory").unlink(missing_ok=True)

    def rotate_log(self) -> int:
        """Put a long log aside; return the length of the present one in bytes."""
        if not self.log.exists():
            return 0
        length = self.log.stat().st_size
        if length <= LOG_MAX_BYTES:
            return length
        self.log.replace(self.log.with_name("valkey.log.1"))
        return 0

    def logged_since(self, offset: int) -> list[str]:
        """The lines that Valkey logged after `offset` bytes."""
        if not self.log.exists():
            return []
        with self.log.open("rb") as lines:
            lines.seek(offset)
            return lines.read().decode(errors="replace").splitlines()


def _try_lock(path: Path) -> int | None:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        os.close(lock)
        raise
    return lock


def _read_pid(path: Path) -> str:
    try:
        return path.read_text().strip() or "unknown"
    except OSError:
        return "unknown"
