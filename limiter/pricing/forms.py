"""Forms with files (multipart/form-data), as audio and image interfaces take them: one meaning only, or a refusal.

Parsers of forms are made for uploads that come in pieces, and the email package for text; a body that is here whole is
cut at its boundary by `bytes.split`, at the speed of memory, and only the few headers of each part are parsed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import HeaderParser
from typing import Final

from limiter.domain.calls import BODY_MAX_BYTES
from limiter.pricing.bodies import refusal

_PARTS_MAX: Final = 128
_HEADERS_MAX: Final = 4_096
#: Longest value of a field that is no file.
_VALUE_MAX: Final = 256 * 1024

#: RFC 2046, 5.1.1: a boundary.
_BOUNDARY: Final = re.compile(rb"--([0-9A-Za-z'()+_,./:=?-]{1,70}) *\r\n")


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form by name, and its files by theirs; a name that stands for a list may have several files."""

    fields: Mapping[str, str]
    files: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)

    def file(self, name: str) -> bytes:
        """Return the one file of that name; b"": there is none."""
        return self.files.get(name, (b"",))[0]


def is_form(body: bytes) -> bool:
    """Whether the body begins as a form does."""
    return body.startswith(b"--")


def read_form(body: bytes, *, content_type: str, place: str) -> Form:
    """Read a form whose boundary is that of `content_type`, or of its first line where no type is told.

    Raises InvalidArgument naming `place` for anything else, and for a name given twice, but for files of a list.
    """
    fields: dict[str, str] = {}
    files: dict[str, tuple[bytes, ...]] = {}
    for piece in _pieces(body, content_type, place):
        name, is_file, value = _part(piece, body, place)
        if name in fields or (name in files and not is_file):
            raise refusal(body, f"{name[:64]!r} is given twice; give it once", field=place)
        if is_file:
            files[name.removesuffix("[]")] = (*files.get(name.removesuffix("[]"), ()), value)
        elif len(value) > _VALUE_MAX:
            raise refusal(body, f"{name[:64]!r} is longer than {_VALUE_MAX} bytes", field=place)
        elif not name.endswith("[]"):  # lists of words are no sizes
            fields[name] = value.decode(errors="replace")
    return Form(fields, files)


def _pieces(body: bytes, content_type: str, place: str) -> list[bytes]:
    """What stands between the boundaries."""
    if len(body) > BODY_MAX_BYTES:
        raise refusal(body, f"send at most {BODY_MAX_BYTES} bytes", field=place)
    first = _BOUNDARY.match(body)
    if first is None:
        raise refusal(body, "send a form (multipart/form-data) that begins with its boundary", field=place)
    if content_type and _told(content_type) != first[1].decode():
        raise refusal(body, "its first line must be the boundary that the content-type names", field=place)
    pieces = (b"\r\n" + body).split(b"\r\n--" + first[1])
    if len(pieces) < 3 or pieces[-1].strip() != b"--" or len(pieces) > _PARTS_MAX:
        raise refusal(body, f"send a whole form of at most {_PARTS_MAX} parts, without anything after it", field=place)
    return pieces[1:-1]


def _told(content_type: str) -> str:
    message = Message()
    message["content-type"] = content_type
    boundary = message.get_boundary("")
    return boundary if message.get_content_type() == "multipart/form-data" else ""


def _part(piece: bytes, body: bytes, place: str) -> tuple[str, bool, bytes]:
    """Take a part apart: its name, whether it is a file, and what is in it."""
    head, end, value = piece.partition(b"\r\n\r\n")
    if not end or not head.lstrip(b" ").startswith(b"\r\n") or len(head) > _HEADERS_MAX:
        raise refusal(body, "one of its parts has no headers that can be read", field=place)
    headers = HeaderParser().parsestr(head.lstrip(b" ")[2:].decode(errors="replace"))
    name = headers.get_param("name", header="content-disposition")
    told = headers.get_all("content-disposition", [])
    if (
        len(told) != 1
        or not isinstance(name, str)
        or not name
        or headers.get("content-transfer-encoding", "8bit") not in _PLAIN
    ):
        raise refusal(body, "each of its parts needs one plain name", field=place)
    return name, headers.get_param("filename", header="content-disposition") is not None, value


_PLAIN: Final = ("7bit", "8bit", "binary")
