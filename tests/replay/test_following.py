"""The replay hears of every ledger row that is written while it plays, however late its stream begins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from limiter.cli.replay_admin import BookReader
from limiter.cli.replay_books import LedgerSums, Positions
from limiter.v1 import limiter_pb2 as pb

EPOCH = 1_790_000_000_000
Row = tuple[int, int]


def message(row: Row) -> pb.LedgerRow:
    return pb.LedgerRow(shard=row[0], epoch=EPOCH, seq=row[1], json=json.dumps({"kind": "OPENING"}))


class Stream:
    """A call of ReadLedger: the last rows of each shard at the moment in which it is heard, and all later ones."""

    def __init__(self, ledger: list[Row], request: pb.ReadLedgerRequest) -> None:
        self._ledger, self._last, self._follow = ledger, request.last, request.follow
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[pb.LedgerRow]:
        await asyncio.sleep(0)  # on its way
        known = len(self._ledger)
        for shard in sorted({shard for shard, _ in self._ledger}):
            for row in [row for row in self._ledger if row[0] == shard][-self._last :]:
                yield message(row)
        while self._follow and not self.cancelled:
            for row in self._ledger[known:]:
                known += 1
                yield message(row)
            await asyncio.sleep(0)

    def cancel(self) -> None:
        self.cancelled = True


class Ledger:
    """An Admin service that has nothing but ledger rows."""

    def __init__(self, *rows: Row) -> None:
        self.rows = list(rows)

    def ReadLedger(self, request: pb.ReadLedgerRequest, metadata: Any) -> Stream:  # noqa: ANN401, ARG002, N802 - gRPC's
        return Stream(self.rows, request)


async def followed(ledger: Ledger, after: Positions, *written: Row) -> LedgerSums:
    """Write rows as soon as the block has begun."""
    sums = LedgerSums(after, "replay-")
    reader = BookReader(ledger, ["acme"], lambda _, at_ms: at_ms)
    async with reader.following(sums):
        ledger.rows += written
    return sums


async def test_rows_that_were_written_before_the_stream_was_heard_are_not_missed() -> None:
    sums = await followed(Ledger(), {}, (3, 0), (3, 1), (3, 2), (5, 0))
    assert (sums.rows, sums.gaps) == (4, [])
    assert sums.positions == {3: (EPOCH, 2), 5: (EPOCH, 0)}


async def test_rows_that_were_there_before_are_left_out() -> None:
    sums = await followed(Ledger((3, 0), (3, 1)), {3: (EPOCH, 1)}, (3, 2), (4, 0), (4, 1))
    assert (sums.rows, sums.gaps) == (3, [])


async def test_a_row_that_is_nowhere_is_a_gap() -> None:
    sums = await followed(Ledger(), {}, (3, 1), (3, 2))
    assert sums.gaps == [f"shard 3, epoch {EPOCH}: row 1 follows on none"]
    assert sums.rows == 2
