"""What a sidecar does beside calls: sweep due holds, give back grants that nobody received, write sums."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

import structlog

from limiter.domain.errors import LimiterError, Overloaded, Unavailable
from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag, State
from limiter.service.desk import RETENTION_EXPIRED_MS, RETENTION_SETTLED_MS, Desk
from limiter.store.port import Code, EndCall, EndReply, HoldCall, HoldReply

#: Holds ended by one sweep of a shard; more are ended by the next round at once.
SWEEP_MAX = 256
SWEEP_EVERY_S = 1.0
#: A refusal may sweep its shard at most this often.
SWEEP_AGAIN_S = 0.1
FLUSH_EVERY_S = 5.0
_CANCEL_AGAIN_S = 0.25
ORGANIZATIONS_EVERY_S = 5.0

_GIVE_BACK_MAX = 20_000
_GIVE_BACK_AGAIN_S = (0.05, 0.2, 1.0, 5.0, 15.0, 60.0, 120.0, 240.0)

_log = structlog.get_logger(__name__)


class Sweeper:
    """Ends due holds. Any number of sidecars may sweep at once: each hold ends once."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._organizations: list[str] = []
        self._read_s = 0.0
        self._last_s: dict[int, float] = {}
        self._running: dict[int, asyncio.Task[bool]] = {}

    async def sweep(self) -> int:
        """End everything that is due; answers how many holds ended."""
        if not self._organizations or time.monotonic() - self._read_s > ORGANIZATIONS_EVERY_S:
            self._organizations = await self._desk.store.organizations()
            self._read_s = time.monotonic()
        total = 0
        while True:
            ended, full = await self._expire(self._organizations)
            total += ended
            if not full:
                return total

    async def _expire(self, organizations: list[str]) -> tuple[int, bool]:
        replies = await self._desk.store.expire_due(organizations, limit=SWEEP_MAX, retention_ms=RETENTION_EXPIRED_MS)
        ended = [reply for reply in replies if reply.found and not reply.repeated and reply.state is State.EXPIRED]
        for reply in ended:
            on_expiry = OnExpiry.CHARGE if reply.cost else OnExpiry.RELEASE
            self._desk.metrics.expired[on_expiry.name].inc()
        return len(ended), len(replies) >= SWEEP_MAX and bool(ended)

    def sweep_shard(self, organization: str) -> asyncio.Task[bool]:
        """Sweep an organization's shard for a refusal: at once, or as soon as it may be swept again.

        The task answers whether anything ended. Refusals that come meanwhile share it.
        """
        shard = self._desk.store.shard_of(organization)
        running = self._running.get(shard)
        if running is not None:
            return running
        again_s = self._last_s.get(shard, 0.0) + SWEEP_AGAIN_S

        async def run() -> bool:
            await asyncio.sleep(max(0.0, again_s - time.monotonic()))
            self._last_s[shard] = time.monotonic()
            return (await self._expire([organization]))[0] > 0

        task = asyncio.get_running_loop().create_task(run())
        self._running[shard] = task
        task.add_done_callback(lambda _: self._running.pop(shard, None))
        return task


class GiveBack:
    """Releases grants that nobody received, until the store has heard of it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._tasks: set[asyncio.Task[None]] = set()

    def abandoned(self, call: HoldCall, reply: HoldReply | None) -> None:
        """A Reserve was decided while nobody waited any more, or its reply was lost (None).

        A lost reply to an id of the caller's own is left to the caller, who may ask again and be given the
        same grant: releasing here could end the hold that another of its calls was given.
        """
        if call.dry_run or call.consume:
            return
        if reply.code == Code.GRANTED if reply is not None else call.own_id:
            self.give_back(call.name)

    def give_back(self, name: ReservationName) -> None:
        """Release the grant in the background."""
        if len(self._tasks) >= _GIVE_BACK_MAX:
            _log.warning("unclaimed.dropped", reservation=str(name))  # it ends by expiry
            return
        known = self._desk.granted.get(name)
        self._desk.granted.forget(name)
        task = asyncio.get_running_loop().create_task(
            self._release(name, known.reserved_ms if known is not None else 0)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _release(self, name: ReservationName, reserved_ms: int) -> None:
        call = EndCall(name, Basis.RELEASED, 0, 0, RowFlag.UNCLAIMED, RETENTION_SETTLED_MS, b"", reserved_ms)
        for wait_s in _GIVE_BACK_AGAIN_S:
            try:
                reply: EndReply = await self._desk.store.release(call)
            except (Unavailable, Overloaded):
                await asyncio.sleep(wait_s)
                continue
            if reply.found and not reply.repeated:
                self._desk.metrics.unclaimed.inc()
            return
        _log.warning("unclaimed.left_to_expiry", reservation=str(name))

    async def drain(self) -> None:
        """Wait for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)


async def repeat(work: Callable[[], Awaitable[object]], *, every_s: float, what: str) -> None:
    """Do `work` again and again; a failure is logged and never ends the loop."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await work()
        except LimiterError as error:
            _log.warning(f"{what}.failed", reason=str(error))
        except Exception:  # noqa: BLE001 - the loop must go on; the log has the traceback
            _log.exception(f"{what}.failed")


async def end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: redis-py can take a cancellation while it connects for an answer, and the task goes on.
    """
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        ended, running = await asyncio.wait(running, timeout=_CANCEL_AGAIN_S)
        for task in ended:
            if not task.cancelled():
                task.exception()
