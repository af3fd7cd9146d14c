"""Whatever JSON comes in, the answer is a reading or InvalidArgument, never another error."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from limiter.domain.calls import COUNT_MAX, ProviderRequest, ProviderResponse
from limiter.domain.errors import InvalidArgument
from limiter.pricing.answers import ResponseReading, read_response
from limiter.pricing.reading import read_request
from limiter.pricing.suspicion import settled_reading

#: Words that the readers look for, in places where nobody expects them.
WORDS = (
    "model models messages content type image image_url input_image url source data base64 file document file_id "
    "input_audio ttl 1h tools function input metadata tags a:b max_tokens n stream service_tier reasoning mode usage "
    "prompt_tokens completion_tokens input_tokens output_tokens prompt_tokens_details cached_tokens cache_creation "
    "generationConfig generation_config maxOutputTokens candidateCount inferenceConfig maxTokens serviceTier labels "
    "requestMetadata additionalModelRequestFields contents parts inlineData fileData requests prompt best_of size "
    "quality seconds instances parameters sampleCount durationSeconds document pages query documents thinking "
    "token_budget inputText textGenerationConfig maxTokenCount anthropic_version system toolConfig bytes json "
    "input_tokens_details usageMetadata message response choices id message_start message_delta response.completed "
    "total_tokens completion_tokens_details reasoning_tokens cache_read_input_tokens promptTokenCount totalTokenCount "
    "candidatesTokenCount thoughtsTokenCount promptTokensDetails modality AUDIO tokenCount candidates finishReason "
    "groundingMetadata webSearchQueries inputTokens outputTokens cacheReadInputTokens cacheDetails billed_units meta "
    "search_units output action web_search_call tool_usage image_gen iterations executed_tools x_groq result seconds "
    "duration text embedding embeddings results flagged images predictions serviceTier amazon-bedrock-invocationMetrics"
)

words = st.sampled_from(WORDS.split()) | st.text(max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**14) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=6),
    max_leaves=20,
)
objects = st.dictionaries(words, values, max_size=8)


@given(
    body=objects,
    to=st.sampled_from(
        [
            ("api.openai.com", "/v1/chat/completions"),
            ("api.openai.com", "/v1/responses"),
            ("api.anthropic.com", "/v1/messages"),
            ("openrouter.ai", "/api/v1/chat/completions"),
            ("api.openai.com", "/v1/completions"),
            ("api.openai.com", "/v1/images/generations"),
            ("api.openai.com", "/v1/audio/speech"),
            ("api.openai.com", "/v1/audio/transcriptions"),
            ("api.openai.com", "/v1/videos"),
            ("api.openai.com", "/v1/moderations"),
            ("api.cohere.com", "/v2/chat"),
            ("api.cohere.com", "/v2/embed"),
            ("api.cohere.com", "/v2/rerank"),
            ("api.mistral.ai", "/v1/ocr"),
            ("generativelanguage.googleapis.com", "/v1beta/models/m:generateContent"),
            ("generativelanguage.googleapis.com", "/v1beta/models/m:batchEmbedContents"),
            ("aiplatform.googleapis.com", "/v1/publishers/google/models/veo:predictLongRunning"),
            ("bedrock-runtime.us-east-1.amazonaws.com", "/model/m/converse"),
            ("bedrock-runtime.us-east-1.amazonaws.com", "/model/arn:aws:bedrock::1:imported-model%2Fx/invoke"),
        ]
    ),
)
def test_any_request_is_read_or_refused(body: dict[str, Any], to: tuple[str, str]) -> None:
    written = json.dumps({"model": "m", **body}).encode()
    with contextlib.suppress(InvalidArgument):
        reading = read_request(ProviderRequest(*to, written))
        strict, safe = reading.size.strict, reading.size.safe
        assert 0 <= safe.input_tokens <= strict.input_tokens
        assert all(count >= 0 for count in (*strict.units.values(), *safe.units.values()))


def check(reading: ResponseReading) -> None:
    """Whatever was told, what was read can be charged: no part is more than its whole."""
    usages = [usage for _, usage in reading.others] + ([reading.usage] if reading.usage else [])
    for usage in usages:
        assert settled_reading(usage) == (usage, ())
        assert all(0 <= count <= COUNT_MAX for count in (usage.input_tokens, usage.output_tokens))
        assert all(count >= 0 for count in usage.units.values())


providers = st.sampled_from(["openai", "anthropic", "google", "groq", "cohere", "x-ai", "aws", "perplexity", ""])


@given(answer=objects, provider=providers)
def test_any_answer_is_read_or_refused(answer: dict[str, Any], provider: str) -> None:
    with contextlib.suppress(InvalidArgument):
        body = json.dumps(answer).encode()
        check(read_response(provider=provider, response=ProviderResponse(200, "application/json", body)))


@given(usage=objects, place=st.sampled_from(["usage", "usageMetadata", "meta", "x_groq", "result", "tool_usage"]))
def test_any_usage_is_read_or_refused(usage: dict[str, Any], place: str) -> None:
    for answer in ({place: usage}, {place: {"usage": usage, "billed_units": usage, "image_gen": usage}, "output": []}):
        with contextlib.suppress(InvalidArgument):
            body = json.dumps(answer).encode()
            check(read_response(provider="", response=ProviderResponse(200, "application/json", body)))


@given(events=st.lists(values | objects, max_size=4), provider=providers)
def test_any_stream_is_read_or_refused(events: list[Any], provider: str) -> None:
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    with contextlib.suppress(InvalidArgument):
        check(read_response(provider=provider, response=ProviderResponse(200, "text/event-stream", body)))


@given(body=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for content_type in ("application/json", "text/event-stream", ""):
        with contextlib.suppress(InvalidArgument):
            read_response(provider="openai", response=ProviderResponse(200, content_type, body))
    with contextlib.suppress(InvalidArgument):
        read_request(ProviderRequest("api.openai.com", "/v1/chat/completions", body))


@given(name=words, value=st.binary(max_size=40), filename=st.none() | words)
def test_any_form_is_read_or_refused(name: str, value: bytes, filename: str | None) -> None:
    named = f'name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    head = f"--b\r\nContent-Disposition: form-data; {named}\r\n\r\n".encode(errors="replace")
    model = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n'
    for path in ("/v1/audio/transcriptions", "/v1/images/edits", "/v1/videos"):
        with contextlib.suppress(InvalidArgument):
            read_request(ProviderRequest("api.openai.com", path, model + head + value + b"\r\n--b--\r\n"))
