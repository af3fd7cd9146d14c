"""What people write on the command line → what the contract wants. A mistake is typer's, with the option's name."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import typer

from limiter.domain.errors import InvalidArgument

_UNITS: Final = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_DURATION = re.compile(r"(?:\d{1,9}(?:ms|[smhd]))+", re.ASCII)
_PART = re.compile(r"(\d+)(ms|[smhd])", re.ASCII)


def duration(text: str) -> timedelta:
    """Read 90s, 10m, 24h, 30d, 250ms or several together: 1h30m."""
    if _DURATION.fullmatch(text) is None:
        raise typer.BadParameter(f"{text!r} is not valid; write a number and ms, s, m, h or d, such as 10m")
    try:
        return sum((int(number) * _UNITS[unit] for number, unit in _PART.findall(text)), timedelta())
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long") from None


def moment(text: str) -> datetime:
    """Read a time in ISO 8601 (UTC where it names no zone), or a duration from now."""
    try:
        if _DURATION.fullmatch(text):
            return datetime.now(UTC) + duration(text)
        read = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is not valid; write a time such as 2030-12-31T18:00:00Z, or a duration from now such as 30d"
        ) from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def instant(text: str) -> datetime:
    """Read a time in ISO 8601 (UTC where it names no zone)."""
    try:
        read = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not valid; write a date such as 2026-11-01, or a time such as 2026-11-01T12:30:00Z"
        ) from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)


def past(text: str) -> datetime:
    """Read a time in ISO 8601 (UTC where it names no zone) that has come."""
    read = instant(text)
    if read > datetime.now(UTC) + timedelta(days=1):  # the store's clock decides on less
        raise typer.BadParameter(f"{text!r} is not valid; name a time that has come")
    return read


def tags(texts: list[str], *, option: str = "--tag") -> dict[str, list[str]]:
    """Read NAME:VALUE, each any number of times."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not (name and colon and value):
            raise InvalidArgument(option, text, "write NAME:VALUE, such as customer:acme")
        found.setdefault(name, []).append(value)
    return found


def units(texts: list[str]) -> dict[str, int]:
    """Read NAME=COUNT, each name once."""
    found: dict[str, int] = {}
    for text in texts:
        name, _, count = text.partition("=")
        if not name or not (count.isascii() and count.isdigit()) or name in found:
            raise InvalidArgument("--unit", text, "write NAME=COUNT, such as images=2, each name once")
        found[name] = int(count)
    return found


def read_file(path: Path, *, option: str) -> str:
    """Return the text of a file; `-` is the standard input."""
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidArgument(option, str(path), f"name a file that can be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise InvalidArgument(option, str(path), "name a file in UTF-8") from None
