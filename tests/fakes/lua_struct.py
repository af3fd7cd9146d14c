"""The `struct` library of Redis's Lua, for fakeredis: the formats that the scripts use, and no others.

Integers are doubles in Lua, as there: a value is cut to its low bytes when packed, never refused.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

_OPTION: Final = re.compile(r"([BHILbhilsc])(\d*)", re.ASCII)
_SIZES: Final = {"B": 1, "H": 2, "L": 8, "I": 4}
_STRING, _CHARS = "s", "c"


class StructError(Exception):
    """A format or argument that Redis's library refuses too; the script fails with it."""


@cache
def _options(pattern: bytes) -> tuple[tuple[str, int], ...]:
    """Read a format: (option, size in bytes) each; only little-endian without alignment is known."""
    text = pattern.decode("ascii")
    if not text.startswith("<"):
        raise StructError(f"the format {text!r} does not say its byte order")
    options, at = [], 1
    while at < len(text):
        found = _OPTION.match(text, at)
        if found is None:
            raise StructError(f"invalid format option {text[at]!r}")
        option, digits = found.groups()
        at = found.end()
        if digits and option not in "iIc":
            raise StructError(f"invalid format option {digits[0]!r}")
        size = int(digits) if digits else _SIZES.get(option.upper(), 1)
        if option in "iI" and not 1 <= size <= 32:
            raise StructError(f"integral size {size} is larger than limit of 32")
        options.append((option, size))
    return tuple(options)


def pack(pattern: bytes, *values: object) -> bytes:
    """`struct.pack(format, v1, …)`."""
    given = iter(values)
    parts = []
    for position, (option, size) in enumerate(_options(pattern), start=2):
        value = next(given, None)
        if option in (_STRING, _CHARS):
            parts.append(_pack_text(option, size, value, position))
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            parts.append((int(value) & ((1 << (8 * size)) - 1)).to_bytes(size, "little"))
        else:
            raise StructError(f"bad argument #{position} to 'pack' (number expected, got {value!r})")
    return b"".join(parts)


def _pack_text(option: str, size: int, value: object, position: int) -> bytes:
    if not isinstance(value, bytes):
        raise StructError(f"bad argument #{position} to 'pack' (string expected, got {value!r})")
    if option == _STRING:
        return value + b"\0"
    if len(value) < size:
        raise StructError(f"bad argument #{position} to 'pack' (string too short)")
    return value[: size or len(value)]


def unpack(pattern: bytes, data: bytes, position: float = 1) -> tuple[Any, ...]:
    """`struct.unpack(format, s [, i])`: the values, then where reading stopped."""
    at = int(position) - 1
    if at < 0:
        raise StructError("bad argument #3 to 'unpack' (offset must be 1 or greater)")
    values: list[Any] = []
    for option, option_size in _options(pattern):
        size = option_size
        if option == _STRING:
            end = data.find(b"\0", at)
            if end < 0:
                raise StructError("unfinished string in data")
            values.append(data[at:end])
            at = end + 1
            continue
        if option == _CHARS and size == 0:
            size = int(values.pop())
        if at + size > len(data):
            raise StructError("bad argument #2 to 'unpack' (data string too short)")
        raw = data[at : at + size]
        # A float, because that is what every number is in Lua 5.1.
        values.append(raw if option == _CHARS else float(int.from_bytes(raw, "little", signed=option.islower())))
        at += size
    return (*values, float(at + 1))


def size(pattern: bytes) -> float:
    """`struct.size(format)`."""
    options = _options(pattern)
    if any(option == _STRING or (option == _CHARS and not count) for option, count in options):
        raise StructError("variable-length format")
    return float(sum(count for _, count in options))
