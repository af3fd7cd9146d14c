"""A server for Envoy that lets everything pass: what Envoy's calls cost on the engine, behind the guard, without us.

Its ext_proc asks for the same messages as Limiter's: bodies of requests and JSON answers, buffered.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc

from limiter.app import run_loop
from limiter.envoy import services
from limiter.envoy.v3 import ext_authz_pb2 as authz
from limiter.envoy.v3 import ext_proc_pb2 as proc
from limiter.observability import logs
from limiter.rpc.guard import Guard
from limiter.rpc.listeners import Listener
from limiter.rpc.server import Server


async def _check(request: authz.CheckRequest, context: Any) -> authz.CheckResponse:  # noqa: ANN401, ARG001 - gRPC's
    response = authz.CheckResponse()
    response.ok_response.SetInParent()
    return response


async def _process(
    messages: AsyncIterator[proc.ProcessingRequest],
    context: Any,  # noqa: ANN401, ARG001 - gRPC's
) -> AsyncGenerator[proc.ProcessingResponse]:
    async for message in messages:
        kind = message.WhichOneof("request")
        response = proc.ProcessingResponse()
        getattr(response, kind or "request_trailers").SetInParent()
        if kind == "request_headers":
            response.mode_override.request_body_mode = proc.ProcessingMode.BUFFERED
            response.mode_override.response_header_mode = proc.ProcessingMode.SEND
        if kind == "response_headers":
            response.mode_override.response_body_mode = proc.ProcessingMode.BUFFERED
            response.mode_override.response_header_mode = proc.ProcessingMode.SEND
        yield response


async def _serve(port: int) -> None:
    def register(_listener: Listener, guard: Guard) -> None:
        check = grpc.unary_unary_rpc_method_handler(
            _check, authz.CheckRequest.FromString, authz.CheckResponse.SerializeToString
        )
        process = grpc.stream_stream_rpc_method_handler(
            _process, proc.ProcessingRequest.FromString, proc.ProcessingResponse.SerializeToString
        )
        guard.add_registered_method_handlers(services.AUTHORIZATION, {"Check": check})
        guard.add_registered_method_handlers(services.PROCESSING, {"Process": process})

    await Server([Listener(f"127.0.0.1:{port}")], register).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    logs.configure(level="error", style="console")
    run_loop(_serve(int(sys.argv[1])))
