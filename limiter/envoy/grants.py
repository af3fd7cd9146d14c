"""What Envoy's filters left in dynamic metadata for the settlement: only that counts, never a header."""

from __future__ import annotations

from typing import Final, NamedTuple

from google.protobuf import json_format
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from limiter.domain.calls import COUNT_MAX, Usage
from limiter.domain.errors import InvalidArgument
from limiter.domain.reservations import ReservationName
from limiter.envoy import answers
from limiter.envoy.v3 import ai_pb2, base_pb2
from limiter.pricing.streams import StreamReader
from limiter.pricing.suspicion import settled_reading

#: The namespace that Envoy puts a Check's metadata into. No client can write there.
AUTHORIZATION: Final = "envoy.filters.http.ext_authz"

#: What `envoy.filters.http.ai_protocol_manager` read in an answer.
TOKEN_USAGE: Final = "envoy.ai.token_usage"  # noqa: S105 - a name, no secret

#: Where the Lua filter of deploy/envoy/ leaves the events of a stream that tell its usage, as they came, or a JSON
#: answer without its long texts.
EVENTS_NAMESPACE: Final = "limiter"
EVENTS: Final = "events"
ANSWER: Final = "answer"
_EVENTS_TYPE: Final = "text/event-stream"


class Grant(NamedTuple):
    """A call that was let through. `max_output_field` "": the request bounds its output itself."""

    name: ReservationName
    provider: str
    stream: bool = False
    max_output_field: str = ""
    max_output_tokens: int = 0
    include_usage: bool = False
    body_tags: bool = False


class TokenCount(NamedTuple):
    """What Envoy's own reader found. `usage` None: nothing; `complete`: to the end of the answer."""

    usage: Usage | None
    model: str
    complete: bool


def read_grant(metadata: base_pb2.Metadata) -> Grant | None:
    """The call's grant; None for calls that were denied, or let through without asking."""
    fields = metadata.filter_metadata.get(AUTHORIZATION)
    if fields is None:
        return None
    try:
        name = ReservationName.parse(_text(fields, answers.RESERVATION))
    except InvalidArgument:
        return None
    tokens = fields.fields[answers.MAX_OUTPUT_TOKENS].number_value if answers.MAX_OUTPUT_TOKENS in fields else 0.0
    return Grant(
        name=name,
        provider=_text(fields, answers.PROVIDER),
        stream=_flag(fields, answers.STREAM),
        max_output_field=_text(fields, answers.MAX_OUTPUT_FIELD),
        max_output_tokens=int(tokens) if 0 < tokens <= COUNT_MAX else 0,
        include_usage=_flag(fields, answers.INCLUDE_USAGE),
        body_tags=_flag(fields, answers.BODY_TAGS),
    )


def read_token_count(metadata: base_pb2.Metadata) -> TokenCount | None:
    """What Envoy's own reader of answers counted, typed or untyped; None: it is not there or found nothing."""
    told = ai_pb2.TokenUsage()
    try:
        if TOKEN_USAGE in metadata.typed_filter_metadata:
            told.ParseFromString(metadata.typed_filter_metadata[TOKEN_USAGE].value)
        elif TOKEN_USAGE in metadata.filter_metadata:
            json_format.ParseDict(
                json_format.MessageToDict(metadata.filter_metadata[TOKEN_USAGE]), told, ignore_unknown_fields=True
            )
        else:
            return None
    except (DecodeError, json_format.ParseError):
        return None
    complete = told.extraction_status not in (ai_pb2.TokenUsage.PARTIAL, ai_pb2.TokenUsage.FAILED)
    if not told.HasField("input_tokens") and not told.HasField("output_tokens"):
        return TokenCount(None, told.model, complete=False)
    return TokenCount(_usage(told), told.model, complete)


def read_events(metadata: base_pb2.Metadata) -> StreamReader | None:
    """What the stream amounts to by those of its events that Envoy has kept; None: it kept none."""
    fields = metadata.filter_metadata.get(EVENTS_NAMESPACE)
    events = "" if fields is None else _text(fields, EVENTS)
    if not events:
        return None
    stream = StreamReader(_EVENTS_TYPE)
    stream.feed(events.encode())
    stream.finish()
    return stream


def read_kept_answer(metadata: base_pb2.Metadata) -> bytes:
    """The JSON answer that Envoy has kept, without its long texts; b"": it kept none."""
    fields = metadata.filter_metadata.get(EVENTS_NAMESPACE)
    return b"" if fields is None else _text(fields, ANSWER).encode()


def _usage(told: ai_pb2.TokenUsage) -> Usage:
    details = told.input_token_details
    counted = Usage(
        input_tokens=min(told.input_tokens.value, COUNT_MAX),
        output_tokens=min(told.output_tokens.value, COUNT_MAX),
        cache_read_tokens=min(details.cached_tokens.value, COUNT_MAX),
        cache_write_tokens=min(details.cache_creation_tokens.value, COUNT_MAX),
        reasoning_tokens=min(told.output_token_details.reasoning_tokens.value, COUNT_MAX),
    )
    # Envoy passes on what providers count beside their input and output: here it is no contradiction.
    usage, _ = settled_reading(counted)
    return usage


def _text(fields: Struct, name: str) -> str:
    return fields.fields[name].string_value if name in fields else ""


def _flag(fields: Struct, name: str) -> bool:
    return fields.fields[name].bool_value if name in fields else False
