"""Reads a trace: when calls came in, and how many tokens each of them had.

The format is that of the Azure LLM inference traces: a header line and then, for each call,
`TIMESTAMP,ContextTokens,GeneratedTokens`.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from limiter.domain.calls import COUNT_MAX
from limiter.domain.errors import InvalidArgument

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")

_COUNT = re.compile(r"[0-9]{1,13}", re.ASCII)
_GZIP_MAGIC: Final = b"\x1f\x8b"


class TracedCall(NamedTuple):
    """One call of a trace; `at_s` is in seconds after the first call, never less than the one before."""

    at_s: float
    context_tokens: int
    generated_tokens: int


def read_trace(path: Path, *, limit: int | None = None, option: str = "TRACE") -> list[TracedCall]:
    """Read the first `limit` calls of a trace (None: all); `.gz` files are unpacked on the way.

    Raises InvalidArgument naming the file, the line and the column of the first mistake; `option` is what named the
    file on the command line.
    """
    try:
        with path.open("rb") as probe:
            packed = probe.read(2) == _GZIP_MAGIC
        opening = gzip.open if packed else open
        with opening(path, "rt", encoding="utf-8-sig", newline="") as lines:
            calls = list(islice(_calls(path, csv.reader(lines, strict=True)), limit))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InvalidArgument(option, str(path), f"the gzip file is damaged or cut off ({error})") from None
    except UnicodeDecodeError:
        raise InvalidArgument(option, str(path), "it is not text in UTF-8") from None
    except OSError as error:
        raise InvalidArgument(option, str(path), f"name a file that can be read ({error.strerror})") from None
    if not calls:
        raise InvalidArgument(option, str(path), "it has no calls")
    return calls


def _calls(path: Path, lines: Iterator[list[str]]) -> Iterator[TracedCall]:
    reader = _numbered(path, lines)
    header = next(reader, (1, []))[1]
    if tuple(header) != COLUMNS:
        raise InvalidArgument(f"{path.name} line 1", ",".join(header), f"the first line must be {','.join(COLUMNS)}")
    first: datetime | None = None
    latest_s = 0.0
    for number, row in reader:
        if len(row) != len(COLUMNS):
            raise InvalidArgument(f"{path.name} line {number}", ",".join(row), f"a call has {len(COLUMNS)} columns")
        at = _instant(path, number, row[0])
        first = first or at
        if (at.tzinfo is None) != (first.tzinfo is None):
            raise InvalidArgument(f"{path.name} line {number} TIMESTAMP", row[0], "all times have a zone, or none has")
        latest_s = max(latest_s, (at - first).total_seconds())  # a call that is out of order comes at once
        yield TracedCall(latest_s, _count(path, number, 1, row), _count(path, number, 2, row))


def _numbered(path: Path, lines: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that are not empty with their numbers."""
    number = 1
    try:
        for number, row in enumerate(lines, 1):
            if row:
                yield number, row
    except csv.Error as error:
        raise InvalidArgument(f"{path.name} line {number + 1}", str(error), "it is not CSV") from None


def _instant(path: Path, number: int, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        field = f"{path.name} line {number} TIMESTAMP"
        raise InvalidArgument(field, text, "write a time such as 2023-11-16 18:17:03.9799600") from None


def _count(path: Path, number: int, column: int, row: list[str]) -> int:
    text = row[column]
    if _COUNT.fullmatch(text) is None or int(text) > COUNT_MAX:
        field = f"{path.name} line {number} {COLUMNS[column]}"
        raise InvalidArgument(field, text, f"write a whole number of 0 to {COUNT_MAX}")
    return int(text)
