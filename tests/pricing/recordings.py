"""Recorded calls, and what their answers say by a plain look into them, with none of the code that is tested."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from limiter.domain.calls import ProviderResponse
from limiter.pricing.answers import ResponseReading, read_response

ROOT: Final = Path(__file__).parents[2]
SAMPLE: Final = ROOT / "tests" / "data" / "llm_calls_sample.jsonl"
ALL: Final = Path(os.environ.get("LIMITER_TEST_DATA", ROOT.parent / "shared" / "data")) / "llm_calls.jsonl.gz"

#: genai-prices' name for the provider behind a host; any other host stands for itself.
PROVIDERS: Final = {
    "api.anthropic.com": "anthropic",
    "api.cerebras.ai": "cerebras",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral",
    "api.openai.com": "openai",
    "api.z.ai": "zai",
    "openrouter.ai": "openrouter",
}

_FRAMED: Final = re.compile(rb'\{"metrics":.*?"usage":(\{.*?\})\}')


@dataclass(frozen=True, slots=True)
class Counts:
    """Whole counts: cached tokens are in the input, reasoning is in the output."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0


class Recorded:
    """One call of a file: `line` counts from 1, `parsed` is the answer's JSON (a stream has none)."""

    def __init__(self, line: int, call: dict[str, Any]) -> None:
        answer = call["response"]
        self.line = line
        self.call = call
        self.status: int = call["status"]
        self.where = f"line {line}: {call['host']}{call['path']}"
        self.provider = _provider(call["host"])
        self.content_type: str = call["content_type"] or ""
        self.parsed: dict[str, Any] | None = answer if isinstance(answer, dict) else None
        if isinstance(answer, dict) and "__bytes__" in answer:
            self.body, self.parsed = base64.b64decode(answer["__bytes__"]), None
        else:
            self.body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
        if isinstance(answer, str) and "json" in self.content_type:
            self.parsed = json.loads(answer)

    @property
    def is_stream(self) -> bool:
        return self.content_type.startswith(("text/event-stream", "application/vnd.amazon.eventstream"))

    def read(self) -> ResponseReading:
        response = ProviderResponse(self.status, self.content_type, self.body)
        return read_response(provider=self.provider, response=response)

    def own_counts(self) -> Counts | None:
        """The counts as a reader of the provider's manual would take them from the answer; None if it has none."""
        told: dict[str, Any] = {}
        for answer in self._answers():
            for usage in _usages(answer):
                told |= {name: value for name, value in usage.items() if value is not None}
        return counts_by_the_manual(told)

    def _answers(self) -> Iterator[dict[str, Any]]:
        if self.parsed is not None:
            yield self.parsed
        elif self.content_type.startswith("application/vnd"):
            for found in _FRAMED.finditer(self.body):
                yield {"usage": json.loads(found[1])}
        else:
            for line in self.body.decode().splitlines():
                if line.startswith("data:") and line[5:].strip() != "[DONE]":
                    yield json.loads(line[5:])


def _provider(host: str) -> str:
    if host.endswith("googleapis.com"):
        return "google"
    if "bedrock" in host:
        return "aws"
    return "azure" if host.endswith("azure.com") else PROVIDERS.get(host, host)


def _usages(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "inputTextTokenCount" in answer:
        yield {"inputTokens": answer["inputTextTokenCount"]}
    for place in (answer, answer.get("message"), answer.get("response"), answer.get("delta"), answer.get("x_groq")):
        if isinstance(place, dict):
            yield from (u for u in (place.get("usage"), place.get("usageMetadata")) if isinstance(u, dict))
    if "billed_units" in (answer.get("meta") or {}):
        yield answer["meta"]["billed_units"]


def counts_by_the_manual(usage: dict[str, Any]) -> Counts | None:
    """Read one usage: what Anthropic and Bedrock cache, and what Gemini thinks, stands beside the rest."""
    if "billed_units" in usage:
        # The price is for what is billed; the tokens beside it are more, and some of them cached.
        return Counts(usage["billed_units"]["input_tokens"], usage["billed_units"]["output_tokens"])

    def some(*path: str) -> int:
        place: Any = usage
        for name in path:
            place = (place or {}).get(name)
        return place or 0

    if "prompt_tokens" in usage:
        return Counts(
            some("prompt_tokens"),
            some("completion_tokens"),
            some("prompt_tokens_details", "cached_tokens"),
            some("prompt_tokens_details", "cache_write_tokens"),
            some("completion_tokens_details", "reasoning_tokens"),
        )
    if "promptTokenCount" in usage:
        return Counts(
            some("promptTokenCount") + some("toolUsePromptTokenCount"),
            some("candidatesTokenCount") + some("thoughtsTokenCount"),
            some("cachedContentTokenCount"),
            reasoning_tokens=some("thoughtsTokenCount"),
        )
    if "inputTokens" in usage:
        read, written = some("cacheReadInputTokens"), some("cacheWriteInputTokens")
        return Counts(some("inputTokens") + read + written, some("outputTokens"), read, written)
    if "input_tokens" in usage:
        read, written = some("cache_read_input_tokens"), some("cache_creation_input_tokens")
        return Counts(
            some("input_tokens") + read + written,
            some("output_tokens"),
            read + some("input_tokens_details", "cached_tokens"),
            written + some("input_tokens_details", "cache_write_tokens"),
            some("output_tokens_details", "reasoning_tokens") + some("output_tokens_details", "thinking_tokens"),
        )
    return None


def recorded_calls(path: Path) -> list[Recorded]:
    """Read a file of recorded calls."""
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [Recorded(line, json.loads(text)) for line, text in enumerate(content.decode().split("\n")[:-1], start=1)]
