"""Tells by an answer itself which interface it belongs to, and where it tells what was used.

Hosts of one provider offer several interfaces, and many hosts offer those of others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from limiter.pricing.suspicion import mended

_NONE: Final[Mapping[str, Any]] = {}

_TOTALS: Final = ("total_tokens", "totalTokens", "totalTokenCount")

#: By a name in the usage, which rules read it; the first that is there.
_BY_KEY: Final = (
    ("promptTokenCount", "gemini"),
    ("candidatesTokenCount", "gemini"),
    ("totalTokenCount", "gemini"),
    ("cache_read_input_tokens", "anthropic"),
    ("cache_creation_input_tokens", "anthropic"),
    ("input_token_details", "transcription"),
    ("input_tokens", "responses"),
    ("inputTokens", "converse"),
    ("billed_units", "cohere"),
    ("tokens", "cohere_tokens"),
    ("seconds", "duration"),
    ("total_input_tokens", "interactions"),
    ("total_tokens", "total"),
)

#: By a count that stands in the answer itself, which rules read it.
_IN_ANSWER: Final = (
    ("inputTextTokenCount", "titan"),
    ("prompt_token_count", "llama"),
    ("prompt_eval_count", "ollama"),
    ("eval_count", "ollama"),
)


class Shape(NamedTuple):
    """How an answer tells its usage; `name` is that of the rules for it, "" if it tells no tokens.

    `reported`: the object with the counts. `total`: the provider's own sum of tokens. `units`: what the answer itself
    amounts to: images, seconds of sound. `terms`: what changes the price of these.
    """

    name: str
    reported: Mapping[str, Any] = _NONE
    total: int | None = None
    units: Mapping[str, int] = _NONE
    terms: dict[str, str] = {}  # noqa: RUF012 - never written to


def opened(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `answer` with its usage where most providers have it: Groq and Cloudflare pack it deeper."""
    if answer.get("usage") or answer.get("usageMetadata"):
        return answer
    groq, result = answer.get("x_groq"), answer.get("result")
    if isinstance(groq, dict) and isinstance(groq.get("usage"), dict):
        return {**answer, "usage": groq["usage"]}
    return {**answer, **result} if isinstance(result, dict) and isinstance(result.get("usage"), dict) else answer


def shape_of(answer: Mapping[str, Any]) -> Shape | None:
    """Find where an answer (opened) tells its usage, and in which form; None: its usage is no object."""
    reported = answer.get("usage") or answer.get("usageMetadata")
    if not reported:
        return _without_usage(answer)
    if not isinstance(reported, dict):
        return None
    name = _name(answer, reported)
    if not name and all(isinstance(value, str) for value in reported.values()):
        return Shape("", reported)  # Gemini, of a prompt that it blocked: traffic type and no count
    total: object = None
    for key in _TOTALS:
        if key in reported:
            total = reported[key]
            break
    return Shape(
        name or "chat",
        reported,
        total if type(total) is int and total >= 0 else None,
        terms=_image_terms(answer) if name == "images" else {},
    )


def _name(answer: Mapping[str, Any], reported: Mapping[str, Any]) -> str:
    if "prompt_tokens" in reported:
        return "chat" if "completion_tokens" in reported or "data" not in answer else "embeddings"
    if answer.get("type") == "message":
        return "anthropic"
    name = next((name for key, name in _BY_KEY if reported.get(key) not in (None, {})), "")
    return "images" if name == "responses" and isinstance(answer.get("data"), list) else name


def _without_usage(answer: Mapping[str, Any]) -> Shape:
    """The shapes that tell their counts elsewhere, and those that are counted by what they hold."""
    billed, pages = answer.get("meta"), answer.get("usage_info")
    if isinstance(billed, dict) and isinstance(billed.get("billed_units"), dict) and billed["billed_units"]:
        return Shape("billed", billed["billed_units"])
    if isinstance(pages, dict):
        return Shape("annotated_pages" if answer.get("document_annotation") else "pages", pages)
    for key, name in _IN_ANSWER:
        if type(answer.get(key)) is int:
            return Shape(name, answer, units=_titan_output(answer))
    if images := _images(answer):
        return Shape("", units={"images": images}, terms=_image_terms(answer))
    if "duration" in answer and "text" in answer:  # a transcript with its times
        seconds, _ = mended("duration", answer["duration"], whole=False)
        return Shape("", units={"audio_seconds": seconds} if seconds else _NONE)
    return Shape("", units=_vertex_tokens(answer))


def _titan_output(answer: Mapping[str, Any]) -> Mapping[str, int]:
    counts = [_count(result, "tokenCount") for result in _objects(answer, "results")]
    return {"output_tokens": sum(counts)} if counts else _NONE


def _vertex_tokens(answer: Mapping[str, Any]) -> Mapping[str, int]:
    """What Vertex says of each vector."""
    vectors = [prediction.get("embeddings") for prediction in _objects(answer, "predictions")]
    statistics = [vector.get("statistics") for vector in vectors if isinstance(vector, dict)]
    tokens = sum(_count(told, "token_count") for told in statistics if isinstance(told, dict))
    return {"input_tokens": tokens} if tokens else _NONE


def _images(answer: Mapping[str, Any]) -> int:
    """How many images an answer holds: of OpenAI and many others, of Vertex, of Bedrock."""
    made = [
        image for image in _objects(answer, "data") if "b64_json" in image or ("url" in image and "id" not in image)
    ]
    made += [image for image in _objects(answer, "predictions") if "bytesBase64Encoded" in image]
    on_bedrock = answer.get("images")
    return len(made) or (len(on_bedrock) if isinstance(on_bedrock, list) else 0)


def _image_terms(answer: Mapping[str, Any]) -> dict[str, str]:
    """The size and quality that images were made in: what was asked for may have been "auto"."""
    return {name: told for name in ("size", "quality") if isinstance(told := answer.get(name), str) and len(told) < 64}


def tells_nothing_by_nature(answer: Mapping[str, Any]) -> bool:
    """Whether an answer without usage is of a kind that never has one: vectors, verdicts, ranks, transcripts."""
    if any(name in answer for name in ("embedding", "embeddings", "embeddingsByType")):
        return True
    if any("embedding" in vector for vector in _objects(answer, "data")):
        return True
    if any("flagged" in verdict or "relevance_score" in verdict for verdict in _objects(answer, "results")):
        return True
    if answer.get("object") == "video":
        return True
    return isinstance(answer.get("text"), str) and not answer.keys() & {"finish_reason", "generation_id", "choices"}


def _objects(answer: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    listed = answer.get(name)
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _count(told: Mapping[str, Any], name: str) -> int:
    count, _ = mended(name, told.get(name), whole=True)
    return count or 0
