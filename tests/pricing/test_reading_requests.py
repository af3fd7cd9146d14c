"""The size of a call is read from the provider's own request, or the request is refused."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from limiter.domain.calls import BODY_MAX_BYTES, COUNT_MAX, ProviderRequest
from limiter.domain.errors import InvalidArgument
from limiter.pricing.paths import Dialect
from limiter.pricing.reading import CallReading, read_request

OPENAI = ("api.openai.com", "/v1/chat/completions")
RESPONSES = ("api.openai.com", "/v1/responses")
ANTHROPIC = ("api.anthropic.com", "/v1/messages")
HELLO = [{"role": "user", "content": "Hello"}]


def read(body: bytes | dict[str, Any], to: tuple[str, str] = OPENAI) -> CallReading:
    written = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_request(ProviderRequest(*to, written))


def test_a_chat_completion_is_read() -> None:
    body = {"model": "gpt-4o", "messages": HELLO, "max_completion_tokens": 500, "n": 3, "stream": True}
    reading = read(body)
    assert reading == CallReading(
        provider="openai",
        model="gpt-4o",
        stream=True,
        content=reading.content,
        max_output_tokens=500,
        operation="chat",
        dialect=Dialect.OPENAI_CHAT,
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

        assert (reading.model, reading.operation) == ("text-embedding-3-small", "embeddings")
        assert (reading.max_output_tokens, reading.output_field) == (0, "")


@pytest.mark.parametrize(
    ("host", "path", "field"),
    [
        ("api.openai.com", "/v1/chat/completions", "max_completion_tokens"),
        ("api.mistral.ai", "/v1/chat/completions", "max_tokens"),
        ("api.openai.com", "/v1/responses", "max_output_tokens"),
        ("api.anthropic.com", "/v1/messages", "max_tokens"),
        ("openrouter.ai", "/api/v1/chat/completions", "max_completion_tokens"),
        ("gateway.example", "/v1/chat/completions", "max_tokens"),
        ("api.cohere.com", "/v2/chat", "max_tokens"),
        ("generativelanguage.googleapis.com", "/v1beta/models/m:generateContent", "generationConfig.maxOutputTokens"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "/model/m/converse", "inferenceConfig.maxTokens"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "/model/meta.llama3/invoke", "max_gen_len"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "/model/anthropic.claude/invoke", "max_tokens"),
        ("api.openai.com", "/v1/embeddings", ""),
        ("api.openai.com", "/v1/audio/speech", ""),
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
    assert (reading.stream, reading.choices, reading.dialect) == (False, 1, Dialect.ANTHROPIC_MESSAGES)


def test_a_response_of_openai_is_read() -> None:
    body = {"model": "gpt-5", "input": "Hello", "max_output_tokens": 64}
    reading = read(body, RESPONSES)
    assert (reading.max_output_tokens, reading.dialect) == (64, Dialect.OPENAI_RESPONSES)


def test_without_a_limit_there_is_none() -> None:
    assert read({"model": "m", "messages": HELLO}).max_output_tokens is None
    assert read({"model": "m", "messages": HELLO, "max_tokens": None, "n": None}).max_output_tokens is None


def test_of_two_limits_the_larger_counts() -> None:
    body = {"model": "m", "messages": HELLO, "max_tokens": 900, "max_completion_tokens": 5}
    assert read(body).max_output_tokens == 900


def test_an_azure_deployment_is_the_model_whatever_the_body_says() -> None:
    path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    reading = read({"model": "gpt-5-nano", "messages": HELLO}, ("acme.openai.azure.com", path))
    assert (reading.provider, reading.model) == ("azure", "gpt-4o")


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
        (b'{"model": "m", "messages": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", "it is nested too deeply"),
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


def test_labels_of_vertex_and_metadata_of_bedrock_are_tags_too() -> None:
    labelled = read({"contents": [], "labels": {"customer": "acme", "empty": ""}}, GEMINI)
    assert labelled.tags == (("customer", "acme"),)
    told = read({"messages": [], "requestMetadata": {"feature": "search"}}, CONVERSE)
    assert told.tags == (("feature", "search"),)
    with pytest.raises(InvalidArgument, match="give at most 16 tags"):
        read({"contents": [], "labels": {f"l{i}": "v" for i in range(17)}}, GEMINI)


GOOGLE = "generativelanguage.googleapis.com"
GEMINI = (GOOGLE, "/v1beta/models/gemini-2.5-flash:generateContent")
BEDROCK = "bedrock-runtime.us-east-1.amazonaws.com"
CONVERSE = (BEDROCK, "/model/us.amazon.nova-micro-v1%3A0/converse")
PROFILE = (BEDROCK, "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Aapplication-inference-profile%2Fx9/invoke")


@pytest.mark.parametrize(
    ("fields", "place", "thinking"),
    [
        ({"reasoning": {"max_tokens": 2_000}}, ("openrouter.ai", "/api/v1/chat/completions"), 2_000),
        ({"reasoning": {"effort": "high"}}, ("openrouter.ai", "/api/v1/chat/completions"), 0),
        ({"thinking": {"type": "enabled", "budget_tokens": 3_000}}, ("example.com", "/v1/chat/completions"), 3_000),
        ({"generationConfig": {"thinkingConfig": {"thinkingBudget": 8_000}}}, GEMINI, 8_000),
        ({"generation_config": {"thinking_config": {"thinking_budget": -1}}}, GEMINI, 0),
        ({"additionalModelRequestFields": {"thinking": {"budget_tokens": 4_000}}}, CONVERSE, 4_000),
        ({"thinking": {"token_budget": 500}}, ("api.cohere.com", "/v2/chat"), 500),
    ],
)
def test_a_budget_for_thinking_is_told(fields: dict[str, Any], place: tuple[str, str], thinking: int) -> None:
    assert read({"model": "m", **fields}, place).thinking == thinking


def invoke(model: str) -> tuple[str, str]:
    return BEDROCK, f"/model/{model}/invoke"


def test_gemini_is_read_in_both_of_its_spellings() -> None:
    settings = {"maxOutputTokens": 100, "candidateCount": 2}
    reading = read({"contents": [], "generationConfig": settings}, GEMINI)
    assert (reading.provider, reading.model, reading.stream) == ("google", "gemini-2.5-flash", False)
    assert (reading.max_output_tokens, reading.choices) == (100, 2)
    snake = {"contents": [], "generation_config": {"max_output_tokens": 70, "maxOutputTokens": 60}}
    assert read(snake, GEMINI).max_output_tokens == 70
    assert read(snake, GEMINI).output_field == "generation_config.maxOutputTokens"
    with pytest.raises(InvalidArgument, match="write one of the two"):
        read({"generationConfig": settings, "generation_config": settings}, GEMINI)


def test_a_stream_of_gemini_or_bedrock_is_told_by_its_path() -> None:
    assert read({"contents": []}, (GOOGLE, "/v1beta/models/m:streamGenerateContent?alt=sse")).stream
    assert read({"messages": []}, (BEDROCK, "/model/m/converse-stream")).stream
    assert not read({"messages": [], "stream": True}, CONVERSE).stream


def test_models_of_a_list_to_embed_must_be_the_paths() -> None:
    to = (GOOGLE, "/v1beta/models/gemini-embedding-001:batchEmbedContents")
    good = {"requests": [{"model": "models/gemini-embedding-001"}, {}]}
    reading = read(good, to)
    assert (reading.operation, reading.max_output_tokens) == ("embeddings", 0)
    with pytest.raises(InvalidArgument, match="name the model of the path") as caught:
        read({"requests": [{"model": "models/other"}]}, to)
    assert caught.value.field == "provider_request.body.requests.0.model"


def test_a_converse_call_is_read() -> None:
    body = {"messages": [], "inferenceConfig": {"maxTokens": 50}, "serviceTier": {"type": "flex"}}
    reading = read(body, CONVERSE)
    assert (reading.provider, reading.model) == ("aws", "us.amazon.nova-micro-v1:0")
    assert (reading.max_output_tokens, reading.context) == (50, {"service_tier": "flex"})
    more = {**body, "additionalModelRequestFields": {"max_tokens": 900}}
    assert read(more, CONVERSE).max_output_tokens == 900
    assert read({"messages": []}, CONVERSE).max_output_tokens is None


@pytest.mark.parametrize(
    ("model", "body", "most"),
    [
        ("amazon.titan-text-express-v1", {"inputText": "x", "textGenerationConfig": {"maxTokenCount": 9}}, 9),
        ("us.amazon.nova-lite-v1:0", {"messages": [], "inferenceConfig": {"max_new_tokens": 9}}, 9),
        ("us.meta.llama3-1-8b-instruct-v1:0", {"prompt": "x", "max_gen_len": 9}, 9),
        ("mistral.mistral-large-2402-v1:0", {"prompt": "x", "max_tokens": 9}, 9),
        ("openai.gpt-oss-120b-1:0", {"messages": [], "max_completion_tokens": 9}, 9),
        ("us.anthropic.claude-opus-4-8", {"messages": [], "max_tokens": 9}, 9),
        ("qwen.qwen3-32b-v1:0", {"messages": [], "max_gen_len": 9}, None),
        ("us.meta.llama3-1-8b-instruct-v1:0", {"prompt": "x", "max_tokens": 9}, None),
        ("amazon.titan-embed-text-v2:0", {"inputText": "x"}, 0),
        ("us.cohere.embed-v4:0", {"texts": ["x"], "max_tokens": 128}, 0),
    ],
)
def test_a_model_invoked_on_bedrock_is_bounded_by_the_field_that_it_knows(
    model: str, body: dict[str, Any], most: int | None
) -> None:
    assert read(body, invoke(model)).max_output_tokens == most


def test_what_stands_behind_a_profile_is_told_by_the_form_of_its_request() -> None:
    claude = read({"anthropic_version": "bedrock-2023-05-31", "messages": [], "max_tokens": 7}, PROFILE)
    assert (claude.dialect, claude.max_output_tokens) == (Dialect.ANTHROPIC_MESSAGES, 7)
    assert read({"inputText": "x", "normalize": True}, PROFILE).operation == "embeddings"
    assert read({"texts": ["x"], "input_type": "search_query"}, PROFILE).operation == "embeddings"


@pytest.mark.parametrize("extra", [{"texts": []}, {"normalize": True}, {"query": "x", "documents": []}])
def test_no_field_of_another_interface_makes_a_chat_free_of_output(extra: dict[str, Any]) -> None:
    for to in (PROFILE, invoke("qwen.qwen3-32b-v1%3A0")):
        reading = read({"messages": HELLO, **extra}, to)
        assert (reading.operation, reading.max_output_tokens) == ("chat", None)


def test_each_prompt_of_a_completion_is_answered_as_often_as_asked() -> None:
    to = ("api.openai.com", "/v1/completions")
    reading = read({"model": "m", "prompt": ["a", "b", "c"], "n": 2, "best_of": 4, "max_tokens": 10}, to)
    assert (reading.operation, reading.max_output_tokens, reading.choices) == ("completion", 10, 12)
    assert read({"model": "m", "prompt": [1, 2, 3]}, to).choices == 1
    assert read({"model": "m", "prompt": "a"}, to).max_output_tokens == 16
    assert read({"model": "m", "prompt": "a"}, ("gateway.example", "/v1/completions")).max_output_tokens is None


def test_a_thinking_budget_that_is_no_part_of_the_maximum_comes_on_top() -> None:
    cohere = {"model": "m", "messages": [], "max_tokens": 100, "thinking": {"type": "enabled", "token_budget": 50}}
    assert read(cohere, ("api.cohere.com", "/v2/chat")).max_output_tokens == 150
    qwen = {"model": "m", "messages": [], "max_tokens": 100, "thinking_budget": 30}
    assert read(qwen, ("dashscope.aliyuncs.com", "/compatible-mode/v1/chat/completions")).max_output_tokens == 130
    claude = {"model": "m", "max_tokens": 100, "thinking": {"type": "enabled", "budget_tokens": 60}}
    assert read(claude, ANTHROPIC).max_output_tokens == 100


def test_the_name_of_a_model_may_tell_who_serves_it() -> None:
    reading = read({"model": "deepseek-ai/DeepSeek-R1:together"}, ("router.huggingface.co", "/v1/chat/completions"))
    assert (reading.provider, reading.model) == ("huggingface_together", "deepseek-ai/DeepSeek-R1")
    google = read({"model": "models/gemini-2.5-flash"}, (GOOGLE, "/v1beta/openai/chat/completions"))
    assert google.model == "gemini-2.5-flash"


def test_moderations_and_reranks_have_no_output() -> None:
    moderation = read({"model": "omni-moderation-latest", "input": "x"}, ("api.openai.com", "/v1/moderations"))
    assert (moderation.operation, moderation.max_output_tokens) == ("moderation", 0)
    body = {"model": "rerank-v3.5", "query": "q", "documents": ["x"] * 250}
    cohere = read(body, ("api.cohere.com", "/v2/rerank"))
    assert (cohere.operation, cohere.max_output_tokens) == ("rerank", 0)
    assert cohere.size.strict.units["rerank_searches"] == 3
    long = read({**body, "documents": ["x" * 5_000] * 100}, ("api.cohere.com", "/v2/rerank"))
    assert long.size.strict.units["rerank_searches"] > long.size.safe.units["rerank_searches"] > 1


@pytest.mark.parametrize(
    ("to", "body", "field"),
    [
        (GEMINI, {"generationConfig": {"maxOutputTokens": "5"}}, "generationConfig.maxOutputTokens"),
        (GEMINI, {"generationConfig": []}, "generationConfig"),
        (GEMINI, {"generationConfig": {"candidateCount": 0}}, "generationConfig.candidateCount"),
        (CONVERSE, {"inferenceConfig": {"maxTokens": -1}}, "inferenceConfig.maxTokens"),
        (CONVERSE, {"inferenceConfig": 5}, "inferenceConfig"),
        (
            invoke("amazon.titan-text"),
            {"textGenerationConfig": {"maxTokenCount": True}},
            "textGenerationConfig.maxTokenCount",
        ),
        (("api.cohere.com", "/v2/chat"), {"model": "m", "thinking": {"token_budget": 1.5}}, "thinking.token_budget"),
        (("api.openai.com", "/v1/completions"), {"model": "m", "best_of": 129}, "best_of"),
    ],
)
def test_a_size_inside_of_an_object_is_refused_with_its_place(
    to: tuple[str, str], body: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(body, to)
    assert caught.value.field == f"provider_request.body.{field}"
