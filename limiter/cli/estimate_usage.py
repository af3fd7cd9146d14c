"""Does a recorded answer say what was used? Found by a plain look, by none of the code that is being judged."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any, Final

#: Objects that say what was used, by the names that providers give them.
_USAGES: Final = ("usage", "usageMetadata", "usage_metadata", "billed_units", "amazon-bedrock-invocationMetrics")

#: What may stand around them, in answers and in the events of streams.
_AROUND: Final = ("message", "response", "meta", "metadata", "delta", "x_groq", "data", "event")

#: Counts that stand in the answer itself (models on Bedrock).
_COUNTS: Final = ("inputTextTokenCount", "prompt_token_count", "generation_token_count")

#: An event stream of AWS has its JSON in binary frames, some of it in base64.
_FRAMED_USAGE: Final = re.compile(rb'"(?:usage|amazon-bedrock-invocationMetrics)"\s*:\s*\{\s*"[^{}]*?:\s*\d')
_FRAMED_BYTES: Final = re.compile(rb'"bytes"\s*:\s*"([A-Za-z0-9+/=]+)"')


def tells_usage(recorded: object, body: bytes) -> bool:
    """Say whether an answer has a count of what was used; `recorded` is its JSON or text, `body` the bytes of it."""
    if isinstance(recorded, dict) and recorded.keys() == {"__bytes__"}:
        return _framed(body) or any(_counted(event) for event in _events(body.decode(errors="replace")))
    if isinstance(recorded, str):
        return any(_counted(event) for event in _events(recorded))
    return _counted(recorded)


def _counted(value: object) -> bool:
    if isinstance(value, list):
        return any(_counted(each) for each in value)
    if not isinstance(value, dict):
        return False
    if any(_has_number(value.get(name)) for name in _USAGES) or any(type(value.get(name)) is int for name in _COUNTS):
        return True
    return any(isinstance(value.get(name), (dict, list)) and _counted(value[name]) for name in _AROUND)


def _has_number(usage: object) -> bool:
    if isinstance(usage, dict):
        return any(_has_number(each) for each in usage.values())
    return isinstance(usage, (int, float)) and not isinstance(usage, bool)


def _events(text: str) -> Iterator[Any]:
    """Yield the whole text as JSON if it is that, else what is JSON of the lines of a stream."""
    try:
        yield json.loads(text)
    except (ValueError, RecursionError):
        for line in text.splitlines():
            try:
                yield json.loads(line.removeprefix("data:"))
            except (ValueError, RecursionError):
                continue


def _framed(body: bytes) -> bool:
    if _FRAMED_USAGE.search(body):
        return True
    for found in _FRAMED_BYTES.finditer(body):
        try:
            inner = json.loads(base64.b64decode(found[1]))
        except (ValueError, RecursionError):
            continue
        if _counted(inner):
            return True
    return False
