"""How many pages a document has, as far as its bytes tell without unpacking it."""

from __future__ import annotations

import re
from typing import Final

_PAGE: Final = re.compile(rb"/Type\s{0,4}/Page(?![a-zA-Z])")
#: A page that is packed away with others: PDFs mostly have more bytes for one.
_PAGE_BYTES: Final = 30_000


def document_pages(data: bytes) -> int:
    """Return about how many pages `data` has; at least one. PDFs mostly name their pages; else it is told by size."""
    found = len(_PAGE.findall(data)) if data[:1024].find(b"%PDF-") >= 0 else 0
    return found or 1 + len(data) // _PAGE_BYTES
