"""Plans and calls, as they go into the scripts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

from limiter.domain.limits import Limit
from limiter.domain.reservations import NO_FLAG, Basis, OnExpiry, ReservationName, RowFlag
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import Place
from limiter.store.port.records import HoldRecord


@dataclass(frozen=True, slots=True)
class PlanLimit:
    """A limit on the path of a call.

    `window`: start of the present window, of the next, end of the next (SPEND). `lesser`: which of a hold's lesser
    amounts it takes (SPEND), 1 or 2; 0: the amount itself.
    """

    limit: Limit
    applies: bool
    window: tuple[int, int, int] = (0, 0, 0)
    lesser: int = 0

    def amount_of(self, cost: int, lesser: tuple[int, int] | None) -> int:
        """What this limit takes (SPEND) of a hold of `cost` with those lesser amounts (None: it has none)."""
        return cost if lesser is None or not self.lesser else lesser[self.lesser - 1]


@dataclass(frozen=True, slots=True)
class PlanScope:
    """A scope on the path of a call, with all its limits in the policy's order."""

    scope: Scope
    limits: tuple[PlanLimit, ...]
    places: tuple[Place, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Name the places once; answers refer to them."""
        object.__setattr__(self, "places", tuple(_place(self.scope, entry.limit) for entry in self.limits))


#: The same object for the same limit, whenever its plan is compiled: it keeps its part of the answers.
_place = lru_cache(maxsize=16384)(Place)


@dataclass(slots=True, eq=False)
class Plan:
    """What the policy says of one key and model: compiled once, sent with every call.

    `denial` is a DenialReason that the policy itself gives (0: none). `key_revision` is that of the
    key's record (0: it has none). `blobs` are the store's encoding, of itself and of the
    rules of its scopes, made on first use.
    """

    organization: str
    version: int
    key: Scope | None
    key_revision: int
    denial: int
    scopes: tuple[PlanScope, ...]
    blobs: tuple[bytes, tuple[bytes, ...]] | None = field(default=None, repr=False)


@dataclass(slots=True, eq=False)
class HoldCall:
    """One Reserve as the script gets it.

    `cost` is the largest of its amounts; `lesser` are those of the limits that take the first or second lesser one,
    None: all take `cost`. `output_max` -1: the call has no output. `own_id`: the request id was made here, so that
    nobody else can ask for the same hold. `flags` are for the row that its end leaves.
    """

    plan: Plan
    name: ReservationName
    fingerprint: bytes
    cost: int
    tokens: int
    requests: int
    ttl_ms: int
    lifetime_ms: int
    retention_ms: int
    key_expires_ms: int
    secret_expires_ms: int
    output_max: int
    on_expiry: OnExpiry
    dry_run: bool
    all_limits: bool
    consume: bool
    own_id: bool
    call: bytes
    lesser: tuple[int, int] | None = None
    flags: RowFlag = NO_FLAG

    def amount(self, rule: PlanLimit) -> int:
        """What a spend limit takes."""
        return rule.amount_of(self.cost, self.lesser)


@dataclass(slots=True, eq=False)
class EndCall:
    """One Settle or Release as the script gets it.

    `tokens` -1: unknown, the hold's count stands. `reserved_ms`: when the hold was taken that is meant, as a
    name can come again after an unclaimed grant (0: whichever has the name).
    """

    name: ReservationName
    basis: Basis
    cost: int
    tokens: int
    flags: RowFlag
    retention_ms: int
    ending: bytes
    reserved_ms: int = 0


@dataclass(slots=True, eq=False)
class AdjustCall:
    """One correction by an operator. `retired`: what the hold was, where its record may be gone."""

    name: ReservationName
    cost: int
    retention_ms: int
    ending: bytes
    retired: HoldRecord | None = None


@dataclass(slots=True, eq=False)
class ExtendCall:
    """One Extend as the script gets it."""

    name: ReservationName
    ttl_ms: int


@dataclass(slots=True, eq=False)
class ChargeCall:
    """One Charge as the script gets it. `occurred_ms` 0: now."""

    plan: Plan
    name: ReservationName
    fingerprint: bytes
    cost: int
    occurred_ms: int
    retention_ms: int
    call: bytes
    ending: bytes
    flags: RowFlag = NO_FLAG
