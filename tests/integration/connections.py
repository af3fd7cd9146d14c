"""gRPC connections to sidecars, and the requests that most tests send."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2_grpc

from limiter.v1 import limiter_pb2 as pb
from limiter.v1 import limiter_pb2_grpc
from tests.integration.sidecars import Sidecar

T = TypeVar("T")

# The generated classes carry no types.
_LimiterStub: Any = limiter_pb2_grpc.LimiterStub
_AdminStub: Any = limiter_pb2_grpc.AdminStub
_HealthStub: Any = health_pb2_grpc.HealthStub

USD: Final = 10**9
DEADLINE_S: Final = 20.0
PATIENCE_S: Final = 20.0

_OPTIONS: Final = (
    # Each test's own connections, that come back quickly after a sidecar was killed.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 200),
    ("grpc.max_receive_message_length", 64 * 2**20),
)


class Connection:
    """What one sidecar answers: `limiter` by key_id, `public` by secret, `admin` and `health`."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self._trusted = channel(sidecar.trusted)
        self._public = channel(sidecar.public)
        self._admin = channel(sidecar.admin)
        self.limiter = _LimiterStub(self._trusted)
        self.public = _LimiterStub(self._public)
        self.admin = _AdminStub(self._admin)
        self.health = _HealthStub(self._public)

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(one.close() for one in (self._trusted, self._public, self._admin)))

    async def reserve(self, request: pb.ReserveRequest) -> pb.ReserveResponse:
        """Ask for a hold, with a deadline: on the trusted listener if the key is named, else on the public one."""
        stub = self.limiter if request.key_id else self.public
        response: pb.ReserveResponse = await stub.Reserve(request, timeout=DEADLINE_S)
        return response

    async def grant(self, request: pb.ReserveRequest) -> pb.ReserveResponse:
        """Ask for a hold that must be granted."""
        response = await self.reserve(request)
        assert response.decision == pb.ReserveResponse.GRANTED, response.denial
        return response

    async def deny(self, request: pb.ReserveRequest) -> pb.Denial:
        """Ask for a hold that must be refused."""
        response = await self.reserve(request)
        assert response.decision == pb.ReserveResponse.DENIED, response
        return response.denial

    async def settle(self, reservation: str, cost: int, **fields: Any) -> pb.SettleResponse:  # noqa: ANN401 - of any type
        """Settle by a cost in nano-USD."""
        request = pb.SettleRequest(reservation=reservation, cost_nanousd=cost, **fields)
        response: pb.SettleResponse = await self.limiter.Settle(request, timeout=DEADLINE_S)
        return response

    async def release(self, reservation: str) -> pb.SettleResponse:
        """End a hold with nothing spent."""
        request = pb.ReleaseRequest(reservation=reservation)
        response: pb.SettleResponse = await self.limiter.Release(request, timeout=DEADLINE_S)
        return response

    async def apply(self, text: str) -> pb.ApplyPolicyResponse:
        """Put a policy in force."""
        request = pb.ApplyPolicyRequest(policy_yaml=text)
        response: pb.ApplyPolicyResponse = await self.admin.ApplyPolicy(request, timeout=DEADLINE_S)
        return response

    async def mint(self, key: str, **fields: Any) -> str:  # noqa: ANN401 - of any type
        """Mint a key; its secret."""
        response = await self.admin.CreateKey(pb.CreateKeyRequest(key=key, **fields), timeout=DEADLINE_S)
        return str(response.secret)

    async def reached(self) -> None:
        """Wait until the sidecar has read what was sent to its trusted listener: it answers what came last."""
        for _ in range(5):
            with contextlib.suppress(grpc.aio.AioRpcError):
                await self.settle("no reservation at all", 1)

    async def reservation(self, name: str) -> pb.Reservation:
        """A reservation as Admin shows it."""
        response: pb.Reservation = await self.admin.GetReservation(pb.GetReservationRequest(reservation=name))
        return response


def channel(address: str) -> grpc.aio.Channel:
    """A plaintext channel, for a test to close."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS)


def of_key(key: str, cost: int, request_id: str = "", **fields: Any) -> pb.ReserveRequest:  # noqa: ANN401 - of any type
    """A Reserve of a key by its name; `cost` in nano-USD."""
    return pb.ReserveRequest(key_id=key, cost_nanousd=cost, request_id=request_id, **fields)


def of_secret(secret: str, cost: int, request_id: str = "", **fields: Any) -> pb.ReserveRequest:  # noqa: ANN401 - of any type
    """A Reserve of whoever shows this secret; `cost` in nano-USD."""
    return pb.ReserveRequest(api_key=secret, cost_nanousd=cost, request_id=request_id, **fields)


def ms(milliseconds: int) -> Duration:
    """A Duration."""
    return Duration(seconds=milliseconds // 1000, nanos=milliseconds % 1000 * 1_000_000)


async def eventually(look: Callable[[], Awaitable[T | None]], *, what: str, within_s: float = PATIENCE_S) -> T:
    """Look again and again until `look()` answers something true, and return that."""
    give_up_at = time.monotonic() + within_s
    while not (found := await look()):
        assert time.monotonic() < give_up_at, f"in vain waited for: {what}"
        await asyncio.sleep(0.01)
    return found


async def wait_for(holds: Callable[[], bool], *, what: str) -> None:
    """Look again and again until something holds, while the loop goes on."""

    async def look() -> bool:
        return holds()

    await eventually(look, what=what)
