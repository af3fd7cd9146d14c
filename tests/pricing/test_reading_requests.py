"""The size of a call is read from the provider's own request, or the request is refused."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from limiter.domain.calls import BODY_MAX_BYTES, COUNT_MAX, ProviderRequest
from limiter.domain.errors import InvalidArgument
from limiter.pricing.reading import CallReading, read_request
from limiter.pricing.sizes import (
    DOCUMENT_TOKENS,
    FILE_TOKENS,
    IMAGE_TOKENS,
    IMAGE_TOKENS_ELSEWHERE,
    REQUEST_TOKENS,
    TOOLS_TOKENS,
)

OPENAI = ("api.openai.com", "/v1/chat/completions")
RESPONSES = ("api.openai.com", "/v1/responses")
ANTHROPIC = ("api.anthropic.com", "/v1/messages")
HELLO = [{"role": "user", "content": "Hello"}]


def read(body: bytes | dict[str, Any], to: tuple[str, str] = OPENAI) -> CallReading:
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_request(ProviderRequest(*to, written))


def bare(body: dict[str, Any]) -> int:
    """Input tokens of a text-only request: its bytes and what every request gets."""
    return len(json.dumps(body).encode()) + REQUEST_TOKENS


def test_a_chat_completion_is_read() -> None:
    body = {"model": "gpt-4o", "messages": HELLO, "max_completion_tokens": 500, "n": 3, "stream": True}
    assert read(body) == CallReading(
        provider="openai",
        model="gpt-4o",
        stream=True,
        input_tokens=bare(body),
        max_output_tokens=500,
        choices=3,
        output_field="max_completion_tokens",
        usage_unasked=True,
    )


def test_embeddings_have_input_only() -> None:
    body = {"model": "text-embedding-3-small", "input": ["Hello", "you"], "dimensions": 256}
    for to in (
        ("api.openai.com", "/v1/embeddings"),
        ("acme.openai.azure.com", "/openai/deployments/text-embedding-3-small/embeddings?api-version=1"),
    ):
        reading = read(body, to)

        assert (reading.model, reading.input_tokens) == ("text-embedding-3-small", bare(body))
        assert (reading.max_output_tokens, reading.output_field) == (0, "")


@pytest.mark.parametrize(
    ("host", "path", "field"),
    [
        ("api.openai.com", "/v1/chat/completions", "max_completion_tokens"),
        ("api.mistral.ai", "/v1/chat/completions", "max_tokens"),
        ("api.openai.com", "/v1/responses", "max_output_tokens"),
        ("api.anthropic.com", "/v1/messages", "max_tokens"),
    ],
)
def test_the_field_that_bounds_the_output_is_that_of_the_provider(host: str, path: str, field: str) -> None:
    assert read({"model": "m"}, (host, path)).output_field == field


@pytest.mark.parametrize(
    ("body", "unasked"),
    [
        ({"stream": True}, True),
        ({"stream": True, "stream_options": None}, True),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, True),
        ({"stream": True, "stream_options": {"include_usage": True}}, False),
        ({"stream": True, "stream_options": []}, False),
        ({}, False),
    ],
)
def test_a_chat_stream_tells_its_usage_only_if_asked(body: dict[str, Any], unasked: object) -> None:
    assert read({"model": "gpt-4o", **body}).usage_unasked is unasked
    assert not read({"model": "m", **body}, ANTHROPIC).usage_unasked
    assert not read({"model": "m", **body}, ("api.mistral.ai", "/v1/chat/completions")).usage_unasked


def test_messages_of_anthropic_are_read() -> None:
    body = {"model": "claude-sonnet-4-5", "messages": HELLO, "max_tokens": 1024}
    reading = read(body, ANTHROPIC)
    assert (reading.provider, reading.model, reading.max_output_tokens) == ("anthropic", "claude-sonnet-4-5", 1024)
    assert (reading.stream, reading.choices, reading.input_tokens) == (False, 1, bare(body))


def test_a_response_of_openai_is_read() -> None:
    body = {"model": "gpt-5", "input": "Hello", "max_output_tokens": 64}
    reading = read(body, RESPONSES)
    assert (reading.max_output_tokens, reading.bounded, reading.input_tokens) == (64, True, bare(body))


def test_without_a_limit_there_is_none() -> None:
    assert read({"model": "m", "messages": HELLO}).max_output_tokens is None
    assert read({"model": "m", "messages": HELLO, "max_tokens": None, "n": None}).max_output_tokens is None


def test_of_two_limits_the_larger_counts() -> None:
    body = {"model": "m", "messages": HELLO, "max_tokens": 900, "max_completion_tokens": 5}
    assert read(body).max_output_tokens == 900


@pytest.mark.parametrize(
    ("host", "path", "provider"),
    [
        ("API.OpenAI.com:443", "/v1/chat/completions?x=1", "openai"),
        ("api.groq.com", "/openai/v1/chat/completions", "groq"),
        ("api.deepseek.com", "/chat/completions", "deepseek"),
        ("openrouter.ai", "/api/v1/chat/completions", "openrouter"),
        ("generativelanguage.googleapis.com", "/v1beta/openai/chat/completions", "google"),
        ("acme.openai.azure.com", "/openai/v1/responses", "azure"),
    ],
)
def test_the_host_tells_the_provider(host: str, path: str, provider: str) -> None:
    assert read({"model": "m", "messages": HELLO}, (host, path)).provider == provider


def test_an_azure_deployment_is_the_model_whatever_the_body_says() -> None:
    path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    reading = read({"model": "gpt-5-nano", "messages": HELLO}, ("acme.openai.azure.com", path))
    assert (reading.provider, reading.model) == ("azure", "gpt-4o")


@pytest.mark.parametrize(
    ("host", "path", "field"),
    [
        ("api.openai.com.evil.example", "/v1/chat/completions", "provider_request.host"),
        ("evil-api.openai.com", "/v1/chat/completions", "provider_request.host"),
        ("a.b.openai.azure.com", "/openai/v1/responses", "provider_request.host"),
        ("", "/v1/chat/completions", "provider_request.host"),
        ("api.openai.com", "/v1/files", "provider_request.path"),
        ("api.openai.com", "/v1/chat/../chat/completions", "provider_request.path"),
        ("api.openai.com", "//v1/chat/completions", "provider_request.path"),
        ("api.openai.com", "/v1/messages", "provider_request.path"),
        ("acme.openai.azure.com", "/openai/deployments/a/b/chat/completions", "provider_request.path"),
    ],
)
def test_an_unknown_host_or_path_is_refused_with_those_that_are_known(host: str, path: str, field: str) -> None:
    with pytest.raises(InvalidArgument, match="send an estimate instead, or use one of") as caught:
        read({"model": "m", "messages": HELLO}, (host, path))
    assert caught.value.field == field


GOOD = json.dumps({"model": "m", "messages": HELLO}).encode()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "send JSON: Expecting value at character 0"),
        (GOOD[:-5], "send JSON: "),
        (GOOD + b"{}", "send JSON: Extra data"),
        (b"\xef\xbb\xbf" + GOOD, "it begins with a byte order mark"),
        (GOOD.decode().encode("utf-16"), "send JSON in UTF-8"),
        (gzip.compress(GOOD), "it is compressed; send the JSON itself"),
        (b'{"model": "\xff"}', "send JSON in UTF-8"),
        (b'{"model": "\xed\xa0\x80"}', "send JSON in UTF-8"),
        (b"[]", "send a JSON object"),
        (b'"text"', "send a JSON object"),
        (b"null", "send a JSON object"),
        (b'{"model": "m", "temperature": NaN}', "NaN is no JSON"),
        (b'{"model": "m", "temperature": -Infinity}', "-Infinity is no JSON"),
        (b'{"model": "m", "max_tokens": 1, "max_tokens": 9999}', "'max_tokens' is given twice in one object"),
        (b'{"model": "m", "max_tokens": 1, "max\\u005ftokens": 9999}', "'max_tokens' is given twice in one object"),
        (b'{"model": "m", "metadata": {"a": {"b": 1, "b": 2}}}', "'b' is given twice in one object"),
        (b'{"model": "m", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "it is nested too deeply"),
        (b'{"model": "m", "max_tokens": ' + b"9" * 5_000 + b"}", "it has a number that is too long"),
        (b'{"model": "' + b"x" * BODY_MAX_BYTES + b'"}', f"send at most {BODY_MAX_BYTES} bytes"),
    ],
    ids=range(19),
)
def test_a_body_that_is_not_strict_json_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        read(body)
    assert caught.value.field == "provider_request.body"


def test_the_message_about_a_bad_body_does_not_repeat_it() -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(b'{"messages": "my password is hunter2"')
    assert "hunter2" not in str(caught.value)


BAD_COUNTS = ["0", "-1", '"100"', "100.0", "1e3", "true", "[]", "{}", str(COUNT_MAX + 1), "1e999"]


@pytest.mark.parametrize("written", BAD_COUNTS)
@pytest.mark.parametrize(
    ("to", "name"),
    [
        (OPENAI, "max_tokens"),
        (OPENAI, "max_completion_tokens"),
        (RESPONSES, "max_output_tokens"),
        (ANTHROPIC, "max_tokens"),
    ],
)
def test_a_limit_of_output_that_is_no_count_is_refused(to: tuple[str, str], name: str, written: str) -> None:
    with pytest.raises(InvalidArgument, match="write a whole number from 1 to") as caught:
        read(f'{{"model": "m", "{name}": {written}}}'.encode(), to)
    assert caught.value.field == f"provider_request.body.{name}"


@pytest.mark.parametrize("written", ["0", "-1", "129", "1.0", '"2"', "true"])
def test_a_number_of_choices_out_of_bounds_is_refused(written: str) -> None:
    with pytest.raises(InvalidArgument, match="write a whole number from 1 to 128") as caught:
        read(f'{{"model": "m", "n": {written}}}'.encode())
    assert caught.value.field == "provider_request.body.n"


@pytest.mark.parametrize("written", ["null", "7", '""', '"a\\u0000b"', '"\\ud800"', '"a\\nb"', f'"{"m" * 257}"'])
def test_a_model_that_is_no_name_is_refused(written: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(f'{{"model": {written}}}'.encode())
    assert caught.value.field == "provider_request.body.model"


def test_stream_must_be_true_or_false() -> None:
    with pytest.raises(InvalidArgument, match="write true or false"):
        read({"model": "m", "stream": "yes"})


def test_fallback_models_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="a fallback may cost more"):
        read({"model": "m", "models": ["dearer"]}, ("openrouter.ai", "/api/v1/chat/completions"))


def test_tags_are_taken_from_metadata() -> None:
    tags = ["customer:acme", "feature:search:v2", "production", 7]
    reading = read({"model": "m", "metadata": {"tags": tags, "other": "x"}})
    assert reading.tags == (("customer", "acme"), ("feature", "search:v2"))
    assert read({"model": "m", "metadata": {"tags": "customer:acme"}}).tags == ()
    assert read({"model": "m", "metadata": "x"}).tags == ()


@pytest.mark.parametrize("tags", [[":x"], ["x:"], ["a:b\n"], ["n" * 65 + ":v"], ["n:" + "v" * 257], ["a:b"] * 17])
def test_tags_out_of_bounds_are_refused(tags: list[str]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read({"model": "m", "metadata": {"tags": tags}})
    assert caught.value.field == "provider_request.body.metadata.tags"


def content(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def test_an_image_by_url_gets_an_allowance() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    body = {"model": "m", "messages": content(part, part)}
    assert read(body).input_tokens == bare(body) + 2 * IMAGE_TOKENS_ELSEWHERE


def test_an_inline_image_is_its_allowance_rather_than_its_bytes() -> None:
    url = "data:image/png;base64," + "A" * 500_000
    body = {"model": "m", "messages": content({"type": "image_url", "image_url": {"url": url}})}
    assert read(body).input_tokens == bare(body) - len(url) + IMAGE_TOKENS_ELSEWHERE
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 500_000}
    claude = {"model": "m", "max_tokens": 1, "messages": content({"type": "image", "source": source})}
    allowance = IMAGE_TOKENS[next(iter(IMAGE_TOKENS))]
    assert read(claude, ANTHROPIC).input_tokens == bare(claude) - 500_000 + allowance


def test_text_that_poses_as_an_image_outside_of_messages_counts_in_full() -> None:
    posing = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "hello " * 10_000}}
    body = {"model": "m", "messages": HELLO, "tools": [{"type": "function", "function": posing}]}
    assert read(body).input_tokens >= bare(body)


def test_a_document_counts_by_its_bytes_and_a_reference_has_no_bound() -> None:
    inline = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
    body = {"model": "m", "messages": content(inline)}
    assert (read(body).input_tokens, read(body).bounded) == (bare(body) + DOCUMENT_TOKENS, True)
    for part in (
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_1"}},
    ):
        claude = {"model": "m", "max_tokens": 1, "messages": content(part)}
        reading = read(claude, ANTHROPIC)
        assert reading.input_tokens == bare(claude) + DOCUMENT_TOKENS + FILE_TOKENS
        assert not reading.bounded


def test_sound_and_hourly_caches_are_announced_as_units() -> None:
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    reading = read({"model": "m", "messages": content(part)})
    assert reading.units == {"input_audio_tokens": reading.input_tokens}
    cached = {"type": "text", "text": "Hello", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    reading = read({"model": "m", "max_tokens": 1, "messages": content(cached)}, ANTHROPIC)
    assert reading.units == {"cache_write_1h_tokens": reading.input_tokens}


def test_tools_get_an_allowance() -> None:
    body = {"model": "m", "messages": HELLO, "tools": [{"type": "function", "function": {"name": "f"}}]}
    assert read(body).input_tokens == bare(body) + TOOLS_TOKENS
    assert read(body).bounded


@pytest.mark.parametrize(
    ("to", "body"),
    [
        (RESPONSES, {"model": "m", "previous_response_id": "resp_1"}),
        (RESPONSES, {"model": "m", "conversation": "conv_1"}),
        (RESPONSES, {"model": "m", "prompt": {"id": "pmpt_1"}}),
        (RESPONSES, {"model": "m", "tools": [{"type": "web_search"}]}),
        (RESPONSES, {"model": "m", "tools": [{"type": "function"}, {"type": "file_search"}]}),
        (RESPONSES, {"model": "m", "reasoning": {"mode": "pro"}}),
        (RESPONSES, {"model": "m", "tools": "all"}),
        (ANTHROPIC, {"model": "m", "tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        (ANTHROPIC, {"model": "m", "mcp_servers": [{"type": "url"}]}),
        (OPENAI, {"model": "gpt-4o-search-preview", "messages": HELLO}),
        (OPENAI, {"model": "m", "web_search_options": {"search_context_size": "low"}}),
    ],
)
def test_input_that_the_provider_adds_is_said_to_have_no_bound(to: tuple[str, str], body: dict[str, Any]) -> None:
    assert not read(body, to).bounded


def test_tools_that_run_at_the_callers_leave_the_bound() -> None:
    tools = [{"name": "f", "input_schema": {}}, {"type": "bash_20250124"}, {"type": "custom", "name": "g"}]
    assert read({"model": "m", "tools": tools}, ANTHROPIC).bounded


def test_terms_that_change_the_price_are_passed_on() -> None:
    assert read({"model": "m", "service_tier": "priority"}).context == {"service_tier": "priority"}
    assert read({"model": "m", "speed": "fast"}, ANTHROPIC).context == {"speed": "fast"}
    assert read({"model": "m", "service_tier": "auto"}).context == {}
    assert read({"model": "m", "service_tier": ["priority"]}).context == {}


def test_a_bound_that_a_host_may_not_know_is_no_bound() -> None:
    def bound(host: str, **fields: int) -> int | None:
        body = json.dumps({"model": "m", "messages": [], **fields}).encode()
        return read_request(ProviderRequest(host, "/v1/chat/completions", body)).max_output_tokens

    assert bound("api.openai.com", max_completion_tokens=7) == 7
    assert bound("api.deepseek.com", max_completion_tokens=7) is None
    assert bound("api.deepseek.com", max_completion_tokens=7, max_tokens=5) == 7
    assert bound("api.deepseek.com", max_tokens=5) == 5
