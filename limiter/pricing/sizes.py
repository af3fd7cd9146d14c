"""An upper bound of the input tokens of a request.

Tokenizers of these providers work on bytes and never make more tokens than there are bytes, so the bytes of
the body bound its text; the JSON around a message is longer than what a chat template puts there. What bytes
do not bound gets a flat allowance. These constants were checked against recorded calls (tests/pricing).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from limiter.pricing.hosts import Dialect

#: What a provider puts before every prompt (the date, the format of the answer).
REQUEST_TOKENS: Final = 128

#: What a provider adds to explain the use of tools and formats.
TOOLS_TOKENS: Final = 2_000

#: One image, inline or by URL. Anthropic's largest is 4,784 tokens; among the others gpt-4o-mini counts up to 48,169.
IMAGE_TOKENS: Final = {Dialect.ANTHROPIC_MESSAGES: 5_000}
IMAGE_TOKENS_ELSEWHERE: Final = 50_000

#: A document in the body, besides its bytes: its first page as text and picture.
DOCUMENT_TOKENS: Final = 5_000

#: One document, sound or video that the body only refers to. It may be larger: see `Size.bounded`.
FILE_TOKENS: Final = 200_000

_IMAGES: Final = frozenset({"image", "image_url", "input_image"})
_FILES: Final = frozenset({"document", "file", "input_file", "video", "video_url", "input_video", "container_upload"})
_SOUNDS: Final = frozenset({"audio", "audio_url", "input_audio"})
_REFERENCES: Final = ("url", "file_url", "uri", "file_uri", "file_id")

#: Fields that let the provider add input which is not in the body.
_OPENING_FIELDS: Final = (
    "previous_response_id",
    "conversation",
    "prompt",
    "web_search_options",
    "mcp_servers",
    "plugins",
)

#: Models that search or call themselves before they answer, whatever the body says.
_AGENTS: Final = re.compile(r"compound|search|sonar|:online", re.IGNORECASE)

#: Kinds of tools that run at the caller's; any other kind runs at the provider and feeds its results to the model.
_CALLERS_TOOLS: Final = (
    "function",
    "custom",
    "bash_",
    "text_editor_",
    "computer",
    "memory_",
    "local_shell",
    "apply_patch",
)


@dataclass(slots=True)
class Size:
    """How large the input can be.

    `bounded` is False if the provider adds input that is not in the body (earlier turns kept there, searches,
    files by reference, several passes over the prompt): then `input_tokens` is the least, and only the context
    window bounds it. `units` announces dearer kinds of input.
    """

    input_tokens: int
    bounded: bool = True
    units: dict[str, int] = field(default_factory=dict)


def measure(body: bytes, request: Mapping[str, Any], *, model: str, dialect: Dialect) -> Size:
    """Bound the input of `request` to `model`, which was read from `body`."""
    reasoning = request.get("reasoning")
    passes = isinstance(reasoning, dict) and reasoning.get("mode")
    opened = passes or _AGENTS.search(model) or any(request.get(name) for name in _OPENING_FIELDS)
    size = Size(len(body) + REQUEST_TOKENS, bounded=not opened)
    if tools := request.get("tools"):
        size.input_tokens += TOOLS_TOKENS
        size.bounded = size.bounded and isinstance(tools, list) and all(map(_runs_at_callers, tools))
    elif request.get("response_format") or request.get("text") or request.get("output_config"):
        size.input_tokens += TOOLS_TOKENS
    _measure_parts(request, dialect, size)
    return size


def _runs_at_callers(tool: object) -> bool:
    if not isinstance(tool, dict):
        return False
    kind = tool.get("type", "custom")
    return isinstance(kind, str) and kind.startswith(_CALLERS_TOOLS)


def _measure_parts(request: Mapping[str, Any], dialect: Dialect, size: Size) -> None:
    """Count what is not text, wherever it stands; take inline images out of the bytes."""
    dearer: set[str] = set()
    before = size.input_tokens
    for part in _marked_objects(request):
        kind = part.get("type")
        if part.get("ttl") == "1h":
            dearer.add("cache_write_1h_tokens")
        if not isinstance(kind, str):
            continue
        if kind in _IMAGES:
            size.input_tokens += IMAGE_TOKENS.get(dialect, IMAGE_TOKENS_ELSEWHERE)
        elif kind == "file" and dialect is Dialect.ANTHROPIC_MESSAGES:
            continue  # the source of a document or image, which is counted itself
        elif kind in _FILES or kind in _SOUNDS:
            if kind in _SOUNDS:
                dearer.add("input_audio_tokens")
            size.input_tokens += DOCUMENT_TOKENS
            if _refers(part):
                size.input_tokens += FILE_TOKENS
                size.bounded = False
    if not dearer and size.input_tokens == before:
        return
    size.input_tokens -= sum(_inline_image_bytes(part, dialect) for part in _message_parts(request))
    size.units = dict.fromkeys(dearer, size.input_tokens)


def _refers(part: Mapping[str, Any]) -> bool:
    """Whether the content is elsewhere: behind a URL, or in the provider's store of files."""
    places = (part, *(value for value in part.values() if isinstance(value, dict)))
    values = (place.get(name, "data:") for place in places for name in _REFERENCES)
    bare = part.get("input_audio", "data:")
    return any(not (isinstance(value, str) and value.startswith("data:")) for value in values) or (
        isinstance(bare, str) and bare.startswith("http")
    )


def _marked_objects(tree: object) -> list[dict[str, Any]]:
    """Every JSON object of `tree` that tells a type or a time to live, wherever it stands."""
    marked = []
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if "type" in node or "ttl" in node:
                marked.append(node)
            values: Iterable[object] = node.values()
        else:
            values = node if isinstance(node, list) else ()
        for value in values:
            if isinstance(value, (dict, list)):
                pending.append(value)  # noqa: PERF401 - a loop is the faster of the two here
    return marked


def _message_parts(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of messages: places where an image is taken for an image, never for text."""
    messages = request.get("messages", request.get("input"))
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                yield part


def _inline_image_bytes(part: Mapping[str, Any], dialect: Dialect) -> int:
    """How many bytes of the body are an image: they say nothing about its tokens."""
    if dialect is Dialect.ANTHROPIC_MESSAGES:
        source = part.get("source")
        if part.get("type") != "image" or not isinstance(source, dict) or source.get("type") != "base64":
            return 0
        data = source.get("data")
        return len(data) if isinstance(data, str) else 0
    if part.get("type") not in ("image_url", "input_image"):
        return 0
    url = part.get("image_url")
    if isinstance(url, dict):
        url = url.get("url")
    return len(url) if isinstance(url, str) and url.startswith("data:image/") else 0
