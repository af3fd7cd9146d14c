"""The contract itself, for programs that speak it directly: its messages, and the stubs of both services."""

from __future__ import annotations

from limiter.v1 import limiter_pb2 as messages
from limiter.v1.limiter_pb2_grpc import AdminStub, LimiterStub

__all__ = ["AdminStub", "LimiterStub", "messages"]
