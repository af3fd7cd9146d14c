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
        {"usage": {"prompt_tokens": "5", "completion_tokens": 5}},
        {"usage": {"prompt_tokens": -5, "completion_tokens": 5}},
        {"usage": {"prompt_tokens": True, "completion_tokens": 5}},
        {"usage": {"prompt_tokens": 5}},
        {"usage": {"prompt_tokens": 10**13, "completion_tokens": 5}},
        b'{"usage": {"prompt_tokens": Infinity, "completion_tokens": 5}}',
    ],
    ids=range(13),
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
