"""A sidecar that answers from a script, on real sockets, and remembers what it was asked."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from limiter.v1 import limiter_pb2 as pb
from limiter.v1 import limiter_pb2_grpc as services

RESERVATION = "organizations/acme/reservations/" + "0123456789abcdef" * 2

_LIMITER = ("Reserve", "Settle", "Release", "Extend", "Charge", "GetHeadroom")
_ADMIN = (
    *("ApplyPolicy", "GetPolicy", "CreateKey", "ImportKey", "RotateKey", "UpdateKey", "ListKeys"),
    *("GetReservation", "ListReservations", "ForceRelease", "ListScopes", "AdjustReservation", "ReadCounters"),
)


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
    """Answer nothing before the sidecar closes."""


class FakeSidecar:
    """Serves both services in a data directory. The next answers of a method are scripted; else it answers emptily."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.address = ""  # of a listener on TCP
        self.asked: list[Asked] = []
        self.arrived = threading.Semaphore(0)  # released once per request
        self._script: dict[str, deque[Any]] = defaultdict(deque)
        self._closing = threading.Event()
        self._threads = ThreadPoolExecutor(max_workers=8)
        self._server = grpc.server(self._threads)
        limiter = type("Limiter", (services.LimiterServicer,), {name: self._method(name) for name in _LIMITER})()
        unary = {name: self._method(name) for name in _ADMIN}
        admin = type("Admin", (services.AdminServicer,), unary | {"ReadLedger": self._stream("ReadLedger")})()
        services.add_LimiterServicer_to_server(limiter, self._server)
        services.add_AdminServicer_to_server(admin, self._server)
        for name in ("limiter", "admin"):
            self._server.add_insecure_port(f"unix:{data_dir}/{name}.sock")

    def start(self, credentials: grpc.ServerCredentials | None = None) -> None:
        """Serve, also on TCP; with TLS there if there are credentials."""
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()
        self.address = f"127.0.0.1:{port}"

    def close(self) -> None:
        self._closing.set()
        self._server.stop(grace=None).wait()
        self._threads.shutdown()

    def answers(self, method: str, *answers: Any) -> None:  # noqa: ANN401 - messages, failures, or lists of them
        """Answer the next calls of `method` so."""
        self._script[method].extend(answers)

    def request(self, method: str) -> Any:  # noqa: ANN401 - the message of that method
        """The only request of a method."""
        (found,) = self.requests(method)
        return found

    def requests(self, method: str) -> list[Any]:
        return [asked.request for asked in self.asked if asked.method == method]

    def _method(self, name: str) -> Callable[..., Any]:
        def answer(_: object, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - as scripted
            self._remember(name, request, context)
            found = self._script[name].popleft() if self._script[name] else _empty(name)
            if isinstance(found, NeverAnswers):
                self._closing.wait()
            if isinstance(found, Fails):
                context.abort(found.code, found.details)
            return found

        return answer

    def _stream(self, name: str) -> Callable[..., Any]:
        def answer(_: object, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: ANN401
            self._remember(name, request, context)
            for found in self._script[name].popleft() if self._script[name] else ():
                if isinstance(found, NeverAnswers):
                    while context.is_active() and not self._closing.wait(0.05):
                        pass
                    return
                if isinstance(found, Fails):
                    context.abort(found.code, found.details)
                yield found

        return answer

    def _remember(self, name: str, request: object, context: grpc.ServicerContext) -> None:
        self.asked.append(Asked(name, request, dict(context.invocation_metadata())))
        self.arrived.release()


def _empty(method: str) -> Any:  # noqa: ANN401 - the message of that method
    named = {
        "Release": pb.SettleResponse,
        "Settle": pb.SettleResponse,
        "Charge": pb.SettleResponse,
        "ForceRelease": pb.SettleResponse,
        "AdjustReservation": pb.SettleResponse,
        "CreateKey": pb.CreateKeyResponse,
        "ImportKey": pb.CreateKeyResponse,
        "RotateKey": pb.CreateKeyResponse,
        "UpdateKey": pb.Key,
        "GetReservation": pb.Reservation,
    }
    return named[method]() if method in named else getattr(pb, f"{method}Response")()


def at(seconds: int) -> Timestamp:
    return Timestamp(seconds=seconds)


def spend(**changes: object) -> pb.LimitStatus:
    """A spend limit that is used to 97.5 %."""
    fields: dict[str, Any] = {
        "scope": "organizations/acme/teams/search/keys/bot",
        "limit": "daily",
        "kind": pb.LimitStatus.SPEND,
        "unit": "nanousd",
        "window": "day",
        "limit_value": 20_000_000_000,
        "settled": 19_000_000_001,
        "held": 500_000_000,
        "remaining": 499_999_999,
        "requested": 800_000_000,
        "resets_at": at(1_900_000_000),
    }
    return pb.LimitStatus(**(fields | changes))


def granted(**changes: object) -> pb.ReserveResponse:
    fields: dict[str, Any] = {
        "decision": pb.ReserveResponse.GRANTED,
        "reservation": RESERVATION,
        "held_nanousd": 7_500_000,
        "expires_at": at(1_800_000_000),
        "max_output_tokens": 500,
        "limits": [spend()],
    }
    return pb.ReserveResponse(**(fields | changes))


def key(**changes: object) -> pb.Key:
    fields: dict[str, Any] = {
        "key": "acme/search/bot",
        "enabled": True,
        "secrets": [pb.Key.Secret(hint="JvBY", pepper_version="1", created_at=at(1_700_000_000))],
        "created_at": at(1_700_000_000),
    }
    return pb.Key(**(fields | changes))


def held(**changes: object) -> pb.Reservation:
    fields: dict[str, Any] = {
        "reservation": RESERVATION,
        "state": pb.HELD,
        "key": "acme/search/bot",
        "model": "gpt-4o",
        "tags": [pb.Tag(name="customer", value="initech")],
        "held_nanousd": 7_500_000,
        "reserved_at": at(1_700_000_000),
        "expires_at": at(1_700_000_600),
        "charged": ["acme monthly:spend:month"],
    }
    return pb.Reservation(**(fields | changes))
