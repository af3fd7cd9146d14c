"""Images, sound, video and documents are read by what they are billed by."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from limiter.domain.calls import ProviderRequest
from limiter.domain.errors import InvalidArgument
from limiter.pricing.audio import SAFE_BYTES_PER_SECOND, STRICT_BYTES_PER_SECOND, audio_length
from limiter.pricing.reading import CallReading, read_request

OPENAI = "api.openai.com"
TRANSCRIBE = (OPENAI, "/v1/audio/transcriptions")
IMAGES = (OPENAI, "/v1/images/generations")
VERTEX = "aiplatform.googleapis.com"
MODELS = "/v1/projects/p/locations/global/publishers/google/models"


def read(body: dict[str, Any], to: tuple[str, str]) -> CallReading:
    return read_request(ProviderRequest(*to, json.dumps(body).encode()))


def form(*parts: tuple[str, str | None, bytes], boundary: str = "xyz") -> bytes:
    """A form as a client writes it: name, file name (None: a plain field), content."""
    written = b""
    for name, filename, content in parts:
        named = f'; filename="{filename}"' if filename is not None else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
        written += head.encode() + content + b"\r\n"
    return written + f"--{boundary}--\r\n".encode()


def wav(seconds: int, *, rate: int = 16_000, kind: int = 1) -> bytes:
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 0, b"WAVE", b"fmt ", 16, kind, 1, rate, 1, 2, 16, b"data", 0)
    return head + bytes(seconds * rate * 2)


def test_images_are_counted_and_their_size_and_quality_are_terms() -> None:
    reading = read({"model": "dall-e-3", "prompt": "x", "size": "1792x1024", "quality": "hd", "n": 2}, IMAGES)
    assert (reading.operation, reading.max_output_tokens) == ("images", 0)
    assert reading.size.strict.units == reading.size.safe.units == {"images": 2}
    assert reading.context == {"size": "1792x1024", "quality": "hd"}
    assert read({"model": "dall-e-3", "prompt": "x"}, IMAGES).context == {"size": "1024x1024", "quality": "standard"}


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({"quality": "low", "size": "1024x1024"}, 272),
        ({"quality": "high", "size": "1536x1024"}, 6_240),
        ({}, 6_240),
        ({"quality": "medium", "size": "auto", "partial_images": 2}, 1_784),
    ],
)
def test_images_billed_by_tokens_are_bounded_by_those_of_their_quality(fields: dict[str, Any], most: int) -> None:
    reading = read({"model": "gpt-image-1", "prompt": "x", "n": 3, **fields}, IMAGES)
    assert (reading.max_output_tokens, reading.choices, reading.size.strict.units) == (most, 3, {})


def test_images_of_a_kind_that_is_not_known_have_no_bound_of_their_own() -> None:
    assert read({"model": "gpt-image-9", "prompt": "x"}, IMAGES).max_output_tokens is None


def test_an_edit_of_images_is_a_form() -> None:
    body = form(("model", None, b"gpt-image-1"), ("prompt", None, b"add a hat"), ("n", None, b"2"),
                ("image[]", "a.png", b"\x89PNG"), ("image[]", "b.png", b"\x89PNG"))  # fmt: skip
    reading = read_request(ProviderRequest(OPENAI, "/v1/images/edits", body))
    assert (reading.model, reading.operation, reading.choices) == ("gpt-image-1", "images", 2)
    assert reading.size.strict.input_tokens > reading.size.safe.input_tokens > 0
    assert reading.size.strict.units["input_image_tokens"] == 20_000
    variation = form(("model", None, b"dall-e-2"), ("size", None, b"512x512"), ("image", "a.png", b"\x89PNG"))
    varied = read_request(ProviderRequest(OPENAI, "/v1/images/variations", variation))
    assert (varied.size.strict.units, varied.context["size"]) == ({"images": 1}, "512x512")


def test_speech_is_counted_in_characters_or_has_no_bound() -> None:
    to = (OPENAI, "/v1/audio/speech")
    reading = read({"model": "tts-1", "input": "Grüße", "voice": "alloy"}, to)
    assert (reading.operation, reading.max_output_tokens) == ("speech", 0)
    assert reading.size.strict.units == {"input_characters": 5}
    by_tokens = read({"model": "gpt-4o-mini-tts", "input": "Hello"}, to)
    assert (by_tokens.max_output_tokens, by_tokens.size.strict.units) == (None, {})


def test_a_transcription_is_as_long_as_its_recording() -> None:
    body = form(("model", None, b"whisper-1"), ("file", "a.wav", wav(3)), ("stream", None, b"false"))
    reading = read_request(ProviderRequest(*TRANSCRIBE, body))
    assert (reading.model, reading.operation, reading.stream) == ("whisper-1", "transcription", False)
    assert reading.max_output_tokens == 0
    # The header is less than a second.
    assert reading.size.strict.units == reading.size.safe.units == {"audio_seconds": 4}


def test_a_transcription_billed_by_tokens_has_those_of_its_seconds_and_what_is_written() -> None:
    body = form(("model", None, b"gpt-4o-transcribe"), ("file", "a.wav", wav(3)))
    reading = read_request(ProviderRequest(*TRANSCRIBE, body))
    assert reading.max_output_tokens is None
    assert reading.size.strict.units == {"input_audio_tokens": 40}
    assert reading.size.strict.input_tokens >= 40


def test_an_azure_deployment_transcribes_as_well() -> None:
    body = form(("file", "a.wav", wav(1)))
    path = "/openai/deployments/whisper/audio/transcriptions?api-version=1"
    assert read_request(ProviderRequest("acme.openai.azure.com", path, body)).model == "whisper"


def test_a_compressed_recording_is_bounded_by_the_lowest_rate() -> None:
    length = audio_length(b"ID3" + bytes(100_000))
    assert length.strict == -(-100_003 // STRICT_BYTES_PER_SECOND)
    assert length.safe == -(-100_003 // SAFE_BYTES_PER_SECOND)
    assert audio_length(b"") == (1, 1)


def test_a_header_that_promises_other_samples_is_read_as_it_is_played() -> None:
    # The rate of bytes in this header is 1; samples times their size are what counts.
    assert audio_length(wav(5)).strict == 6
    squeezed = audio_length(wav(5, kind=0x31))
    assert squeezed.strict > 100


def test_a_flac_names_its_samples() -> None:
    info = (16_000 << 44) | (16_000 * 90)
    data = b"fLaC\x00\x00\x00\x22" + bytes(10) + info.to_bytes(8) + bytes(16)
    assert audio_length(data) == (90, 90)


def test_a_recording_that_is_only_named_is_refused() -> None:
    for body in (
        form(("model", None, b"whisper-large-v3"), ("url", None, b"https://x.example/a.mp3")),
        b'{"model": "m"}',
    ):
        with pytest.raises(InvalidArgument, match="send the recording itself") as caught:
            read_request(ProviderRequest("api.groq.com", "/openai/v1/audio/transcriptions", body))
        assert caught.value.field == "provider_request.body.file"


GOOD = form(("model", None, b"whisper-1"), ("file", "a.mp3", b"x" * 100))


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (GOOD[:-10], "", "send a whole form"),
        (GOOD + b"more", "", "send a whole form"),
        (GOOD, "multipart/form-data; boundary=other", "the boundary that the content-type names"),
        (GOOD, "application/json", "the boundary that the content-type names"),
        (form(("model", None, b"a"), ("model", None, b"b"), ("file", "a", b"x")), "", "'model' is given twice"),
        (form(("", None, b"a")), "", "one plain name"),
        (b"--xyz\r\nno headers--xyz--\r\n", "", "send a whole form"),
        (b"--xyz\r\nno headers\r\n--xyz--\r\n", "", "headers that can be read"),
        (form(*[("f", "a", b"")] * 200), "", "at most 128 parts"),
        (form(("prompt", None, b"x" * 300_000)), "", "is longer than"),
        (form(("model", "m.txt", b"dearer"), ("model", None, b"whisper-1")), "", "'model' is given twice"),
    ],
)
def test_a_form_with_two_meanings_or_none_is_refused(body: bytes, content_type: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        read_request(ProviderRequest(*TRANSCRIBE, body, content_type))
    assert caught.value.field == "provider_request.body"


def test_a_form_is_read_by_the_boundary_that_its_type_names() -> None:
    reading = read_request(ProviderRequest(*TRANSCRIBE, GOOD, 'multipart/form-data; boundary="xyz"'))
    assert reading.model == "whisper-1"


def test_a_large_form_is_cut_in_no_time() -> None:
    body = form(("model", None, b"whisper-1"), ("file", "a.mp3", b"--xy\r\n" * 600_000))
    assert read_request(ProviderRequest(*TRANSCRIBE, body)).size.strict.units["audio_seconds"] == 4_800


def test_a_video_is_counted_in_seconds_of_its_resolution() -> None:
    reading = read({"model": "sora-2", "prompt": "x", "seconds": "12", "size": "1280x720"}, (OPENAI, "/v1/videos"))
    assert (reading.operation, reading.max_output_tokens) == ("video", 0)
    assert reading.size.strict.units == {"video_seconds": 12}
    assert reading.context == {"size": "1280x720", "resolution": "720p"}
    path = f"{MODELS}/veo-3.0-generate-001:predictLongRunning"
    parameters = {"sampleCount": 2, "resolution": "1080p", "generateAudio": True}
    veo = read({"instances": [{"prompt": "x"}], "parameters": parameters}, (VERTEX, path))
    assert (veo.size.strict.units, veo.context) == ({"video_seconds": 16}, {"resolution": "1080p", "audio": "true"})


def test_predictions_of_vertex_are_images_or_vectors() -> None:
    body = {"instances": [{"prompt": "x"}], "parameters": {"sampleCount": 4}}
    images = read(body, (VERTEX, f"{MODELS}/imagen-4.0-generate-001:predict"))
    assert (images.operation, images.size.strict.units) == ("images", {"images": 4})
    vectors = read({"instances": [{"content": "x"}]}, (VERTEX, f"{MODELS}/text-embedding-005:predict"))
    assert (vectors.operation, vectors.max_output_tokens, vectors.size.strict.units) == ("embeddings", 0, {})
    with pytest.raises(InvalidArgument, match="send an estimate"):
        read(body, (VERTEX, f"{MODELS}/lyria-002:predict"))


def test_pages_to_be_read_are_those_named_or_the_most() -> None:
    to = ("api.mistral.ai", "/v1/ocr")
    document = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
    body = {"model": "mistral-ocr-latest", "document": document}
    unnamed = read(body, to)
    assert (unnamed.size.strict.units, unnamed.size.safe.units) == (
        {"input_document_pages": 1_000},
        {"input_document_pages": 100},
    )
    assert unnamed.size.strict.input_tokens == 0
    assert read({**body, "pages": [0, 1, 2]}, to).size.strict.units == {"input_document_pages": 3}
    assert read({**body, "pages": "0-4,7"}, to).size.strict.units == {"input_document_pages": 6}
    annotated = read({**body, "pages": [0], "document_annotation_format": {"type": "json_schema"}}, to)
    assert annotated.size.strict.units["input_annotated_document_pages"] == 1
    image = {"model": "m", "document": {"type": "image_url", "image_url": "https://example.com/a.png"}}
    assert read(image, to).size.strict.units == {"input_document_pages": 1}


@pytest.mark.parametrize(
    ("to", "body", "field"),
    [
        (IMAGES, {"model": "m", "n": 0}, "n"),
        (IMAGES, {"model": "m", "size": 5}, "size"),
        (IMAGES, {"model": "m", "quality": "x" * 33}, "quality"),
        (IMAGES, {"prompt": "x"}, "model"),
        ((OPENAI, "/v1/videos"), {"model": "m", "seconds": "long"}, "seconds"),
        ((OPENAI, "/v1/audio/speech"), {"model": "tts-1", "input": ["x"]}, "input"),
    ],
)
def test_what_is_no_size_is_refused_with_its_field(to: tuple[str, str], body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(body, to)
    assert caught.value.field == f"provider_request.body.{field}"
