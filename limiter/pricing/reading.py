"""Reads the provider's own request, so that callers need not know what a call costs.

:mod:`limiter.pricing.hosts` tells by host and path whose call it is and in which interface it is written;
:mod:`limiter.pricing.asking`, :mod:`limiter.pricing.media` and :mod:`limiter.pricing.uploads` read what is asked for in
each of them, and :mod:`limiter.pricing.sizes` how large the input is. Another interface is added to
:mod:`limiter.pricing.paths`, by a reader in `_READERS`, and by a reader of its answers.

How much is asked for, and how large that is, depends on the model, and the name of a deployment does not tell which
model that is. Only a policy's aliases do, so that a size is found once the model is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol

from limiter.domain.calls import ProviderRequest
from limiter.domain.errors import InvalidArgument
from limiter.pricing import asking, media
from limiter.pricing.answers import ResponseReading, read_response
from limiter.pricing.asking import NO_TERMS, Asked, Body
from limiter.pricing.bodies import read_object
from limiter.pricing.bounds import Bound, Size
from limiter.pricing.forms import Form, is_form, read_form
from limiter.pricing.hosts import Endpoint, endpoint
from limiter.pricing.paths import Dialect
from limiter.pricing.request_fields import BODY, flag, labels_of, tags_of
from limiter.pricing.sizes import measure
from limiter.pricing.uploads import as_body, read_upload

__all__ = ["CallReading", "ResponseReading", "read_request", "read_response"]

#: Providers whose chat streams tell their usage unasked, and which do not know stream_options.
_TELL_USAGE: Final = frozenset({"mistral", "perplexity"})

#: Terms that change the price, by field of a request.
_TERMS: Final = {"service_tier": frozenset({"priority", "flex", "fast"}), "speed": frozenset({"fast"})}

#: Interfaces that take a form as well as JSON, or a form only.
_FORMS: Final = frozenset({Dialect.OPENAI_TRANSCRIPTIONS, Dialect.OPENAI_IMAGES, Dialect.OPENAI_VIDEOS})


class Content(Protocol):
    """What a request holds."""

    def size(self) -> Size:
        """Return how large its input is."""

    def for_model(self, model: str) -> CallReading:
        """Read it as one to `model`."""


class CallReading(NamedTuple):
    """What a request says about its size; `provider` and `model` as the price book is asked for them.

    `max_output_tokens` is per choice, None where the request sets no limit; the call may produce `choices` times that.
    `context` is to be passed on to the price: terms such as {"service_tier": "priority"} or {"quality": "hd"}.
    `output_field` is the field of the body by which the call could bound its output, with dots where it is inside of
    others ("generationConfig.maxOutputTokens"); "": there is none. `operation` is one of
    :data:`limiter.domain.calls.OPERATIONS`.
    `usage_unasked`: a stream that tells its usage only if stream_options.include_usage asks for it, which it does not.
    `in_background`: the answer does not wait for the model, and does not tell what it will have used.
    `thinking`: how much the model is told that it may think; it counts where no maximum output is named.
    """

    provider: str
    model: str
    stream: bool
    max_output_tokens: int | None
    content: Content
    operation: str = "chat"
    dialect: Dialect = Dialect.OPENAI_CHAT
    choices: int = 1
    tags: tuple[tuple[str, str], ...] = ()
    context: Mapping[str, str] = NO_TERMS
    output_field: str = ""
    usage_unasked: bool = False
    in_background: bool = False
    thinking: int = 0

    @property
    def size(self) -> Size:
        """How large the input is, found when it is first asked for."""
        return self.content.size()

    def for_model(self, model: str) -> CallReading:
        """Return what the request says if it goes to `model`, for which the name in it stands.

        Provider, interface and tags are those of the request. Raises InvalidArgument as :func:`read_request` does.
        """
        return self if model == self.model else self.content.for_model(model)._replace(tags=self.tags)


def read_request(request: ProviderRequest) -> CallReading:
    """Read the size of a call from the provider's own request.

    Raises InvalidArgument naming `provider_request.host`, `.path` or `.body` and what to do: for paths that are not
    read, for a body that is not strict JSON (see :func:`limiter.pricing.bodies.read_json`) or the form that the path
    takes, and for sizes that are no counts. What the provider itself would refuse need not be refused here.
    """
    where = endpoint(request.host, request.path)
    form: Form | None = None
    if is_form(request.body) and where.dialect in _FORMS:
        form = read_form(request.body, content_type=request.content_type, place=BODY)
        body: dict[str, Any] = as_body(form)
    else:
        body = read_object(request.body, field=BODY)
    if where.dialect is Dialect.BEDROCK_INVOKE:
        where = _invoked(where, body)
    model, provider = (where.model, where.provider) if where.model else asking.body_model(body, where.provider)
    _check(where, body, model)
    return _read(_Received(request.body, body, form, where, provider), model)


class _Received(NamedTuple):
    """What came, whichever model it is for; `body` are the fields of the JSON `data`, or of a form."""

    data: bytes
    body: dict[str, Any]
    form: Form | None
    where: Endpoint
    provider: str


class _Content:
    """What came, and what of it is asked of a model."""

    __slots__ = ("_asked", "_model", "_received", "_size")

    def __init__(self, received: _Received, model: str, asked: Asked, size: Size | None) -> None:
        self._received, self._model, self._asked, self._size = received, model, asked, size

    def size(self) -> Size:
        if self._size is None:
            received = self._received
            size = measure(received.data, received.body, model=self._model, dialect=received.where.dialect)
            self._size = _with_units(size, self._asked)
        return self._size

    def for_model(self, model: str) -> CallReading:
        return _read(self._received, model)


def _read(received: _Received, model: str) -> CallReading:
    """Read what came as a request to `model`."""
    _, body, form, where, provider = received
    dialect, operation = where.dialect, where.operation
    size = None
    if form is None:
        if dialect is Dialect.BEDROCK_INVOKE:
            operation = _invoked(replace(where, model=model), body).operation
        asked = _READERS[dialect](body, provider, model)
    else:
        asked, size = read_upload(form, body, dialect=dialect, provider=provider, model=model)
        size = _with_units(size, asked)
    stream = flag(body, "stream") if where.stream is None else where.stream
    return CallReading(
        provider,
        model,
        stream,
        asked.max_output_tokens,
        _Content(received, model, asked, size),
        operation,
        dialect,
        asked.choices,
        _tags(dialect, body),
        asked.context if _TERMS.keys().isdisjoint(body) else _terms(body, asked.context),
        asked.output_field,
        stream and _usage_unasked(dialect, provider, body.get("stream_options")),
        dialect is Dialect.OPENAI_RESPONSES and flag(body, "background"),
        asked.thinking,
    )


def _check(where: Endpoint, body: Body, model: str) -> None:
    """Refuse a request that names several models: another one than the first may answer."""
    if body.get("models") and where.provider in ("openrouter", "vercel"):
        raise InvalidArgument(f"{BODY}.models", body["models"], "name one model: a fallback may cost more")
    if where.dialect is Dialect.GEMINI_EMBEDDINGS:
        asking.check_models(body, model)


def _invoked(where: Endpoint, body: Body) -> Endpoint:
    """Bedrock passes on whatever the model's maker takes; of a profile, the form of the request tells who that is."""
    model = where.model
    by_form = asking.is_profile(model) and "prompt" not in body
    if by_form and "anthropic_version" in body and "n" not in body:
        return replace(where, dialect=Dialect.ANTHROPIC_MESSAGES)
    by_form = by_form and "messages" not in body
    operation = "chat"
    if "embed" in model or (by_form and not _VECTORS.isdisjoint(body)):
        operation = "embeddings"
    elif "rerank" in model or (by_form and "query" in body and "documents" in body):
        operation = "rerank"
    elif any(maker in model for maker in _IMAGE_MAKERS):
        operation = "images"
    return replace(where, operation=operation)


#: Fields that only requests for vectors have.
_VECTORS: Final = frozenset({"texts", "singleEmbeddingParams", "embeddingTypes", "normalize", "embeddingConfig"})

_IMAGE_MAKERS: Final = ("stability.", "nova-canvas", "titan-image")


def _bedrock_invoke(body: Body, provider: str, model: str) -> Asked:
    operation = _invoked(Endpoint(provider, Dialect.BEDROCK_INVOKE, model), body).operation
    if operation == "embeddings":
        return asking.no_output(body, provider, model)
    if operation == "rerank":
        return asking.rerank(body, provider, model)
    if operation == "images":
        return media.bedrock_images(body, provider, model)
    return asking.bedrock_invoke(body, provider, model)


def _with_units(size: Size, asked: Asked) -> Size:
    """Add to a size what is asked for beside tokens."""
    if asked.input_tokens is not None:
        strict, safe = asked.input_tokens
        size = Size(Bound(strict), Bound(safe), size.growth)
    if not asked.units:
        return size
    safe_units = asked.units if asked.safe_units is None else asked.safe_units
    return Size(
        Bound(size.strict.input_tokens, {**size.strict.units, **asked.units}),
        Bound(size.safe.input_tokens, {**size.safe.units, **safe_units}),
        size.growth,
    )


def _tags(dialect: Dialect, body: Body) -> tuple[tuple[str, str], ...]:
    if dialect is Dialect.GEMINI:
        return labels_of(body, "labels")
    if dialect is Dialect.BEDROCK_CONVERSE:
        return labels_of(body, "requestMetadata")
    return tags_of(body.get("metadata"))


def _terms(body: Body, asked: Mapping[str, str]) -> dict[str, str]:
    """Return, of what a request states, the terms that change the price."""
    found = {name: term for name, known in _TERMS.items() if isinstance(term := body.get(name), str) and term in known}
    return {**found, **asked}


def _usage_unasked(dialect: Dialect, provider: str, options: object) -> bool:
    if dialect not in (Dialect.OPENAI_CHAT, Dialect.OPENAI_COMPLETIONS) or provider in _TELL_USAGE:
        return False
    return options is None or (isinstance(options, dict) and options.get("include_usage") is not True)


_READERS: Final[Mapping[Dialect, Callable[[Body, str, str], Asked]]] = {
    Dialect.OPENAI_CHAT: asking.openai_chat,
    Dialect.OPENAI_RESPONSES: asking.openai_responses,
    Dialect.ANTHROPIC_MESSAGES: asking.anthropic_messages,
    Dialect.OPENAI_EMBEDDINGS: asking.no_output,
    Dialect.OPENAI_COMPLETIONS: asking.openai_completions,
    Dialect.OPENAI_IMAGES: media.openai_images,
    Dialect.OPENAI_SPEECH: media.openai_speech,
    Dialect.OPENAI_TRANSCRIPTIONS: media.transcription_by_url,
    Dialect.OPENAI_MODERATIONS: asking.no_output,
    Dialect.OPENAI_VIDEOS: media.openai_videos,
    Dialect.GEMINI: asking.gemini,
    Dialect.GEMINI_EMBEDDINGS: asking.no_output,
    Dialect.VERTEX_PREDICT: media.vertex_predict,
    Dialect.BEDROCK_CONVERSE: asking.bedrock_converse,
    Dialect.BEDROCK_INVOKE: _bedrock_invoke,
    Dialect.COHERE_CHAT: asking.cohere_chat,
    Dialect.COHERE_EMBED: asking.no_output,
    Dialect.RERANK: asking.rerank,
    Dialect.OCR: media.ocr,
}
