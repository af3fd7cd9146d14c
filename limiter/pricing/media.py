"""What requests for images, sound and video ask for: how many, how large, how long, how many characters."""

from __future__ import annotations

import re
from typing import Any, Final

from limiter.domain.errors import InvalidArgument
from limiter.pricing.asking import Asked, Body
from limiter.pricing.paths import VECTOR_MODELS
from limiter.pricing.request_fields import BODY, count, inner, text, word

_IMAGES_MAX: Final = 128
_SECONDS_MAX: Final = 3_600

#: Output tokens of one image by quality: square, and the longer sides (OpenAI's guide to image generation, 2025-10).
_IMAGE_TOKENS: Final = {"low": (272, 408), "medium": (1_056, 1_584), "high": (4_160, 6_240)}
_TOKENS_BY_IMAGE: Final = re.compile(r"gpt-image-1(?:[.-].*)?|chatgpt-image-.*")
#: Each picture shown on the way to the final one (`partial_images`).
_PARTIAL_IMAGE_TOKENS: Final = 100

#: What DALL-E takes where it is told nothing; prices go by it.
_DALL_E: Final = {"size": "1024x1024", "quality": "standard"}


def openai_images(body: Body, provider: str, model: str) -> Asked:
    """Read a request for images. Those of the gpt-image family are billed by the tokens that they consist of."""
    del provider
    pictures = count(body, "n", _IMAGES_MAX) or 1
    named = model.rpartition("/")[2].lower()
    context = {term: value for term in ("size", "quality") if (value := word(body, term))}
    if named.startswith("dall-e"):
        context = _DALL_E | context
    if "gpt-image" not in named:
        return Asked(0, units={"images": pictures}, context=context)
    largest = _image_tokens(context) if _TOKENS_BY_IMAGE.fullmatch(named) else None
    if largest is not None and body.get("partial_images"):
        largest += (count(body, "partial_images", _IMAGES_MAX) or 0) * _PARTIAL_IMAGE_TOKENS
    strict, safe = _changed(body)
    if not strict:
        return Asked(largest, pictures, context=context)
    words = len(text(body, "prompt").encode(errors="replace")) + _REQUEST_TOKENS
    return Asked(
        largest,
        pictures,
        units={"input_image_tokens": strict},
        safe_units={"input_image_tokens": safe},
        context=context,
        input_tokens=(words + strict, words + safe),
    )


#: One image to be changed, in tokens, at most and as estimated: tiles of 512 px after its shorter side is made 512 px,
#: and 6,240 where all of it is kept (input_fidelity: high); OpenAI's guide to image generation, 2025-10.
CHANGED_IMAGE_TOKENS: Final = (10_000, 7_000)
#: What stands around a prompt.
_REQUEST_TOKENS: Final = 128


def _changed(body: Body) -> tuple[int, int]:
    """Tokens of the images to be changed that JSON names; those of a form are counted where that is read."""
    named = body.get("images")
    images = [*(named if isinstance(named, list) else ()), body.get("image"), body.get("mask")]
    places = sum(1 for image in images if isinstance(image, dict))
    strict, safe = CHANGED_IMAGE_TOKENS
    return places * strict, places * safe


def _image_tokens(context: dict[str, str]) -> int:
    square, longer = _IMAGE_TOKENS.get(context.get("quality", ""), _IMAGE_TOKENS["high"])
    return square if context.get("size") == "1024x1024" else longer


def bedrock_images(body: Body, provider: str, model: str) -> Asked:
    """Read a request for images to a model on Bedrock: Amazon's name a number, Stability's make one."""
    del provider, model
    _, settings = inner(body, "imageGenerationConfig")
    place = f"{BODY}.imageGenerationConfig"
    pictures = count(settings, "numberOfImages", _IMAGES_MAX, place=place) or 1
    context = {"quality": quality} if (quality := word(settings, "quality")) else {}
    width, height = (count(settings, side, 10_000, place=place) for side in ("width", "height"))
    if width and height:
        context["size"] = f"{width}x{height}"
    return Asked(0, units={"images": pictures}, context=context)


def transcription_by_url(body: Body, provider: str, model: str) -> Asked:
    """Refuse a recording that is only named: nothing here tells how long it is."""
    del provider, model
    remedy = "send the recording itself as a form (multipart/form-data), or an estimate with its audio_seconds"
    named = next((body[name] for name in ("url", "file_url", "file_id") if name in body), None)
    raise InvalidArgument(f"{BODY}.file", named, remedy)


def openai_speech(body: Body, provider: str, model: str) -> Asked:
    """Read a text to be spoken: most are billed by its characters, some by tokens of sound, which nothing bounds."""
    del provider
    # Hosts obey the one or the other of the two, so the longer one counts.
    spoken = max(len(text(body, "input")), len(text(body, "text")))
    by_tokens = "gpt-" in model or "gemini" in model
    units = {} if by_tokens else {"input_characters": spoken}
    return Asked(None if by_tokens else 0, units=units)


def openai_videos(body: Body, provider: str, model: str) -> Asked:
    """Read a request for a video."""
    del provider, model
    size = word(body, "size") or "720x1280"
    return Asked(0, units={"video_seconds": _seconds(body, "seconds", 4, place=BODY)}, context=_resolution(size))


def _resolution(size: str) -> dict[str, str]:
    sides = size.split("x")
    if len(sides) == 2 and all(side.isascii() and side.isdigit() and len(side) <= 5 for side in sides):
        return {"size": size, "resolution": f"{min(map(int, sides))}p"}
    return {"size": size}


def _seconds(settings: Any, name: str, default: int, *, place: str) -> int:  # noqa: ANN401 - whatever the JSON says
    """Read a length, which OpenAI writes as a text."""
    value = settings.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        value = int(value)
    return count({name: value}, name, _SECONDS_MAX, place=place) or default


#: How many images Imagen makes where it is told no number (Vertex AI's reference, "Generate images": sampleCount).
_IMAGEN_SAMPLES: Final = 4


def vertex_predict(body: Body, provider: str, model: str) -> Asked:
    """Read a prediction of Vertex AI: vectors, images of Imagen, videos of Veo."""
    del provider
    instances = body.get("instances")
    asked = len(instances) if isinstance(instances, list) and instances else 1
    if any(kind in model for kind in VECTOR_MODELS):
        return Asked(0)
    _, settings = inner(body, "parameters")
    place = f"{BODY}.parameters"
    samples = count(settings, "sampleCount", _IMAGES_MAX, place=place)
    if model.startswith(("imagen", "imagegeneration")):
        samples = (samples or _IMAGEN_SAMPLES) * asked
        size = word(settings, "sampleImageSize")
        return Asked(0, units={"images": samples}, context={"size": size} if size else {})
    if model.startswith("veo"):
        context = {"resolution": word(settings, "resolution") or "720p"}
        sound = settings.get("generateAudio")
        if isinstance(sound, bool):
            context["audio"] = str(sound).lower()
        seconds = _seconds(settings, "durationSeconds", 8, place=place)
        return Asked(0, units={"video_seconds": (samples or 1) * asked * seconds}, context=context)
    raise InvalidArgument("provider_request.path", model, "what such a model predicts is not known; send an estimate")


#: Mistral reads documents of at most so many pages (its limits for OCR, 2025-12).
_PAGES_MAX: Final = 1_000
#: A page of an inline PDF has at least about so many bytes; of a document by URL, this many pages are assumed.
_PAGE_BYTES: Final = 3_000
_PAGES_BY_URL: Final = 100


def ocr(body: Body, provider: str, model: str) -> Asked:
    """Read a document to be read: billed by pages, which the request may name, and only the provider counts else."""
    del provider, model
    most = safe = _pages(body.get("pages"))
    _, document = inner(body, "document")
    if most is None:
        most = safe = 1
        if document.get("type") != "image_url":
            most = _PAGES_MAX
            url = text(document, "document_url")
            inline = url.startswith("data:")
            safe = min(_PAGES_MAX, len(url) * 3 // 4 // _PAGE_BYTES + 1) if inline else _PAGES_BY_URL
    units, estimated = {"input_document_pages": most}, {"input_document_pages": safe or 1}
    if body.get("document_annotation_format") or body.get("bbox_annotation_format"):
        units["input_annotated_document_pages"] = most
        estimated["input_annotated_document_pages"] = safe or 1
    return Asked(0, units=units, safe_units=estimated, input_tokens=(0, 0))


_PAGES: Final = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*", re.ASCII)
#: Longer lists of pages than anybody writes are not read.
_PAGES_WRITTEN_MAX: Final = 16 * _PAGES_MAX


def _pages(pages: object) -> int | None:
    """How many pages are named: `[0, 1, 2]`, or `"0-2,5"`; None: not said, or not in these words."""
    if isinstance(pages, list):
        return min(len(pages), _PAGES_MAX) or None
    if not isinstance(pages, str) or len(pages) > _PAGES_WRITTEN_MAX or not _PAGES.fullmatch(pages):
        return None
    total = 0
    for part in pages.split(","):
        first, _, last = part.partition("-")
        total += abs(int(last or first) - int(first)) + 1
    return min(total, _PAGES_MAX)
