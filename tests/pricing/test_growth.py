"""What a provider adds to the input on its side is told: why, how far it goes, and what in the request bounds it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from limiter.pricing.bounds import Growth, Size
from limiter.pricing.growth import ITERATIONS_MAX
from limiter.pricing.paths import Dialect
from limiter.pricing.sizes import measure

Json = dict[str, Any]


def size(request: Json, model: str = "gpt-4o") -> Size:
    return measure(json.dumps(request).encode(), request, model=model, dialect=Dialect.OPENAI_CHAT)


def growth(request: Json, model: str = "gpt-4o") -> Growth:
    found = size(request, model).growth
    assert found is not None
    return found


SEARCH = {"type": "web_search_20250305", "name": "web_search"}
SANDBOX = {"type": "code_interpreter", "container": {"type": "auto"}}
LARGE_SANDBOX = {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "16g"}}
AUTO = {"type": "container_auto"}


@pytest.mark.parametrize(
    ("request_", "model", "reason", "rounds", "fees", "remedy"),
    [
        ({"input": "", "tools": [{"type": "web_search"}]}, "gpt-5", "tools.0 (web_search)", None, {}, "max_tool_calls"),
        (
            {"input": "", "tools": [{"type": "web_search_preview"}], "max_tool_calls": 3},
            "gpt-5",
            "tools.0 (web_search_preview)",
            3,
            {"web_searches": 3},
            "max_tool_calls",
        ),
        (
            {"input": "", "tools": [{"type": "file_search"}, {"type": "code_interpreter"}], "max_tool_calls": 2},
            "gpt-5",
            "tools.0 (file_search), tools.1 (code_interpreter)",
            2,
            {"storage_searches": 2, "code_executions": 2},
            "max_tool_calls",
        ),
        (
            {"input": "", "tools": [SANDBOX, {"type": "web_search"}], "max_tool_calls": 5},
            "gpt-5",
            "tools.0 (code_interpreter), tools.1 (web_search)",
            5,
            {"web_searches": 5, "code_executions": 1},
            "max_tool_calls",
        ),
        (
            {"input": "", "tools": [LARGE_SANDBOX, {"type": "shell", "environment": AUTO}], "max_tool_calls": 2},
            "gpt-5",
            "tools.0 (code_interpreter), tools.1 (shell)",
            2,
            {"code_executions": 17},
            "max_tool_calls",
        ),
        (
            {"input": "", "tools": [SANDBOX], "max_tool_calls": 5},
            "grok-4",
            "tools.0 (code_interpreter)",
            5,
            {"code_executions": 5},
            "max_tool_calls",
        ),
        ({"input": "", "tools": [{"type": "mcp"}]}, "gpt-5", "tools.0 (mcp)", None, {}, "max_tool_calls"),
        ({"input": "", "previous_response_id": "resp_1"}, "gpt-5", "previous_response_id", 0, {}, "earlier turns"),
        ({"input": "", "conversation": "conv_1"}, "gpt-5", "conversation", 0, {}, "earlier turns"),
        ({"prompt": {"id": "pmpt_1"}}, "gpt-5", "prompt", None, {}, "its text"),
        ({"input": "", "reasoning": {"mode": "pro"}}, "gpt-5", "reasoning.mode", None, {}, "leave reasoning.mode out"),
        ({"web_search_options": {}}, "gpt-4o", "web_search_options", 1, {"web_searches": 1}, "leave"),
        ({"tools": [SEARCH]}, "claude-sonnet-4-5", "tools.0 (web_search_20250305)", None, {}, "max_uses"),
        (
            {"tools": [SEARCH | {"max_uses": 2}]},
            "claude-sonnet-4-5",
            "tools.0 (web_search_20250305)",
            3,
            {"web_searches": 2},
            "max_uses",
        ),
        (
            {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]},
            "claude-sonnet-4-5",
            "tools.0 (code_execution_20250825)",
            ITERATIONS_MAX,
            {},
            "leave",
        ),
        (
            {"tools": [{"type": "web_fetch_20250910"}]},
            "claude-sonnet-4-5",
            "tools.0 (web_fetch_20250910)",
            None,
            {},
            "max",
        ),
        ({"mcp_servers": [{"url": "https://example.com"}]}, "claude-sonnet-4-5", "mcp_servers", None, {}, "leave"),
        ({"tools": [{"googleSearch": {}}]}, "gemini-2.5-flash", "tools.0 (googleSearch)", None, {}, "leave"),
        ({"tools": [{"url_context": {}}]}, "gemini-2.5-flash", "tools.0 (url_context)", None, {}, "leave"),
        ({"tools": [{"codeExecution": {}}]}, "gemini-2.5-flash", "tools.0 (codeExecution)", None, {}, "leave"),
        ({"cachedContent": "cachedContents/1"}, "gemini-2.5-flash", "cachedContent", 0, {}, "leave"),
        ({"plugins": [{"id": "web"}]}, "openai/gpt-4o", "plugins.0 (web)", 1, {"web_searches": 1}, "leave"),
        ({}, "openai/gpt-4o:online", "model (openai/gpt-4o:online)", 1, {"web_searches": 1}, "name a model"),
        ({}, "compound-beta", "model (compound-beta)", None, {}, "name a model"),
        ({}, "sonar-pro", "model (sonar-pro)", 1, {"web_searches": 1}, "name a model"),
        (
            {"search_parameters": {"mode": "auto", "max_search_results": 7}},
            "grok-4",
            "search_parameters",
            1,
            {"web_searches": 7},
            "off",
        ),
        (
            {"toolConfig": {"tools": [{"systemTool": {"name": "nova_grounding"}}]}},
            "nova-2-lite",
            "tools.0 (systemTool)",
            None,
            {},
            "leave",
        ),
        ({"tools": [{"type": "openrouter:advisor"}]}, "gpt-4o", "tools.0 (openrouter:advisor)", None, {}, "leave"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "gpt-5", "input (item_reference)", 0, {}, "content"),
        ({"input": [{"type": "reasoning", "id": "a", "summary": []}]}, "o3", "input (reasoning)", 0, {}, "content"),
        (
            {"input": "", "context_management": [{"type": "compaction", "compact_threshold": 9_000}]},
            "gpt-5",
            "context_management",
            1,
            {},
            "compaction",
        ),
        (
            {"context_management": {"edits": [{"type": "compact_20260112"}]}},
            "claude-opus-4-6",
            "context_management",
            1,
            {},
            "compaction",
        ),
    ],
)
def test_what_grows_says_why_how_far_and_what_to_set(  # noqa: PLR0917 - a row of the table
    request_: Json, model: str, reason: str, rounds: int | None, fees: Json, remedy: str
) -> None:
    found = growth(request_, model)
    assert (found.reason, found.rounds, found.fees) == (reason, rounds, fees)
    assert remedy in found.remedy or ("input" in request_ and rounds is not None)
    assert found.allowance.input_tokens > 0


@pytest.mark.parametrize(
    "request_",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tools": [{"name": "f", "input_schema": {}}]},
        {"tools": [{"type": "custom", "name": "f"}, {"type": "bash_20250124", "name": "bash"}]},
        {"tools": [{"functionDeclarations": [{"name": "f"}]}, {"computerUse": {}}]},
        {"toolConfig": {"tools": [{"toolSpec": {"name": "f"}}, {"cachePoint": {"type": "default"}}]}},
        {"input": "", "tools": [{"type": "tool_search", "execution": "client"}, {"type": "local_shell"}]},
        {"input": [{"type": "reasoning", "id": "a", "encrypted_content": "gAAA"}, {"type": "message", "id": "b"}]},
        {"input": [{"type": "image_generation_call", "id": "a", "result": "iVBO"}, "text", 7]},
        {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
        {"prompt": "Once upon a time", "search_parameters": {"mode": "off"}, "reasoning": {"effort": "low"}},
    ],
)
def test_what_the_caller_runs_grows_nothing(request_: Json) -> None:
    assert size(request_).growth is None


def test_of_several_the_rounds_add_up() -> None:
    found = growth(
        {"tools": [SEARCH | {"max_uses": 2}, {"type": "web_fetch_20250910", "max_uses": 1}]}, "claude-sonnet-4-5"
    )
    assert (found.rounds, found.fees) == (5, {"web_searches": 2})


def test_of_several_one_without_a_bound_leaves_none() -> None:
    found = growth({"tools": [SEARCH], "cachedContent": "x"}, "claude-sonnet-4-5")
    assert found.rounds is None
    assert found.reason == "tools.0 (web_search_20250305)"  # what to mend first


@pytest.mark.parametrize("limit", [True, -1, "3", 10**9])
def test_a_limit_that_is_no_count_is_none(limit: object) -> None:
    assert growth({"input": "", "tools": [{"type": "web_search"}], "max_tool_calls": limit}).rounds is None
