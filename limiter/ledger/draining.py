"""Moves rows from the store's streams into the books, each exactly once.

What decides is the cursor of each shard in the books, which moves in the transaction that writes the rows: a drain
that was killed goes on from there, and of two that bring the same rows one writes them. The store is told only what
has been committed, and forgets rows only behind that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Final, Protocol

import structlog

from limiter.domain.errors import LimiterError
from limiter.domain.rows import Position, Row
from limiter.ledger.alerting.alerts import ROLLED_BACK, Alert, gap_alert, tell
from limiter.ledger.booking import Booking, Page
from limiter.ledger.database import Database
from limiter.observability.metrics import Metrics

#: Rows per transaction.
ROWS_AT_ONCE: Final = 2_000
#: How often the streams are looked at when there was nothing new.
LOOK_EVERY_S: Final = 0.5
ORGANIZATIONS_EVERY_S: Final = 5.0
#: Rows compared at a time to find where a store went back to.
_COMPARED_AT_ONCE: Final = 500

#: The share of the time from which on rows wait for so long that the drain is not to wait for calls.
_HURRY_SHARE: Final = 0.15
#: How nice the thread is that writes beside calls. Where they share a core, a call that was just woken would wait for
#: the core besides the interpreter. (Beside other busy programs on that core a nice thread can be kept from giving the
#: interpreter back: the rarest waits get longer, the usual ones shorter.)
_NICE: Final = 10

_log = structlog.get_logger(__name__)


class Stream(Protocol):
    """The ledger of a store. Every method raises Unavailable if the store cannot be asked."""

    async def organizations(self) -> list[str]:
        """Every organization that ever had a policy."""

    def shard_of(self, organization: str) -> int:
        """The shard that an organization is in."""

    async def newest(self, shards: Iterable[int]) -> dict[int, Position]:
        """Where the newest row of each shard stands; shards without rows are left out."""

    async def rows(self, shard: int, *, after: tuple[int, int] | None, count: int) -> list[Row]:
        """Rows of a shard behind a position, oldest first."""

    async def rows_from(self, shard: int, first: Position, *, count: int) -> list[Row]:
        """Rows of a shard from a position on, that one included, oldest first."""

    async def booked(self, shard: int, position: Position) -> None:
        """Hear that all rows up to a position are in the books."""

    async def raw_row(self, shard: int, position: Position) -> bytes:
        """A row as it stands in the stream; b"" if it does not."""

    async def rebase(self, first: Row, raw: bytes, *, beyond: int) -> int:
        """Move a row and all newer ones of its shard to a new epoch after `beyond`; answers how many."""

    async def bound_books(self) -> str | None:
        """Which books the ledger goes into; None: into none yet."""

    async def bind_books(self, identity: str, *, adopt: bool = False) -> None:
        """Say which books the ledger goes into. Raises FailedPrecondition if it goes into others."""


class Drain:
    """One drain; any number may run on the same store and books, in any processes.

    `share` is the part of the time that it works while no rows wait, so that others can have the processor; it takes
    more the more rows wait, and all of it once `hurry_rows` do. With a small share its thread is nice, too.
    """

    def __init__(
        self,
        stream: Stream,
        database: Database,
        metrics: Metrics,
        *,
        share: float = 1.0,
        hurry_rows: int = 1_000_000,
        rows_at_once: int = ROWS_AT_ONCE,
    ) -> None:
        self._stream = stream
        self._database = database
        self._booking = Booking(database)
        self._metrics = metrics
        self._share = share
        self._hurry_rows = hurry_rows
        self._rows_at_once = rows_at_once
        self._background = ThreadPoolExecutor(1, "limiter-books", initializer=_step_back)
        self._writers = self._writers_at(share)
        self._open = False
        self._identity = ""
        self._shards: tuple[int, ...] = ()
        self._shards_read_s = 0.0
        self._cursors: dict[int, Position] | None = None
        #: Newest rows that the books cannot have: the store went back, and has not written since.
        self._behind: set[int] = set()

    async def open(self, *, adopt: bool = False) -> None:
        """Make the tables if need be, and bind the store to these books; `look` does it if nobody did."""
        await asyncio.to_thread(self._database.migrate)
        self._identity = await asyncio.to_thread(self._database.identity)
        await self._stream.bind_books(self._identity, adopt=adopt)
        self._open = True

    async def run(self) -> None:
        """Move rows until cancelled; troubles are logged and tried again."""
        wait_s = LOOK_EVERY_S
        while True:
            try:
                wait_s = await self._paced()
            except LimiterError as error:
                self._metrics.drain_errors.inc()
                self._cursors = None
                wait_s = min(30.0, max(LOOK_EVERY_S, 2 * wait_s))
                _log.warning("drain.waits", reason=str(error), again_s=round(wait_s, 1))
            await asyncio.sleep(wait_s)

    async def _paced(self) -> float:
        """One round; answers how long to wait then."""
        began = time.monotonic()
        waiting, _ = await self.look()
        share = min(1.0, self._share + waiting / self._hurry_rows)
        self._writers = self._writers_at(share)
        if not waiting:
            return LOOK_EVERY_S
        return (time.monotonic() - began) * (1 / share - 1)

    def _writers_at(self, share: float) -> Executor | None:
        """Where pages are written; None: where everything else is done that takes long."""
        return self._background if share < _HURRY_SHARE else None

    async def drain(self) -> int:
        """Move all that is there now; answers how many rows."""
        total = 0
        while True:
            waiting, rows = await self.look()
            total += rows
            if not waiting:
                return total

    async def look(self) -> tuple[int, int]:
        """One round: a page of rows of the shards that have new ones. Answers how many still wait, and were written."""
        if not self._open:
            await self.open()
        newest = await self._stream.newest(await self._known_shards())
        cursors = self._cursors
        if cursors is None:
            cursors = self._cursors = await self._positions(newest)
        if await self._stream.bound_books() != self._identity:  # emptied, or others have adopted its ledger meanwhile
            await self._stream.bind_books(self._identity)
        fresh = {shard: at for shard, at in newest.items() if cursors.get(shard) != at}
        if not fresh:
            self._metrics.ledger_backlog_rows.set(0)
            self._metrics.drain_lag_seconds.set(0)
            return 0, 0
        each = max(50, self._rows_at_once // len(fresh))
        pages: dict[int, Page] = {}
        room = self._rows_at_once
        for shard in sorted(fresh):
            page = await self._page(shard, cursors.get(shard), min(each, room))
            if page is not None and page.rows:
                pages[shard] = page
                room -= len(page.rows)
            if room <= 0:
                break
        if pages:
            await self._write(pages, cursors)
        waiting = sum(_distance(cursors.get(shard), at) for shard, at in fresh.items())
        self._metrics.ledger_backlog_rows.set(max(_distance(cursors.get(shard), at) for shard, at in fresh.items()))
        return waiting if pages else 0, sum(len(page.rows) for page in pages.values())

    async def _positions(self, newest: dict[int, Position]) -> dict[int, Position]:
        """The cursors as the books have them; who wrote the newest row may have ended before the store was told."""
        cursors = await asyncio.to_thread(self._booking.positions)
        for shard, at in newest.items():
            if cursors.get(shard) == at:
                await self._stream.booked(shard, at)
        return cursors

    async def _write(self, pages: dict[int, Page], cursors: dict[int, Position]) -> None:
        booked = await asyncio.get_running_loop().run_in_executor(self._writers, self._booking.book, pages)
        for gap in booked.gaps:
            at_ms = pages[gap.shard].rows[-1].at_ms
            await asyncio.to_thread(tell, self._database, gap_alert(gap.shard, gap.after, gap.before, at_ms=at_ms))
        self._metrics.booked_rows.inc(booked.rows)
        cursors.update(booked.positions)
        if len(booked.positions) < len(pages):
            self._cursors = None  # another drain was faster
        for shard, position in booked.positions.items():
            await self._stream.booked(shard, position)
        oldest_ms = min(page.rows[0].at_ms for page in pages.values())
        self._metrics.drain_lag_seconds.set(max(0.0, time.time() - oldest_ms / 1000))

    async def _known_shards(self) -> Sequence[int]:
        now = time.monotonic()
        if not self._shards or now - self._shards_read_s > ORGANIZATIONS_EVERY_S:
            names = await self._stream.organizations()
            self._shards = tuple(sorted({self._stream.shard_of(name) for name in names}))
            self._shards_read_s = now
        return self._shards

    async def _page(self, shard: int, cursor: Position | None, count: int) -> Page | None:
        """The next rows of a shard; None: it had to be put in order first."""
        if cursor is None:
            return Page(None, await self._stream.rows(shard, after=None, count=count))
        rows = await self._stream.rows_from(shard, cursor, count=count + 1)
        if rows and rows[0].position == cursor:
            if await self._same(rows[:1]) == 1:
                return Page(cursor, rows[1:])
        elif rows and (rows[0].epoch > cursor.epoch or rows[0].seq == cursor.seq + 1):
            return Page(cursor, rows)
        return await self._went_back(shard, cursor)

    async def _same(self, rows: Sequence[Row]) -> int:
        """How many rows from the first on are in the books as they are here."""
        return await asyncio.to_thread(self._booking.same, rows)

    async def _went_back(self, shard: int, cursor: Position) -> Page | None:
        """The store has lost rows that the books have: what it wrote since gets an epoch of its own."""
        at: Position | None = None
        while rows := await self._stream.rows(shard, after=at, count=_COMPARED_AT_ONCE):
            same = await self._same(rows)
            if same < len(rows) and rows[same].position > cursor:
                return Page(cursor, rows[same:])  # somebody deleted the rows between: told as a gap
            if same < len(rows):
                await self._rebase(rows[same], cursor)
                return None
            at = rows[-1].position
        if shard not in self._behind:
            self._behind.add(shard)
            _log.error("drain.store_went_back", shard=shard, store=at and tuple(at), books=tuple(cursor))
        return None

    async def _rebase(self, first: Row, cursor: Position) -> None:
        rows, lost = await asyncio.to_thread(self._booking.since, first.shard, first.position, cursor)
        subject = first.shard, first.epoch, first.seq
        data = dict(zip(("shard", "epoch", "seq"), subject, strict=True)) | {"rows": rows, "amount_nanousd": lost}
        alert = Alert.about(ROLLED_BACK, (*subject, first.at_ms), at_ms=first.at_ms, data=data)
        await asyncio.to_thread(tell, self._database, alert)  # before: who dies between tells it again, the same
        raw = await self._stream.raw_row(first.shard, first.position)
        moved = await self._stream.rebase(first, raw, beyond=cursor.epoch)
        if moved:
            self._behind.discard(first.shard)
            _log.error("drain.store_went_back", shard=first.shard, first=tuple(first.position), moved=moved, lost=lost)


def _step_back() -> None:
    """Lower the priority of this thread. On Linux only: elsewhere the number of a thread may be that of a process."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


def _distance(cursor: Position | None, newest: Position) -> int:
    """About how many rows are between; of another epoch, all since its beginning."""
    if cursor is None or cursor.epoch != newest.epoch:
        return newest.seq + 1
    return max(0, newest.seq - cursor.seq)
