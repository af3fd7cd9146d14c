"""The access log service: how each call ended, told by Envoy after the fact, many at a time.

It settles streams by those of their events that the Lua filter of deploy/envoy/ kept, which are read here, and JSON
answers of most providers likewise, else by what `envoy.filters.http.ai_protocol_manager` (Envoy ≥ 1.40) counted: that
tells neither the tier of the answer nor its searches, and nothing of a stream that its client left. Answers that
tell no usage by their nature, such as speech, are charged as they were asked for. Whatever else nobody settled: calls
that never reached the provider or that it refused are released, those that broke off are settled by the policy's
on_abort. What ext_proc has settled before stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Final, TypeVar

import structlog

from limiter.domain.calls import Outcome, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument
from limiter.envoy.deliveries import Deliveries
from limiter.envoy.grants import Grant, read_events, read_grant, read_kept_answer, read_token_count
from limiter.envoy.settling import Ending, Released, Settling, of_reading, of_usage
from limiter.envoy.v3 import access_log_pb2 as pb
from limiter.envoy.v3 import base_pb2
from limiter.pricing.answers import ResponseReading, is_used_as_asked, read_response, read_stream, usage_so_far
from limiter.service.calls import BrokenOff

WAY: Final = "access_log"

#: Of the bytes of a stream, at most this share was text, in 60 recorded streams of eight providers (most had 1 %).
_STREAM_BYTES_PER_TEXT: Final = 5

#: The client left.
_LEFT: Final = ("downstream_connection_termination", "downstream_remote_reset", "downstream_protocol_error")

#: The provider did not answer, or did not go on, or Envoy gave up on it while it was at work.
_FAILED: Final = (
    "upstream_remote_reset",
    "upstream_connection_termination",
    "upstream_protocol_error",
    "upstream_request_timeout",
    "upstream_max_stream_duration_reached",
    "stream_idle_timeout",
    "duration_timeout",
    "local_reset",
    "overload_manager",
)

#: The last attempt found no provider.
_NOT_CONNECTED: Final = ("upstream_connection_failure", "no_healthy_upstream", "upstream_overflow")

#: In response_code_details: the status is the provider's own.
_FROM_UPSTREAM: Final = "via_upstream"

#: In response_code_details: HTTP/2's word for a request that was not looked at, "remote" or "local" before it.
_NOT_LOOKED_AT: Final = "refused_stream_reset"

_Message = TypeVar("_Message")

_log = structlog.get_logger(__name__)


class AccessLog:
    """`envoy.service.accesslog.v3.AccessLogService`."""

    def __init__(
        self, settling: Settling, deliveries: Deliveries | None = None, *, draining: asyncio.Event | None = None
    ) -> None:
        self._settling = settling
        self._deliveries = deliveries or Deliveries()
        self._draining = draining or asyncio.Event()

    async def stream_access_logs(
        self,
        messages: AsyncIterator[pb.StreamAccessLogsMessage],
        context: Any,  # noqa: ANN401 - two engines
    ) -> pb.StreamAccessLogsResponse:
        """Take the log until Envoy or this server stops; each entry on its own, whatever happens to the others."""
        del context
        async for message in _until(self._is_over(), messages):
            for entry in message.http_logs.log_entry:
                try:
                    ending = ending_of(entry) or self._undelivered(entry)
                except Exception:  # noqa: BLE001 - the log has the traceback; the hold ends by expiry
                    _log.exception("access_log.entry_unreadable")
                    continue
                if ending is not None:
                    self._settling.later(ending, way=WAY)
        return pb.StreamAccessLogsResponse()

    async def _is_over(self) -> None:
        """Wait until this server stops, and the calls that it let through have come to their ends."""
        await self._draining.wait()
        await self._settling.until_none_is_open()

    def _undelivered(self, entry: pb.HTTPAccessLogEntry) -> Ending | None:
        """The end of a call that was granted when Envoy, or its client, did not wait for it any more."""
        common = entry.common_properties
        if not _is_end(common) or read_grant(common.metadata) is not None or _reached(common):
            return None
        name = self._deliveries.undelivered(entry.request.request_id)
        return None if name is None else Released(name, "nobody waited for the decision")


async def _until(stop: Coroutine[Any, Any, None], messages: AsyncIterator[_Message]) -> AsyncIterator[_Message]:
    """Pass messages on until there are no more, or until `stop` has run; Envoy then opens its stream elsewhere."""
    stopped = asyncio.ensure_future(stop)
    try:
        while not stopped.done():
            coming = asyncio.ensure_future(anext(messages, None))
            try:
                await asyncio.wait((coming, stopped), return_when=asyncio.FIRST_COMPLETED)
                message = coming.result() if coming.done() else None
            finally:
                coming.cancel()
            if message is None:
                return
            yield message
    finally:
        stopped.cancel()


def ending_of(entry: pb.HTTPAccessLogEntry) -> Ending | None:
    """How a call ended; None for what is not the end of a call that was granted."""
    common = entry.common_properties
    if not _is_end(common):
        return None
    grant = read_grant(common.metadata)
    if grant is None:
        return None
    status = entry.response.response_code.value
    if not 200 <= status < 300:
        if not _reached(common) or _found_nobody(entry):
            return Released(grant.name, "the provider was not reached")
        if status >= 300 and _is_providers(entry):
            return Released(grant.name, f"the answer was {status}")
    return _of_answer(grant, entry)


def _of_answer(grant: Grant, entry: pb.HTTPAccessLogEntry) -> Ending:
    """How a call ended that the provider may have billed: by its usage, the best that is told of it."""
    common = entry.common_properties
    answered = 200 <= entry.response.response_code.value < 300
    broken = not answered or _is_any(common.response_flags, (*_LEFT, *_FAILED))
    read, seen = _read_events(grant, common.metadata)
    if read is None:
        read = _read_answer(grant, entry, whole=not broken)
    if read is not None and (read.usage is not None or read.as_asked):
        return of_reading(grant.name, read)
    count = read_token_count(common.metadata)
    if count is not None and count.usage is not None and count.complete:
        return of_usage(grant.name, count.usage, count.model)
    passed = entry.response.response_body_bytes if answered else 0
    return BrokenOff(
        grant.name,
        usage_seen=seen if count is None or count.usage is None else count.usage,
        output_bytes=passed // _STREAM_BYTES_PER_TEXT if grant.stream else passed,
        model=(read.model if read is not None else "") or (count.model if count is not None else ""),
        provider_request_id="" if read is None else read.provider_request_id,
        outcome=Outcome.ABORTED if broken else Outcome.COMPLETED,
        unseen=broken and not passed and not grant.stream,
    )


def _read_events(grant: Grant, metadata: base_pb2.Metadata) -> tuple[ResponseReading | None, Usage | None]:
    """What the events say that Envoy has kept of a stream, and the usage in them even if it is not final."""
    stream = read_events(metadata)
    if stream is None:
        return None, None
    try:
        read = read_stream(stream, provider=grant.provider)
    except InvalidArgument as error:
        _log.warning("access_log.answer_unreadable", reservation=str(grant.name), reason=str(error))
        return None, None
    return read, usage_so_far(stream, provider=grant.provider) if read.usage is None else read.usage


def _read_answer(grant: Grant, entry: pb.HTTPAccessLogEntry, *, whole: bool) -> ResponseReading | None:
    """What an answer says by what Envoy has kept of it or, if it came whole, by its type; None if that is nothing."""
    content_type = entry.response.response_headers.get("content-type", "")
    kept = read_kept_answer(entry.common_properties.metadata)
    if not kept:
        asked = whole and is_used_as_asked(content_type)
        return ResponseReading("", None, "", as_asked=True) if asked else None
    try:
        return read_response(provider=grant.provider, response=ProviderResponse(200, content_type, kept))
    except InvalidArgument as error:
        if whole:
            _log.warning("access_log.answer_unreadable", reservation=str(grant.name), reason=str(error))
        return None


def _is_end(common: pb.AccessLogCommon) -> bool:
    """Whether the entry tells of the end of a call."""
    return common.access_log_type in (pb.NotSet, pb.DownstreamEnd) and not common.intermediate_log_entry


def _reached(common: pb.AccessLogCommon) -> bool:
    """Whether any byte of the request went to the provider."""
    if not common.upstream_request_attempt_count:
        return False
    return bool(
        common.upstream_wire_bytes_sent
        or common.upstream_wire_bytes_received
        or common.HasField("time_to_first_upstream_tx_byte")
    )


def _found_nobody(entry: pb.HTTPAccessLogEntry) -> bool:
    """Whether the last attempt found no provider, and none before it was left without an answer."""
    common = entry.common_properties
    if _NOT_LOOKED_AT in entry.response.response_code_details:
        return True
    answered_before = common.upstream_wire_bytes_received > 0 or not common.upstream_wire_bytes_sent
    return _is_any(common.response_flags, _NOT_CONNECTED) and answered_before


def _is_providers(entry: pb.HTTPAccessLogEntry) -> bool:
    """Whether an error is the provider's own: Envoy's may stand in the place of what the provider has billed."""
    details, flags = entry.response.response_code_details, entry.common_properties.response_flags
    if details == _FROM_UPSTREAM:
        return True
    # Of a client that leaves in the middle of an error, the details tell only that.
    return not _is_any(flags, _FAILED) and (not details or _is_any(flags, _LEFT))


def _is_any(flags: pb.ResponseFlags, names: tuple[str, ...]) -> bool:
    return any(getattr(flags, name) for name in names)
