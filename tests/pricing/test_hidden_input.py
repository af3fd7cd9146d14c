"""What a request makes a provider read or make beside its own words: an upper bound counts it, or there is none."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from limiter.domain.calls import ProviderRequest, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument
from limiter.domain.reservations import Sizing
from limiter.pricing.answers import read_response
from limiter.pricing.audio import audio_length
from limiter.pricing.book import PriceBook
from limiter.pricing.hosts import endpoint
from limiter.pricing.reading import CallReading, read_request
from limiter.service.sizing import Extent, request_of, size_call

NOW_MS = 1_790_000_000_000

OPENAI, ANTHROPIC, GEMINI = "api.openai.com", "api.anthropic.com", "generativelanguage.googleapis.com"
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
GEMINI_CHAT = "/v1beta/openai/chat/completions"
SONNET = {"model": "claude-sonnet-4-5", "max_tokens": 9}
PNG = "iVBORw0KGgo="
PDF = base64.b64encode(b"%PDF-1.7").decode()
HOUR = {"type": "ephemeral", "ttl": "1h"}


def read(host: str, path: str, body: dict[str, Any]) -> CallReading:
    return read_request(ProviderRequest(host, path, json.dumps(body).encode()))


def strict(book: PriceBook, call: CallReading) -> Extent:
    price = book.find(provider=call.provider, model=call.model, at_ms=NOW_MS, context=call.context)
    assert price is not None
    return size_call(price, request_of(call, call.model), Sizing.STRICT, default_output=9)


def said(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [*parts]}]}


def test_an_image_that_is_cached_for_an_hour_is_held_at_the_price_of_that() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    call = read(ANTHROPIC, MESSAGES, SONNET | said(image | {"cache_control": HOUR}))
    assert call.size.strict.units == {"cache_write_1h_tokens": call.size.strict.input_tokens}


def test_a_document_that_is_cached_for_an_hour_may_be_a_context_window_at_that_price(book: PriceBook) -> None:
    file = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}}
    extent = strict(book, read(ANTHROPIC, MESSAGES, SONNET | said(file | {"cache_control": HOUR})))
    assert extent.input.units["cache_write_1h_tokens"] == extent.input.input_tokens >= 200_000


def test_sound_by_its_address_may_be_a_context_window_at_the_price_of_sound(book: PriceBook) -> None:
    kept = {"fileData": {"mimeType": "audio/mp3", "fileUri": "https://files.example/a"}}
    body = {"contents": [{"parts": [kept]}], "generationConfig": {"maxOutputTokens": 9}}
    extent = strict(book, read(GEMINI, "/v1beta/models/gemini-2.5-flash:generateContent", body))
    assert extent.input.units["input_audio_tokens"] == extent.input.input_tokens >= 1_000_000


def test_sound_of_an_earlier_answer_is_read_again() -> None:
    body = {"model": "gpt-audio", "max_completion_tokens": 9, "messages": [{"role": "assistant", "audio": {"id": "a"}}]}
    growth = read(OPENAI, CHAT, body).size.growth
    assert growth is not None
    assert (growth.reason, growth.rounds) == ("audio (audio.id)", 0)


@pytest.mark.parametrize(
    ("host", "path", "part"),
    [
        (GEMINI, GEMINI_CHAT, {"type": "image_url", "image_url": {"url": f"data:application/pdf;base64,{PDF}"}}),
        (OPENAI, CHAT, {"type": "file", "file": {"file_data": f"data:text/plain;base64,{PDF}"}}),
        (OPENAI, CHAT, {"type": "file", "file": {"file_data": "data:text/csv;base64,UEsDBBQA"}}),
    ],
)
def test_a_document_is_one_whatever_it_is_said_to_be(host: str, path: str, part: dict[str, Any]) -> None:
    growth = read(host, path, {"model": "gpt-4o", "max_tokens": 9} | said(part)).size.growth
    assert growth is not None
    assert growth.rounds == 0


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"data_sources": [{"type": "azure_search"}]}, "data_sources"),
        ({"connectors": [{"id": "web-search"}]}, "connectors"),
        ({"enable_search": True}, "enable_search"),
        ({"preset": "@preset/mail"}, "preset"),
        ({"plugins": [{"id": "fusion"}]}, "plugins.0 (fusion)"),
        ({"plugins": [7] * 101}, "plugins"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "browser_search"}], "max_tool_calls": 1}, "tools.0 (browser_search)"),
        ({"input": "", "tools": [{"type": "image_generation"}], "max_tool_calls": 1}, "tools.0 (image_generation)"),
        ({"tools": [{"type": "advisor_20260301", "max_uses": 1}]}, "tools.0 (advisor_20260301)"),
    ],
)
def test_what_nothing_bounds_is_refused_where_a_bound_is_asked_for(
    book: PriceBook, fields: dict[str, Any], reason: str
) -> None:
    call = read(OPENAI, CHAT, {"model": "gpt-4o", "max_tokens": 9, **fields})
    with pytest.raises(InvalidArgument) as caught:
        strict(book, call)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"extra_body": {"google": {"cached_content": "cachedContents/a"}}}, "extra_body.google.cached_content"),
        ({"conversation_id": "a"}, "conversation_id"),
        ({"promptVariables": {"a": {"text": "b"}}}, "promptVariables"),
    ],
)
def test_what_the_provider_keeps_is_bounded_by_the_context_window(fields: dict[str, Any], reason: str) -> None:
    growth = read(GEMINI, GEMINI_CHAT, {"model": "gemini-2.5-flash", "max_tokens": 9, **fields}).size.growth
    assert growth is not None
    assert (growth.reason, growth.rounds) == (reason, 0)


def test_the_tools_of_a_kept_prompt_are_bounded_by_their_number() -> None:
    body = {"model": "gpt-5", "max_output_tokens": 9, "prompt": {"id": "pmpt_1"}, "max_tool_calls": 2}
    growth = read(OPENAI, RESPONSES, body).size.growth
    assert growth is not None
    assert (growth.rounds, growth.fees) == (2, {"web_searches": 2})


def test_a_query_is_read_anew_with_each_document_that_it_ranks() -> None:
    query, documents = "q" * 1_000, ["a"] * 200
    body = {"model": "rerank-2.5", "query": query, "documents": documents}
    size = read("api.voyageai.com", "/v1/rerank", body).size
    assert size.strict.input_tokens >= 200 * 1_001
    assert size.safe.input_tokens >= 200 * 1_000 // 3
    with pytest.raises(InvalidArgument, match="at most 10000"):
        read("api.voyageai.com", "/v1/rerank", body | {"documents": ["a"] * 10_001})


def test_imagen_makes_four_images_where_it_is_told_no_number() -> None:
    body = {"instances": [{"prompt": "x"}]}
    call = read(GEMINI, "/v1beta/models/imagen-4.0-generate-001:predict", body)
    assert call.size.strict.units == {"images": 4}


def test_of_two_texts_to_be_spoken_the_longer_one_counts() -> None:
    body = {"model_id": "eleven_multilingual_v2", "input": "a", "text": "b" * 500}
    assert read("api.elevenlabs.io", "/v1/text-to-speech/a", body).size.strict.units == {"input_characters": 500}


def test_images_to_be_changed_are_counted_where_json_names_them() -> None:
    body = {"model": "gpt-image-1", "prompt": "x", "images": [{"image_url": "https://a.example"}, {"file_id": "b"}]}
    strict_, safe, _ = read(OPENAI, "/v1/images/edits", body).size
    assert strict_.units == {"input_image_tokens": 20_000}
    assert safe.units == {"input_image_tokens": 14_000}
    assert strict_.input_tokens > 20_000


@pytest.mark.parametrize(
    "parts",
    [
        (("file", b"RIFF"), ("file", b"RIFF" * 9)),
        (("file[]", b"RIFF"), ("file", b"RIFF" * 9)),
        (("file", b"RIFF"), ("url", b"https://a.example")),
    ],
)
def test_a_second_recording_is_refused(parts: tuple[tuple[str, bytes], ...]) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n'
    for name, value in parts:
        file = b'; filename="a.wav"' if name != "url" else b""
        head = b'--b\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + file
        body += head + b"\r\n\r\n" + value + b"\r\n"
    with pytest.raises(InvalidArgument, match=r"body\.file"):
        read_request(ProviderRequest(OPENAI, "/v1/audio/transcriptions", body + b"--b--\r\n"))


def wav(kind: int, *, rate: int, block: int, bits: int, more: bytes = b"") -> bytes:
    header = struct.pack("<HHIIHH", kind, 1, rate, rate * block, block, bits) + more
    return b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", len(header)) + header + bytes(100_000)


def test_a_wav_file_is_as_long_as_its_samples_whatever_it_says_of_its_blocks() -> None:
    assert audio_length(wav(1, rate=8_000, block=1, bits=8)).strict == 13
    assert audio_length(wav(1, rate=8_000, block=65_535, bits=8)).strict == 13


def test_a_wav_file_that_names_a_packed_format_elsewhere_is_bounded_by_its_bytes() -> None:
    guid = struct.pack("<HHI", 22, 16, 0) + struct.pack("<H", 0x55) + bytes(14)
    assert audio_length(wav(0xFFFE, rate=48_000, block=4, bits=16, more=guid)).strict > 100
    plain = struct.pack("<HHI", 22, 16, 0) + struct.pack("<H", 1) + bytes(14)
    assert audio_length(wav(0xFFFE, rate=8_000, block=1, bits=8, more=plain)).strict == 13


@pytest.mark.parametrize("provider", ["openai", "azure"])
def test_sound_has_a_price_of_its_own_where_the_list_below_has_only_that_of_text(
    book: PriceBook, provider: str
) -> None:
    price = book.find(provider=provider, model="gpt-4o-audio-preview", at_ms=NOW_MS)
    assert price is not None
    assert price.hold_nanousd(input_tokens=100, max_output_tokens=100, units={"input_audio_tokens": 100}) == 12_000_000
    usage = Usage(100, 100, units={"input_audio_tokens": 100, "output_audio_tokens": 100})
    assert price.charge_nanousd(usage) == 12_000_000


@pytest.mark.parametrize("host", ["openai", "openai-proxy", "bedrock", "groq", "deepgram", "together"])
def test_a_host_that_is_only_named_like_a_provider_has_none_of_its_prices(book: PriceBook, host: str) -> None:
    found = endpoint(host, CHAT)
    assert (found.provider, found.is_known) == (f"{host}:443", False)
    for model in ("gpt-4o", "llama-3.3-70b-versatile", "nova-2"):
        assert book.find(provider=found.provider, model=model, at_ms=NOW_MS) is None


def test_no_provider_with_listed_prices_is_a_host_of_the_same_name(book: PriceBook) -> None:
    for provider in {provider for provider, _ in book.names() if provider}:
        assert endpoint(provider, CHAT).provider == f"{provider}:443"


@pytest.mark.parametrize(
    "answer",
    [
        {"usageMetadata": {"promptTokenCount": 5, "promptTokensDetails": [{"modality": 7, "tokenCount": 3}]}},
        {"output": [{"type": {}}, {"type": ["x"]}], "usage": {"input_tokens": 5, "output_tokens": 0}},
    ],
)
def test_an_answer_with_things_in_place_of_words_is_read_all_the_same(answer: dict[str, Any]) -> None:
    response = ProviderResponse(200, "application/json", json.dumps(answer).encode())
    usage = read_response(provider="google", response=response).usage
    assert usage is not None
    assert usage.input_tokens == 5
