"""Whatever JSON comes in, the answer is a reading or InvalidArgument, never another error."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from limiter.domain.calls import ProviderRequest, ProviderResponse
from limiter.domain.errors import InvalidArgument
from limiter.pricing.reading import read_request, read_response

#: Words that the readers look for, in places where nobody expects them.
WORDS = (
    "model models messages content type image image_url input_image url source data base64 file document file_id "
    "input_audio ttl 1h tools function input metadata tags a:b max_tokens n stream service_tier reasoning mode usage "
    "prompt_tokens completion_tokens input_tokens output_tokens prompt_tokens_details cached_tokens cache_creation "
    "input_tokens_details usageMetadata message response choices id message_start message_delta response.completed"
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
        ]
    ),
)
def test_any_request_is_read_or_refused(body: dict[str, Any], to: tuple[str, str]) -> None:
    written = json.dumps({"model": "m", **body}).encode()
    with contextlib.suppress(InvalidArgument):
        reading = read_request(ProviderRequest(*to, written))
        assert reading.input_tokens >= 0
        assert all(count <= reading.input_tokens for count in reading.units.values())


@given(answer=objects, provider=st.sampled_from(["openai", "anthropic", "google", "groq", "cohere", "x-ai", ""]))
def test_any_answer_is_read_or_refused(answer: dict[str, Any], provider: str) -> None:
    with contextlib.suppress(InvalidArgument):
        body = json.dumps(answer).encode()
        read_response(provider=provider, response=ProviderResponse(200, "application/json", body))


@given(events=st.lists(values, max_size=4))
def test_any_stream_is_read_or_refused(events: list[Any]) -> None:
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
    with contextlib.suppress(InvalidArgument):
        read_response(provider="openai", response=ProviderResponse(200, "text/event-stream", body))


@given(body=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for content_type in ("application/json", "text/event-stream", ""):
        with contextlib.suppress(InvalidArgument):
            read_response(provider="openai", response=ProviderResponse(200, content_type, body))
    with contextlib.suppress(InvalidArgument):
        read_request(ProviderRequest("api.openai.com", "/v1/chat/completions", body))
