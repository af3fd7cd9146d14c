"""Reads a provider's stream as its bytes come: what was used as soon as an event tells it, the last word wins.

Understood are server-sent events of OpenAI (chat, responses) and all who write the same, Anthropic, Gemini and
Cohere, and AWS's event stream as Bedrock writes it (converse, and events of others packed in `chunk`).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from limiter.domain.errors import InvalidArgument
from limiter.pricing.bodies import read_json
from limiter.pricing.encodings import Decoder
from limiter.pricing.framing import EVENT_MAX_BYTES, AwsEventStream, Event, Framing, ServerSentEvents
from limiter.pricing.tool_calls import searched, shown_only

_SSE: Final = "text/event-stream"
_AWS: Final = "application/vnd.amazon.eventstream"

_FIELD: Final = "provider_response.body"

#: Events that end a stream of OpenAI responses; they carry the whole answer.
_ENDINGS: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled"})

#: Events that end other streams, if they tell a usage: Anthropic, Cohere, OpenAI's transcripts, speech and images.
_ENDINGS_WITH_USAGE: Final = frozenset(
    {
        "message_delta",
        "message-end",
        "transcript.text.done",
        "speech.audio.done",
        "image_generation.completed",
        "image_edit.completed",
    }
)

#: What an event has in it that must be read; the others are text, and are only measured.
_TELLS: Final = re.compile(
    rb'"usage(?:Metadata)?"\s*:\s*\{|"message_stop"|"amazon-bedrock-invocationMetrics"|"webSearchQueries"'
    rb'|"type"\s*:\s*"response\.(?:completed|incomplete|failed|cancelled)"'
)

#: Events that carry a part of the answer. Those that repeat the whole of it at the end have neither word.
_PART: Final = re.compile(rb'"(?:delta|parts|outputText|generation)"\s*:')

#: The text in such a part, in whichever dialect.
_TEXT: Final = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|refusal|arguments|partial_json|thinking|input|delta'
    rb'|outputText|generation)"\s*:\s*"((?:[^"\\]|\\.)*+)"'
)


def is_stream(content_type: str) -> bool:
    """Whether an answer of this type is a stream of events that can be read."""
    return media_type(content_type) in (_SSE, _AWS)


@lru_cache(64)  # there are few
def media_type(content_type: str) -> str:
    """The type without its parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


class StreamReader:
    """One stream. It never raises for what a provider sends: what cannot be read is counted in `skipped`.

    `answer` is what the stream amounts to so far: id, model, terms and usage, as an answer that is no stream would
    have them. `ended`: the usage in it is final, or the stream came to its own end. `output_bytes`: bytes of text
    of the answer that have passed. `events`: those that could be read. `encoding` as in the answer's
    `content-encoding`; of an encoding that is not known, nothing can be read (`unreadable`).
    """

    def __init__(self, content_type: str, *, encoding: str = "", event_bytes_max: int = EVENT_MAX_BYTES) -> None:
        self.answer: dict[str, Any] = {}
        self.ended = False
        self.output_bytes = 0
        self.events = 0
        self._damaged = 0
        self._decoder = Decoder(encoding)
        framing = AwsEventStream if media_type(content_type) == _AWS else ServerSentEvents
        self._framing: Framing = framing(event_bytes_max=event_bytes_max)

    @property
    def skipped(self) -> int:
        """Events that were too large, damaged, or no JSON."""
        return self._framing.skipped + self._damaged

    @property
    def unreadable(self) -> bool:
        """Whether the stream is encoded in a way that cannot be undone here."""
        return self._decoder.failed

    def feed(self, data: bytes) -> None:
        """Take the next bytes, cut anywhere."""
        for piece in self._decoder.feed(data):
            for event in self._framing.feed(piece):
                self._take(event)

    def finish(self) -> None:
        """Say that no more bytes come."""
        for event in self._framing.rest():
            self._take(event)

    def _take(self, event: Event) -> None:
        data = event.data
        if event.kind == "chunk":
            data = _unpacked(data)
        if data == b"[DONE]":
            self.ended = True
            self.events += 1
            return
        if _PART.search(data):
            self.output_bytes += sum(map(len, _TEXT.findall(data)))
        # The first event names the model and some tell usage; the rest is not parsed.
        if self.events and not _TELLS.search(data):
            self.events += 1
            return
        try:
            told = read_json(data, field=_FIELD, strict=False)
        except InvalidArgument:
            self._damaged += 1
            return
        self.events += 1
        if isinstance(told, dict):
            self.ended = take_event(self.answer, told) or event.kind == "metadata" or self.ended


def take_event(answer: dict[str, Any], event: Mapping[str, Any]) -> bool:
    """Add what `event` tells to `answer`; return whether its usage is final, or it ends the stream."""
    kind = event.get("type")
    ends = isinstance(kind, str) and kind in _ENDINGS
    told_usage = _take_usage(answer, event.get("x_groq"))
    for inner in (event.get("message"), event.get("response"), event.get("delta"), event):
        if not isinstance(inner, dict):
            continue
        answer |= {name: inner[name] for name in _NAMES if isinstance(inner.get(name), str)}
        told_usage = _take_usage(answer, inner) or told_usage
        if ends:
            answer |= shown_only(inner)
    if kind == "message_start":
        answer["type"] = "message"
    if "candidates" in event:
        _take_searches(answer, event)
    counted = _take_metrics(answer, event)
    final = told_usage and ((isinstance(kind, str) and kind in _ENDINGS_WITH_USAGE) or _finished(event))
    return final or counted or ends or kind == "message_stop"


def _take_usage(answer: dict[str, Any], inner: object) -> bool:
    told_usage = False
    for name in ("usage", "usageMetadata"):
        if isinstance(inner, dict) and isinstance(inner.get(name), dict):
            told_usage = True
            # Counts are cumulative, and later events of Anthropic tell only some of them.
            told = {count: value for count, value in inner[name].items() if value is not None}
            answer[name] = answer.get(name, {}) | told
    return told_usage


def _take_searches(answer: dict[str, Any], chunk: Mapping[str, Any]) -> None:
    """Keep the searches that a chunk of Gemini tells; a later chunk may repeat them, or tell none."""
    if searched(chunk):
        told = [candidate.get("groundingMetadata") for candidate in chunk["candidates"] if isinstance(candidate, dict)]
        kept = {"candidates": [{"groundingMetadata": each} for each in told]}
        if searched(kept) >= searched({"candidates": [], **answer}):
            answer |= kept


_NAMES: Final = ("id", "model", "service_tier", "modelVersion", "responseId")


def _finished(event: Mapping[str, Any]) -> bool:
    """Whether a chunk is the last one with counts: OpenAI's has no choices, in those of others every one is finished.

    The streams of Gemini have no other end. Counts that go along with unfinished choices are not final.
    """
    for choices, reason in (("choices", "finish_reason"), ("candidates", "finishReason")):
        listed = event.get(choices)
        if isinstance(listed, list) and (listed or choices == "choices"):
            return all(isinstance(choice, dict) and choice.get(reason) for choice in listed)
    return False


def _take_metrics(answer: dict[str, Any], event: Mapping[str, Any]) -> bool:
    """Take Bedrock's own count, which comes with the last chunk; only models that tell none themselves need it."""
    metrics = event.get("amazon-bedrock-invocationMetrics")
    if not isinstance(metrics, dict):
        return False
    if "usage" not in answer:
        counts = {name: metrics.get(told) for name, told in _METRICS}
        answer["usage"] = {name: count for name, count in counts.items() if count is not None}
    return True


#: Bedrock's names for its own counts, by those that converse has for them.
_METRICS: Final = (
    ("inputTokens", "inputTokenCount"),
    ("outputTokens", "outputTokenCount"),
    ("cacheReadInputTokens", "cacheReadInputTokenCount"),
    ("cacheWriteInputTokens", "cacheWriteInputTokenCount"),
)


def _unpacked(data: bytes) -> bytes:
    """What Bedrock packed into a chunk of invoke-with-response-stream; the chunk itself if it is none."""
    try:
        return base64.b64decode(json.loads(data)["bytes"], validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
        return data
