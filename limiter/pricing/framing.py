"""Cuts the bytes of a stream into its events, as they come: server-sent events, and AWS's binary event stream.

Both keep no more than one unfinished event of at most EVENT_MAX_BYTES; a larger one is passed over and counted.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

from limiter.domain.calls import BODY_MAX_BYTES

#: The largest event that is looked into: an answer of OpenAI responses repeats all of itself in its last one.
EVENT_MAX_BYTES: Final = BODY_MAX_BYTES

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")

_PRELUDE: Final = struct.Struct(">III")
_LENGTH: Final = struct.Struct(">H")

#: Bytes of a header's value by its type; -1: two bytes tell.
_HEADER_BYTES: Final = (0, 0, 1, 2, 4, 8, -1, -1, 8, 16)


class Event(NamedTuple):
    """One event: its kind where the framing names it (AWS), and what it says."""

    kind: str
    data: bytes


class Framing(Protocol):
    """What both framings offer. `skipped`: events that were too large or damaged."""

    skipped: int

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes; yield the events that are complete with them."""

    def rest(self) -> Iterator[Event]:
        """Say that no more bytes come; yield what stood unfinished, if it can be of use."""


class ServerSentEvents:
    """`data:` lines up to an empty line; lines end with LF, CR or both, wherever the bytes are cut."""

    def __init__(self, *, event_bytes_max: int = EVENT_MAX_BYTES) -> None:
        self.skipped = 0
        self._most = event_bytes_max
        self._line = bytearray()
        self._data: list[bytes] = []
        self._bytes = 0
        self._after_cr = False
        self._cut_line = False  # this line's beginning was thrown away
        self._cut_event = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes; yield the events that are complete with them."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if not data:
            return
        self._after_cr = data.endswith(b"\r")
        *lines, last = _LINE_END.split(data)
        for piece in lines:
            self._add(piece)
            if self._cut_line:
                self._cut_line = False
                continue
            line = bytes(self._line)
            self._line.clear()
            if line.startswith(b"data:"):
                self._keep(line[5:].strip())
            elif not line:
                yield from self._end()
        self._add(last)

    def rest(self) -> Iterator[Event]:
        """Yield the event that the end of the stream found unfinished."""
        if self._line.startswith(b"data:"):
            self._keep(bytes(self._line[5:]).strip())
        self._line.clear()
        yield from self._end()

    def _add(self, piece: bytes) -> None:
        if self._cut_line or len(self._line) + len(piece) + self._bytes > self._most:
            self._cut_line = self._cut_event = True
            self._line.clear()
        else:
            self._line += piece

    def _keep(self, data: bytes) -> None:
        if not self._cut_event:
            self._data.append(data)
            self._bytes += len(data)

    def _end(self) -> Iterator[Event]:
        data, self._data, self._bytes = b"\n".join(self._data), [], 0
        if self._cut_event:
            self._cut_event = False
            self.skipped += 1
        elif data:
            yield Event("", data)


class AwsEventStream:
    """`application/vnd.amazon.eventstream`: lengths, headers, payload and two checksums per event.

    Behind a length whose checksum is wrong nothing can be found any more: the rest of the stream is passed over.
    """

    def __init__(self, *, event_bytes_max: int = EVENT_MAX_BYTES) -> None:
        self.skipped = 0
        self._most = event_bytes_max
        self._bytes = bytearray()
        self._pass_over = 0
        self._lost = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Take the next bytes; yield the events that are complete with them."""
        if self._lost:
            return
        if self._pass_over:
            dropped = min(self._pass_over, len(data))
            self._pass_over -= dropped
            data = data[dropped:]
        self._bytes += data
        while not self._lost and len(self._bytes) >= _PRELUDE.size:
            length, header_bytes, checksum = _PRELUDE.unpack_from(self._bytes)
            if zlib.crc32(self._bytes[:8]) != checksum or length < header_bytes + 16:
                self._lost = True
                self.skipped += 1
                self._bytes.clear()
            elif length > self._most:
                self.skipped += 1
                self._pass_over = max(0, length - len(self._bytes))
                del self._bytes[:length]
            elif len(self._bytes) < length:
                return
            else:
                message = bytes(self._bytes[:length])
                del self._bytes[:length]
                yield from self._event(message, header_bytes)

    def rest(self) -> Iterator[Event]:
        """Yield nothing: half a message has no checksum."""
        yield from ()

    def _event(self, message: bytes, header_bytes: int) -> Iterator[Event]:
        payload_at = _PRELUDE.size + header_bytes
        if zlib.crc32(message[:-4]) != int.from_bytes(message[-4:], "big"):
            self.skipped += 1
            return
        headers = _headers(message[_PRELUDE.size : payload_at])
        kind = headers.get(":event-type") or headers.get(":exception-type") or headers.get(":message-type", "")
        yield Event(kind, message[payload_at:-4])


def _headers(block: bytes) -> dict[str, str]:
    """The headers that are text; a block that is not well formed gives those before the fault."""
    found: dict[str, str] = {}
    at = 0
    try:
        while at < len(block):
            name_end = at + 1 + block[at]
            name, kind = block[at + 1 : name_end].decode(), block[name_end]
            at = name_end + 1
            size = _HEADER_BYTES[kind]
            if size < 0:
                size = _LENGTH.unpack_from(block, at)[0]
                at += _LENGTH.size
            if kind == 7:
                found[name] = block[at : at + size].decode()
            at += size
    except (IndexError, struct.error, UnicodeDecodeError):
        pass
    return found
