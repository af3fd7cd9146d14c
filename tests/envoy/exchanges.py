"""One HTTP call as Envoy shows it to ext_proc and tells of it in the access log."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final, TypeVar

from limiter.domain.verdicts import Granted
from limiter.envoy.grants import AUTHORIZATION, TOKEN_USAGE
from limiter.envoy.v3 import access_log_pb2, ai_pb2, base_pb2
from limiter.envoy.v3 import ext_proc_pb2 as pb

M = TypeVar("M")

#: A thousand tokens in and a thousand out, of a model that costs 1 USD per million in, 2 out.
POLICY: Final = """
    version: 1
    organizations:
      acme:
        limits: [{id: month, spend: 100, per: month}]
        teams: {search: {keys: {bot: {}}}}
"""
HELD: Final = 3_000_000
INPUT: Final = 1_000_000

USAGE: Final = {"prompt_tokens": 200, "completion_tokens": 30}
COST: Final = "0.00026"
ANSWER: Final = {"id": "chatcmpl-1", "model": "m", "choices": [{"message": {"content": "Hi"}}], "usage": USAGE}
CHUNK: Final = {"id": "chatcmpl-1", "model": "m", "choices": [{"delta": {"content": "Hello you"}}], "usage": None}
LAST: Final = {"id": "chatcmpl-1", "model": "m", "choices": [], "usage": USAGE}

SSE: Final = "text/event-stream; charset=utf-8"


def metadata(hold: Granted | None, **fields: object) -> base_pb2.Metadata:
    """What ext_authz left; nothing if the call was denied."""
    found = base_pb2.Metadata()
    found.filter_metadata["somebody.else"].update({"reservation": "organizations/x/reservations/y"})
    if hold is not None:
        told: dict[str, Any] = {"reservation": hold.reservation, "provider": "openai", "model": "m", "stream": False}
        found.filter_metadata[AUTHORIZATION].update(told | fields)
    return found


class Envoy:
    """Messages of one call. `mode` is how the filter is configured."""

    def __init__(self, hold: Granted | None, *, mode: int = 0, **fields: object) -> None:
        self._metadata = metadata(hold, **fields)
        self._mode = mode

    def _message(self, **request: Any) -> pb.ProcessingRequest:  # noqa: ANN401 - a message of the oneof
        message = pb.ProcessingRequest(metadata_context=self._metadata, **request)
        message.protocol_config.response_body_mode = self._mode  # type: ignore[assignment] # a number is accepted
        return message

    def request_headers(self, *, end: bool = False) -> pb.ProcessingRequest:
        return self._message(request_headers=pb.HttpHeaders(end_of_stream=end))

    def request_body(self, body: object) -> pb.ProcessingRequest:
        return self._message(request_body=pb.HttpBody(body=json.dumps(body).encode(), end_of_stream=True))

    def headers(
        self, content_type: str = "application/json", *, status: int = 200, end: bool = False, **more: str
    ) -> pb.ProcessingRequest:
        named = {":status": str(status), "content-type": content_type} | more
        listed = [
            base_pb2.HeaderValue(key=name.replace("_", "-"), raw_value=value.encode()) for name, value in named.items()
        ]
        headers = pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=listed), end_of_stream=end)
        return self._message(response_headers=headers)

    def body(self, body: object, *, end: bool = True) -> pb.ProcessingRequest:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._message(response_body=pb.HttpBody(body=raw, end_of_stream=end))

    def trailers(self, usage: ai_pb2.TokenUsage | None = None) -> pb.ProcessingRequest:
        message = self._message(response_trailers=pb.HttpTrailers())
        if usage is not None:
            message.metadata_context.typed_filter_metadata[TOKEN_USAGE].Pack(usage)
        return message


def sse(*events: object) -> bytes:
    """Events as a provider sends them."""
    return b"".join(b"data: %s\n\n" % (e if isinstance(e, bytes) else json.dumps(e).encode()) for e in events)


async def sent(messages: Sequence[M]) -> AsyncIterator[M]:
    """Send messages, as Envoy does on a stream."""
    for message in messages:
        yield message


def token_usage(**fields: Any) -> ai_pb2.TokenUsage:  # noqa: ANN401 - fields of the message
    """What Envoy's own reader tells; counts as plain numbers."""
    usage = ai_pb2.TokenUsage(model="m")
    for name, value in fields.items():
        where: Any = usage
        *path, last = name.split("__")
        for step in path:
            where = getattr(where, step)
        if last == "extraction_status":
            where.extraction_status = value
        else:
            getattr(where, last).value = value
    return usage


def entry(
    hold: Granted | None,
    *,
    status: int = 200,
    attempts: int = 1,
    sent_bytes: int = 500,
    body_bytes: int = 0,
    received_bytes: int = 0,
    details: str = "",
    flags: Sequence[str] = (),
    usage: ai_pb2.TokenUsage | None = None,
    **fields: object,
) -> access_log_pb2.HTTPAccessLogEntry:
    """One finished call in the access log."""
    found = access_log_pb2.HTTPAccessLogEntry()
    common = found.common_properties
    common.metadata.CopyFrom(metadata(hold, **fields))
    common.access_log_type = access_log_pb2.DownstreamEnd
    common.upstream_request_attempt_count = attempts
    common.upstream_wire_bytes_sent = sent_bytes
    common.upstream_wire_bytes_received = received_bytes
    found.response.response_code_details = details
    for flag in flags:
        setattr(common.response_flags, flag, True)
    if usage is not None:
        common.metadata.typed_filter_metadata[TOKEN_USAGE].Pack(usage)
    if status:
        found.response.response_code.value = status
    found.response.response_body_bytes = body_bytes
    return found
