"""How many pages a document has, as far as its bytes tell without unpacking it."""

from __future__ import annotations

import re
from typing import Final

_PAGE: Final = re.compile(rb"/Type\s{0,4}/Page(?![a-zA-Z])")
#: A page that is packed away with others: PDFs mostly have more bytes for one.
_PAGE_BYTES: Final = 30_000


#: How documents begin that are packed: Microsoft's and OpenDocument's. PDFs may begin a little later.
_PACKED: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")


def is_packed(data: bytes) -> bool:
    """Whether `data` is a document that may hold more than its bytes, whatever type it is said to have."""
    return data.startswith(_PACKED) or b"%PDF-" in data[:1024]


def document_pages(data: bytes) -> int:
    """Return about how many pages `data` has; at least one. PDFs mostly name their pages; else it is told by size."""
    found = len(_PAGE.findall(data)) if data[:1024].find(b"%PDF-") >= 0 else 0
    return found or 1 + len(data) // _PAGE_BYTES
