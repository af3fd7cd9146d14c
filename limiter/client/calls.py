"""The calls of both clients: what to send, and how to read the answer. A wire only performs them."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Final, TypedDict

from google.protobuf.message import Message

from limiter.client.answers import Settlement, milliseconds, settlement, statuses
from limiter.client.connection import TLS, Connection
from limiter.client.errors import InvalidRequest
from limiter.client.requests import (
    ChargeArguments,
    Principal,
    ReserveArguments,
    charge_request,
    extend_request,
    headroom_request,
    reserve_request,
)
from limiter.client.steps import Patience, Steps, call, new_request_id, reserve
from limiter.domain.verdicts import Granted, LimitStatus
from limiter.v1 import limiter_pb2 as pb

DEFAULT_TIMEOUT_SECONDS: Final = 10.0
DEFAULT_RETRIES: Final = 4

#: A message that ends a hold.
Ending = pb.SettleRequest | pb.ReleaseRequest


class Options(TypedDict, total=False):
    """What a client takes besides the address."""

    api_key: str | None  # the limiter's key that calls are made under; LIMITER_API_KEY
    key_id: str | None  # organization/team/key instead of the secret, on trusted listeners
    token: str | None  # the listener's bearer token; LIMITER_TOKEN
    tls: TLS | None
    timeout: float  # seconds for one call with all its retries; default 10
    retries: int  # how often at most a call is sent again; default 4
    wait_for_rate: timedelta | float  # how long a reserve may wait instead of raising RateLimited; default 0


class Calls:
    """A client's configuration, and its calls as steps."""

    def __init__(
        self,
        address: str | None = None,
        *,
        api_key: str | None = None,
        key_id: str | None = None,
        token: str | None = None,
        tls: TLS | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        retries: int = DEFAULT_RETRIES,
        wait_for_rate: timedelta | float = 0.0,
    ) -> None:
        if timeout <= 0 or retries < 0:
            raise InvalidRequest(f"timeout: {timeout}, retries: {retries} are not valid; above 0, and at least 0")
        self.connection = Connection.resolve(address, token, tls)
        self._principal = _principal(api_key, key_id)
        self._patience = Patience(timeout, retries, _seconds(wait_for_rate))

    def reserve(
        self, arguments: ReserveArguments, *, timeout: float | None, wait_for_rate: timedelta | float | None
    ) -> Steps[Granted]:
        """Ask for a hold."""
        request = reserve_request(arguments, default=self._principal, request_id=new_request_id())
        patience = self._patient(timeout, wait_for_rate)
        return reserve(request, patience, own_request_id=arguments.get("request_id") is None)

    def end(self, request: Ending, timeout: float | None) -> Steps[Settlement]:
        """Settle or release."""
        method = "Settle" if isinstance(request, pb.SettleRequest) else "Release"
        return _booked(method, request, self._patient(timeout), request.reservation)

    def charge(self, response: object, arguments: ChargeArguments, timeout: float | None) -> Steps[Settlement]:
        """Book spend that had no hold."""
        request = charge_request(response, arguments, default=self._principal, request_id=new_request_id())
        return _booked("Charge", request, self._patient(timeout), "")

    def extend(self, reservation: str, ttl: timedelta | float, timeout: float | None) -> Steps[int]:
        """Keep a hold open; returns its expiry in ms since the epoch."""
        return _extended(extend_request(reservation, ttl), self._patient(timeout))

    def headroom(
        self, model: str, provider: str, principal: Principal, timeout: float | None
    ) -> Steps[tuple[LimitStatus, ...]]:
        """Read what is left."""
        return _headroom(headroom_request(model, provider, principal, self._principal), self._patient(timeout))

    def _patient(self, timeout: float | None, wait_for_rate: timedelta | float | None = None) -> Patience:
        default = self._patience
        return Patience(
            timeout_seconds=default.timeout_seconds if timeout is None else timeout,
            retries=default.retries,
            wait_for_rate_seconds=default.wait_for_rate_seconds if wait_for_rate is None else _seconds(wait_for_rate),
        )


def _booked(method: str, request: Message, patience: Patience, reservation: str) -> Steps[Settlement]:
    response: pb.SettleResponse = yield from call(method, request, patience)
    return settlement(response, reservation=reservation)


def _extended(request: pb.ExtendRequest, patience: Patience) -> Steps[int]:
    response: pb.ExtendResponse = yield from call("Extend", request, patience)
    return milliseconds(response.expires_at)


def _headroom(request: pb.GetHeadroomRequest, patience: Patience) -> Steps[tuple[LimitStatus, ...]]:
    response: pb.GetHeadroomResponse = yield from call("GetHeadroom", request, patience)
    return statuses(response.limits)


def _principal(api_key: str | None, key_id: str | None) -> Principal:
    if api_key is not None and key_id is not None:
        raise InvalidRequest("api_key and key_id exclude each other; give one of them")
    if key_id is not None:
        return Principal(key_id=key_id)
    found = api_key or os.environ.get("LIMITER_API_KEY")
    return Principal(api_key=found) if found else Principal()


def _seconds(value: timedelta | float) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)
