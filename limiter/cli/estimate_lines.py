"""Reads recorded calls: one JSON object per line, with a provider's request and its answer."""

from __future__ import annotations

import base64
import binascii
import contextlib
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

from limiter.cli.estimate_usage import tells_usage
from limiter.domain.calls import ProviderRequest, ProviderResponse
from limiter.domain.errors import InvalidArgument

#: A longer line is no call that anybody could have sent.
LINE_MAX_BYTES: Final = 128 * 1024 * 1024

_GZIP_MAGIC: Final = b"\x1f\x8b"
_SHOWN: Final = 80


class RecordedCall(NamedTuple):
    """A call as its line has it. `answered`: it succeeded, and its answer says somewhere what was used."""

    line: int
    request: ProviderRequest
    response: ProviderResponse
    answered: bool


class BadLine(NamedTuple):
    """A line that holds no call, and why."""

    line: int
    reason: str


Advance = Callable[[int], object]


def read_calls(path: Path, advance: Advance) -> Iterator[RecordedCall | BadLine]:
    """Yield what is on each line that is not empty, one at a time; `-` is the standard input, gzip is unpacked.

    `advance` is told how many bytes of the file were read so far. Raises InvalidArgument for a file that cannot be
    read, or whose gzip is cut off: what stood before it was yielded.
    """
    number = 0
    try:
        with _opened(path) as (raw, lines):
            while text := lines.readline(LINE_MAX_BYTES + 1):
                number += 1
                advance(raw.tell() if raw.seekable() else 0)
                if len(text) > LINE_MAX_BYTES:
                    yield BadLine(number, f"it is longer than {LINE_MAX_BYTES} bytes")
                    _skip_line(lines, text)
                elif text.strip():
                    yield read_line(number, text)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        remedy = f"the gzip file is damaged or cut off after line {number} ({error}); record or copy it again"
        raise InvalidArgument("--calls", str(path), remedy) from None
    except OSError as error:
        reason = error.strerror or error
        raise InvalidArgument("--calls", str(path), f"name a file that can be read ({reason})") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file itself, by which progress is measured, and its lines."""
    raw: Any
    with contextlib.ExitStack() as stack:
        if str(path) == "-":
            raw = io.BufferedReader(cast(io.RawIOBase, sys.stdin.buffer))  # so that one can look ahead
            stack.callback(raw.detach)  # the standard input stays open
        else:
            raw = stack.enter_context(path.open("rb"))
        packed = raw.peek(2)[:2] == _GZIP_MAGIC
        yield raw, cast(IO[bytes], stack.enter_context(gzip.open(raw, "rb")) if packed else raw)


def _skip_line(lines: IO[bytes], text: bytes) -> None:
    while text and not text.endswith(b"\n"):
        text = lines.readline(LINE_MAX_BYTES)


def read_line(number: int, text: bytes) -> RecordedCall | BadLine:
    """Read one line."""
    try:
        call = _checked(json.loads(text))
        sent, told = as_sent(call["request"]), as_sent(call["response"])
    except _NotACall as error:
        return BadLine(number, str(error))
    except (ValueError, RecursionError) as error:
        return BadLine(number, f"it is not JSON that can be read ({_brief(str(error))})")
    query = call.get("query")
    path = f"{call['path']}?{query}" if query else call["path"]
    return RecordedCall(
        number,
        ProviderRequest(call["host"], path, sent),
        ProviderResponse(call["status"], call.get("content_type") or "", told),
        answered=call["status"] == 200 and tells_usage(call["response"], told),
    )


class _NotACall(Exception):
    """JSON, but not of a recorded call; `str(error)` says why."""


def _checked(call: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever the line had
    if not isinstance(call, dict):
        raise _NotACall("it is no JSON object")
    for name, kind, word in (("host", str, "text"), ("path", str, "text"), ("status", int, "whole number")):
        if type(call.get(name)) is not kind:
            raise _NotACall(f"{name} is missing, or no {word}")
    for name in ("query", "content_type"):
        if not isinstance(call.get(name), str | None):
            raise _NotACall(f"{name} is no text")
    for name in ("request", "response"):
        if name not in call:
            raise _NotACall(f"{name} is missing")
    return call


def as_sent(body: object) -> bytes:
    """Return a body as it went over the wire: JSON as compact as any client writes it.

    That is the tightest case for a bound by bytes. Raises ValueError for what is no text in UTF-8, or no base64.
    """
    if body is None:
        return b""
    if isinstance(body, str):
        return body.encode()
    if isinstance(body, dict) and body.keys() == {"__bytes__"}:
        try:
            return base64.b64decode(body["__bytes__"], validate=True)
        except (TypeError, binascii.Error):
            raise ValueError("__bytes__ is not base64") from None
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def _brief(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
