"""A limiter of one organization with one ceiling, that can be told to break its word in one way."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field

import grpc

from limiter.v1 import limiter_pb2 as pb
from limiter.v1 import limiter_pb2_grpc

KEY = "acme/search/bot"
POLICY = """
version: 1
organizations:
  acme:
    limits: [{id: total, spend: 0.0005, per: total}]
    teams: {search: {keys: {bot: {}}}}
"""
CEILING = 500_000

#: The call, counted from 0, at which it breaks its word.
AT = 3


@dataclass
class Scripted(limiter_pb2_grpc.LimiterServicer, limiter_pb2_grpc.AdminServicer):
    """`lie` is what it does wrong at call AT: refuses, passes, loses a row, grants twice and so on; "": nothing."""

    lie: str = ""
    settled: int = 0
    holds: dict[str, tuple[str, int]] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)
    asked: list[pb.ReserveRequest] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def _status(self, requested: int) -> pb.LimitStatus:
        held = sum(held for _, held in self.holds.values())
        return pb.LimitStatus(
            scope="organizations/acme",
            limit="total",
            kind=pb.LimitStatus.SPEND,
            window="total",
            limit_value=CEILING,
            settled=self.settled,
            held=held,
            remaining=max(0, CEILING - self.settled - held),
            requested=requested,
        )

    def Reserve(self, request: pb.ReserveRequest, context: grpc.ServicerContext) -> pb.ReserveResponse:  # noqa: N802 - gRPC's
        with self.lock:
            number = len(self.asked)
            self.asked.append(request)
            if self.lie == "is gone" and number >= AT:
                context.abort(grpc.StatusCode.UNAVAILABLE, "the store is gone")
            cost = 1000 * (request.estimate.input_tokens + request.estimate.max_output_tokens)
            status = self._status(cost)
            full = status.remaining < cost and self.lie != "passes"
            if full or (self.lie == "refuses" and number == AT):
                denial = pb.Denial(reason=pb.Denial.SPEND_CEILING, http_status=402, violations=[status])
                if full and status.settled + cost <= CEILING:
                    denial.reason, denial.http_status, denial.retryable = pb.Denial.SPEND_HELD, 429, True
                    denial.retry_after.FromMilliseconds(1)
                return pb.ReserveResponse(decision=pb.ReserveResponse.DENIED, denial=denial, limits=[status])
            at = AT if self.lie == "grants twice" and number > AT else number
            name = f"organizations/acme/reservations/{at:032x}"
            self.holds[name] = (request.request_id, cost)
            return pb.ReserveResponse(
                decision=pb.ReserveResponse.GRANTED, reservation=name, held_nanousd=cost, limits=[self._status(cost)]
            )

    def Settle(self, request: pb.SettleRequest, context: grpc.ServicerContext) -> pb.SettleResponse:  # noqa: N802 - gRPC's
        del context
        with self.lock:
            request_id, held = self.holds.pop(request.reservation, ("", 0))
            cost = 1000 * (request.usage.input_tokens + request.usage.output_tokens)
            number = len(self.rows)
            self.settled += cost
            booked = cost + 1 if self.lie == "books another amount" and number == AT else cost
            if self.lie == "loses a hold" and number == AT:
                self.holds["lost"] = ("theirs", 1)
            row = {
                "kind": "SETTLEMENT",
                "reservation": request.reservation,
                "state": "SETTLED",
                "flags": [],
                "amount_nanousd": booked,
                "held_nanousd": held,
                "cost_nanousd": booked,
                "charged": [{"scope": "acme", "counter": "total:spend:total", "period_ms": 1}],
                "call": {"key": KEY, "request_id": request_id},
            }
            if self.lie == "loses a row" and number == AT:
                row |= {"kind": "EVENT"}
            self.rows.append(json.dumps(row))
            return pb.SettleResponse(state=pb.SETTLED, cost_nanousd=cost)

    def GetPolicy(self, request: pb.GetPolicyRequest, context: grpc.ServicerContext) -> pb.GetPolicyResponse:  # noqa: N802 - gRPC's
        del request, context
        return pb.GetPolicyResponse(policy_yaml=POLICY, versions={"acme": 1})

    def ListScopes(self, request: pb.ListScopesRequest, context: grpc.ServicerContext) -> pb.ListScopesResponse:  # noqa: N802 - gRPC's
        del request, context
        with self.lock:
            return pb.ListScopesResponse(scopes=[pb.ScopeStatus(scope="acme", limits=[self._status(0)])])

    def ListReservations(  # noqa: N802
        self, request: pb.ListReservationsRequest, context: grpc.ServicerContext
    ) -> pb.ListReservationsResponse:
        """A page for every hold, and an empty one at the end."""
        del context
        with self.lock:
            at = int(request.page_token or 0)
            page = [
                pb.Reservation(
                    reservation=name, request_id=request_id, held_nanousd=held, charged=["acme total:spend:total"]
                )
                for name, (request_id, held) in list(self.holds.items())[at : at + 1]
                if name != "lost"
            ]
            more = at < len(self.holds)
            return pb.ListReservationsResponse(reservations=page, next_page_token=str(at + 1) if more else "")

    def ReadLedger(self, request: pb.ReadLedgerRequest, context: grpc.ServicerContext) -> Iterator[pb.LedgerRow]:  # noqa: N802 - gRPC's
        start = max(0, len(self.rows) - request.last) if request.last else 0
        gone = threading.Event()
        context.add_callback(gone.set)
        for seq in itertools.count(start):
            while seq >= len(self.rows):
                if not request.follow or gone.wait(0.01):
                    return
            yield pb.LedgerRow(shard=0, epoch=1, seq=seq, json=self.rows[seq])


@dataclass
class Served:
    """A scripted limiter on a socket of its own, for both services."""

    limiter: Scripted
    address: str
    server: grpc.Server

    @classmethod
    def start(cls, limiter: Scripted, socket: str) -> Served:
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
        limiter_pb2_grpc.add_LimiterServicer_to_server(limiter, server)
        limiter_pb2_grpc.add_AdminServicer_to_server(limiter, server)
        server.add_insecure_port(f"unix:{socket}")
        server.start()
        return cls(limiter, f"unix:{socket}", server)

    def stop(self) -> None:
        self.server.stop(None).wait()
