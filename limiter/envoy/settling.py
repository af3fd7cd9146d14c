"""Ends the holds of calls that went through Envoy, whichever way it tells of their end.

What the store cannot take now is tried again until it can: the number of those that wait is bounded, and what is
beyond that is left to the other ways, and in the end to expiry.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Final, NamedTuple

import structlog

from limiter.domain.calls import Outcome, Usage
from limiter.domain.errors import DeadlineExceeded, InvalidArgument, NotFound, Overloaded, Unavailable
from limiter.domain.reservations import ReservationName
from limiter.pricing.reading import ResponseReading
from limiter.service.calls import BrokenOff, SettleCall, Settled
from limiter.service.memory import Memory
from limiter.service.service import Service

#: Ended calls that wait for the store, and how many are with it at a time.
WAITING_MAX: Final = 20_000
AT_ONCE: Final = 64

#: Calls let through of which no end is known yet, and for how long one is waited for when the server stops.
OPEN_MAX: Final = 20_000
OPEN_FOR_S: Final = 600.0

#: Pauses before the store is asked again; the last one is repeated.
AGAIN_S: Final = (0.05, 0.2, 1.0, 5.0)

_log = structlog.get_logger(__name__)


class Released(NamedTuple):
    """The call cost nothing."""

    name: ReservationName
    reason: str


Ending = SettleCall | BrokenOff | Released


def of_reading(name: ReservationName, reading: ResponseReading, *, output_bytes: int = 0) -> Ending:
    """The end of a call whose answer was read to its end."""
    if reading.usage is None and not reading.as_asked:
        return BrokenOff(
            name,
            output_bytes=output_bytes,
            model=reading.model,
            provider_request_id=reading.provider_request_id,
            outcome=reading.outcome,
        )
    return SettleCall(
        name=name,
        actual=reading,
        outcome=reading.outcome,
        estimated=False,
        model="",
        provider_request_id="",
    )


def of_usage(name: ReservationName, usage: Usage, model: str) -> Ending:
    """The end of a call whose usage somebody else has read."""
    return SettleCall(
        name=name, actual=usage, outcome=Outcome.COMPLETED, estimated=False, model=model, provider_request_id=""
    )


class Settling:
    """Books ends of calls in the background; the `way` by which they came is for the metric."""

    def __init__(self, service: Service, *, waiting_max: int = WAITING_MAX, again_s: Sequence[float] = AGAIN_S) -> None:
        self._service = service
        self._waiting_max = waiting_max
        self._again_s = again_s
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[Settled | None]] = set()
        self._count = service.metrics.envoy_settlements
        self._open: Memory[ReservationName, float] = Memory(OPEN_MAX)
        self._ended = asyncio.Event()

    @property
    def waiting(self) -> int:
        """How many are not yet in the books."""
        return len(self._tasks)

    def opened(self, name: ReservationName) -> None:
        """A call was let through: its end is to come."""
        self._open.put(name, time.monotonic())

    def closed(self, name: ReservationName) -> None:
        """The end of a call has come, or nobody was told that it may begin."""
        self._open.forget(name)
        self._ended.set()

    async def until_none_is_open(self) -> None:
        """Wait for the end of every call that was let through here and is not too old to come to one."""
        while any(time.monotonic() - since < OPEN_FOR_S for since in self._open.values()):
            self._ended.clear()
            await self._ended.wait()

    def later(self, ending: Ending, *, way: str) -> asyncio.Task[Settled | None] | None:
        """Book the end of a call as soon as the store takes it; None: too many wait, this one is dropped.

        The task answers what the books say, None where that is nothing; it raises only when it is cancelled.
        """
        if len(self._tasks) >= self._waiting_max:
            self._count[way, "dropped"].inc()
            _log.warning("envoy.settlement_dropped", reservation=str(ending.name), waiting=len(self._tasks))
            return None
        task = asyncio.get_running_loop().create_task(self._book(ending, way))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def within(self, ending: Ending, *, way: str, seconds: float) -> Settled | None:
        """Book the end of a call; None if that takes longer, in which case it goes on in the background."""
        task = self.later(ending, way=way)
        if task is None:
            return None
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def tell(_: object = None) -> None:
            if not done.done():
                done.set_result(None)

        task.add_done_callback(tell)
        timer = loop.call_later(seconds, tell)
        try:
            await done
        finally:
            timer.cancel()
        if not task.done():
            _log.warning("envoy.settlement_slow", reservation=str(ending.name))
            return None
        return None if task.cancelled() else task.result()

    async def drain(self, *, seconds: float = 2.0) -> None:
        """Wait for what is under way; what is left then is logged, and left to expiry."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        if self._tasks:
            _log.warning("envoy.settlements_left", waiting=len(self._tasks))
        for task in tuple(self._tasks):
            task.cancel()

    async def _book(self, ending: Ending, way: str) -> Settled | None:
        try:
            async with self._at_once:
                settled = await self._until_taken(ending)
        except NotFound as error:
            self._count[way, "unknown"].inc()
            _log.warning("envoy.reservation_unknown", reason=str(error))
            return None
        except Exception:  # noqa: BLE001 - one call's trouble must not end the others; the hold ends by expiry
            self._count[way, "failed"].inc()
            _log.exception("envoy.settlement_failed", reservation=str(ending.name))
            return None
        self.closed(ending.name)
        self._count[way, "repeated" if settled.repeated_call else _result(ending)].inc()
        return settled

    async def _until_taken(self, ending: Ending) -> Settled:
        pauses = chain(self._again_s, repeat(self._again_s[-1]))
        for tried, pause_s in enumerate(pauses):
            try:
                return await self._once(ending)
            except (Unavailable, Overloaded, DeadlineExceeded) as error:
                if not tried:
                    _log.warning("envoy.settlement_waits", reservation=str(ending.name), reason=str(error))
            await asyncio.sleep(pause_s)
        raise AssertionError(pauses)

    async def _once(self, ending: Ending) -> Settled:
        if isinstance(ending, Released):
            return await self._service.release(ending.name, reason=ending.reason)
        if isinstance(ending, BrokenOff):
            return await self._service.settle_broken_off(ending)
        try:
            return await self._service.settle(ending)
        except InvalidArgument as error:
            # The usage cannot be priced: never leave a call that the provider billed to chance.
            _log.warning("envoy.usage_unusable", reservation=str(ending.name), reason=str(error))
            return await self._service.settle_broken_off(BrokenOff(ending.name, outcome=ending.outcome))


def _result(ending: Ending) -> str:
    if isinstance(ending, Released):
        return "released"
    return "estimated" if isinstance(ending, BrokenOff) else "settled"
