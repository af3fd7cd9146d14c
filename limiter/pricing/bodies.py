"""Strict JSON: one meaning only, or a refusal.

Two programs that read a key given twice may take different values, and the one that the provider takes
must be the one that was paid for. `json` with a hook per object finds such keys at 9 µs for a chat body of
4 kB (6 µs without the hook, on the machine where this was chosen); the faster `pydantic_core.from_json`
(3 µs) drops them silently.
"""

from __future__ import annotations

import json
from typing import Any, Final, Never

from limiter.domain.calls import BODY_MAX_BYTES
from limiter.domain.errors import SHOWN_VALUE_MAX, InvalidArgument

#: Objects and lists in one text: 4 MiB of nothing but `[],` would hold the event loop for most of a second.
CONTAINERS_MAX: Final = 50_000


class _Ambiguous(ValueError):
    """The text is JSON for some readers only."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Ambiguous(f"{twice[:SHOWN_VALUE_MAX]!r} is given twice in one object; give it once")
    return read


def _constant(name: str) -> Never:
    raise _Ambiguous(f"{name} is no JSON; write a number or null")


_STRICT: Final = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
_LENIENT: Final = json.JSONDecoder()


def read_json(body: bytes, *, field: str, strict: bool) -> Any:  # noqa: ANN401 - whatever the JSON says
    """Read `body` as one JSON text in UTF-8.

    Raises InvalidArgument naming `field` for anything else: more than BODY_MAX_BYTES, compressed, not UTF-8,
    a byte order mark, nesting too deep, text after the end; and, if `strict`, a key given twice, NaN or Infinity.
    The message tells the size of the body, never its content.
    """
    if len(body) > BODY_MAX_BYTES:
        raise refusal(body, f"send at most {BODY_MAX_BYTES} bytes", field=field)
    if body.startswith(b"\xef\xbb\xbf"):
        raise refusal(body, "it begins with a byte order mark; leave that out", field=field)
    if body.startswith(b"\x1f\x8b"):
        raise refusal(body, "it is compressed; send the JSON itself", field=field)
    if len(body) > CONTAINERS_MAX and body.count(b"[") + body.count(b"{") > CONTAINERS_MAX:
        raise refusal(body, f"use at most {CONTAINERS_MAX} objects and lists", field=field)
    try:
        return (_STRICT if strict else _LENIENT).decode(body.decode())
    except UnicodeDecodeError:
        remedy = "send JSON in UTF-8"
    except RecursionError:
        remedy = "it is nested too deeply; send flatter JSON"
    except json.JSONDecodeError as error:
        remedy = f"send JSON: {error.msg} at character {error.pos}"
    except _Ambiguous as error:
        remedy = str(error)
    except ValueError:  # an integer of thousands of digits
        remedy = "it has a number that is too long"
    raise refusal(body, remedy, field=field)


def read_object(body: bytes, *, field: str) -> dict[str, Any]:
    """Read `body` strictly, as :func:`read_json` does; it must be a JSON object."""
    read = read_json(body, field=field, strict=True)
    if not isinstance(read, dict):
        raise refusal(body, "send a JSON object", field=field)
    return read


def refusal(body: bytes, remedy: str, *, field: str) -> InvalidArgument:
    """Return the error for `body`, which is described by its size only: it may hold secrets."""
    return InvalidArgument(field, f"a body of {len(body)} bytes", remedy)
