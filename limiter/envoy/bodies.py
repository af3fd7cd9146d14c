"""Bodies that come compressed, opened within bounds."""

from __future__ import annotations

import zlib
from typing import Final

from limiter.domain.calls import BODY_MAX_BYTES
from limiter.pricing.encodings import KNOWN, is_encoded

#: zlib's word for "gzip or zlib, whichever it is".
_EITHER: Final = zlib.MAX_WBITS | 32


class BodyUnreadable(Exception):
    """A body that cannot be opened: the HTTP status of the answer, and a sentence for the client."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def open_body(body: bytes, encoding: str) -> bytes:
    """Undo a content-encoding. Raises BodyUnreadable: 415 for one that is not known, 413 or 400 for what is inside."""
    if not is_encoded(encoding):
        return body
    if encoding.strip().lower() not in KNOWN:
        raise BodyUnreadable(415, "this content-encoding is not read; send the body plain or with gzip")
    opener = zlib.decompressobj(_EITHER)
    try:
        opened = opener.decompress(body, BODY_MAX_BYTES + 1)
    except zlib.error:
        raise BodyUnreadable(400, "the body is not what its content-encoding says") from None
    if len(opened) > BODY_MAX_BYTES or opener.unconsumed_tail:
        raise BodyUnreadable(413, f"the body is larger than {BODY_MAX_BYTES} bytes")
    if not opener.eof or opener.unused_data:
        raise BodyUnreadable(400, "the compressed body does not end where it should")
    return opened
