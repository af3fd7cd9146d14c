"""Reads what a call used from the provider's own answer: JSON, or a stream of events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any, Final

from genai_prices.data import providers as quoted_providers
from genai_prices.data_snapshot import find_provider_by_id
from genai_prices.types import Usage as ExtractedUsage
from genai_prices.types import UsageExtractor

from limiter.domain.calls import COUNT_MAX, MODEL_MAX, Outcome, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument
from limiter.pricing.bodies import read_json, refusal
from limiter.pricing.streams import StreamReader, is_stream, take_event
from limiter.pricing.units import FIELDS

_BODY: Final = "provider_response.body"

#: Where an answer tells what was used.
_USAGES: Final = ("usage", "usageMetadata", "meta")

#: Longest provider_request_id that is kept.
_ID_MAX: Final = 256

#: Terms that change the price, by field of a request or answer.
_TERMS: Final = {"service_tier": frozenset({"priority", "flex", "fast"}), "speed": frozenset({"fast"})}


@dataclass(frozen=True, slots=True)
class ResponseReading:
    """What an answer says. `usage` is None where it does not say what was used.

    `model` is the model as served, "" where it is not named. `context` is to be passed to the price book:
    terms that the call was served on, such as {"service_tier": "priority"}.
    """

    model: str
    usage: Usage | None
    provider_request_id: str
    outcome: Outcome = Outcome.COMPLETED
    context: dict[str, str] = field(default_factory=dict)


def terms(stated: Mapping[str, object]) -> dict[str, str]:
    """Return, of what a request or answer states, the terms that change the price."""
    return {name: term for name, known in _TERMS.items() if isinstance(term := stated.get(name), str) and term in known}


def read_response(*, provider: str, response: ProviderResponse) -> ResponseReading:
    """Read what a call used from the provider's own answer.

    An answer of status 300 or more used nothing: its outcome is FAILED. A stream that broke off before it told its
    usage is ABORTED, with usage None. Counts of fractions, such as seconds, are rounded up. Raises InvalidArgument
    naming `provider_response.status` or `.body` for what cannot be read.
    """
    if not 200 <= response.status <= 599:
        raise InvalidArgument("provider_response.status", response.status, "give the final status, 200 to 599")
    if response.status >= 300:
        return ResponseReading("", Usage(), "", Outcome.FAILED)
    body = response.body
    if is_stream(response.content_type):
        stream = StreamReader(response.content_type)
        stream.feed(body)
        stream.finish()
        if not stream.events:
            raise refusal(body, "send the stream of events as the provider sent it", field=_BODY)
        return read_stream(stream, provider=provider)
    answer = read_json(body, field=_BODY, strict=False)
    if isinstance(answer, list):
        answer = _gathered(answer) or None
    if not isinstance(answer, dict):
        raise refusal(body, "send the provider's JSON object or stream of events", field=_BODY)
    return _reading(provider, answer, body, Outcome.COMPLETED)


def read_stream(stream: StreamReader, *, provider: str) -> ResponseReading:
    """Read what a stream has told so far; counts that are not final are no usage, and the outcome is ABORTED then.

    Raises InvalidArgument naming `provider_response.body` for a usage that cannot be read.
    """
    if stream.ended:
        return _reading(provider, stream.answer, b"", Outcome.COMPLETED)
    told = {name: value for name, value in stream.answer.items() if name not in _USAGES}
    return _reading(provider, told, b"", Outcome.ABORTED)


def usage_so_far(stream: StreamReader, *, provider: str) -> Usage | None:
    """Read the counts that a stream has told so far, final or not; None where it told none that can be read."""
    try:
        return _usage(provider, stream.answer, b"")
    except InvalidArgument:
        return None


def _reading(provider: str, answer: Mapping[str, Any], body: bytes, outcome: Outcome) -> ResponseReading:
    reported = answer.get("usage")
    return ResponseReading(
        model=_text(answer.get("model", answer.get("modelVersion")), MODEL_MAX),
        usage=_usage(provider, answer, body),
        provider_request_id=_text(answer.get("id", answer.get("responseId")), _ID_MAX),
        outcome=outcome,
        context=terms(reported if isinstance(reported, dict) else {}) | terms(answer),
    )


def _gathered(events: list[Any]) -> dict[str, Any]:
    """What a stream of Gemini amounts to that was asked for as one JSON list."""
    answer: dict[str, Any] = {}
    for event in events:
        if isinstance(event, dict):
            take_event(answer, event)
    return answer


def _usage(provider: str, answer: Mapping[str, Any], body: bytes) -> Usage | None:
    """Extract the usage by the rules of genai-prices for `provider`; None if the answer has none."""
    billed = answer.get("meta")
    reported = answer.get("usage") or answer.get("usageMetadata")
    if not reported and isinstance(billed, dict):
        reported = billed.get("billed_units")
    if not reported:
        return None
    if not isinstance(reported, dict):
        raise refusal(body, "its usage is no object", field=_BODY)
    if all(isinstance(value, str) for value in reported.values()):
        return None  # Gemini, of a prompt that it blocked: traffic type and no count
    failures: list[str] = []
    known = provider if len(provider) <= MODEL_MAX else ""
    for extractor in _extractors(known, _shape(answer, reported)):
        try:
            _, extracted = extractor.extract(answer)
        except ValueError as error:
            failures.append(str(error))
        else:
            return _counts(extracted, body)
    raise refusal(body, f"its usage cannot be read: {failures[0] if failures else 'unknown form'}", field=_BODY)


def _shape(answer: Mapping[str, Any], reported: Mapping[str, Any]) -> str:
    """Tell the interface by the answer: hosts of one provider may offer several."""
    if "prompt_tokens" in reported:
        return "chat" if "completion_tokens" in reported or "data" not in answer else "embeddings"
    if answer.get("type") == "message" or "cache_read_input_tokens" in reported:
        return "anthropic"
    if "input_tokens" in reported:
        return "billed" if reported is not answer.get("usage") else "responses"
    if "inputTokens" in reported:
        return "converse"
    return "gemini" if reported is answer.get("usageMetadata") else ""


@lru_cache(1024)
def _extractors(provider: str, shape: str) -> Sequence[UsageExtractor]:
    """The provider's own rules for answers of that shape, then those of the interface's inventor."""
    flavors, inventor, invented = {
        "chat": (("chat", "default"), "openai", "chat"),
        "responses": (("responses", "default"), "openai", "responses"),
        "anthropic": (("anthropic",), "anthropic", "default"),
        "embeddings": (("embeddings",), "openai", "embeddings"),
        "billed": (("embeddings",), "cohere", "embeddings"),
        "converse": ((), "aws", "default"),
        "gemini": ((), "google", "default"),
    }.get(shape, (("default",), "", ""))
    wanted = [(provider, flavor) for flavor in flavors] + [(inventor, invented)]
    found = [(find_provider_by_id(quoted_providers, name), flavor) for name, flavor in wanted if name]
    return tuple(
        extractor
        for maker, flavor in found
        for extractor in (maker.extractors if maker and maker.extractors else ())
        if extractor.api_flavor == flavor
    )


def _counts(extracted: ExtractedUsage, body: bytes) -> Usage:
    """Translate to our words: fields by name, the rest as units."""
    fields: dict[str, int] = {}
    units: dict[str, int] = {}
    for name, value in vars(extracted).items():
        count = value if type(value) is int else int(Decimal(str(value)).to_integral_value(ROUND_CEILING))
        if count > COUNT_MAX:
            raise refusal(body, f"its usage is absurd: {name} {value}", field=_BODY)
        if name in FIELDS:
            fields[FIELDS[name]] = count
        elif count:
            units[name] = count
    return Usage(**fields, units=units)


def _text(value: object, longest: int) -> str:
    """A name for the books; what could not be stored there is left out."""
    return value if isinstance(value, str) and len(value) <= longest and value.isprintable() else ""
