"""How a hold can end, as the limiter sees it."""

from __future__ import annotations

from limiter.v1 import limiter_pb2 as pb
from tests.client.fake_limiter import HELD_NANOUSD, RESERVATION, FakeLimiter

COMPLETED, ABORTED, FAILED = pb.SettleRequest.COMPLETED, pb.SettleRequest.ABORTED, pb.SettleRequest.FAILED


def in_full(outcome: int) -> pb.SettleRequest:
    return pb.SettleRequest(
        reservation=RESERVATION,
        cost_nanousd=HELD_NANOUSD,
        estimated=True,
        outcome=outcome,  # type: ignore[arg-type]  # mypy wants the enum's own type
    )


def released(reason: str) -> pb.ReleaseRequest:
    return pb.ReleaseRequest(reservation=RESERVATION, reason=reason)


def failed(status: int) -> pb.SettleRequest:
    return pb.SettleRequest(
        reservation=RESERVATION,
        outcome=FAILED,
        provider_response=pb.ProviderResponse(status=status, content_type="application/json", body=b'{"error": {}}'),
    )


def settled() -> pb.SettleRequest:
    return pb.SettleRequest(reservation=RESERVATION, cost_nanousd=3, outcome=COMPLETED)


def endings(limiter: FakeLimiter) -> list[object]:
    return [asked.request for asked in limiter.asked if asked.method != "Reserve"]


def name(value: object) -> str:
    return getattr(value, "__name__", None) or (repr(value) if not isinstance(value, list) else "")
