"""Changes to a provider's request on its way: a few members of the body, every other byte as the client wrote it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.decoder import scanstring  # type: ignore[attr-defined] # typeshed does not know it
from typing import Any, Final, NamedTuple

from limiter.envoy.grants import Grant

_SPACE: Final = re.compile(r"[ \t\n\r]*")
_DECODER: Final = json.JSONDecoder()


class _Member(NamedTuple):
    """A member of an object: its name, its value, the text of both, and that of the value."""

    name: str
    value: Any
    text: str
    written: str


def rewritten(body: bytes, grant: Grant, *, include_usage: bool, max_output_tokens: bool) -> bytes | None:
    """Return the body as the provider should get it; None: as it is, or it is none that can be changed.

    With `include_usage`, a stream is asked to tell its usage; with `max_output_tokens`, the output that the hold pays
    for is written where the request sets no bound; tags for the books are taken out of `metadata`.
    """
    try:
        members = _members(body.decode())
    except (ValueError, IndexError, RecursionError):
        return None
    wanted: dict[str, Any] = {}
    told = {member.name: member.value for member in members}
    if include_usage and grant.include_usage:
        options = told.get("stream_options")
        wanted["stream_options"] = (options if isinstance(options, dict) else {}) | {"include_usage": True}
    gone = _without_tags(told.get("metadata"), wanted)
    if gone:
        members = [member for member in members if member.name != "metadata"]
    bounded = max_output_tokens and grant.max_output_field and grant.max_output_tokens
    within = _bounded(members, grant.max_output_field, grant.max_output_tokens) if bounded else None
    if not wanted and not gone and within is None:
        return None
    return _joined(members if within is None else within, wanted).encode()


def _bounded(members: list[_Member], field: str, most: int) -> list[_Member] | None:
    """The members with `most` in `field`, which may be inside of others (a.b); None: a bound is there already."""
    name, _, inner = field.partition(".")
    there = next((member for member in members if member.name == name), None)
    if not inner:
        if there is not None and there.value is not None:
            return None
        value = str(most)
    elif there is None or there.value is None:
        value = json.dumps({inner: most})
    elif isinstance(there.value, dict):
        within = _bounded(_members(there.written), inner, most)
        if within is None:
            return None
        value = _joined(within, {})
    else:
        return None  # the provider refuses such a request
    written = _Member(name, most, f"{json.dumps(name)}: {value}", value)
    if there is not None and there.value is not None:
        return [written if member is there else member for member in members]
    return [*(member for member in members if member is not there), written]


def _joined(members: list[_Member], wanted: Mapping[str, Any]) -> str:
    """The text of an object of these members, and of `wanted` in the place of those of its names."""
    kept = [member.text for member in members if member.name not in wanted]
    added = [f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in wanted.items()]
    return f"{{{', '.join(kept + added)}}}"


def _without_tags(metadata: object, wanted: dict[str, Any]) -> bool:
    """Take the tags out; what is left of the metadata goes to `wanted`. Answers whether nothing is left."""
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("tags"), list):
        return False
    others = [text for text in metadata["tags"] if not isinstance(text, str) or ":" not in text]
    if len(others) == len(metadata["tags"]) and others:
        return False
    left = {name: value for name, value in metadata.items() if name != "tags"}
    if others:
        left["tags"] = others
    if left:
        wanted["metadata"] = left
    return not left


def _members(text: str) -> list[_Member]:
    """The members of the one object that `text` is; raises ValueError for anything else."""

    def skip(at: int) -> int:
        space = _SPACE.match(text, at)
        return at if space is None else space.end()

    def expect(sign: str, at: int) -> int:
        if text[at : at + 1] != sign:
            raise ValueError(f"{sign} is missing at {at}")
        return skip(at + 1)

    members: list[_Member] = []
    at = expect("{", skip(0))
    while text[at] != "}":
        if members:
            at = expect(",", at)
        start = at
        name, at = scanstring(text, at + 1) if text[at] == '"' else _no_name(at)
        begins = expect(":", skip(at))
        value, at = _DECODER.raw_decode(text, begins)
        members.append(_Member(name, value, text[start:at], text[begins:at]))
        at = skip(at)
    if skip(at + 1) != len(text):
        raise ValueError("more text after the end")
    return members


def _no_name(at: int) -> tuple[str, int]:
    raise ValueError(f"a name is missing at {at}")
