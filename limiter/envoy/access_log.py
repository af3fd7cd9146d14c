"""The access log service: how each call ended, told by Envoy after the fact, many at a time.

It settles streams by what `envoy.filters.http.ai_protocol_manager` (Envoy ≥ 1.40) read in them, and whatever else
nobody settled: calls that never reached the provider are released, those that broke off are settled by the policy's
on_abort. What ext_proc has settled before stays as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, TypeVar

import structlog

from limiter.domain.calls import Outcome
from limiter.envoy.deliveries import Deliveries
from limiter.envoy.grants import read_grant, read_token_count
from limiter.envoy.settling import Ending, Released, Settling, of_usage
from limiter.envoy.v3 import access_log_pb2 as pb
from limiter.service.calls import BrokenOff

WAY: Final = "access_log"

#: Of the bytes of a stream, at most this share was text, in 60 recorded streams of eight providers (most had 1 %).
_STREAM_BYTES_PER_TEXT: Final = 5

#: The end of a call on either side, before the answer was whole.
_BROKEN: Final = (
    "downstream_connection_termination",
    "downstream_remote_reset",
    "downstream_protocol_error",
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

#: Envoy gave up while the provider was at work.
_TIMED_OUT: Final = (
    "upstream_request_timeout",
    "upstream_max_stream_duration_reached",
    "stream_idle_timeout",
    "duration_timeout",
)

#: The last attempt found no provider.
_NOT_CONNECTED: Final = ("upstream_connection_failure", "no_healthy_upstream", "upstream_overflow")

#: In response_code_details: the status is the provider's own.
_FROM_UPSTREAM: Final = "via_upstream"

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
        async for message in _until(self._draining, messages):
            for entry in message.http_logs.log_entry:
                try:
                    ending = ending_of(entry) or self._undelivered(entry)
                except Exception:  # noqa: BLE001 - the log has the traceback; the hold ends by expiry
                    _log.exception("access_log.entry_unreadable")
                    continue
                if ending is not None:
                    self._settling.later(ending, way=WAY)
        return pb.StreamAccessLogsResponse()

    def _undelivered(self, entry: pb.HTTPAccessLogEntry) -> Ending | None:
        """The end of a call that was granted when Envoy, or its client, did not wait for it any more."""
        common = entry.common_properties
        if not _is_end(common) or read_grant(common.metadata) is not None or _reached(common):
            return None
        name = self._deliveries.undelivered(entry.request.request_id)
        return None if name is None else Released(name, "nobody waited for the decision")


async def _until(stop: asyncio.Event, messages: AsyncIterator[_Message]) -> AsyncIterator[_Message]:
    """Pass messages on until there are no more, or until `stop`; Envoy then opens its stream elsewhere."""
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
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
    answered = 200 <= status < 300
    if not answered and not _reached(common):
        return Released(grant.name, "the provider was not reached")
    if status >= 300 and not _hides_an_answer(entry):
        return Released(grant.name, f"the answer was {status}")
    count = read_token_count(common.metadata)
    if count is not None and count.usage is not None and count.complete:
        return of_usage(grant.name, count.usage, count.model)
    broken = not answered or _is_any(common.response_flags, _BROKEN)
    passed = entry.response.response_body_bytes if answered else 0
    return BrokenOff(
        grant.name,
        usage_seen=None if count is None else count.usage,
        output_bytes=passed // _STREAM_BYTES_PER_TEXT if grant.stream else passed,
        model="" if count is None else count.model,
        outcome=Outcome.ABORTED if broken else Outcome.COMPLETED,
    )


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


def _hides_an_answer(entry: pb.HTTPAccessLogEntry) -> bool:
    """Whether an error is Envoy's own, and stands in the place of what the provider may have billed."""
    common = entry.common_properties
    if _is_any(common.response_flags, _TIMED_OUT):
        return True
    # An answer larger than Envoy's buffer, or a filter that failed over it.
    own = entry.response.response_code_details not in ("", _FROM_UPSTREAM)
    answered = common.upstream_wire_bytes_received > 0
    return own and answered and not _is_any(common.response_flags, _NOT_CONNECTED)


def _is_any(flags: pb.ResponseFlags, names: tuple[str, ...]) -> bool:
    return any(getattr(flags, name) for name in names)
