"""Undoes the content-encoding of an answer, in bounded memory: gzip and deflate."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from limiter.domain.calls import BODY_MAX_BYTES

#: The most that one answer may become: a few bytes can unfold to a thousand times as many.
DECODED_MAX_BYTES: Final = 16 * BODY_MAX_BYTES

_PIECE_BYTES: Final = 64 * 1024

#: zlib: a gzip or zlib header, whichever is there; or none at all.
_ANY_HEADER: Final = 32 + zlib.MAX_WBITS
_NO_HEADER: Final = -zlib.MAX_WBITS


#: The encodings that can be undone.
KNOWN: Final = ("gzip", "x-gzip", "deflate")


def is_encoded(encoding: str) -> bool:
    """Whether a content-encoding changes the bytes."""
    return encoding.strip().lower() not in ("", "identity")


class Decoder:
    """Decodes one answer as it comes. `failed`: it cannot be read (unknown encoding, damaged, or grown too large)."""

    def __init__(self, encoding: str, *, decoded_bytes_max: int = DECODED_MAX_BYTES) -> None:
        name = encoding.strip().lower()
        self._plain = not is_encoded(encoding)
        self.failed = not self._plain and name not in KNOWN
        self._room = decoded_bytes_max
        self._inflate = zlib.decompressobj(_ANY_HEADER)
        # Some servers mean by "deflate" the bare stream, without the header that the standard asks for.
        self._may_be_bare = name == "deflate"

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take the next bytes; yield what they say, in pieces."""
        if self._plain:
            yield data
            return
        full = False
        while (data or full) and not self.failed:
            try:
                piece = self._inflate.decompress(data, _PIECE_BYTES)
            except zlib.error:
                self.failed = not self._may_be_bare
                self._may_be_bare = False
                self._inflate = zlib.decompressobj(_NO_HEADER)
                continue
            self._may_be_bare = self._may_be_bare and not piece
            self._room -= len(piece)
            if self._room < 0:
                self.failed = True
            elif piece:
                yield piece
            full = len(piece) == _PIECE_BYTES
            data = self._inflate.unconsumed_tail
            if self._inflate.eof:
                # What follows is a further member of a gzip file, or damage.
                data, full = self._inflate.unused_data, False
                self._inflate = zlib.decompressobj(_ANY_HEADER)


def decoded(body: bytes, encoding: str, *, most: int = BODY_MAX_BYTES) -> bytes | None:
    """Return the whole of an answer decoded; None if it cannot be read or is more than `most` bytes."""
    decoder = Decoder(encoding, decoded_bytes_max=most)
    whole = b"".join(decoder.feed(body))
    return None if decoder.failed else whole
