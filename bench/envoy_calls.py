"""What is asked through Envoy: one recorded chat completion, byte for byte, and the answer that was recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_RECORDED = Path(__file__).parents[1] / "tests" / "data" / "llm_calls_sample.jsonl"
_PATH = "/v1/chat/completions"
_MODEL = "gpt-4o"


def recorded() -> tuple[bytes, bytes]:
    """The bodies of the request and of its answer: JSON, no stream, no maximum output, as most calls are."""
    for line in _RECORDED.read_text("utf-8").splitlines():
        call: dict[str, Any] = json.loads(line)
        asked = call["request"]
        if call["path"] == _PATH and asked["model"] == _MODEL and not asked.get("stream") and call["status"] == 200:
            return json.dumps(asked).encode(), json.dumps(call["response"]).encode()
    raise AssertionError(_RECORDED)


def request(secret: str) -> bytes:
    """The request as the OpenAI SDK sends it, with a key of Limiter's and tags."""
    body, _ = recorded()
    lines = (
        f"POST {_PATH} HTTP/1.1",
        "host: api.openai.com",
        "accept: application/json",
        "accept-encoding: gzip, deflate",
        "content-type: application/json",
        "user-agent: OpenAI/Python 3.54.0",
        "x-stainless-lang: python",
        "x-stainless-package-version: 3.54.0",
        "x-stainless-os: Linux",
        "x-stainless-arch: x64",
        "x-stainless-runtime: CPython",
        "x-stainless-runtime-version: 3.11.2",
        "x-stainless-async: false",
        "x-stainless-retry-count: 0",
        "x-stainless-read-timeout: 600",
        f"authorization: Bearer {secret}",
        "x-limiter-tags: customer:acme,feature:assistant",
        f"content-length: {len(body)}",
    )
    return _message(lines, body)


def answer() -> bytes:
    """The answer with the headers that tell something."""
    _, body = recorded()
    lines = (
        "HTTP/1.1 200 OK",
        "content-type: application/json",
        "x-request-id: req_0123456789abcdef0123456789abcdef",
        "openai-processing-ms: 312",
        "openai-version: 2020-10-01",
        f"content-length: {len(body)}",
    )
    return _message(lines, body)


def _message(lines: tuple[str, ...], body: bytes) -> bytes:
    return "\r\n".join((*lines, "", "")).encode() + body
