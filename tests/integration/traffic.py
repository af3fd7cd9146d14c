"""Callers that ask, check every answer, and settle; seeded, and patient with sidecars that are killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import grpc

from limiter.v1 import limiter_pb2 as pb
from tests.integration.connections import Connection, of_key

T = TypeVar("T")

#: What a caller may hear while a sidecar or the store is away; it then asks again, by the same id.
_TROUBLE: Final = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
_TRY_FOR_S: Final = 40.0
_ATTEMPT_S: Final = 10.0
_WAIT_FOR_OTHERS_S: Final = 0.02


@dataclass(slots=True)
class Tally:
    """What the callers were told."""

    held: dict[str, int] = field(default_factory=dict)
    costs: dict[str, int] = field(default_factory=dict)
    denials: list[pb.Denial] = field(default_factory=list)
    trouble: Counter[str] = field(default_factory=Counter)
    largest: int = 0

    def ceilings_met(self) -> dict[tuple[str, str], int]:
        """The spend limits that said 402, and their ceilings."""
        return {
            (status.scope, status.limit): status.limit_value
            for denial in self.denials
            if denial.reason == pb.Denial.SPEND_CEILING
            for status in denial.violations
            if status.settled + status.requested > status.limit_value
        }


@dataclass(slots=True)
class Load:
    """Callers that share a tally.

    `sizes` are the least and the largest hold in nano-USD. A caller who is told that the money is spent stops, or
    `goes_on` to ask for the next call.
    """

    connections: Sequence[Connection]
    keys: Sequence[str]
    seed: int
    sizes: tuple[int, int]
    check_ceilings: bool = True
    goes_on: bool = False
    tally: Tally = field(default_factory=Tally)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, callers: int, calls: int) -> Tally:
        """Let so many callers make so many calls each."""
        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(self._caller(number, calls))
        return self.tally

    async def _caller(self, number: int, calls: int) -> None:
        dice = random.Random(f"{self.seed}/{number}")
        key = self.keys[number % len(self.keys)]
        for call in range(calls):
            if self.ended.is_set():
                return
            cost = dice.randint(*self.sizes)
            self.tally.largest = max(self.tally.largest, cost)
            request = of_key(key, cost, f"call-{number}-{call}", all_limits=dice.random() < 0.2)
            answer = await self._retried(dice, partial(_reserve, request))
            if answer.decision == pb.ReserveResponse.DENIED:
                self._refused(request, answer)
                if answer.denial.reason == pb.Denial.SPEND_CEILING and not self.goes_on:
                    return
                await asyncio.sleep(_WAIT_FOR_OTHERS_S * dice.random())
                continue
            self._granted(request, answer)
            await asyncio.sleep(0.01 * dice.random())
            await self._end(dice, answer.reservation, cost)

    async def _end(self, dice: random.Random, name: str, held: int) -> None:
        if dice.random() < 0.1:
            ended = await self._retried(dice, lambda connection: connection.release(name))
            cost = 0
        else:
            cost = dice.randint(0, held)
            ended = await self._retried(dice, lambda connection: connection.settle(name, cost))
        assert (ended.cost_nanousd, ended.released_nanousd) == (cost, held - cost), ended
        assert ended.overage_nanousd == 0
        assert not ended.late
        self.tally.costs[name] = cost

    async def _retried(self, dice: random.Random, ask: Callable[[Connection], Awaitable[T]]) -> T:
        give_up_at = time.monotonic() + _TRY_FOR_S
        while True:
            try:
                return await asyncio.wait_for(ask(dice.choice(self.connections)), _ATTEMPT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _TROUBLE:
                    raise
                trouble = error.code().name
            except TimeoutError:
                trouble = "TIMEOUT"
            assert time.monotonic() < give_up_at, trouble
            self.tally.trouble[trouble] += 1
            await asyncio.sleep(0.05 + 0.1 * dice.random())

    def _granted(self, request: pb.ReserveRequest, answer: pb.ReserveResponse) -> None:
        assert answer.held_nanousd == request.cost_nanousd
        assert answer.reservation not in self.tally.held, "one grant was given to two calls"
        self.tally.held[answer.reservation] = answer.held_nanousd
        if self.check_ceilings:
            for status in answer.limits:
                if status.kind == pb.LimitStatus.SPEND:
                    assert status.settled + status.held <= status.limit_value, answer

    def _refused(self, request: pb.ReserveRequest, answer: pb.ReserveResponse) -> None:
        check_refusal(request, answer, ceilings=self.check_ceilings)
        self.tally.denials.append(answer.denial)


async def _reserve(request: pb.ReserveRequest, connection: Connection) -> pb.ReserveResponse:
    return await connection.reserve(request)


def check_refusal(request: pb.ReserveRequest, answer: pb.ReserveResponse, *, ceilings: bool = True) -> None:
    """The refusal must follow from the numbers that it tells, and name every limit that has no room."""
    denial = answer.denial
    assert denial.violations
    for status in denial.violations:
        assert status.kind == pb.LimitStatus.SPEND
        assert status.requested == request.cost_nanousd
        assert status.settled + status.held + status.requested > status.limit_value, answer
        assert status.remaining == max(0, status.limit_value - status.settled - status.held)
        if ceilings:
            assert status.settled + status.held <= status.limit_value, answer
    spent = any(status.settled + status.requested > status.limit_value for status in denial.violations)
    assert denial.reason == (pb.Denial.SPEND_CEILING if spent else pb.Denial.SPEND_HELD)
    assert denial.http_status == (402 if spent else 429)
    assert denial.retryable == (not spent) == denial.HasField("retry_after")
    if request.all_limits:
        without_room = {
            (status.scope, status.limit)
            for status in answer.limits
            if status.settled + status.held + status.requested > status.limit_value
        }
        assert without_room == {(status.scope, status.limit) for status in denial.violations}
