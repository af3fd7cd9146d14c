"""What a call used is read from the provider's own answer."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from limiter.domain.calls import Outcome, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument
from limiter.pricing.reading import ResponseReading, read_response

CHAT_USAGE = {
    "prompt_tokens": 120,
    "completion_tokens": 50,
    "total_tokens": 170,
    "prompt_tokens_details": {"cached_tokens": 100, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 0},
}


def read(answer: object, *, provider: str = "openai", status: int = 200) -> ResponseReading:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_response(provider=provider, response=ProviderResponse(status, "application/json", body))


def stream(*events: object, provider: str = "openai", line_end: str = "\n", cut: int = 0) -> ResponseReading:
    lines = [f"data: {event if isinstance(event, str) else json.dumps(event)}{line_end * 2}" for event in events]
    body = "".join(lines).encode()
    response = ProviderResponse(200, "text/event-stream; charset=utf-8", body[: len(body) - cut])
    return read_response(provider=provider, response=response)


def test_a_chat_completion_tells_its_usage() -> None:
    answer = {"id": "chatcmpl-1", "model": "gpt-4o-2024-08-06", "choices": [], "usage": CHAT_USAGE}
    assert read(answer) == ResponseReading(
        model="gpt-4o-2024-08-06",
        usage=Usage(120, 50, cache_read_tokens=100, reasoning_tokens=20),
        provider_request_id="chatcmpl-1",
    )


ANTHROPIC_USAGE = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 2_000,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
    "output_tokens": 40,
    "server_tool_use": {"web_search_requests": 2},
}


@pytest.mark.parametrize("provider", ["anthropic", "deepseek", "azure", ""])
def test_cached_tokens_of_anthropic_are_added_to_the_input(provider: str) -> None:
    reading = read({"id": "msg_1", "type": "message", "model": "c", "usage": ANTHROPIC_USAGE}, provider=provider)
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (2_310, 40)
    assert (reading.usage.cache_read_tokens, reading.usage.cache_write_tokens) == (2_000, 300)
    assert reading.usage.units.get("cache_write_1h_tokens") == 200


def test_searches_are_read_as_units() -> None:
    reading = read({"type": "message", "model": "c", "usage": ANTHROPIC_USAGE}, provider="anthropic")
    assert reading.usage is not None
    assert reading.usage.units["web_searches"] == 2


@pytest.mark.parametrize("provider", ["openai", "deepseek", "together", "no-such-provider"])
def test_interfaces_of_openai_are_understood_at_other_hosts(provider: str) -> None:
    chat = read({"model": "m", "usage": CHAT_USAGE}, provider=provider)
    assert chat.usage is not None
    assert (chat.usage.input_tokens, chat.usage.output_tokens) == (120, 50)
    counts = {"input_tokens": 7, "output_tokens": 8, "output_tokens_details": {"reasoning_tokens": 5}}
    response = read({"id": "resp_1", "object": "response", "model": "m", "usage": counts}, provider=provider)
    assert response.usage == Usage(7, 8, reasoning_tokens=5)


def test_the_terms_that_a_call_was_served_on_are_told() -> None:
    assert read({"model": "m", "service_tier": "priority", "usage": CHAT_USAGE}).context == {"service_tier": "priority"}
    assert read({"model": "m", "service_tier": "default", "usage": CHAT_USAGE}).context == {}


@pytest.mark.parametrize("status", [300, 400, 401, 429, 500, 529, 599])
def test_an_error_used_nothing_whatever_its_body(status: int) -> None:
    assert read(b"\x00 no JSON", status=status) == ResponseReading("", Usage(), "", Outcome.FAILED)


@pytest.mark.parametrize("status", [-1, 0, 100, 199, 600])
def test_what_is_no_final_status_is_refused(status: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read({}, status=status)
    assert caught.value.field == "provider_response.status"


@pytest.mark.parametrize("answer", [{}, {"usage": None}, {"usage": {}}, {"error": {"message": "x"}}])
def test_an_answer_without_usage_says_so(answer: dict[str, Any]) -> None:
    assert read(answer).usage is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"<html>",
        b"[]",
        b'"text"',
        gzip.compress(b"{}"),
        {"usage": [1]},
        {"usage": {"tokens": 5}},
        {"usage": {"prompt_tokens": True, "completion_tokens": 5}},
        {"usage": {"prompt_tokens": "many", "completion_tokens": 5}},
        {"usage": {"prompt_tokens": 5}},
        {"usage": {"prompt_tokens": None, "completion_tokens": []}},
        b'{"usage": {"prompt_tokens": Infinity, "completion_tokens": 5}}',
    ],
    ids=range(12),
)
def test_an_answer_that_cannot_be_read_is_refused(answer: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(answer)
    assert caught.value.field == "provider_response.body"


def chunk(**fields: object) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "model": "gpt-4o", "choices": [{"delta": {"content": "Hi"}}], "usage": None} | fields


LAST = chunk(choices=[], usage=CHAT_USAGE)


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_stream_of_chunks_tells_its_usage_at_the_end(line_end: str) -> None:
    reading = stream(chunk(), chunk(), LAST, "[DONE]", line_end=line_end)
    assert reading.usage == Usage(120, 50, cache_read_tokens=100, reasoning_tokens=20)
    assert (reading.model, reading.provider_request_id) == ("gpt-4o", "chatcmpl-1")
    assert reading.outcome is Outcome.COMPLETED


def test_the_usage_of_a_stream_counts_though_the_last_line_is_lost() -> None:
    assert stream(chunk(), LAST).usage is not None


def test_a_stream_without_usage_says_so() -> None:
    reading = stream(chunk(), "[DONE]")
    assert (reading.usage, reading.outcome) == (None, Outcome.COMPLETED)


@pytest.mark.parametrize("cut", [3, 20, 90])
def test_a_stream_that_was_cut_off_is_aborted(cut: int) -> None:
    reading = stream(chunk(), LAST, cut=cut)
    assert (reading.usage, reading.outcome, reading.model) == (None, Outcome.ABORTED, "gpt-4o")


def test_counts_on_the_way_are_no_usage() -> None:
    counting = chunk(usage={"prompt_tokens": 120, "completion_tokens": 3})
    assert stream(counting, counting).usage is None
    done = stream(counting, chunk(usage=CHAT_USAGE), "[DONE]")
    assert done.usage is not None
    assert done.usage.output_tokens == 50


STARTED = {
    "type": "message_start",
    "message": {"id": "msg_1", "model": "claude", "usage": ANTHROPIC_USAGE | {"output_tokens": 1}},
}
DELTA = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 77}}


def test_a_stream_of_anthropic_adds_up() -> None:
    reading = stream(STARTED, {"type": "ping"}, DELTA, {"type": "message_stop"}, provider="anthropic")
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens) == (2_310, 77)
    assert (reading.model, reading.provider_request_id, reading.outcome) == ("claude", "msg_1", Outcome.COMPLETED)


def test_a_stream_of_anthropic_that_stopped_early_has_no_usage() -> None:
    reading = stream(STARTED, {"type": "error", "error": {"type": "overloaded_error"}}, provider="anthropic")
    assert (reading.usage, reading.outcome, reading.model) == (None, Outcome.ABORTED, "claude")


@pytest.mark.parametrize("ending", ["response.completed", "response.incomplete", "response.failed"])
def test_a_stream_of_responses_tells_its_usage_in_the_last_event(ending: str) -> None:
    response = {"id": "resp_1", "model": "gpt-5", "usage": None}
    done = response | {"usage": {"input_tokens": 7, "output_tokens": 8}}
    reading = stream({"type": "response.created", "response": response}, {"type": ending, "response": done})
    assert reading.usage == Usage(7, 8)
    assert (reading.model, reading.provider_request_id, reading.outcome) == ("gpt-5", "resp_1", Outcome.COMPLETED)


@pytest.mark.parametrize("body", [b"", b"\n\n", b": ping\n\n", b"data: {\n\n", b"data: \xff\n\n", b"no stream"])
def test_what_is_no_stream_of_events_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read_response(provider="openai", response=ProviderResponse(200, "text/event-stream", body))
    assert caught.value.field == "provider_response.body"


def test_events_of_unexpected_shape_do_no_harm() -> None:
    reading = stream([], {"type": ["x"], "usage": {}}, {"type": {}, "message": "x", "response": 1}, "[DONE]")
    assert reading == ResponseReading("", None, "")


# ---------------------------------------------------------------------------- other providers


def usage_of(answer: object, provider: str) -> Usage:
    reading = read(answer, provider=provider)
    assert reading.usage is not None
    assert reading.suspect == ()
    return reading.usage


GEMINI_USAGE = {
    "promptTokenCount": 100,
    "cachedContentTokenCount": 30,
    "candidatesTokenCount": 1_300,
    "thoughtsTokenCount": 50,
    "toolUsePromptTokenCount": 7,
    "totalTokenCount": 1_457,
    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 60}, {"modality": "AUDIO", "tokenCount": 40}],
    "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1_290}],
}


def test_gemini_counts_thoughts_and_tools_beside_the_rest() -> None:
    usage = usage_of({"candidates": [], "usageMetadata": GEMINI_USAGE, "modelVersion": "gemini"}, "google")
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (107, 1_350, 1_457)
    assert (usage.cache_read_tokens, usage.reasoning_tokens) == (30, 50)
    assert (usage.units["input_audio_tokens"], usage.units["output_image_tokens"]) == (40, 1_290)


@pytest.mark.parametrize(("model", "searches"), [("gemini-2.5-pro", 1), ("gemini-3-pro-preview", 2)])
def test_searches_of_google_are_billed_by_the_answer_and_later_by_the_search(model: str, searches: int) -> None:
    candidate = {"finishReason": "STOP", "groundingMetadata": {"webSearchQueries": ["a", "", "b"]}}
    answer = {"candidates": [candidate], "usageMetadata": GEMINI_USAGE, "modelVersion": model}
    assert usage_of(answer, "google").units["web_searches"] == searches
    later = {"candidates": [{"finishReason": "STOP"}], "usageMetadata": GEMINI_USAGE, "modelVersion": model}
    told = stream(answer, later, provider="google").usage
    assert told is not None
    assert told.units["web_searches"] == searches


def test_a_stream_of_gemini_may_be_one_list() -> None:
    chunks = [{"candidates": [{}], "usageMetadata": GEMINI_USAGE | {"candidatesTokenCount": 3}}]
    chunks += [{"candidates": [{"finishReason": "STOP"}], "usageMetadata": GEMINI_USAGE}]
    assert usage_of(chunks, "google").output_tokens == 1_350


@pytest.mark.parametrize(
    ("answer", "provider", "expected"),
    [
        (
            {"usage": {"inputTokens": 5, "outputTokens": 6, "cacheReadInputTokens": 7, "totalTokens": 18}},
            "aws",
            Usage(12, 6, cache_read_tokens=7),
        ),
        (
            {"usage": {"inputTokens": 9, "outputTokens": 6, "cacheReadInputTokenCount": 7, "totalTokens": 15}},
            "aws",
            Usage(9, 6, cache_read_tokens=7),
        ),
        ({"embedding": [0.1], "inputTextTokenCount": 5}, "aws", Usage(5)),
        ({"inputTextTokenCount": 5, "results": [{"tokenCount": 3}, {"tokenCount": 4}]}, "aws", Usage(5, 7)),
        ({"generation": "x", "prompt_token_count": 5, "generation_token_count": 4}, "aws", Usage(5, 4)),
        ({"message": {}, "prompt_eval_count": 5, "eval_count": 4, "done": True}, "ollama", Usage(5, 4)),
        (
            {"usage": {"billed_units": {"input_tokens": 3, "output_tokens": 4}, "tokens": {"input_tokens": 500}}},
            "cohere",
            Usage(3, 4),
        ),
        ({"meta": {"billed_units": {"search_units": 2}}, "results": []}, "cohere", Usage(units={"rerank_searches": 2})),
        ({"meta": {"billed_units": {"image_tokens": 9}}, "embeddings": {}}, "cohere", Usage(9)),
        ({"text": "", "meta": {"billed_units": {"input_tokens": 3, "output_tokens": 4}}}, "cohere", Usage(3, 4)),
        ({"data": [{"embedding": []}], "usage": {"total_tokens": 6}}, "voyage", Usage(6)),
        ({"data": [{"embedding": []}], "usage": {"prompt_tokens": 6, "total_tokens": 6}}, "jina", Usage(6)),
        ({"results": [], "usage": {"prompt_tokens": 6, "total_tokens": 6}}, "jina", Usage(6)),
        (
            {"usage": {"prompt_tokens": 10, "completion_tokens": 4, "prompt_cache_hit_tokens": 8}},
            "deepseek",
            Usage(10, 4, cache_read_tokens=8),
        ),
        (
            {
                "usage": {
                    "prompt_tokens": 32,
                    "completion_tokens": 9,
                    "total_tokens": 135,
                    "completion_tokens_details": {"reasoning_tokens": 94},
                }
            },
            "x-ai",
            Usage(32, 103, reasoning_tokens=94),
        ),
        (
            {"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "num_search_queries": 5}},
            "perplexity",
            Usage(3, 4, units={"web_searches": 5}),
        ),
        ({"result": {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}}, "cloudflare", Usage(3, 4)),
        (
            {"usage_info": {"pages_processed": 3, "doc_size_bytes": 9}, "pages": []},
            "mistral",
            Usage(units={"input_document_pages": 3}),
        ),
        ({"predictions": [{"embeddings": {"statistics": {"token_count": 4.0}}}]}, "google", Usage(4)),
    ],
    ids=range(19),
)
def test_other_providers_tell_their_counts_in_other_ways(answer: object, provider: str, expected: Usage) -> None:
    assert usage_of(answer, provider) == expected


def test_reasoning_beside_the_output_is_told_by_the_total_at_other_hosts_too() -> None:
    usage = CHAT_USAGE | {"total_tokens": 190}
    assert usage_of({"model": "grok", "usage": usage}, "azure") == Usage(
        120, 70, cache_read_tokens=100, reasoning_tokens=20
    )


def test_the_last_chunk_of_groq_has_its_usage_inside() -> None:
    last = chunk(choices=[{"delta": {}, "finish_reason": "stop"}], x_groq={"id": "req_1", "usage": CHAT_USAGE})
    reading = stream(chunk(), last, provider="groq")
    assert reading.usage == Usage(120, 50, cache_read_tokens=100, reasoning_tokens=20)
    assert (reading.provider_request_id, reading.outcome) == ("chatcmpl-1", Outcome.COMPLETED)


# ---------------------------------------------------------------------------- tools and other models


SEARCHED = {
    "id": "resp_1",
    "object": "response",
    "model": "gpt-5",
    "output": [
        {"type": "web_search_call", "action": {"type": "search", "query": "q"}},
        {"type": "web_search_call", "action": {"type": "open_page"}},
        {"type": "file_search_call", "queries": ["q"]},
        {"type": "code_interpreter_call", "code": "1"},
        {"type": "message"},
    ],
    "usage": {"input_tokens": 7, "output_tokens": 8, "total_tokens": 15},
}
SEARCHES = {"web_searches": 1, "storage_searches": 1, "code_executions": 1}


def test_calls_of_the_providers_tools_are_units() -> None:
    assert usage_of(SEARCHED, "openai") == Usage(7, 8, units=SEARCHES)
    reading = stream({"type": "response.completed", "response": SEARCHED})
    assert reading.usage == Usage(7, 8, units=SEARCHES)


def test_an_advisor_is_another_model_with_a_usage_of_its_own() -> None:
    runs = [
        {"type": "message", "input_tokens": 8, "output_tokens": 30},
        {"type": "advisor_message", "model": "claude-opus-4-8", "input_tokens": 2_000, "output_tokens": 90},
        {"type": "message", "input_tokens": 2, "output_tokens": 10},
    ]
    usage = ANTHROPIC_USAGE | {"iterations": runs}
    reading = read({"type": "message", "model": "claude", "usage": usage}, provider="anthropic")
    assert reading.others == (("claude-opus-4-8", Usage(2_000, 90)),)
    assert reading.usage == read({"type": "message", "usage": ANTHROPIC_USAGE}, provider="anthropic").usage


def test_images_that_a_tool_made_are_used_of_another_model() -> None:
    made: dict[str, Any] = {"input_tokens": 20, "output_tokens": 1_000, "total_tokens": 1_020}
    made |= {"input_tokens_details": {"text_tokens": 20, "image_tokens": 0}}
    reading = read(SEARCHED | {"tool_usage": {"image_gen": made, "web_search": {"num_requests": 3}}})
    assert reading.usage is not None
    assert reading.usage.units["web_searches"] == 3
    assert [(model, usage.output_tokens) for model, usage in reading.others] == [("gpt-image-1", 1_000)]


@pytest.mark.parametrize(
    ("answer", "context"),
    [
        ({"usage": ANTHROPIC_USAGE | {"service_tier": "batch"}}, {"processing": "batch"}),
        ({"usage": ANTHROPIC_USAGE | {"speed": "fast"}}, {"speed": "fast"}),
        ({"usageMetadata": GEMINI_USAGE | {"serviceTier": "flex"}}, {"service_tier": "flex"}),
        ({"usageMetadata": GEMINI_USAGE | {"trafficType": "ON_DEMAND_PRIORITY"}}, {"service_tier": "priority"}),
        ({"usage": {"inputTokens": 1, "outputTokens": 1}, "serviceTier": {"type": "flex"}}, {"service_tier": "flex"}),
        ({"usage": ANTHROPIC_USAGE | {"service_tier": ["batch"]}}, {}),
    ],
)
def test_every_provider_has_its_own_words_for_the_terms(answer: object, context: dict[str, str]) -> None:
    assert read(answer, provider="").context == context


# ---------------------------------------------------------------------------- images, sound and answers without usage


def test_images_are_counted_where_no_tokens_are_told() -> None:
    made = {"created": 1, "data": [{"b64_json": "x"}, {"url": "https://x"}], "size": "1024x1024", "quality": "hd"}
    reading = read(made)
    assert reading.usage == Usage(units={"images": 2})
    assert reading.context == {"size": "1024x1024", "quality": "hd"}
    details = {"text_tokens": 10, "image_tokens": 40}
    counts = {"input_tokens": 50, "output_tokens": 4_160, "total_tokens": 4_210, "input_tokens_details": details}
    told = usage_of(made | {"usage": counts}, "openai")
    assert (told.input_tokens, told.output_tokens, told.units["input_image_tokens"]) == (50, 4_160, 40)
    assert "images" not in told.units


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"text": "Hi", "usage": {"type": "duration", "seconds": 9}}, Usage(units={"audio_seconds": 9})),
        ({"text": "Hi", "duration": 8.47, "segments": []}, Usage(units={"audio_seconds": 9})),
        (
            {
                "text": "Hi",
                "usage": {
                    "type": "tokens",
                    "input_tokens": 14,
                    "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
                    "output_tokens": 45,
                    "total_tokens": 59,
                },
            },
            Usage(14, 45, units={"input_audio_tokens": 14}),
        ),
    ],
)
def test_transcripts_are_counted_in_seconds_or_tokens(answer: object, expected: Usage) -> None:
    assert usage_of(answer, "openai") == expected


@pytest.mark.parametrize("kind", ["transcript.text.done", "speech.audio.done"])
def test_streams_of_sound_tell_their_usage_in_the_last_event(kind: str) -> None:
    reading = stream({"type": kind, "usage": {"input_tokens": 14, "output_tokens": 45, "total_tokens": 59}})
    assert (reading.usage, reading.outcome) == (Usage(14, 45), Outcome.COMPLETED)


@pytest.mark.parametrize("content_type", ["audio/mpeg", "audio/wav", "application/octet-stream", "video/mp4"])
def test_what_is_no_text_used_what_was_asked_for(content_type: str) -> None:
    reading = read_response(provider="openai", response=ProviderResponse(200, content_type, b"\xff\xfb\x90"))
    assert (reading.usage, reading.as_asked, reading.outcome) == (None, True, Outcome.COMPLETED)


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "Hello"},
        {"embeddings": [[0.1]], "id": "x", "texts": ["a"]},
        {"embedding": {"values": [0.1]}},
        {"object": "list", "data": [{"object": "embedding", "embedding": [0.1]}]},
        {"id": "modr-1", "model": "omni-moderation-latest", "results": [{"flagged": False}]},
        {"results": [{"index": 0, "relevance_score": 0.9}]},
        {"id": "video_1", "object": "video", "status": "queued", "seconds": "4"},
    ],
)
def test_answers_that_never_tell_a_usage_used_what_was_asked_for(answer: object) -> None:
    reading = read(answer)
    assert (reading.usage, reading.as_asked) == (None, True)


@pytest.mark.parametrize("answer", [{"choices": [{"message": {"content": "Hi"}}]}, {"usageMetadata": {"a": "b"}}, {}])
def test_an_answer_that_should_have_told_its_usage_is_no_such_answer(answer: object) -> None:
    reading = read(answer)
    assert (reading.usage, reading.as_asked) == (None, False)


def test_a_stream_that_is_not_named_one_is_read_and_so_is_json_that_is() -> None:
    body = f"data: {json.dumps(LAST)}\n\ndata: [DONE]\n\n".encode()
    assert read(body).usage is not None
    assert read(b": one moment\n\nid: 1\n" + body).usage is not None
    named = ProviderResponse(200, "text/event-stream", json.dumps({"model": "m", "usage": CHAT_USAGE}).encode())
    assert read_response(provider="openai", response=named).usage is not None


# ---------------------------------------------------------------------------- counts that make no sense


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"prompt_tokens": "5"}, Usage(5, 5)),
        ({"prompt_tokens": -5}, Usage(0, 5)),
        ({"prompt_tokens": 10**13}, Usage(10**12, 5)),
        ({"prompt_tokens": 10**400}, Usage(10**12, 5)),
        ({"prompt_tokens": 4.2}, Usage(5, 5)),
        ({"total_tokens": 100}, Usage(7, 93)),
        ({"total_tokens": 3}, Usage(7, 5)),
        ({"completion_tokens": None, "total_tokens": 10}, Usage(7, 3)),
        ({"prompt_tokens_details": {"cached_tokens": 50}}, Usage(57, 5, cache_read_tokens=50)),
        ({"completion_tokens_details": {"reasoning_tokens": 9}}, Usage(7, 14, reasoning_tokens=9)),
        ({"prompt_tokens_details": {"audio_tokens": 50}}, Usage(50, 5, units={"input_audio_tokens": 50})),
        ({"prompt_tokens_details": {"cached_tokens": True}}, Usage(7, 5)),
    ],
    ids=range(12),
)
def test_counts_that_make_no_sense_are_suspect_and_have_a_larger_reading(
    counts: dict[str, Any], expected: Usage
) -> None:
    reading = read({"model": "m", "usage": {"prompt_tokens": 7, "completion_tokens": 5} | counts})
    assert (reading.larger or reading.usage) == expected
    assert len(reading.suspect) == 1


@pytest.mark.parametrize(
    "counts",
    [
        {"prompt_tokens": 7.0},
        {"total_tokens": 12},
        {"total_tokens": None},
        {"prompt_tokens_details": None},
        {"prompt_tokens_details": {"cached_tokens": 7}, "completion_tokens_details": {"reasoning_tokens": 5}},
    ],
)
def test_counts_that_make_sense_are_not_suspect(counts: dict[str, Any]) -> None:
    reading = read({"model": "m", "usage": {"prompt_tokens": 7, "completion_tokens": 5} | counts})
    assert reading.usage is not None
    assert (reading.usage.input_tokens, reading.usage.output_tokens, reading.suspect) == (7, 5, ())
