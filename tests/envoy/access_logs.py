"""Envoy's access log, told to a sidecar in a test."""

from __future__ import annotations

from typing import Any

from limiter.domain.verdicts import Granted
from limiter.envoy.access_log import AccessLog
from limiter.envoy.settling import Settling
from limiter.envoy.v3 import access_log_pb2 as pb
from limiter.store.port import HoldRecord
from tests.envoy.exchanges import POLICY, entry, sent
from tests.rules.desk import Limiter


class Log:
    """The access log side of a sidecar."""

    def __init__(self, limiter: Limiter, **options: Any) -> None:  # noqa: ANN401 - those of Settling
        self.limiter = limiter
        self.settling = Settling(limiter.service, **({"again_s": (0.0,)} | options))

    async def hold(self) -> Granted:
        await self.limiter.apply(POLICY)
        return await self.limiter.grant(tokens=(1_000, 1_000))

    async def tell(self, *entries: pb.HTTPAccessLogEntry) -> None:
        message = pb.StreamAccessLogsMessage()
        message.http_logs.log_entry.extend(entries)
        await AccessLog(self.settling).stream_access_logs(sent([message]), None)
        await self.settling.drain(seconds=30)

    async def after(self, hold: Granted, **told: Any) -> HoldRecord:  # noqa: ANN401 - those of entry
        return await self.ended(hold, entry(hold, **told))

    async def ended(self, hold: Granted, told: pb.HTTPAccessLogEntry) -> HoldRecord:
        await self.tell(told)
        return await self.limiter.record(hold)
