"""Reads what a call used from the provider's own answer: JSON, or a stream of events."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
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
from limiter.pricing.units import FIELDS

_BODY: Final = "provider_response.body"

#: Longest provider_request_id that is kept.
_ID_MAX: Final = 256

_LINE_END: Final = re.compile(rb"\r\n|\n|\r")

#: Events that end a stream of OpenAI responses; they carry the whole answer.
_ENDINGS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})

_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{|"message_stop"')

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
    if response.content_type.partition(";")[0].strip().lower() == "text/event-stream":
        answer, ended = _read_stream(response.body)
    else:
        answer, ended = read_json(response.body, field=_BODY, strict=False), True
    if not isinstance(answer, dict):
        raise refusal(response.body, "send the provider's JSON object or stream of events", field=_BODY)
    reported = answer.get("usage")
    return ResponseReading(
        model=_text(answer.get("model", answer.get("modelVersion")), MODEL_MAX),
        usage=_usage(provider, answer, response.body),
        provider_request_id=_text(answer.get("id", answer.get("responseId")), _ID_MAX),
        outcome=Outcome.COMPLETED if ended else Outcome.ABORTED,
        context=terms(reported if isinstance(reported, dict) else {}) | terms(answer),
    )


def _usage(provider: str, answer: Mapping[str, Any], body: bytes) -> Usage | None:
    """Extract the usage by the rules of genai-prices for `provider`; None if the answer has none."""
    reported = answer.get("usage") or answer.get("usageMetadata")
    if not reported:
        return None
    if not isinstance(reported, dict):
        raise refusal(body, "its usage is no object", field=_BODY)
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
        return "chat"
    if answer.get("type") == "message" or "cache_read_input_tokens" in reported:
        return "anthropic"
    return "responses" if "input_tokens" in reported else ""


@lru_cache(1024)
def _extractors(provider: str, shape: str) -> Sequence[UsageExtractor]:
    """The provider's own rules for answers of that shape, then those of the interface's inventor."""
    flavors, inventor, invented = {
        "chat": (("chat", "default"), "openai", "chat"),
        "responses": (("responses", "default"), "openai", "responses"),
        "anthropic": (("anthropic",), "anthropic", "default"),
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
        count = int(Decimal(str(value)).to_integral_value(ROUND_CEILING))
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


def _read_stream(body: bytes) -> tuple[dict[str, Any], bool]:
    """Return the answer that a stream amounts to (id, model, usage), and whether it came to its end."""
    answer: dict[str, Any] = {}
    events = [data for data in _events(body) if data]
    ended = False
    for position, data in enumerate(events):
        if data == b"[DONE]":
            ended = True
        # The first event names the model and some tell usage; the rest is text, and is not parsed.
        elif position == 0 or _USAGE.search(data):
            try:
                event = read_json(data, field=_BODY, strict=False)
            except InvalidArgument:
                if position == 0 or position < len(events) - 1:
                    raise
                break  # cut off in the middle of an event
            if isinstance(event, dict):
                ended = _take_event(answer, event) or ended
    if not events:
        raise refusal(body, "send the stream of events as the provider sent it", field=_BODY)
    if not ended:
        answer.pop("usage", None)  # counts so far are no usage
    return answer, ended


def _take_event(answer: dict[str, Any], event: Mapping[str, Any]) -> bool:
    """Add what `event` tells to `answer`; return whether its usage is final, or it ends the stream."""
    kind = event.get("type")
    told_usage = False
    for inner in (event.get("message"), event.get("response"), event):
        if not isinstance(inner, dict):
            continue
        answer |= {name: inner[name] for name in ("id", "model", "service_tier") if isinstance(inner.get(name), str)}
        if isinstance(inner.get("usage"), dict):
            told_usage = True
            # Anthropic's counts are cumulative, and later events tell only some of them.
            told = {name: value for name, value in inner["usage"].items() if value is not None}
            answer["usage"] = answer.get("usage", {}) | told
    if kind == "message_start":
        answer["type"] = "message"
    # OpenAI's last chunk has usage and no choices; others may count along in every chunk.
    final = told_usage and (kind == "message_delta" or event.get("choices") == [])
    return final or kind == "message_stop" or (isinstance(kind, str) and kind in _ENDINGS)


def _events(body: bytes) -> Iterator[bytes]:
    """Yield the data of each event; an event ends with an empty line."""
    data: list[bytes] = []
    for line in _LINE_END.split(body):
        if line.startswith(b"data:"):
            data.append(line[5:].strip())
        elif not line and data:
            yield b"\n".join(data)
            data = []
    if data:
        yield b"\n".join(data)
