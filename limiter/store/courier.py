"""Carries calls that wait at the same time to the store together.

Nothing waits for company: what is there when a place is free goes. A call that is cancelled, or past
its deadline, before it left never reaches the store and never disturbs the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from limiter.domain.errors import DeadlineExceeded, Overloaded

C = TypeVar("C")
R = TypeVar("R")

#: Calls in one script call: enough to share its cost, few enough to keep the store responsive.
BATCH_MAX = 64
#: Batches under way at once: one is decided in the store while the next is encoded here.
UNDER_WAY_MAX = 2
#: Calls that may wait; more than that and the caller is told to come back.
WAITING_MAX = 20_000


class Courier(Generic[C, R]):
    """One queue of calls of one verb.

    `send` takes a batch and returns its replies (or errors) in order. `abandoned` is told of every call
    that was decided while nobody waited any more, with its reply, and of every call whose reply was lost.
    """

    def __init__(
        self,
        send: Callable[[Sequence[C]], Awaitable[Sequence[R]]],
        *,
        abandoned: Callable[[C, R | None], None] | None = None,
    ) -> None:
        self._send = send
        self._abandoned = abandoned
        self._waiting: deque[tuple[C, asyncio.Future[R], float | None]] = deque()
        self._rounds: set[asyncio.Task[None]] = set()
        self._setting_out = False

    async def carry(self, call: C, *, deadline: float | None = None) -> R:
        """Send one call with whatever else waits, and return its reply."""
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded(f"{WAITING_MAX} calls wait for the store; try again later")
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future, deadline))
        if not self._setting_out:
            self._set_out()
        try:
            return await future
        except asyncio.CancelledError:
            # The caller can go between the answer's arrival and its own turn: the answer reached nobody.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._abandon(call, future.result())
            raise

    def _set_out(self) -> None:
        """Begin a round, which leaves once the event loop has run what is ready now."""
        if len(self._rounds) < UNDER_WAY_MAX:
            self._setting_out = True
            self._rounds.add(asyncio.get_running_loop().create_task(self._round()))

    async def _round(self) -> None:
        """Carry batches until nothing waits."""
        self._setting_out = False
        try:
            while self._waiting:
                batch = self._next_batch()
                if self._waiting:
                    self._set_out()
                if batch:
                    await self._deliver(batch)
        finally:
            # Not by a callback of the task: a call that comes before that would find this round, and wait for ever.
            self._rounds.discard(asyncio.current_task())

    def _next_batch(self) -> list[tuple[C, asyncio.Future[R]]]:
        now = asyncio.get_running_loop().time()
        batch: list[tuple[C, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < BATCH_MAX:
            call, future, deadline = self._waiting.popleft()
            if future.done():
                continue
            if deadline is not None and now >= deadline:
                future.set_exception(
                    DeadlineExceeded("the deadline passed before the store was asked; nothing changed")
                )
                continue
            batch.append((call, future))
        return batch

    async def _deliver(self, batch: list[tuple[C, asyncio.Future[R]]]) -> None:
        try:
            replies = await self._send([call for call, _ in batch])
        except Exception as error:  # noqa: BLE001 - whatever went wrong is every waiting caller's answer
            for call, future in batch:
                self._abandon(call, None)
                if not future.done():
                    future.set_exception(error)
            return
        for (call, future), reply in zip(batch, replies, strict=True):
            if isinstance(reply, Exception):
                self._abandon(call, None)
                if not future.done():
                    future.set_exception(reply)
            elif future.done():
                self._abandon(call, reply)
            else:
                future.set_result(reply)

    def _abandon(self, call: C, reply: R | None) -> None:
        if self._abandoned is not None:
            self._abandoned(call, reply)

    async def drain(self) -> None:
        """Wait until nothing is under way."""
        while self._rounds:
            await asyncio.wait(self._rounds)
