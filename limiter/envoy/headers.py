"""Headers as Envoy writes and reads them."""

from __future__ import annotations

from limiter.envoy.v3 import base_pb2, ext_proc_pb2


def header_text(header: base_pb2.HeaderValue) -> str:
    """The value of a header, in whichever field it came; bytes that are no UTF-8 become U+FFFD."""
    return header.value or header.raw_value.decode("utf-8", "replace")


def count_in(text: str) -> int | None:
    """The count that a header's value is; None if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


def set_header(mutation: ext_proc_pb2.HeaderMutation, name: str, value: str) -> None:
    """Set a header, in place of any of that name."""
    option = mutation.set_headers.add()
    option.header.key = name
    option.header.raw_value = value.encode()
    option.append_action = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
