"""A limiter that answers from a script, on a real gRPC server, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.v1 import limiter_pb2 as pb
from limiter.v1.limiter_pb2_grpc import LimiterServicer, add_LimiterServicer_to_server

RESERVATION = "organizations/acme/reservations/" + "0123456789abcdef" * 2
HELD_NANOUSD = 5_000_000

METHODS = ("Reserve", "Settle", "Release", "Extend", "Charge", "GetHeadroom")


@dataclass(frozen=True)
class Asked:
    """One request as it arrived."""

    method: str
    request: Any
    metadata: dict[str, str]


@dataclass(frozen=True)
class Fails:
    """Answer with a gRPC status."""

    code: grpc.StatusCode
    details: str = "scripted"


class NeverAnswers:
    """Answer nothing before the limiter closes."""


Answer = Any | Fails | NeverAnswers | Callable[[Any], Any]


class FakeLimiter:
    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: dict[str, deque[Answer]] = defaultdict(deque)
        self.defaults: dict[str, Any] = {
            "Reserve": granted(),
            "Settle": pb.SettleResponse(state=pb.SETTLED, cost_nanousd=1_250_000, basis=pb.Settlement.USAGE),
            "Release": pb.SettleResponse(
                state=pb.RELEASED, released_nanousd=HELD_NANOUSD, basis=pb.Settlement.RELEASED
            ),
            "Extend": pb.ExtendResponse(expires_at=Timestamp(seconds=1_900_000_000)),
            "Charge": pb.SettleResponse(
                state=pb.SETTLED, cost_nanousd=7, basis=pb.Settlement.USAGE, reservation=RESERVATION
            ),
            "GetHeadroom": pb.GetHeadroomResponse(limits=[daily()]),
        }
        self.closing = threading.Event()
        self.arrived = threading.Semaphore(0)  # released once per request
        self._threads = ThreadPoolExecutor(max_workers=8)
        self._server = grpc.server(self._threads)
        add_LimiterServicer_to_server(_servicer(self), self._server)
        self.address = ""

    def listen(self, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None) -> None:
        if credentials is None:
            port = self._server.add_insecure_port(address)
        else:
            port = self._server.add_secure_port(address, credentials)
        self.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
        self._server.start()

    def close(self) -> None:
        self.closing.set()
        self._server.stop(grace=None).wait()
        self._threads.shutdown()

    def answers(self, method: str, *answers: Answer) -> None:
        """Answer the next calls of `method` so, the later ones by default."""
        self.script[method].extend(answers)

    def methods(self) -> list[str]:
        return [asked.method for asked in self.asked]

    def requests(self, method: str) -> list[Any]:
        return [asked.request for asked in self.asked if asked.method == method]

    def answer(self, method: str, request: Message, context: grpc.ServicerContext) -> Any:  # noqa: ANN401  # as scripted
        self.asked.append(Asked(method, request, dict(context.invocation_metadata())))
        self.arrived.release()
        queue = self.script[method]
        answer = queue.popleft() if queue else self.defaults[method]
        if isinstance(answer, NeverAnswers):
            self.closing.wait()
            context.abort(grpc.StatusCode.UNAVAILABLE, "closed")
        if isinstance(answer, Fails):
            context.abort(answer.code, answer.details)
        return answer(request) if callable(answer) else answer


def _servicer(limiter: FakeLimiter) -> LimiterServicer:
    def method(name: str) -> Callable[..., Any]:
        return lambda _self, request, context: limiter.answer(name, request, context)

    servicer: LimiterServicer = type("Servicer", (LimiterServicer,), {name: method(name) for name in METHODS})()
    return servicer


def daily(**changes: object) -> pb.LimitStatus:
    fields: dict[str, Any] = {
        "scope": "organizations/acme/teams/search/keys/bot",
        "limit": "daily",
        "kind": pb.LimitStatus.SPEND,
        "unit": "nanousd",
        "window": "day",
        "limit_value": 20_000_000_000,
        "settled": 19_000_000_000,
        "held": 500_000_000,
        "remaining": 500_000_000,
        "requested": 800_000_000,
        "resets_at": Timestamp(seconds=1_900_000_000),
    }
    return pb.LimitStatus(**(fields | changes))


def granted(**changes: object) -> pb.ReserveResponse:
    fields: dict[str, Any] = {
        "decision": pb.ReserveResponse.GRANTED,
        "reservation": RESERVATION,
        "held_nanousd": HELD_NANOUSD,
        "expires_at": Timestamp(seconds=1_800_000_000),
        "max_output_tokens": 500,
        "limits": [daily()],
    }
    return pb.ReserveResponse(**(fields | changes))


def denied(reason: int, http_status: int, **changes: object) -> pb.ReserveResponse:
    denial = pb.Denial(
        reason=reason,  # type: ignore[arg-type]  # mypy wants the enum's own type
        http_status=http_status,
        retryable=http_status == 429,
        message="daily of acme/search/bot is reached",
        violations=[daily()],
    )
    denial.MergeFrom(pb.Denial(**changes))  # type: ignore[arg-type]  # any field
    return pb.ReserveResponse(decision=pb.ReserveResponse.DENIED, denial=denial)


def milliseconds(count: int) -> Duration:
    duration = Duration()
    duration.FromMilliseconds(count)
    return duration
