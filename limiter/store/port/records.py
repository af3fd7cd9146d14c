"""What the store keeps: reservations, policies, keys. Its ledger rows are limiter.domain.rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag, State
from limiter.domain.rows import Taken
from limiter.domain.scopes import Scope


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """A reservation as the store keeps it.

    `held` is the most that it holds at any limit. `claims`: how many callers were given it; 0: it is a charge.
    """

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
    claims: int = field(default=1, compare=False)


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """An organization's part of the policy and its version, as stored."""

    organization: str
    version: int
    document: str


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key's record (JSON by the service) and its revision; revision 0: there is none.

    `left`: the policy named the key once, and then no more; only known of a key that was asked for.
    """

    key: Scope
    revision: int
    record: str
    left: bool = False


class CounterState(NamedTuple):
    """A spend counter as the store has it. `period_ms`: when it began to count what it now holds."""

    scope: Scope
    counter: str
    period_ms: int
    settled: int
    held: int
