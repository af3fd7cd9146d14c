"""The Limiter service: translate, ask the service, translate back."""

from __future__ import annotations

import time
from typing import Any

from limiter.domain.reservations import ReservationName
from limiter.domain.verdicts import Denied
from limiter.rpc import answers, requests
from limiter.rpc.context import on_unwritten, remaining_s
from limiter.rpc.grants import grant_bytes
from limiter.service.service import Service
from limiter.v1 import limiter_pb2 as pb
from limiter.v1 import limiter_pb2_grpc


class LimiterServicer(limiter_pb2_grpc.LimiterServicer):
    """Answers on one listener; `trusted` as that is marked."""

    def __init__(self, service: Service, *, trusted: bool) -> None:
        self._service = service
        self._trusted = trusted
        self._seconds = service.metrics.call_seconds

    async def Reserve(self, request: pb.ReserveRequest, context: Any) -> pb.ReserveResponse | bytes:
        """Ask for a hold; a grant, told as bytes, whose answer is not written is given back."""
        began = time.perf_counter()
        call = requests.reserve_call(request, trusted=self._trusted, remaining_s=remaining_s(context))
        verdict = await self._service.reserve(call)
        self._seconds["Reserve", "OK"].observe(time.perf_counter() - began)
        if isinstance(verdict, Denied):
            return answers.refusal(verdict)
        if verdict.reservation and not call.consume:
            name = verdict.reservation
            on_unwritten(context, lambda: self._service.give_back(ReservationName.parse(name)))
        return grant_bytes(verdict)

    async def Settle(self, request: pb.SettleRequest, context: Any) -> pb.SettleResponse:
        """Replace a hold by what was used."""
        began = time.perf_counter()
        settled = await self._service.settle(requests.settle_call(request))
        self._seconds["Settle", "OK"].observe(time.perf_counter() - began)
        return answers.settle_response(settled)

    async def Release(self, request: pb.ReleaseRequest, context: Any) -> pb.SettleResponse:
        """End a hold with nothing spent."""
        name = ReservationName.parse(request.reservation)
        settled = await self._service.release(name, reason=requests.reason_text(request.reason))
        return answers.settle_response(settled)

    async def Extend(self, request: pb.ExtendRequest, context: Any) -> pb.ExtendResponse:
        """Keep a hold open for longer."""
        reply = await self._service.extend(*requests.extension(request))
        return pb.ExtendResponse(expires_at=answers.timestamp(reply.expires_ms), repeated_call=reply.repeated)

    async def Charge(self, request: pb.ChargeRequest, context: Any) -> pb.SettleResponse:
        """Book spend that had no hold."""
        return answers.settle_response(await self._service.charge(requests.book_call(request, trusted=self._trusted)))

    async def GetHeadroom(
        self,
        request: pb.GetHeadroomRequest,
        context: Any,
    ) -> pb.GetHeadroomResponse:
        """What is left at every limit on the path."""
        statuses = await self._service.headroom(
            requests.principal(request, trusted=self._trusted), *requests.model_names(request)
        )
        response = pb.GetHeadroomResponse()
        for status in statuses:
            answers.add_status(response.limits, status)
        return response
