"""One model, many spellings: what is left of a name when provider, region, deployment and date are taken off.

openai/gpt-4o, models/gemini-2.5-pro, accounts/fireworks/models/…, us.anthropic.claude-sonnet-4-5-20250929-v1:0,
claude-sonnet-4-5@20250929, anthropic/claude-sonnet-4.5:free, ft:gpt-4o-mini-2024-07-18:acme::abc.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

_REGION: Final = re.compile(r"(?:us|us-gov|eu|apac|ap|au|jp|ca|sa|global)\.(?=[a-z])")
_VENDOR: Final = re.compile(r"[a-z]{2,}\.(?=[a-z])")
_VERSION: Final = re.compile(r"-v\d+$")
_MARK: Final = re.compile(r"[._-]")
_SEAM: Final = re.compile(r"(?<=[a-z])-(?=\d)|(?<=\d)-(?=[a-z])")
_DATE: Final = re.compile(
    r"(?:-preview)?-(?:\d{4}-\d{2}-\d{2}|\d{2}-\d{4}|\d{2}-\d{2}|\d{8}|\d{6}|\d{4}|\d{3}|0|latest|default|preview)$"
)


def without_place(model: str) -> str:
    """Return the name without the path, the resource and the region that it is called in, in small letters."""
    return _REGION.sub("", model.lower().rsplit("/", 1)[-1], count=1)


def bare(model: str) -> str:
    """Return what all spellings of a model have in common, its date included; `.`, `_` and `@` are `-`."""
    name = model.lower()
    if name.startswith("ft:"):
        name = name.split(":")[1]
    name = without_place(name)
    bedrock = _VENDOR.match(name)
    name = _VENDOR.sub("", name, count=1).partition(":")[0]
    if bedrock:
        name = _VERSION.sub("", name)
    return re.sub(r"[._@\s]", "-", name).strip("-")


def undated(name: str) -> str:
    """Return a bare name without its date; "" if it has none."""
    found = _DATE.search(name)
    return name[: found.start()] if found else ""


def squeezed(name: str) -> str:
    """Return a name without what only its writing differs in: claude-sonnet-4-5 and -4.5, llama3.3 and llama-3.3.

    `.`, `-` and `_` are the same, and nothing between a letter and a digit. Between two digits there stays one: 4.1 is
    not 41.
    """
    return _SEAM.sub("", _MARK.sub("-", name.lower()))


def spellings(model: str) -> Iterator[str]:
    """Yield the names by which a price list may know the same model at the same price, as it was written first."""
    yield model
    rest = model
    while "/" in rest:
        rest = rest.partition("/")[2]
        yield rest
    if (name := without_place(model)) != rest.lower():
        yield name
