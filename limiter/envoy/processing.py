"""ext_proc: Envoy shows the answer before the client gets it.

By default JSON answers are buffered, settled, and told their cost; streams pass by untouched after their headers, and
the access log settles them, as it does whatever breaks off. Where there is no access log, or its usage cannot be had
(Envoy before 1.40, formats that Envoy does not read), the filter says so by initial metadata, and streams are read
here, chunk by chunk, each answered before it is looked into::

    grpc_service:
      envoy_grpc: {cluster_name: limiter}
      initial_metadata: [{key: x-limiter-streams, value: read}]
    allow_mode_override: true

Requests are changed only where the filter sends their headers (`request_header_mode: SEND`): the body is then asked
for if there is something to write into it.

The client's answer never fails or waits long because of the limiter: what cannot be settled at once is settled in the
background, and the answer goes out without its cost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import structlog

from limiter.domain.money import format_usd
from limiter.envoy.exchanges import Exchange
from limiter.envoy.headers import set_header
from limiter.envoy.options import EnvoyOptions
from limiter.envoy.settling import Settling
from limiter.envoy.v3 import ext_proc_pb2 as pb

WAY: Final = "ext_proc"

#: By which a filter asks for streams to be read here.
STREAMS_KEY: Final = "x-limiter-streams"
READ: Final = "read"

#: Dynamic metadata by which Envoy's access log can leave out what is in the books already.
NAMESPACE: Final = "limiter"
SETTLED: Final = "settled"

#: How long an answer may wait for its cost: below Envoy's own default for a message, 200 ms.
COST_WAIT_S: Final = 0.15

_RESPONSE_BODY: Final = pb.ProcessingResponse(response_body=pb.BodyResponse())
_REQUEST_TRAILERS: Final = pb.ProcessingResponse(request_trailers=pb.TrailersResponse())
_RESPONSE_TRAILERS: Final = pb.ProcessingResponse(response_trailers=pb.TrailersResponse())

_log = structlog.get_logger(__name__)


class Processing:
    """`envoy.service.ext_proc.v3.ExternalProcessor`."""

    def __init__(self, settling: Settling, options: EnvoyOptions, *, cost_wait_s: float = COST_WAIT_S) -> None:
        self._settling = settling
        self._options = options
        self._cost_wait_s = cost_wait_s

    async def process(
        self,
        messages: AsyncIterator[pb.ProcessingRequest],
        context: Any,  # noqa: ANN401 - two engines
    ) -> AsyncGenerator[pb.ProcessingResponse]:
        """Follow one HTTP call; Envoy opens a stream for each, and resets it when it has seen enough."""
        exchange = Exchange(self._options, reads_streams=_reads_streams(context))
        try:
            async for message in messages:
                exchange.begin(message)
                kind = message.WhichOneof("request")
                if kind == "response_body" and not exchange.is_buffered:
                    # Answered first: reading it must not delay the chunk. Cut off here, it is read all the same.
                    try:
                        yield _RESPONSE_BODY
                    finally:
                        exchange.response_part(message.response_body)
                elif kind == "response_trailers":
                    exchange.response_trailers(message)
                    yield _RESPONSE_TRAILERS
                else:
                    yield await self._answer(exchange, kind, message)
                    if kind == "response_headers" and exchange.has_seen_enough:
                        # Step aside for good: a stream then costs nothing here, and goes on if this process ends.
                        # Envoy would do so by itself, but not if it buffered the request.
                        return
        finally:
            self._close(exchange)

    async def _answer(
        self, exchange: Exchange, kind: str | None, message: pb.ProcessingRequest
    ) -> pb.ProcessingResponse:
        if kind == "request_headers":
            return exchange.request_headers(message.request_headers)
        if kind == "request_body":
            return exchange.request_body(message.request_body)
        if kind == "response_headers":
            return exchange.response_headers(message.response_headers)
        if kind == "response_body":
            return await self._settle_whole(exchange, message.response_body)
        return _REQUEST_TRAILERS

    async def _settle_whole(self, exchange: Exchange, body: pb.HttpBody) -> pb.ProcessingResponse:
        """Settle a buffered answer, and tell the client what it cost."""
        exchange.response_part(body)
        ending = exchange.of_buffered(body.body)
        if ending is None:
            return _RESPONSE_BODY
        settled = await self._settling.within(ending, way=WAY, seconds=self._cost_wait_s)
        if settled is None:
            return _RESPONSE_BODY
        response = pb.ProcessingResponse(response_body=pb.BodyResponse())
        mutation = response.response_body.response.header_mutation
        set_header(mutation, self._options.cost_header, format_usd(settled.cost_nanousd))
        response.dynamic_metadata.fields[NAMESPACE].struct_value.fields[SETTLED].bool_value = True
        return response

    def _close(self, exchange: Exchange) -> None:
        try:
            ending = exchange.at_close()
        except Exception:  # noqa: BLE001 - the log has the traceback; the hold ends by another way
            _log.exception("ext_proc.end_unreadable")
            return
        if ending is not None:
            self._settling.later(ending, way=WAY)


def _reads_streams(context: Any) -> bool:  # noqa: ANN401 - two engines
    return any(key == STREAMS_KEY and value == READ for key, value in context.invocation_metadata() or ())
