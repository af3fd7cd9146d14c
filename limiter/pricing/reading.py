"""Reads the provider's own request and answer, so that callers need not know what a call costs.

Understood are the interfaces in :class:`limiter.pricing.hosts.Dialect`. Another one is added there, by a
reader in `_READERS`, and by a reader of its answers in :mod:`limiter.pricing.answers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from limiter.domain.calls import COUNT_MAX, MODEL_MAX, TAG_NAME_MAX, TAG_VALUE_MAX, TAGS_MAX, ProviderRequest
from limiter.domain.errors import InvalidArgument
from limiter.pricing.answers import ResponseReading, read_response, terms
from limiter.pricing.bodies import read_object
from limiter.pricing.hosts import Dialect, endpoint
from limiter.pricing.sizes import measure

__all__ = ["CallReading", "ResponseReading", "read_request", "read_response"]

#: The most answers to one request (OpenAI's own bound).
CHOICES_MAX: Final = 128

_BODY: Final = "provider_request.body"

#: The field of a request that bounds its output.
_OUTPUT_FIELDS: Final = {
    Dialect.OPENAI_CHAT: "max_completion_tokens",
    Dialect.OPENAI_RESPONSES: "max_output_tokens",
    Dialect.ANTHROPIC_MESSAGES: "max_tokens",
}

#: Providers whose chat completions know max_completion_tokens; the others know only max_tokens.
_NEWER_CHAT: Final = frozenset({"openai", "azure", "cerebras", "google", "groq", "x-ai"})

#: Providers whose chat streams tell their usage unasked, and which do not know stream_options.
_TELL_USAGE: Final = frozenset({"mistral", "perplexity"})


@dataclass(frozen=True, slots=True)
class CallReading:
    """What a request says about its size; `provider` and `model` as the price book is asked for them.

    `input_tokens` is an upper bound if `bounded`; otherwise the provider adds input of its own (earlier turns,
    searches, files by reference), and only the model's context window bounds it. `max_output_tokens` is per choice,
    None where the request sets no limit; the call may produce `choices` times that. `units` and `context` are to
    be passed on to the price: dearer kinds of input, and terms such as {"service_tier": "priority"}.
    `output_field` is the field of the body by which the call could bound its output ("": there is none).
    `usage_unasked`: a stream that tells its usage only if stream_options.include_usage asks for it, which it does not.
    `in_background`: the answer does not wait for the model, and does not tell what it will have used.
    """

    provider: str
    model: str
    stream: bool
    input_tokens: int
    max_output_tokens: int | None
    choices: int = 1
    tags: tuple[tuple[str, str], ...] = ()
    bounded: bool = True
    units: dict[str, int] = field(default_factory=dict)
    context: dict[str, str] = field(default_factory=dict)
    output_field: str = ""
    usage_unasked: bool = False
    in_background: bool = False


def read_request(request: ProviderRequest) -> CallReading:
    """Read the size of a call from the provider's own request.

    Raises InvalidArgument naming `provider_request.host`, `.path` or `.body` and what to do: for hosts and paths that
    are not known, for a body that is not strict JSON (see :func:`limiter.pricing.bodies.read_json`), and
    for sizes that are no counts. What the provider itself would refuse need not be refused here.
    """
    where = endpoint(request.host, request.path)
    body = read_object(request.body, field=_BODY)
    model = where.model or _model(body)
    if where.provider == "openrouter" and body.get("models"):
        raise InvalidArgument(f"{_BODY}.models", body["models"], "name one model: a fallback may cost more")
    size = measure(request.body, body, model=model, dialect=where.dialect)
    max_output_tokens, choices = _READERS[where.dialect](body)
    output_field = _output_field(where.dialect, where.provider)
    if output_field == "max_tokens" and body.get("max_tokens") is None:
        max_output_tokens = None  # a host that may not know the newer name does not obey it
    stream = _flag(body, "stream")
    return CallReading(
        provider=where.provider,
        model=model,
        stream=stream,
        input_tokens=size.input_tokens,
        max_output_tokens=max_output_tokens,
        choices=choices,
        tags=_tags(body.get("metadata")),
        bounded=size.bounded,
        units=size.units,
        context=terms(body),
        output_field=output_field,
        usage_unasked=stream and _usage_unasked(where.dialect, where.provider, body.get("stream_options")),
        in_background=where.dialect is Dialect.OPENAI_RESPONSES and _flag(body, "background"),
    )


def _output_field(dialect: Dialect, provider: str) -> str:
    if dialect is Dialect.OPENAI_CHAT and provider not in _NEWER_CHAT:
        return "max_tokens"
    return _OUTPUT_FIELDS.get(dialect, "")


def _usage_unasked(dialect: Dialect, provider: str, options: object) -> bool:
    if dialect is not Dialect.OPENAI_CHAT or provider in _TELL_USAGE:
        return False
    return options is None or (isinstance(options, dict) and options.get("include_usage") is not True)


def _openai_chat(body: Mapping[str, Any]) -> tuple[int | None, int]:
    # Hosts differ in which of the two they obey, so the larger one counts.
    limits = [_count(body, name, COUNT_MAX) for name in ("max_completion_tokens", "max_tokens")]
    largest = max((limit for limit in limits if limit is not None), default=None)
    return largest, _count(body, "n", CHOICES_MAX) or 1


def _openai_responses(body: Mapping[str, Any]) -> tuple[int | None, int]:
    return _count(body, "max_output_tokens", COUNT_MAX), 1


def _anthropic_messages(body: Mapping[str, Any]) -> tuple[int | None, int]:
    return _count(body, "max_tokens", COUNT_MAX), 1


def _openai_embeddings(body: Mapping[str, Any]) -> tuple[int | None, int]:
    del body
    return 0, 1  # vectors are no output that anybody counts


_READERS: Final[Mapping[Dialect, Callable[[Mapping[str, Any]], tuple[int | None, int]]]] = {
    Dialect.OPENAI_CHAT: _openai_chat,
    Dialect.OPENAI_RESPONSES: _openai_responses,
    Dialect.ANTHROPIC_MESSAGES: _anthropic_messages,
    Dialect.OPENAI_EMBEDDINGS: _openai_embeddings,
}


def _count(body: Mapping[str, Any], name: str, largest: int) -> int | None:
    """Read a count of 1 to `largest`; null is as good as absent, as it is to the providers."""
    value = body.get(name)
    if value is None:
        return None
    # bool is a kind of int in Python, not in JSON.
    if type(value) is not int or not 1 <= value <= largest:
        raise InvalidArgument(f"{_BODY}.{name}", value, f"write a whole number from 1 to {largest}")
    return value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidArgument(f"{_BODY}.{name}", value, "write true or false")
    return value is True


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    # isprintable is false of control characters and of half surrogates, which no one could store.
    if not isinstance(model, str) or not 1 <= len(model) <= MODEL_MAX or not model.isprintable():
        raise InvalidArgument(f"{_BODY}.model", model, f"name the model in 1 to {MODEL_MAX} printable characters")
    return model


def _tags(metadata: object) -> tuple[tuple[str, str], ...]:
    """Read `"tags": ["customer:acme"]`; other metadata, and texts without a colon, are not ours."""
    listed = metadata.get("tags") if isinstance(metadata, dict) else None
    if not isinstance(listed, list):
        return ()
    tags = []
    for text in listed:
        if not isinstance(text, str) or ":" not in text:
            continue
        name, _, value = text.partition(":")
        if not 1 <= len(name) <= TAG_NAME_MAX or not 1 <= len(value) <= TAG_VALUE_MAX or not text.isprintable():
            remedy = f"write name:value with up to {TAG_NAME_MAX} and {TAG_VALUE_MAX} printable characters"
            raise InvalidArgument(f"{_BODY}.metadata.tags", text, remedy)
        tags.append((name, value))
    if len(tags) > TAGS_MAX:
        raise InvalidArgument(f"{_BODY}.metadata.tags", len(tags), f"give at most {TAGS_MAX} tags")
    return tuple(tags)
