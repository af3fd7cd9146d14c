"""Counts what a provider did beside the model's own tokens: searches, code, other models that it called.

Where a usage has the count, the rules of :mod:`limiter.pricing.extraction` read it; here are the answers that only show
what was done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from limiter.domain.calls import Usage
from limiter.pricing.extraction import rules_for
from limiter.pricing.suspicion import level, usage_of

#: Items of an OpenAI response that are billed by the call, and the unit.
_ITEMS: Final = {
    "web_search_call": "web_searches",
    "file_search_call": "storage_searches",
    "code_interpreter_call": "code_executions",
    "x_search_call": "social_searches",
}

#: Items that run in a container: OpenAI bills the container, and not what runs in it.
_IN_CONTAINER: Final = frozenset({"code_interpreter_call", "shell_call", "shell_call_output"})

#: Models that search once for every call of chat completions, whatever is asked.
_SEARCHING: Final = ("-search-preview", "-search-api")

#: What of an item tells how it is billed.
_SHOWN: Final = ("type", "action", "container_id", "environment")
_GIGABYTES: Final = re.compile(r"([0-9]{1,4})g", re.ASCII)

#: Tools that Groq's systems ran.
_GROQ_TOOLS: Final = {
    "search": "web_searches",
    "web_search": "web_searches",
    "browser_search": "web_searches",
    "python": "code_executions",
    "code_interpreter": "code_executions",
}

#: Gemini up to 2 is billed by the answer that rests on a search, later ones by the search.
_BY_ANSWER: Final = ("gemini-1", "gemini-2")

#: The model that makes the images of OpenAI's tool, where the request names none.
_IMAGE_MODEL: Final = "gpt-image-1"


def count_tool_calls(answer: Mapping[str, Any]) -> dict[str, int]:
    """Return the units that the answer shows beside its usage."""
    if "output" in answer:
        return _in_output(answer)
    if "candidates" in answer:
        searches = searched(answer)
        return {"web_searches": searches} if searches else {}
    found: dict[str, int] = {}
    for choice in _objects(answer.get("choices")):
        for tool in _objects(_inside(choice, "message").get("executed_tools")):
            unit = _GROQ_TOOLS.get(str(tool.get("type")))
            if unit:
                found[unit] = found.get(unit, 0) + 1
    if any(mark in str(answer.get("model")) for mark in _SEARCHING):
        found.setdefault("web_searches", 1)
    return found


def _in_output(answer: Mapping[str, Any]) -> dict[str, int]:
    """Count the items of a response of OpenAI's interface, and the containers that they ran in."""
    found: dict[str, int] = {}
    items = _objects(answer["output"])
    for item in items:
        _add_item(found, item)
    if containers := {name for item in items if (name := _container(item))}:
        size = max(map(container_size, _objects(answer.get("tools"))), default=1)
        found["code_executions"] = found.get("code_executions", 0) + len(containers) * size
    searches = _inside(answer.get("tool_usage"), "web_search").get("num_requests")
    if type(searches) is int and searches > found.get("web_searches", 0):
        found["web_searches"] = searches
    return found


def _add_item(found: dict[str, int], item: Mapping[str, Any]) -> None:
    unit = _ITEMS.get(str(item.get("type")))
    action = item.get("action")
    # Opening a page that was found, or looking for a word on it, is no search.
    if unit and not _container(item) and not (isinstance(action, dict) and action.get("type", "search") != "search"):
        found[unit] = found.get(unit, 0) + 1


def _container(item: Mapping[str, Any]) -> str:
    """Return the id of OpenAI's container that an item ran in; "": it ran in none."""
    if str(item.get("type")) not in _IN_CONTAINER:
        return ""
    name = item.get("container_id") or _inside(item, "environment").get("container_id")
    return name if isinstance(name, str) else ""


def container_size(tool: Mapping[str, Any]) -> int:
    """Return what a tool's container counts for: the price is for each GB of its memory, and it has 1 GB unasked."""
    for place in ("container", "environment"):
        limit = _inside(tool, place).get("memory_limit")
        if isinstance(limit, str) and (found := _GIGABYTES.fullmatch(limit)):
            return max(1, int(found[1]))
    return 1


def searched(answer: Mapping[str, Any]) -> int:
    """Return how many searches of Google an answer of Gemini, or a chunk of one, is billed for."""
    queries = sum(
        sum(1 for query in asked if query)
        for candidate in _objects(answer["candidates"])
        if isinstance(asked := _inside(candidate, "groundingMetadata").get("webSearchQueries"), list)
    )
    return min(queries, 1) if str(answer.get("modelVersion", "")).startswith(_BY_ANSWER) else queries


def shown_only(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return, of a whole answer, the little that :func:`count_tool_calls` needs: streams keep no more."""
    kept: dict[str, Any] = {}
    if isinstance(answer.get("output"), list):
        items = [item for item in _objects(answer["output"]) if str(item.get("type")) in {*_ITEMS, *_IN_CONTAINER}]
        kept["output"] = [{name: item[name] for name in _SHOWN if name in item} for item in items]
        if any(map(_container, items)):
            kept["tools"] = [tool for tool in _objects(answer.get("tools")) if container_size(tool) > 1]
    if isinstance(answer.get("tool_usage"), dict):
        kept["tool_usage"] = answer["tool_usage"]
    return kept


def used_by_others(answer: Mapping[str, Any]) -> tuple[tuple[str, Usage], ...]:
    """Return what was used beside the usage: an advisor or a compaction of Anthropic's, images that OpenAI's tool made.

    By model; "" is the model that answered.
    """
    images = _inside(answer.get("tool_usage"), "image_gen")
    if images.get("total_tokens") or images.get("output_tokens"):
        tools = [tool for tool in _objects(answer.get("tools")) if tool.get("type") == "image_generation"]
        model = next((tool["model"] for tool in tools if isinstance(tool.get("model"), str)), _IMAGE_MODEL)
        return _read("openai", "images", [(model, images)])
    usage = answer.get("usage")
    runs = _objects(usage.get("iterations")) if isinstance(usage, dict) else []
    beside = [run for run in runs if run.get("type") != "message"]
    if not beside or _sum(runs) == _sum([usage]):
        return ()
    named = [(model if isinstance(model := run.get("model"), str) else "", run) for run in beside]
    return _read("anthropic", "anthropic", named)


def _read(provider: str, shape: str, told: Iterable[tuple[str, object]]) -> tuple[tuple[str, Usage], ...]:
    found = []
    for model, usage in told:
        counts = rules_for(provider, shape)[0].counts({"usage": usage}, [])
        if counts:
            level(counts)
            found.append((model, usage_of(counts)))
    return tuple(found)


def _sum(runs: Iterable[object]) -> int:
    told = (run.get(name) for run in runs if isinstance(run, dict) for name in ("input_tokens", "output_tokens"))
    return sum(count for count in told if type(count) is int)


def _inside(place: object, name: str) -> Mapping[str, Any]:
    inner = place.get(name) if isinstance(place, dict) else None
    return inner if isinstance(inner, dict) else {}


def _objects(listed: object) -> list[dict[str, Any]]:
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []
