"""Health and reflection: open on every listener without a token, and answered while the server drains."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """What `grpc.health.v1.Health` says of the server ("") and of each of its services, NOT_SERVING at first."""

    def __init__(self) -> None:
        self._servicer = health.aio.HealthServicer()
        self._services = {""}

    def add_to(self, server: grpc.aio.Server, services: Iterable[str]) -> None:
        """Serve health and reflection beside `services` on one listener."""
        names = sorted(services)
        self._services.update(names)
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)
        reflection.enable_server_reflection([*names, health.SERVICE_NAME, reflection.SERVICE_NAME], server)

    async def set_serving(self, serving: bool) -> None:  # noqa: FBT001 - the value, not a flag
        """Say whether calls can succeed now; ignored once shut down."""
        for service in sorted(self._services):
            await self._servicer.set(service, _SERVING if serving else _NOT_SERVING)

    async def shut_down(self) -> None:
        """Say NOT_SERVING for good."""
        await self._servicer.enter_graceful_shutdown()
