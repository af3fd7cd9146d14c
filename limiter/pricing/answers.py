"""Reads what a call used from the provider's own answer: JSON, a stream of events, or no text at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from limiter.domain.calls import MODEL_MAX, Outcome, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument
from limiter.pricing.bodies import read_json, refusal
from limiter.pricing.extraction import rules_for
from limiter.pricing.shapes import Shape, opened, shape_of, tells_nothing_by_nature
from limiter.pricing.streams import StreamReader, is_stream, media_type, take_event
from limiter.pricing.suspicion import agree, level, usage_of
from limiter.pricing.tool_calls import count_tool_calls, used_by_others

_BODY: Final = "provider_response.body"

#: Longest provider_request_id that is kept.
_ID_MAX: Final = 256

#: Terms that change the price, by field of a request or answer, as price books name them.
_TERMS: Final = {
    "service_tier": frozenset({"priority", "flex", "fast"}),
    "speed": frozenset({"fast"}),
    "processing": frozenset({"batch"}),
}

#: How others than OpenAI and Anthropic say the same.
_TERMS_BY_VALUE: Final = {
    ("service_tier", "batch"): ("processing", "batch"),
    ("serviceTier", "priority"): ("service_tier", "priority"),
    ("serviceTier", "flex"): ("service_tier", "flex"),
    ("trafficType", "ON_DEMAND_PRIORITY"): ("service_tier", "priority"),
    ("trafficType", "ON_DEMAND_FLEX"): ("service_tier", "flex"),
}

#: Answers that are no text that could tell a usage: what was asked for is what was used.
_NO_TEXT: Final = ("audio/", "image/", "video/", "application/octet-stream", "application/pdf", "application/zip")
#: A stream of events that is not named one; JSON begins otherwise.
_EVENT_BEGINS: Final = (b"data:", b"event:", b"id:", b"retry:", b":")

_TRANSCRIPT: Final = ("text/plain", "text/vtt", "text/srt", "application/x-subrip")


@dataclass(frozen=True, slots=True)
class ResponseReading:
    """What an answer says. `usage` is None where it does not say what was used.

    `model` is the model as served, "" where it is not named. `context` is to be passed to the price book: terms that
    the call was served on, such as {"service_tier": "priority"}. `suspect`: why the provider's counts make no sense, ()
    if they do; `usage` are those counts all the same, and `larger` is the reading to charge. `as_asked`: such an answer
    never tells a usage (speech, a transcript, vectors without a count): what the request asked for is what was used.
    `others`: what the provider used of other models for this call, or beside what it counts in its usage, by model.
    """

    model: str
    usage: Usage | None
    provider_request_id: str
    outcome: Outcome = Outcome.COMPLETED
    context: dict[str, str] = field(default_factory=dict)
    suspect: tuple[str, ...] = ()
    as_asked: bool = False
    others: tuple[tuple[str, Usage], ...] = ()
    larger: Usage | None = None


_TERM_NAMES: Final = frozenset({*_TERMS, *(name for name, _ in _TERMS_BY_VALUE)})


def terms(stated: Mapping[str, object]) -> dict[str, str]:
    """Return, of what a request or answer states, the terms that change the price."""
    found: dict[str, str] = {}
    for name in _TERM_NAMES & stated.keys():
        told = stated[name]
        if isinstance(told, dict):
            told = told.get("type")  # Bedrock
        if not isinstance(told, str):
            continue
        if told in _TERMS.get(name, ()):
            found[name] = told
        elif meant := _TERMS_BY_VALUE.get((name, told)):
            found |= [meant]
    return found


def read_response(*, provider: str, response: ProviderResponse) -> ResponseReading:
    """Read what a call used from the provider's own answer.

    An answer of status 300 or more used nothing: its outcome is FAILED. A stream that broke off before it told its
    usage is ABORTED, with usage None. Counts of fractions, such as seconds, are rounded up. Raises InvalidArgument
    naming `provider_response.status` or `.body` for what cannot be read at all; counts that can be read but make no
    sense are `suspect`.
    """
    if not 200 <= response.status <= 599:
        raise InvalidArgument("provider_response.status", response.status, "give the final status, 200 to 599")
    if response.status >= 300:
        return ResponseReading("", Usage(), "", Outcome.FAILED)
    body, kind = response.body, media_type(response.content_type)
    if is_used_as_asked(kind) and not (kind in _TRANSCRIPT and body.lstrip().startswith(b"{")):
        return ResponseReading("", None, "", as_asked=True)
    if is_stream(kind) or body.startswith(_EVENT_BEGINS):
        stream = StreamReader(kind)
        stream.feed(body)
        stream.finish()
        if stream.events:
            return read_stream(stream, provider=provider)
        if not body.lstrip().startswith(b"{"):
            raise refusal(body, "send the stream of events as the provider sent it", field=_BODY)
    answer = read_json(body, field=_BODY, strict=False)
    if isinstance(answer, list):
        answer = _gathered(answer) or None
    if not isinstance(answer, dict):
        raise refusal(body, "send the provider's JSON object or stream of events", field=_BODY)
    return _reading(provider, answer, body, Outcome.COMPLETED)


def is_used_as_asked(content_type: str) -> bool:
    """Whether an answer of this type can tell no usage (speech, images, transcripts): the request says it all."""
    kind = media_type(content_type)
    return kind.startswith(_NO_TEXT) or kind in _TRANSCRIPT


def read_stream(stream: StreamReader, *, provider: str) -> ResponseReading:
    """Read what a stream has told so far; counts that are not final are no usage, and the outcome is ABORTED then.

    Raises InvalidArgument naming `provider_response.body` for a usage that cannot be read.
    """
    if stream.ended:
        return _reading(provider, stream.answer, b"", Outcome.COMPLETED)
    told = stream.answer
    return ResponseReading(_model(told), None, _id(told), Outcome.ABORTED, terms(told))


def usage_so_far(stream: StreamReader, *, provider: str) -> Usage | None:
    """Read the counts that a stream has told so far, final or not; None where it told none that can be read."""
    answer = opened(stream.answer)
    try:
        usage, _, larger = _usage(provider, answer, _shape(answer, b""), b"")
    except InvalidArgument:
        return None
    return larger or usage


def _reading(provider: str, told: Mapping[str, Any], body: bytes, outcome: Outcome) -> ResponseReading:
    answer = opened(told)
    shape = _shape(answer, body)
    usage, doubts, larger = _usage(provider, answer, shape, body)
    return ResponseReading(
        _model(answer),
        usage,
        _id(answer),
        outcome,
        terms(shape.reported) | terms(answer) | shape.terms,
        tuple(doubts),
        usage is None and tells_nothing_by_nature(answer),
        used_by_others(answer),
        larger,
    )


def _gathered(events: list[Any]) -> dict[str, Any]:
    """What a stream of Gemini amounts to that was asked for as one JSON list."""
    answer: dict[str, Any] = {}
    for event in events:
        if isinstance(event, dict):
            take_event(answer, event)
    return answer


def _shape(answer: Mapping[str, Any], body: bytes) -> Shape:
    shape = shape_of(answer)
    if shape is None:
        raise refusal(body, "its usage is no object", field=_BODY)
    return shape


def _usage(
    provider: str, answer: Mapping[str, Any], shape: Shape, body: bytes
) -> tuple[Usage | None, list[str], Usage | None]:
    """Read the usage by the rules of genai-prices for `provider`; None if there is none.

    Returns it, what is wrong with it, and, if something is, the larger reading.
    """
    beside = count_tool_calls(answer) | dict(shape.units)
    if not shape.name:
        return (usage_of(beside) if beside else None), [], None
    counts, doubts = _counts(provider if len(provider) <= MODEL_MAX else "", answer, shape, body)
    for unit, count in beside.items():
        counts.setdefault(unit, count)
    told = dict(counts)
    if shape.total is not None:
        doubts += agree(counts, shape.total)
    doubts += level(counts)
    usage = usage_of(counts)
    # Where nothing is wrong, what stands beside a count only has to be added to it.
    return (usage_of(told), doubts, usage) if doubts and told != counts else (usage, doubts, None)


def _counts(provider: str, answer: Mapping[str, Any], shape: Shape, body: bytes) -> tuple[dict[str, int], list[str]]:
    """Read by the first rules that find all they need, otherwise by the first that find anything."""
    best: tuple[dict[str, int], list[str]] = {}, []
    for rules in rules_for(provider, shape.name):
        doubts: list[str] = []
        counts = rules.counts(answer, doubts)
        if counts and rules.required <= counts.keys():
            return counts, doubts
        if not best[0] and shape.total is not None and "input_tokens" in counts:
            best = counts, doubts  # the provider's total tells the rest: `agree` adds it
    if not best[0]:
        raise refusal(body, "its usage cannot be read: no counts that are known", field=_BODY)
    return best


def _model(answer: Mapping[str, Any]) -> str:
    return _text(answer.get("model", answer.get("modelVersion")), MODEL_MAX)


def _id(answer: Mapping[str, Any]) -> str:
    return _text(answer.get("id", answer.get("responseId")), _ID_MAX)


def _text(value: object, longest: int) -> str:
    """A name for the books; what could not be stored there is left out."""
    return value if isinstance(value, str) and len(value) <= longest and value.isprintable() else ""
