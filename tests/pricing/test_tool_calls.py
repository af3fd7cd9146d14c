"""What was done on the provider's side is counted by what it is billed by."""

from __future__ import annotations

from typing import Any

import pytest

from limiter.pricing.tool_calls import count_tool_calls, shown_only

Json = dict[str, Any]


def ran(container: str | None, kind: str = "code_interpreter_call") -> Json:
    return {"type": kind, "code": "print(1)", "container_id": container}


@pytest.mark.parametrize(
    ("answer", "units"),
    [
        # OpenAI bills a container, however often code runs in it.
        ({"output": [ran("cntr_1"), ran("cntr_1"), {"type": "message"}]}, {"code_executions": 1}),
        ({"output": [ran("cntr_1"), ran("cntr_2")]}, {"code_executions": 2}),
        # It bills the GB of it.
        (
            {
                "output": [ran("cntr_1")],
                "tools": [{"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}}],
            },
            {"code_executions": 4},
        ),
        (
            {
                "output": [
                    {"type": "shell_call", "environment": {"type": "container_reference", "container_id": "cntr_1"}},
                    {"type": "shell_call", "environment": {"type": "local"}},
                ]
            },
            {"code_executions": 1},
        ),
        # xAI bills every execution, and names no container.
        ({"output": [ran(None), ran("")]}, {"code_executions": 2}),
        ({"model": "gpt-4o-search-preview-2025-03-11", "usage": {}}, {"web_searches": 1}),
        ({"model": "gpt-4o", "choices": []}, {}),
        ({"choices": [{"message": {"executed_tools": [{"type": "browser_search"}]}}]}, {"web_searches": 1}),
    ],
)
def test_tools_are_counted_as_they_are_billed(answer: Json, units: dict[str, int]) -> None:
    assert count_tool_calls(answer) == units
    if "output" in answer:  # a stream shows the same
        assert count_tool_calls({"output": [], **shown_only(answer)}) == units
