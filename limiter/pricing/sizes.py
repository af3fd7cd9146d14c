"""How large the input of a request can be: an upper bound, and an estimate from its own content.

The bound rests on two facts. Tokenizers of these providers work on bytes and never make more tokens than there are
bytes, so that the bytes of the body bound its text, and the JSON around a message is longer than what a chat template
puts there. And an image is never more tokens than its provider's rules give to the largest. What neither bounds
(documents that are packed, and what is elsewhere) is growth: the context window bounds it.

Parts that are no text are looked for in the content of messages only. Arguments and results of tools are text to a
model, whatever is written in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from limiter.pricing.audio import audio_length
from limiter.pricing.bounds import Bound, Size
from limiter.pricing.conversations import kept_items
from limiter.pricing.documents import document_pages, is_packed
from limiter.pricing.families import Family, family_of
from limiter.pricing.growth import STORED_TOKENS, growth_of, stored
from limiter.pricing.images import decoded, image_tokens
from limiter.pricing.parts import MARKS, Part, is_kept_audio, read_part
from limiter.pricing.paths import Dialect
from limiter.pricing.texts import decomposed_bytes, text_tokens

#: Fields whose values are content: of a request, and of what is inside of content.
_CONTENT: Final = frozenset(
    {"content", "parts", "output", "toolResult", "functionResponse", "function_response", "source", "document"}
    | {"guardContent", "images"}
)
_MESSAGES: Final = frozenset(
    {"messages", "input", "inputs", "contents", "content", "system", "systemInstruction", "system_instruction"}
    | {"requests", "instances", "message"}
)

#: What may stand beside the content of a part, in the same object: how long it is cached, and words about it.
_BESIDE: Final = ("cache_control", "title", "context")

#: Kinds of parts in which there may be sound, which has a price of its own.
_SOUNDING: Final = frozenset({"audio", "video"})

#: Fields of a request that ask for an answer in a form, which the model is told.
_FORMS: Final = ("response_format", "text", "output_config", "output_format", "outputConfig")
#: Fields that the provider explains to the model.
_EXPLAINED: Final = frozenset({"tools", "toolConfig", "generationConfig", *_FORMS})
#: Kinds of tools that the caller describes in full; the provider describes the others, which the caller only runs.
_DESCRIBED: Final = frozenset({"function", "custom", "namespace"})


class _Tally:
    """What was found: text, tokens of other things, and what is elsewhere."""

    __slots__ = ("blob", "elsewhere", "family", "one_hour", "safe", "sound", "strict", "texts")

    def __init__(self, family: Family) -> None:
        self.family = family
        self.texts: list[str] = []
        self.blob = self.strict = self.safe = 0
        self.sound = [0, 0]
        #: Parts that are elsewhere or packed, by field and kind, with what is allowed for them.
        self.elsewhere: dict[tuple[str, str], int] = {}

    def add(self, part: Part) -> None:
        """Count a part that is no text."""
        if part.kind == "image":
            strict, safe = image_tokens(self.family, part.data, low=part.low)
            self.blob += len(part.data)
        elif part.where:
            strict, safe = 0, 0
            self.grow(part, STORED_TOKENS)
        elif part.kind == "text" and not is_packed(data := decoded(part.data)):
            strict, safe = 0, text_tokens(data.decode("utf-8", "replace"))
        elif part.kind == "audio":
            length = audio_length(decoded(part.data))
            strict, safe = length.strict * self.family.second[0], length.safe * self.family.second[1]
            self.sound[0] += strict
            self.sound[1] += safe
            self.blob += len(part.data)
        else:
            strict, safe = self._packed(part)
        self.strict += strict
        self.safe += safe

    def note(self, node: Mapping[str, Any]) -> None:
        """Count what an object that is text itself names besides: sound of an earlier answer."""
        if "audio" in node and is_kept_audio(node["audio"]):
            self.grow(Part("audio", where="audio.id"), STORED_TOKENS)

    def grow(self, part: Part, tokens: int) -> None:
        """Note a part that only the context window bounds."""
        place = part.where or "data", part.kind
        self.elsewhere[place] = self.elsewhere.get(place, 0) + tokens
        if part.kind in _SOUNDING:
            self.sound[0] += 1
            self.sound[1] += tokens

    def _packed(self, part: Part) -> tuple[int, int]:
        """Documents and films: what is in them may be far more than their bytes, so that only a window bounds it."""
        size = len(part.data) * 3 // 4
        if part.kind == "video":
            # At the 500 kbit/s of a small film; providers look at one picture a second.
            safe = (1 + size // 62_500) * self.family.film
        else:
            safe = document_pages(decoded(part.data)) * self.family.page
        self.grow(part, 0)
        return safe, safe


def measure(body: bytes, request: Mapping[str, Any], *, model: str, dialect: Dialect) -> Size:
    """Bound the input of `request` to `model`, which was read from `body`."""
    del dialect  # what is in a request tells more
    family = family_of(model)
    tally = _Tally(family)
    _walk(_without_images(request, tally) if "images" in request else request, tally)
    text = "\n".join(tally.texts)
    strict, safe = _preambles(request, family)
    written = len(body) - tally.blob
    if not text.isascii():
        written += decomposed_bytes(text)
    strict += written + tally.strict
    safe = min(strict, safe + text_tokens(text) + tally.safe)
    parts = [stored(*place, tokens) for place, tokens in tally.elsewhere.items()]
    if type(items := request.get("input")) is list and (kept := kept_items(items)) is not None:
        parts.append(kept)
    growth = growth_of(request, model, parts)
    if "1h" not in tally.texts and not tally.sound[0]:
        return Size(Bound(strict), Bound(safe), growth)
    return Size(_with_kinds(strict, tally, 0), _with_kinds(safe, tally, 1), growth)


def _with_kinds(tokens: int, tally: _Tally, way: int) -> Bound:
    """Announce the dearer kinds of input: sound, and what is kept in a cache for an hour."""
    units = {"cache_write_1h_tokens": tokens} if "1h" in tally.texts else {}
    if tally.sound[way]:
        units["input_audio_tokens"] = min(tokens, tally.sound[way])
    return Bound(tokens, units)


def _preambles(request: Mapping[str, Any], family: Family) -> tuple[int, int]:
    """What the provider puts before the prompt, strict and safe."""
    if _EXPLAINED.isdisjoint(request):
        return family.preamble
    strict, safe = family.preamble
    config = request.get("toolConfig")
    tools = request.get("tools") or (config.get("tools") if isinstance(config, dict) else None)
    if tools:
        strict += family.tools[0]
        safe += family.tools[1]
        for tool in tools if isinstance(tools, list) else ():
            kind = tool.get("type") if isinstance(tool, dict) else None
            if isinstance(kind, str) and kind not in _DESCRIBED:
                strict += family.built_in[0]
                safe += family.built_in[1]
    config = request.get("generationConfig")
    if any(request.get(name) for name in _FORMS) or (isinstance(config, dict) and len(config) > 1):
        strict += family.form[0]
        safe += family.form[1]
    return strict, safe


def _walk(request: Mapping[str, Any], tally: _Tally) -> None:
    """Collect all texts of `request`, and count what in its messages is none."""
    texts = tally.texts
    plain: list[Any] = []
    content: list[Any] = []
    for name, value in request.items():
        if type(value) is str:
            texts.append(value)
        elif type(value) is dict or type(value) is list:
            (content if name in _MESSAGES else plain).append(value)
    while content:
        node = content.pop()
        if type(node) is list:
            _sort(node, texts, content, plain)
        elif MARKS.isdisjoint(node) or (part := read_part(node)) is None:
            texts.extend(node)
            tally.note(node)
            for name, value in node.items():
                if type(value) is str:
                    texts.append(value)
                elif type(value) is dict or type(value) is list:
                    (content if name in _CONTENT else plain).append(value)
        else:
            tally.add(part)
            plain.append([node[name] for name in _BESIDE if name in node])
    _collect(plain, texts)


def _without_images(request: Mapping[str, Any], tally: _Tally) -> Mapping[str, Any]:
    """Count the `images` that are addresses with the image in them (Cohere's, to embed); return the rest."""
    images = request["images"]
    if type(images) is not list:
        return request
    others: list[Any] = []
    for each in images:
        if type(each) is str and each.startswith("data:image/"):
            tally.add(Part("image", each.partition(",")[2]))
        else:
            others.append(each)
    return {**request, "images": others}


def _sort(values: list[Any], texts: list[str], content: list[Any], plain: list[Any]) -> None:
    """Lay each of a list of messages or parts where it belongs."""
    if values and type(values[0]) is int:
        plain.append(values)  # tokens
        return
    for value in values:
        if type(value) is dict:
            if len(value) == 2 and type(role := value.get("role")) is str and type(text := value.get("content")) is str:
                texts += (role, text)  # as most messages are: the names of the two cost nothing
            else:
                content.append(value)
        elif type(value) is list:
            content.append(value)
        elif type(value) is str:
            texts.append(value)
        elif value is not None:
            texts.append(repr(value))


def _collect(pending: list[Any], texts: list[str]) -> None:
    """Collect names, texts and numbers below `pending`."""
    while pending:
        node = pending.pop()
        values = node
        if type(node) is dict:
            texts.extend(node)
            values = list(node.values())
        kinds = set(map(type, values))
        if str in kinds:
            texts.extend([value for value in values if type(value) is str])
        if dict in kinds or list in kinds:
            pending.extend([value for value in values if type(value) is dict or type(value) is list])
        if int in kinds or float in kinds:
            texts.append(repr([value for value in values if type(value) is int or type(value) is float]))
