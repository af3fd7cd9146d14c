"""What one call does, as steps: send this, wait so long. Pure; a face performs the steps.

A plan is a generator. It yields a Send, and is given the answer or has the gRPC error thrown into
it; it yields a Pause, and is resumed after it. So retries, deadlines and waiting for a rate are
written once, for the async and for the sync face.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import uuid4

import grpc
from google.protobuf.message import Message

from limiter.client.answers import verdict
from limiter.client.errors import HoldEnded, LimiterUnavailable, RateLimited, failure, refusal
from limiter.domain.verdicts import Granted
from limiter.v1 import limiter_pb2 as pb

#: Waits between attempts: doubled from the first to the longest, each shortened by up to a half.
FIRST_WAIT_SECONDS: Final = 0.1
LONGEST_WAIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message` to `method` of the service; answer within `timeout_seconds`."""

    method: str
    message: Message
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so long."""

    seconds: float


T = TypeVar("T")
Steps = Generator[Send | Pause, Any, T]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call may take in all, how often it is sent again, how long it may wait for a rate."""

    timeout_seconds: float
    retries: int
    wait_for_rate_seconds: float = 0.0


def new_request_id() -> str:
    """Make an idempotency key."""
    return str(uuid4())


def call(method: str, message: Message, patience: Patience, *, deadline: float | None = None) -> Steps[Any]:
    """Send until there is an answer; raises CallFailed.

    Only what can pass by itself is sent again (unavailable, overloaded, no answer in time), always
    with the same message: every call of the contract is idempotent. An attempt gets its share of
    the time that is left, so that one lost answer does not use up all of it. `deadline` is by the
    monotonic clock; default: the timeout from now.
    """
    if deadline is None:
        deadline = time.monotonic() + patience.timeout_seconds
    attempts = 1 + patience.retries
    attempt = 0
    while True:
        left_seconds = max(deadline - time.monotonic(), 0.0)
        try:
            return (yield Send(method, message, left_seconds / (attempts - attempt)))
        except grpc.RpcError as error:
            attempt += 1
            failed = failure(error, attempts=attempt)
            cause = error
        wait_seconds = _wait_seconds(attempt)
        too_late = time.monotonic() + wait_seconds >= deadline
        if not isinstance(failed, LimiterUnavailable) or attempt >= attempts or too_late:
            raise failed from cause
        yield Pause(wait_seconds)


def reserve(request: pb.ReserveRequest, patience: Patience, *, own_request_id: bool) -> Steps[Granted]:
    """Reserve; raises Refused or CallFailed.

    With `wait_for_rate_seconds`, a 429 is asked again after its retry_after, as long as all waits
    together stay within it.

    The limiter takes back a grant that missed its deadline, and the next attempt then finds a hold
    that has ended. If the request_id is the client's own, nobody rode on that grant: a new id is safe.
    """
    may_wait_seconds = patience.wait_for_rate_seconds
    renewed = False
    deadline = time.monotonic() + patience.timeout_seconds
    while True:
        try:
            answer = verdict((yield from call("Reserve", request, patience, deadline=deadline)))
        except HoldEnded as error:
            if renewed or not own_request_id or error.attempts == 1:
                raise
            request.request_id = new_request_id()
            renewed = True
            continue
        if isinstance(answer, Granted):
            return answer
        refused = refusal(answer)
        wait_seconds = refused.retry_after.total_seconds() if isinstance(refused, RateLimited) else 0.0
        if not 0 < wait_seconds <= may_wait_seconds:
            raise refused
        may_wait_seconds -= wait_seconds
        yield Pause(wait_seconds + random.uniform(0, wait_seconds / 10))  # noqa: S311  # spreads callers, no secret
        deadline = time.monotonic() + patience.timeout_seconds


def _wait_seconds(attempt: int) -> float:
    longest = min(FIRST_WAIT_SECONDS * (1 << (attempt - 1)), LONGEST_WAIT_SECONDS)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # spreads callers, no secret
