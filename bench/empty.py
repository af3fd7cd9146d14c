"""A server whose Reserve does nothing: what gRPC alone costs, on the engine and behind the guard that a sidecar has."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from bench.machine import Cores, started_on
from bench.sidecar import free_port
from limiter.app import run_loop
from limiter.observability import logs
from limiter.rpc.listeners import Listener
from limiter.rpc.server import Server
from limiter.v1 import limiter_pb2 as pb
from limiter.v1 import limiter_pb2_grpc

_START_TIMEOUT_S = 30.0


class _Empty(limiter_pb2_grpc.LimiterServicer):
    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse:  # noqa: ANN401, ARG002, N802 - gRPC's signature
        return pb.ReserveResponse(decision=pb.ReserveResponse.GRANTED)


@contextmanager
def empty_server(on: Cores, *, module: str = "bench.empty") -> Iterator[tuple[int, int]]:
    """Start the server that `module` is on the sidecar's core; yields its process id and port."""
    port = free_port()
    with started_on(on.sidecar):
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(port)], stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            grpc.channel_ready_future(channel).result(_START_TIMEOUT_S)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


async def _serve(port: int) -> None:
    def register(_listener: Listener, guard: Any) -> None:  # noqa: ANN401 - takes the place of a server
        limiter_pb2_grpc.add_LimiterServicer_to_server(_Empty(), guard)

    await Server([Listener(f"127.0.0.1:{port}")], register).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    logs.configure(level="error", style="console")
    run_loop(_serve(int(sys.argv[1])))
