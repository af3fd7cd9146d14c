"""The file of a Unix socket: never taken from a living server, never open to more people than meant, never left behind.

Both engines would replace any socket file at the path, and neither sets its permissions.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limiter.domain.errors import InvalidArgument

_CONNECT_TIMEOUT_S = 1.0


class SocketFile:
    """The socket file that this process makes at `path` with permission `mode`."""

    def __init__(self, path: Path, mode: int) -> None:
        self._path = path
        self._mode = mode
        self._identity: tuple[int, int] | None = None

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Bind the socket inside: the path is free, and the file never has more permissions than `mode`.

        Raises InvalidArgument if a living server, or a file that is no socket, has the path.
        """
        _free(self._path)
        umask = os.umask(0o777 & ~self._mode)  # of the whole process, for the one system call inside
        try:
            yield
        finally:
            os.umask(umask)
        found = self._path.lstat()
        self._identity = (found.st_dev, found.st_ino)

    def remove(self) -> None:
        """Delete the file if it is still the one that was bound."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        if self._identity == (found.st_dev, found.st_ino):
            self._path.unlink(missing_ok=True)


def _free(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise InvalidArgument("listen", f"unix:{path}", f"create the directory {path.parent} first") from None
        return
    if not stat.S_ISSOCK(mode):
        raise InvalidArgument("listen", f"unix:{path}", "something that is no socket has this path; choose another")
    if _somebody_listens(path):
        raise InvalidArgument("listen", f"unix:{path}", "another server listens here; stop it or choose another path")
    path.unlink(missing_ok=True)


def _somebody_listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_TIMEOUT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # no permission, or its queue is full: somebody's
        return True
