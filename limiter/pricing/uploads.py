"""What forms with files ask for: a recording to be written down, images to be changed, a video to be made."""

from __future__ import annotations

from typing import Any, Final

from limiter.domain.errors import InvalidArgument
from limiter.pricing.asking import Asked
from limiter.pricing.audio import audio_length
from limiter.pricing.bounds import Bound, Size
from limiter.pricing.forms import Form
from limiter.pricing.media import CHANGED_IMAGE_TOKENS, openai_images, openai_videos
from limiter.pricing.paths import Dialect
from limiter.pricing.request_fields import BODY

#: One token of sound is a tenth of a second (OpenAI's guide to audio: 600 tokens a minute).
_AUDIO_TOKENS_PER_SECOND: Final = 10

#: What stands around the sound, or around an image to be changed.
_REQUEST_TOKENS: Final = 128

_IMAGE_TOKENS, _SAFE_IMAGE_TOKENS = CHANGED_IMAGE_TOKENS

#: Fields that name a recording which is elsewhere.
_ELSEWHERE: Final = ("url", "file_url", "file_id")

#: Fields of a form that are numbers where JSON is sent instead.
_NUMBERS: Final = ("n", "partial_images")
_FLAGS: Final = {"true": True, "false": False}


def as_body(form: Form) -> dict[str, Any]:
    """Return a form's fields as the JSON of the same interface would have them."""
    body: dict[str, Any] = dict(form.fields)
    for name in _NUMBERS:
        if (value := form.fields.get(name)) is not None and value.isascii() and value.isdigit() and len(value) <= 12:
            body[name] = int(value)
    if (stream := form.fields.get("stream", "").lower()) in _FLAGS:
        body["stream"] = _FLAGS[stream]
    return body


def read_upload(form: Form, body: dict[str, Any], *, dialect: Dialect, provider: str, model: str) -> tuple[Asked, Size]:
    """Read what a form asks for, and how large that is."""
    if dialect is Dialect.OPENAI_TRANSCRIPTIONS:
        return _transcription(form, model)
    words = len(form.fields.get("prompt", "").encode()) + _REQUEST_TOKENS
    images = sum(len(files) for files in form.files.values())
    strict, safe = words + images * _IMAGE_TOKENS, words + images * _SAFE_IMAGE_TOKENS
    size = Size(Bound(strict, _images(images * _IMAGE_TOKENS)), Bound(safe, _images(images * _SAFE_IMAGE_TOKENS)))
    if dialect is Dialect.OPENAI_VIDEOS:
        return openai_videos(body, provider, model), Size(Bound(words), Bound(words))
    return openai_images(body, provider, model), size if "gpt-image" in model else Size(Bound(words), Bound(words))


def _images(tokens: int) -> dict[str, int]:
    return {"input_image_tokens": tokens} if tokens else {}


def _transcription(form: Form, model: str) -> tuple[Asked, Size]:
    """A recording; where it is only named by URL, nothing here tells how long it is."""
    recording = form.file("file")
    elsewhere = next((value for name in _ELSEWHERE if (value := form.fields.get(name))), "")
    if not recording or elsewhere:
        remedy = "send the recording itself in the field file, and no other, or an estimate with its audio_seconds"
        raise InvalidArgument(f"{BODY}.file", elsewhere, remedy)
    if len(form.files["file"]) > 1:
        raise InvalidArgument(f"{BODY}.file", f"{len(form.files['file'])} files", "send one recording")
    length = audio_length(recording)
    words = len(form.fields.get("prompt", "").encode()) + _REQUEST_TOKENS
    if "gpt-4o" not in model:
        asked = Asked(0, units={"audio_seconds": length.strict}, safe_units={"audio_seconds": length.safe})
        return asked, Size(Bound(0), Bound(0))
    # These are billed by tokens, of the sound and of what is written.
    strict, safe = (seconds * _AUDIO_TOKENS_PER_SECOND for seconds in length)
    size = Size(
        Bound(strict + words, {"input_audio_tokens": strict}), Bound(safe + words, {"input_audio_tokens": safe})
    )
    return Asked(None), size
