"""Plays the calls of a trace: Reserve, as long as the call took, Settle; by any number of callers at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from limiter.cli.replay_tally import Tally
from limiter.cli.replay_trace import TracedCall
from limiter.client.contract import messages as pb
from limiter.client.errors import CallFailed, LimiterUnavailable
from limiter.client.steps import Patience, call
from limiter.client.wires import AsyncWire

#: How long a call may take in all, and how often it is sent again while the sidecar cannot be reached.
PATIENCE: Final = Patience(timeout_seconds=30.0, retries=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How a trace is played.

    `speed` 0: as fast as it goes; else the factor on the recorded time. `tokens_per_s` is how fast the
    simulated model writes (it is not waited for at speed 0). `max_output_tokens` is what is reserved for
    the output; None: the generated tokens times `overestimate`. `retries`: how often a call that was
    refused for now (429) is asked again.
    """

    keys: tuple[str, ...]
    model: str
    run: str
    speed: float = 0.0
    callers: int = 64
    customers: int = 10
    seed: int = 0
    overestimate: float = 2.0
    max_output_tokens: int | None = None
    tokens_per_s: float = 50.0
    retries: int = 0

    @property
    def request_prefix(self) -> str:
        """What the request ids of this replay begin with."""
        return f"replay-{self.run}-"


class Part(NamedTuple):
    """One call to be played."""

    number: int
    traced: TracedCall
    key: str
    customer: str


def parts(trace: Iterable[TracedCall], score: Score) -> Iterator[Part]:
    """Spread the calls over keys and customers, the same way for the same seed."""
    dice = random.Random(score.seed)  # noqa: S311 - spreads calls, no secret
    customers = [f"customer-{number:02}" for number in range(1, score.customers + 1)]
    for number, traced in enumerate(trace):
        yield Part(number, traced, dice.choice(score.keys), dice.choice(customers))


class Driver:
    """Plays calls against a sidecar, telling a tally every answer."""

    def __init__(self, wire: AsyncWire, score: Score, tally: Tally) -> None:
        self._wire = wire
        self._score = score
        self._tally = tally
        self._began_s = 0.0
        self._ended = asyncio.Event()

    def end_early(self) -> None:
        """Begin no further call; those under way come to their end."""
        self._ended.set()

    async def play(self, trace: Iterable[TracedCall]) -> float:
        """Play all calls; returns the seconds that it took."""
        self._began_s = time.monotonic()
        source = parts(trace, self._score)
        async with asyncio.TaskGroup() as callers:
            for _ in range(self._score.callers):
                callers.create_task(self._caller(source))
        return time.monotonic() - self._began_s

    async def _caller(self, source: Iterator[Part]) -> None:
        for part in source:
            if self._score.speed:
                await self._wait_until_due(part.traced.at_s)
            if self._ended.is_set():
                return
            await self._play(part)

    async def _wait_until_due(self, at_s: float) -> None:
        wait_s = self._began_s + at_s / self._score.speed - time.monotonic()
        if wait_s > 0:
            try:
                await asyncio.wait_for(self._ended.wait(), wait_s)
            except TimeoutError:
                return

    async def _play(self, part: Part) -> None:
        tally = self._tally
        answer = await self._reserve(part)
        if answer is None:
            return
        tally.answered(answer, key=part.key, customer=part.customer)
        if answer.decision != pb.ReserveResponse.GRANTED:
            return
        if self._score.speed:
            await asyncio.sleep(part.traced.generated_tokens / self._score.tokens_per_s / self._score.speed)
        request = pb.SettleRequest(
            reservation=answer.reservation,
            usage=pb.Usage(input_tokens=part.traced.context_tokens, output_tokens=part.traced.generated_tokens),
        )
        try:
            settled = await self._wire.run(call("Settle", request, PATIENCE))
        except CallFailed as error:
            tally.unsettled[error.code] += 1
            tally.faults.add("answers", f"{answer.reservation} could not be settled: {error}")
            self._give_up_on(error)
            return
        tally.settled_as(settled, reservation=answer.reservation, customer=part.customer)

    async def _reserve(self, part: Part) -> pb.ReserveResponse | None:
        """Ask for a hold, and again where the refusal is for now only; None: no decision was made."""
        request = self._request(part)
        for attempt in range(self._score.retries + 1):
            began_s = time.perf_counter()
            try:
                answer: pb.ReserveResponse = await self._wire.run(call("Reserve", request, PATIENCE))
            except CallFailed as error:
                self._tally.undecided[error.code] += 1
                self._tally.faults.add("answers", f"call {part.number} of {part.key} got no decision: {error}")
                self._give_up_on(error)
                return None
            self._tally.latencies_s.append(time.perf_counter() - began_s)
            if attempt == self._score.retries or not answer.denial.retryable:
                break
            self._tally.refused_for_now(answer)
            await asyncio.sleep(answer.denial.retry_after.ToNanoseconds() / 1e9)
        return answer

    def _give_up_on(self, error: CallFailed) -> None:
        """A sidecar that stays away through all retries would cost every further call as much time."""
        if isinstance(error, LimiterUnavailable):
            self.end_early()

    def _request(self, part: Part) -> pb.ReserveRequest:
        traced, score = part.traced, self._score
        most = score.max_output_tokens
        if most is None:
            most = max(1, round(traced.generated_tokens * score.overestimate))
        return pb.ReserveRequest(
            request_id=f"{score.request_prefix}{part.number}",
            key_id=part.key,
            model=score.model,
            estimate=pb.Estimate(input_tokens=traced.context_tokens, max_output_tokens=most),
            tags=[pb.Tag(name="customer", value=part.customer)],
            all_limits=True,
        )
