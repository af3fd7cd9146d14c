"""The provider's answer, as its SDK gives it → the message that the limiter reads.

The client does not look for the usage: the limiter's one reader does. What the model said is left
out of SDK objects and dicts, because the books need no content; raw bodies are passed on as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from limiter.client.errors import InvalidRequest
from limiter.domain.calls import BODY_MAX_BYTES
from limiter.v1 import limiter_pb2 as pb

JSON_TYPE: Final = "application/json"
STREAM_TYPE: Final = "text/event-stream"

#: Top-level fields of OpenAI's, Anthropic's and Google's answers that hold content, not usage.
CONTENT_FIELDS: Final = frozenset(
    {"choices", "output", "output_text", "content", "data", "candidates", "text"}
    | {"input", "instructions", "prompt", "tools", "reasoning"}
)

_REMEDY = "pass the SDK's response object, a dict, the raw body, or the counts as arguments"


def read_response(response: object) -> pb.ProviderResponse:
    """Read an SDK object (pydantic), an HTTP response (httpx, requests), a dict, or a raw body.

    Raises InvalidRequest for anything else, and for a raw body above BODY_MAX_BYTES.
    """
    if isinstance(response, str):
        response = response.encode()
    if isinstance(response, bytes):
        return _raw(200, "", response)
    if isinstance(response, Mapping):
        return _thinned(response)
    if isinstance(status := getattr(response, "status_code", None), int):
        return _raw(status, str(getattr(response, "headers", {}).get("content-type", "")), _body(response))
    if callable(dump := getattr(response, "model_dump", None)):
        # by_alias: the names of the provider's API, whatever the SDK calls them in Python.
        dumped = dump(mode="json", by_alias=True, exclude_none=True, exclude=set(CONTENT_FIELDS), warnings=False)
        if isinstance(dumped, Mapping):
            return _thinned(dumped)
    raise InvalidRequest(f"response: a {type(response).__name__} cannot be read; {_REMEDY}")


def _thinned(fields: Mapping[str, Any]) -> pb.ProviderResponse:
    kept = {name: value for name, value in fields.items() if name not in CONTENT_FIELDS}
    try:
        body = json.dumps(kept, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"response: it is not JSON ({error}); {_REMEDY}") from error
    return _raw(200, JSON_TYPE, body)


def _raw(status: int, content_type: str, body: bytes) -> pb.ProviderResponse:
    if len(body) > BODY_MAX_BYTES:
        raise InvalidRequest(f"response: {len(body)} bytes are more than {BODY_MAX_BYTES}; {_REMEDY}")
    if not content_type:
        content_type = STREAM_TYPE if body.lstrip().startswith((b"data:", b"event:", b":")) else JSON_TYPE
    return pb.ProviderResponse(status=status, content_type=content_type, body=body)


def _body(response: object) -> bytes:
    try:
        content = getattr(response, "content", b"")
    except RuntimeError:  # httpx: a streamed body that was not read
        return b""
    return content if isinstance(content, bytes) else b""
