"""What the store keeps: reservations, ledger rows, policies, keys."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag, State
from limiter.domain.scopes import Scope


class Taken(NamedTuple):
    """A counter that a hold took from: `acme/search/bot daily:spend:day`, in the period that began at `period_ms`.

    `held` is what an open hold holds there, in nano-USD; 0 where it is not money that the counter counts.
    """

    scope: Scope
    counter: str
    period_ms: int
    held: int = 0


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """A reservation as the store keeps it. `held` is the most that it holds at any limit."""

    name: ReservationName
    state: State
    basis: Basis | None
    on_expiry: OnExpiry
    flags: RowFlag
    reserved_ms: int
    expires_ms: int
    expires_max_ms: int
    ended_ms: int
    held: int
    cost: int
    tokens: int
    output_max: int
    fingerprint: bytes
    taken: tuple[Taken, ...]
    call: bytes


class RowKind(IntEnum):
    """What a ledger row is. The numbers are those of the scripts."""

    SETTLEMENT = 1
    CHARGE = 2
    CORRECTION = 3
    EVENT = 4
    REFUSALS = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One ledger row; (shard, epoch, seq) identifies it for ever.

    `amount` is what the row adds to the counters that it names; `cost` what the call costs after it.
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


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """An organization's part of the policy and its version, as stored."""

    organization: str
    version: int
    document: str


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key's record (JSON by the service) and its revision; revision 0: there is none."""

    key: Scope
    revision: int
    record: str
