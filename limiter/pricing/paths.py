"""Which interface stands behind a path: what is asked for there, how it is written, and where the model is named.

An :class:`Interface` is a set of exact paths that providers offer together, below some prefix. A model in a path is
decoded once, as the provider does it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple
from urllib.parse import unquote

from limiter.domain.calls import MODEL_MAX


class Dialect(Enum):
    """An interface: how requests and answers are written."""

    OPENAI_CHAT = "openai chat completions"
    OPENAI_RESPONSES = "openai responses"
    ANTHROPIC_MESSAGES = "anthropic messages"
    OPENAI_EMBEDDINGS = "openai embeddings"
    OPENAI_COMPLETIONS = "openai completions"
    OPENAI_IMAGES = "openai images"
    OPENAI_SPEECH = "openai speech"
    OPENAI_TRANSCRIPTIONS = "openai transcriptions"
    OPENAI_MODERATIONS = "openai moderations"
    OPENAI_VIDEOS = "openai videos"
    GEMINI = "gemini generate content"
    GEMINI_EMBEDDINGS = "gemini embed content"
    VERTEX_PREDICT = "vertex predict"
    BEDROCK_CONVERSE = "bedrock converse"
    BEDROCK_INVOKE = "bedrock invoke"
    COHERE_CHAT = "cohere chat"
    COHERE_EMBED = "cohere embed"
    RERANK = "rerank"
    OCR = "mistral ocr"

    # Members are looked up by for every call, and each is one object: its address is hash enough.
    __hash__ = object.__hash__


class Shape(NamedTuple):
    """What a path is for. `stream` None: the body says. `remedy`: it is known and not read; what to do instead."""

    dialect: Dialect
    operation: str
    stream: bool | None = None
    remedy: str = ""
    is_free: bool = False


class Interface(NamedTuple):
    """Paths that are offered together: exact ones, and patterns with a group `model`."""

    name: str
    fixed: Mapping[str, Shape]
    patterns: tuple[tuple[re.Pattern[str], Shape], ...] = ()
    described: tuple[str, ...] = ()

    def find(self, path: str) -> tuple[Shape, str] | None:
        """Return what `path` is for, and the model that it names ("": none); None: it is not offered here."""
        shape = self.fixed.get(path)
        if shape is not None:
            return shape, ""
        for pattern, shape in self.patterns:
            if named := pattern.fullmatch(path):
                model = unquote(named["model"], errors="strict") if "model" in pattern.groupindex else ""
                return shape, model
        return None

    @property
    def offered(self) -> list[str]:
        """The paths that are read, patterns in words."""
        return [path for path, shape in self.fixed.items() if not shape.remedy] + list(self.described)


def _free(dialect: Dialect) -> Shape:
    return Shape(dialect, "chat", remedy="it only counts tokens and costs nothing: make the call unasked", is_free=True)


_BATCH: Final = "what it will have used is told later and elsewhere: charge it (Charge) when it is done"


def _refused(dialect: Dialect, operation: str, remedy: str) -> Shape:
    return Shape(dialect, operation, remedy=remedy)


_CHAT: Final = Shape(Dialect.OPENAI_CHAT, "chat")
_RESPONSES: Final = Shape(Dialect.OPENAI_RESPONSES, "chat")
_MESSAGES: Final = Shape(Dialect.ANTHROPIC_MESSAGES, "chat")
_IMAGES: Final = Shape(Dialect.OPENAI_IMAGES, "images")
_TRANSCRIPTION: Final = Shape(Dialect.OPENAI_TRANSCRIPTIONS, "transcription")
_EMBEDDINGS: Final = Shape(Dialect.OPENAI_EMBEDDINGS, "embeddings")
_COMPLETION: Final = Shape(Dialect.OPENAI_COMPLETIONS, "completion")
_RERANK: Final = Shape(Dialect.RERANK, "rerank")

OPENAI: Final = Interface(
    "openai",
    {
        "/chat/completions": _CHAT,
        "/responses": _RESPONSES,
        "/responses/compact": _RESPONSES,
        "/completions": _COMPLETION,
        "/embeddings": _EMBEDDINGS,
        "/images/generations": _IMAGES,
        "/images/edits": _IMAGES,
        "/images/variations": _IMAGES,
        "/audio/speech": Shape(Dialect.OPENAI_SPEECH, "speech"),
        "/audio/transcriptions": _TRANSCRIPTION,
        "/audio/translations": _TRANSCRIPTION,
        "/moderations": Shape(Dialect.OPENAI_MODERATIONS, "moderation"),
        "/videos": Shape(Dialect.OPENAI_VIDEOS, "video"),
        "/responses/input_tokens": _free(Dialect.OPENAI_RESPONSES),
        "/batches": _refused(Dialect.OPENAI_CHAT, "chat", _BATCH),
    },
)

#: Where chat completions are all that is offered of OpenAI's interface.
CHAT: Final = Interface("chat", {"/chat/completions": _CHAT})

ANTHROPIC: Final = Interface(
    "anthropic",
    {
        "/messages": _MESSAGES,
        "/messages/count_tokens": _free(Dialect.ANTHROPIC_MESSAGES),
        "/messages/batches": _refused(Dialect.ANTHROPIC_MESSAGES, "chat", _BATCH),
    },
)

MISTRAL: Final = Interface(
    "mistral",
    {
        "/fim/completions": _COMPLETION,
        "/ocr": Shape(Dialect.OCR, "chat"),
        "/agents/completions": _refused(
            Dialect.OPENAI_CHAT, "chat", "the model is the agent's, which the request does not name: send an estimate"
        ),
        "/batch/jobs": _refused(Dialect.OPENAI_CHAT, "chat", _BATCH),
    },
)

RERANKERS: Final = Interface("rerank", {"/rerank": _RERANK})

COHERE: Final = Interface(
    "cohere",
    {
        "/v2/chat": Shape(Dialect.COHERE_CHAT, "chat"),
        "/v1/chat": Shape(Dialect.COHERE_CHAT, "chat"),
        "/v2/embed": Shape(Dialect.COHERE_EMBED, "embeddings"),
        "/v1/embed": Shape(Dialect.COHERE_EMBED, "embeddings"),
        "/v2/rerank": _RERANK,
        "/v1/rerank": _RERANK,
        "/v1/tokenize": _free(Dialect.COHERE_CHAT),
        "/v1/embed-jobs": _refused(Dialect.COHERE_EMBED, "embeddings", _BATCH),
    },
)

_GEMINI_MODEL: Final = r"/(?:models|tunedModels)/(?P<model>[^/?#:]{1,300})(?::|%3[Aa])"


def _verbs(prefix: str, verbs: Mapping[str, Shape]) -> tuple[tuple[re.Pattern[str], Shape], ...]:
    return tuple((re.compile(prefix + verb, re.ASCII), shape) for verb, shape in verbs.items())


_GENERATE: Final[Mapping[str, Shape]] = {
    "generateContent": Shape(Dialect.GEMINI, "chat", stream=False),
    "streamGenerateContent": Shape(Dialect.GEMINI, "chat", stream=True),
    "embedContent": Shape(Dialect.GEMINI_EMBEDDINGS, "embeddings", stream=False),
    "batchEmbedContents": Shape(Dialect.GEMINI_EMBEDDINGS, "embeddings", stream=False),
    "predict": Shape(Dialect.VERTEX_PREDICT, "images", stream=False),
    "countTokens": _free(Dialect.GEMINI),
    "computeTokens": _free(Dialect.GEMINI),
    "predictLongRunning": Shape(Dialect.VERTEX_PREDICT, "video", stream=False),
    "(?:batchGenerateContent|asyncBatchEmbedContent)": _refused(Dialect.GEMINI, "chat", _BATCH),
}

_GENERATE_WORDS: Final = tuple(
    f"/models/MODEL:{verb}" for verb, shape in _GENERATE.items() if not shape.remedy and verb.isalpha()
)

GEMINI: Final = Interface("gemini", {}, _verbs(_GEMINI_MODEL, _GENERATE), _GENERATE_WORDS)

#: Parts of the names of models that predict vectors.
VECTOR_MODELS: Final = ("embedding", "gecko")

_PLACE: Final = r"(?:/projects/[^/?#]{1,100}/locations/[a-z0-9-]{1,40})?"
_PUBLISHED: Final = r"(?P<model>[^/?#:@]{1,200}(?:(?:@|%40)[^/?#:]{1,60})?)(?::|%3[Aa])"

VERTEX: Final = Interface(
    "vertex",
    {},
    (
        *_verbs(f"{_PLACE}/publishers/google/models/{_PUBLISHED}", _GENERATE),
        *_verbs(
            f"{_PLACE}/publishers/anthropic/models/{_PUBLISHED}",
            {
                "rawPredict": _MESSAGES._replace(stream=False),
                "streamRawPredict": _MESSAGES._replace(stream=True),
            },
        ),
        *_verbs(
            f"{_PLACE}/publishers/(?:mistralai|ai21|meta|deepseek-ai|qwen|openai|moonshotai|zai-org)/models/{_PUBLISHED}",
            {"rawPredict": _CHAT._replace(stream=False), "streamRawPredict": _CHAT._replace(stream=True)},
        ),
        (re.compile(f"{_PLACE}/endpoints/openapi/chat/completions", re.ASCII), _CHAT),
        *_verbs(f"{_PLACE}/endpoints/(?P<model>[0-9]{{1,30}})(?::|%3[Aa])", _GENERATE),
    ),
    (
        *(f"/projects/…/publishers/google{path}" for path in _GENERATE_WORDS),
        "/projects/…/publishers/anthropic/models/MODEL:rawPredict",
        "/projects/…/publishers/anthropic/models/MODEL:streamRawPredict",
        "/projects/…/endpoints/openapi/chat/completions",
    ),
)

_BEDROCK_MODEL: Final = r"/model/(?P<model>[^/?#]{1,600})/"

_BEDROCK_VERBS: Final[Mapping[str, Shape]] = {
    "converse": Shape(Dialect.BEDROCK_CONVERSE, "chat", stream=False),
    "converse-stream": Shape(Dialect.BEDROCK_CONVERSE, "chat", stream=True),
    "invoke": Shape(Dialect.BEDROCK_INVOKE, "chat", stream=False),
    "invoke-with-response-stream": Shape(Dialect.BEDROCK_INVOKE, "chat", stream=True),
    "count-tokens": _free(Dialect.BEDROCK_CONVERSE),
}

BEDROCK: Final = Interface(
    "bedrock",
    {
        "/async-invoke": _refused(Dialect.BEDROCK_INVOKE, "video", _BATCH),
        "/model-invocation-job": _refused(Dialect.BEDROCK_INVOKE, "chat", _BATCH),
    },
    _verbs(_BEDROCK_MODEL, _BEDROCK_VERBS),
    tuple(f"/model/MODEL/{verb}" for verb, shape in _BEDROCK_VERBS.items() if not shape.remedy),
)

#: Azure names a deployment, and so the model, in the path; for responses in the body.
AZURE: Final = Interface(
    "azure",
    {"/openai/responses": _RESPONSES, "/openai/responses/compact": _RESPONSES},
    tuple(
        (re.compile(rf"/openai/deployments/(?P<model>[A-Za-z0-9._-]{{1,128}}){re.escape(path)}", re.ASCII), shape)
        for path, shape in OPENAI.fixed.items()
        if not shape.remedy and not path.startswith("/responses")
    ),
    ("/openai/deployments/NAME/chat/completions", "/openai/deployments/NAME/embeddings"),
)

#: Databricks serves a model under a name of its own choice.
DATABRICKS: Final = Interface(
    "databricks",
    {},
    ((re.compile(r"/serving-endpoints/(?P<model>[A-Za-z0-9._-]{1,128})/invocations", re.ASCII), _CHAT),),
    ("/serving-endpoints/NAME/invocations",),
)

VOYAGE: Final = Interface(
    "voyage",
    {
        "/embeddings": _EMBEDDINGS,
        "/multimodalembeddings": _EMBEDDINGS,
        "/contextualizedembeddings": _EMBEDDINGS,
        "/rerank": _RERANK,
    },
)

ELEVENLABS: Final = Interface(
    "elevenlabs",
    {},
    (
        (
            re.compile(r"/text-to-speech/[A-Za-z0-9]{1,64}(?:/stream)?(?:/with-timestamps)?", re.ASCII),
            Shape(Dialect.OPENAI_SPEECH, "speech"),
        ),
    ),
    ("/text-to-speech/VOICE",),
)

#: What may stand before the path of an interface at a host of which nothing is known: plain words only.
_ANY_PREFIX: Final = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~@+,=$!*'()-]{1,128}){0,12}", re.ASCII)

_ALL: Final = (OPENAI, ANTHROPIC, MISTRAL, RERANKERS, COHERE, GEMINI, VERTEX, BEDROCK, AZURE)


def by_ending(path: str) -> tuple[Shape, str] | None:
    """Return what `path` is for at a host of which nothing is known: its end tells. With the model that it names."""
    for slash in re.finditer("/", path):
        if not _ANY_PREFIX.fullmatch(path, 0, slash.start()):
            return None
        for interface in _ALL:
            if found := interface.find(path[slash.start() :]):
                return found
    return None


def is_name(model: str) -> bool:
    """Whether this can be the name of a model: printable, and short enough to be stored."""
    return 1 <= len(model) <= MODEL_MAX and model.isprintable()
