"""The ledger's rows, as the store's scripts write them and everybody else reads them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from limiter.domain.reservations import Basis, RowFlag, State
from limiter.domain.scopes import Scope


class Position(NamedTuple):
    """Where a row stands in its shard; positions of one shard are ordered."""

    epoch: int
    seq: int


class Taken(NamedTuple):
    """A counter that a hold took from: `acme/search/bot daily:spend:day`, in the period that began at `period_ms`.

    `held` is what an open hold holds there, in nano-USD; 0 where it is not money that the counter counts.
    """

    scope: Scope
    counter: str
    period_ms: int
    held: int = 0


class RowKind(IntEnum):
    """What a ledger row is. The numbers are those of the scripts."""

    SETTLEMENT = 1
    CHARGE = 2
    CORRECTION = 3
    EVENT = 4
    REFUSALS = 5
    OPENING = 6


#: Rows that say what a call cost. An opening moves a counter, but nothing is spent by it.
SPENDING = (RowKind.SETTLEMENT, RowKind.CHARGE, RowKind.CORRECTION)


@dataclass(frozen=True, slots=True)
class Row:
    """One ledger row; (shard, epoch, seq) identifies it for ever.

    `amount` is what the row adds to the counters that it names; `cost` what the call costs after it. `member` is
    ORGANIZATION/ID of the hold or charge. `call` and `ending` are JSON, or empty.
    """

    shard: int
    epoch: int
    seq: int
    kind: RowKind
    member: str
    state: State | None
    basis: Basis | None
    flags: RowFlag
    amount: int
    held: int
    cost: int
    tokens: int
    reserved_ms: int
    expires_ms: int
    at_ms: int
    taken: tuple[Taken, ...]
    call: bytes
    ending: bytes

    @property
    def position(self) -> Position:
        """Where it stands in its shard."""
        return Position(self.epoch, self.seq)
