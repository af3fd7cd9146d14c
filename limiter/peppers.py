"""Where the pepper is kept: a file of versions, made on first use, readable by its owner only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from limiter.domain.errors import InvalidArgument
from limiter.service.secrets import Pepper


def load_pepper(file: Path, *, create: bool) -> Pepper:
    """Read a pepper file: one `version:hex` a line, the newest last. `create` makes a missing one.

    Raises InvalidArgument naming the file and the line, never a value in it.
    """
    if not file.exists():
        if not create:
            raise InvalidArgument("pepper_file", str(file), "the file does not exist; write lines of VERSION:HEX")
        _write_new(file)
    versions: dict[str, bytes] = {}
    for number, line in enumerate(file.read_text("ascii", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        version, _, digits = line.strip().partition(":")
        try:
            pepper = bytes.fromhex(digits)
        except ValueError:
            raise InvalidArgument("pepper_file", f"{file}, line {number}", "write VERSION:HEX") from None
        if not version.isalnum() or version in versions:
            raise InvalidArgument(
                "pepper_file", f"{file}, line {number}", "write each VERSION once, letters and digits"
            )
        versions[version] = pepper
    return Pepper(versions)


def _write_new(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(
            "# The pepper of the API keys. Whoever loses it loses every key; keep it out of backups of the store.\n"
        )
        out.write(f"1:{secrets.token_hex(32)}\n")
