"""How large the input of a call can be: the bound is one, the estimate is close, and what grows says so."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.pricing.bounds import Growth, Size
from limiter.pricing.families import family_of
from limiter.pricing.images import image_tokens, pixels
from limiter.pricing.paths import Dialect
from limiter.pricing.sizes import measure

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data" / "llm_calls_sample.jsonl"
ALL = Path(os.environ.get("LIMITER_TEST_DATA", ROOT.parent / "shared" / "data")) / "llm_calls.jsonl.gz"

Json = dict[str, Any]


def size(request: Json, model: str = "gpt-4o", dialect: Dialect = Dialect.OPENAI_CHAT) -> Size:
    body = json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return measure(body, request, model=model, dialect=dialect)


def asking(*parts: object, **fields: object) -> Json:
    return {"messages": [{"role": "user", "content": list(parts)}], **fields}


def growth(request: Json, model: str = "gpt-4o") -> Growth:
    found = size(request, model).growth
    assert found is not None
    return found


# ---------------------------------------------------------------------- recorded calls


def told(call: Json) -> int | None:
    """The input tokens that the provider told, cached ones and those of its tools included."""
    answer = call["response"]
    events = answer if isinstance(answer, list) else [answer]
    if isinstance(answer, str):
        lines = (line[5:] for line in answer.splitlines() if line.startswith("data:") and "[DONE]" not in line)
        events = [json.loads(line) for line in lines]
    usage: Json = {}
    for event in events:
        for place in (event, event.get("message"), event.get("response")) if isinstance(event, dict) else ():
            if isinstance(place, dict):
                usage |= {k: v for k, v in (place.get("usage") or {}).items() if v is not None}
                usage |= place.get("usageMetadata") or {}
    if "promptTokenCount" in usage:
        return int(usage["promptTokenCount"]) + int(usage.get("toolUsePromptTokenCount", 0))
    cached = ("cache_read_input_tokens", "cache_creation_input_tokens", "cacheReadInputTokens", "cacheWriteInputTokens")
    tokens = usage.get("prompt_tokens")
    if tokens is None and (tokens := usage.get("input_tokens", usage.get("inputTokens"))) is not None:
        tokens += sum(usage.get(name, 0) for name in cached)
    return tokens if isinstance(tokens, int) else None


def model_of(call: Json) -> str:
    named = re.search(r"/models?/([^:/]+(?::\d)?)", unquote(call["path"]))
    return call["request"].get("model") or (named[1] if named else "")


@pytest.fixture(params=[SAMPLE, ALL], ids=["sample", "all"])
def recorded(request: pytest.FixtureRequest) -> list[tuple[int, Size, bool]]:
    path: Path = request.param
    if not path.exists():
        pytest.skip(f"{path.name} is not there; set LIMITER_TEST_DATA to the folder that has it")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    found = []
    for line in content.decode().split("\n")[:-1]:
        call: Json = json.loads(line)
        # With fallbacks another model may answer than the first: such calls are refused.
        if call["status"] == 200 and not call["request"].get("models") and (tokens := told(call)) is not None:
            measured = size(call["request"], model_of(call))
            found.append((tokens, measured, measured.growth is None))
    assert len(found) >= 9
    return found


def test_no_recorded_call_took_in_more_than_its_bound(recorded: list[tuple[int, Size, bool]]) -> None:
    assert all(tokens <= found.strict.input_tokens for tokens, found, whole in recorded if whole)


def test_nearly_every_recorded_call_is_within_its_estimate(recorded: list[tuple[int, Size, bool]]) -> None:
    covered = [tokens <= found.safe.input_tokens for tokens, found, whole in recorded if whole]
    assert sum(covered) >= 0.998 * len(covered)


def test_the_estimate_is_less_than_half_of_the_bound(recorded: list[tuple[int, Size, bool]]) -> None:
    shares = sorted(found.safe.input_tokens / found.strict.input_tokens for _, found, _ in recorded)
    assert shares[len(shares) // 2] <= 0.5


def test_nearly_every_call_that_grew_is_within_its_allowance(recorded: list[tuple[int, Size, bool]]) -> None:
    grown = [(tokens, found.safe.input_tokens, found.growth) for tokens, found, _ in recorded if found.growth]
    covered = [tokens <= safe + added.allowance.input_tokens for tokens, safe, added in grown]
    assert sum(covered) >= 0.98 * len(covered)


# ---------------------------------------------------------------------- texts


def test_escapes_are_read_as_what_they_stand_for() -> None:
    request = asking({"type": "text", "text": "你好" * 500})
    escaped = json.dumps(request).encode()
    found = measure(escaped, request, model="gpt-4o", dialect=Dialect.OPENAI_CHAT)
    assert found.safe == size(request).safe
    assert found.strict.input_tokens >= len(escaped)


@given(st.text(), st.text())
def test_the_bound_holds_all_bytes_and_more_text_never_lowers_it(text: str, more: str) -> None:
    one = size({"messages": [{"role": "user", "content": text}]})
    two = size({"messages": [{"role": "user", "content": text + more}]})
    assert two.strict.input_tokens >= one.strict.input_tokens >= len(text.encode())
    assert one.safe.input_tokens <= one.strict.input_tokens


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["image", "source", "content"]), inner),
    max_leaves=20,
)


@given(
    st.dictionaries(
        st.sampled_from(["messages", "input", "contents", "tools", "toolConfig", "plugins", "reasoning", "prompt"]),
        JSON,
    )
)
def test_whatever_a_request_says_has_a_size(request: Json) -> None:
    found = size(request)
    assert 0 < found.safe.input_tokens <= found.strict.input_tokens


def test_tokens_given_as_numbers_are_counted() -> None:
    assert size({"input": list(range(1000, 2000))}, "text-embedding-3-small").safe.input_tokens >= 1000


# ---------------------------------------------------------------------- images


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(2000)


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + bytes(2000)


def jpeg(width: int, height: int) -> bytes:
    thumbnail = b"\xff\xe1" + struct.pack(">H", 9_002) + bytes(9_000)
    return b"\xff\xd8" + thumbnail + b"\xff\xc0" + struct.pack(">HBHH", 17, 8, height, width) + bytes(2000)


def webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + bytes(4) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size + bytes(2000)


def webp_lossy(width: int, height: int) -> bytes:
    return b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(4) + bytes(6) + struct.pack("<HH", width, height) + bytes(2000)


def webp_lossless(width: int, height: int) -> bytes:
    packed = (width - 1) | (height - 1) << 14
    return b"RIFF" + bytes(4) + b"WEBPVP8L" + bytes(4) + b"\x2f" + packed.to_bytes(4, "little") + bytes(2000)


@pytest.mark.parametrize("image", [png, gif, jpeg, webp, webp_lossy, webp_lossless])
def test_the_size_of_an_image_is_read_from_its_head(image: Callable[[int, int], bytes]) -> None:
    data = base64.b64encode(image(640, 480)).decode()
    assert pixels(data) == (640, 480)
    assert pixels(data.replace("+", "-").replace("/", "_")) == (640, 480)


@pytest.mark.parametrize("data", ["", "hello", "iVBORw0KGgo=", "/9j/4AAQ", "é" * 80, "R0lGODlhAAAAAA=="])
def test_what_tells_no_size_has_none(data: str) -> None:
    assert pixels(data) is None


@pytest.mark.parametrize(
    ("model", "width", "height", "published"),
    [
        ("gpt-4o", 1024, 1024, 765),
        ("gpt-4o", 2048, 4096, 1105),
        ("gpt-4.1-mini", 1024, 1024, 1659),
        ("gpt-4o-mini", 2048, 4096, 36_835),
        ("claude-sonnet-4-5", 1000, 1000, 1334),
        ("claude-opus-4-8", 2576, 1449, 4_784),
        ("gemini-2.5-flash", 384, 384, 258),
        ("gemini-2.5-flash", 960, 540, 1_548),
        ("meta-llama/llama-4-scout", 336, 336, 290),
    ],
)
def test_an_image_is_at_least_what_its_provider_publishes(model: str, width: int, height: int, published: int) -> None:
    strict, safe = image_tokens(family_of(model), base64.b64encode(png(width, height)).decode())
    assert published <= safe <= strict
    assert safe <= max(1.5 * published, 1_400)


PICTURE = base64.b64encode(png(512, 512) + bytes(90_000)).decode()
IMAGES = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
    {"type": "image_url", "image_url": f"data:image/png;base64,{PICTURE}"},
    {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
    {"inlineData": {"mimeType": "image/png", "data": PICTURE}},
    {"inline_data": {"mime_type": "image/png", "data": PICTURE}},
    {"image": {"format": "png", "source": {"bytes": PICTURE}}},
    {"type": "tool_result", "content": [{"type": "image", "source": {"type": "base64", "data": PICTURE}}]},
    {"toolResult": {"content": [{"image": {"format": "png", "source": {"bytes": PICTURE}}}]}},
    {"functionResponse": {"parts": [{"inlineData": {"mimeType": "image/png", "data": PICTURE}}]}},
]


@pytest.mark.parametrize("part", IMAGES)
def test_the_bytes_of_an_image_are_no_text(part: Json) -> None:
    found = size(asking(part))
    assert 700 <= found.safe.input_tokens < 2_500
    assert found.strict.input_tokens < 6_000
    assert found.growth is None


@pytest.mark.parametrize(
    "part",
    [
        {"type": "tool_use", "input": IMAGES[0]},
        {"functionCall": {"args": IMAGES[4]}},
        {"toolResult": {"content": [{"json": IMAGES[6]}]}},
        {"functionResponse": {"response": IMAGES[4]}},
    ],
)
def test_what_looks_like_an_image_in_arguments_and_results_is_text(part: Json) -> None:
    assert size(asking(part)).strict.input_tokens > len(PICTURE)


def test_what_looks_like_an_image_in_a_tools_description_is_text() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"content": IMAGES[:1]}}}
    assert size(asking("hello", tools=[tool])).strict.input_tokens > len(PICTURE)


def test_images_to_embed_are_images() -> None:
    address = "data:image/png;base64," + base64.b64encode(png(1024, 1024)).decode()
    found = size({"images": [address, address], "input_type": "image"}, "embed-v4.0")
    assert found.safe.input_tokens > 2 * 1_300
    assert found.strict.input_tokens > 100_000


def test_an_image_elsewhere_has_a_bound_of_its_own() -> None:
    for part in (
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "input_image", "file_id": "file-1"},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"fileData": {"mimeType": "image/png", "fileUri": "gs://bucket/a.png"}},
    ):
        found = size(asking(part))
        assert found.growth is None
        assert 1_400 < found.safe.input_tokens < found.strict.input_tokens < 10_000


def test_little_detail_is_cheap() -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}", "detail": "low"}}
    assert size(asking(part)).safe.input_tokens < 300


# ---------------------------------------------------------------------- documents, sound, film

PDF = base64.b64encode(
    b"%PDF-1.4\n" + b"<< /Type /Page >>\n<< /Type/Page /Parent 1 0 R >>\n<< /Type /Pages >>"
).decode()


@pytest.mark.parametrize(
    "part",
    [
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"}},
        {"type": "input_file", "file_data": f"data:application/pdf;base64,{PDF}"},
        {"inlineData": {"mimeType": "application/pdf", "data": PDF}},
        {"document": {"format": "pdf", "name": "a", "source": {"bytes": PDF}}},
    ],
)
def test_a_document_is_estimated_by_its_pages_and_bounded_by_the_window(part: Json) -> None:
    found = size(asking(part), "claude-sonnet-4-5")
    assert 2 * 4_800 <= found.safe.input_tokens < 3 * 4_800
    assert found.growth is not None
    assert (found.growth.rounds, found.growth.reason) == (0, "document (data)")


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"type": "input_file", "file_url": "https://example.com/a.pdf"}, "document (file_url)"),
        ({"type": "input_file", "file_id": "file-1"}, "document (file_id)"),
        ({"type": "file", "file": {"file_id": "file-1"}}, "document (file_id)"),
        ({"type": "document", "source": {"type": "url", "url": "https://example.com"}}, "document (url)"),
        ({"type": "document", "source": {"type": "file", "file_id": "file-1"}}, "document (file_id)"),
        ({"type": "container_upload", "file_id": "file-1"}, "document (file_id)"),
        ({"type": "document_url", "document_url": "https://example.com/a.pdf"}, "document (url)"),
        ({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}, "video (url)"),
        ({"type": "input_audio", "input_audio": "https://example.com/a.mp3"}, "audio (url)"),
        ({"fileData": {"mimeType": "video/mp4", "fileUri": "gs://bucket/a"}}, "video (fileData)"),
        ({"document": {"format": "pdf", "source": {"s3Location": {"uri": "s3://bucket/a"}}}}, "document (s3Location)"),
    ],
)
def test_what_is_elsewhere_fills_at_most_one_window(part: Json, reason: str) -> None:
    found = growth(asking(part))
    assert (found.reason, found.rounds) == (reason, 0)
    assert found.allowance.input_tokens > 0


def test_a_document_that_is_text_is_text() -> None:
    words = "It was the best of times. " * 100
    data = base64.b64encode(words.encode()).decode()
    for part in (
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": words}},
        {"inlineData": {"mimeType": "text/plain", "data": data}},
        {"document": {"format": "txt", "name": "a", "source": {"bytes": data}}},
        {"type": "file", "file": {"file_data": f"data:text/csv;base64,{data}"}},
    ):
        found = size(asking(part))
        assert found.growth is None
        assert 0.4 * len(words) < found.safe.input_tokens < 0.6 * len(words)
        assert found.strict.input_tokens > len(words)


def test_sound_is_counted_by_seconds_and_announced() -> None:
    head = b"RIFF" + bytes(4) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
    data = base64.b64encode(head + b"data" + bytes(4 + 320_000)).decode()
    for part in (
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
        {"inlineData": {"mimeType": "audio/wav", "data": data}},
    ):
        found = size(asking(part), "gemini-2.5-flash")
        assert 10 * 32 <= found.safe.units["input_audio_tokens"] <= found.strict.units["input_audio_tokens"] < 1_000
        assert found.growth is None


def test_an_hour_in_the_cache_is_announced_for_all_input() -> None:
    part = {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    found = size(asking(part), "claude-sonnet-4-5")
    assert found.strict.units == {"cache_write_1h_tokens": found.strict.input_tokens}
    assert found.safe.units == {"cache_write_1h_tokens": found.safe.input_tokens}
