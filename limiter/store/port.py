"""The store as the service sees it: plans and calls go in, verdicts of the scripts come out.

Times are ms since the epoch by the store's clock; money is nano-USD.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from limiter.domain.limits import Limit
from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag, State
from limiter.domain.scopes import Scope


@dataclass(frozen=True, slots=True)
class PlanLimit:
    """A limit on the path of a call. `window`: start of the present window, of the next, end of the next (SPEND)."""

    limit: Limit
    applies: bool
    window: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class PlanScope:
    """A scope on the path of a call, with all its limits in the policy's order."""

    scope: Scope
    limits: tuple[PlanLimit, ...]


@dataclass(slots=True, eq=False)
class Plan:
    """What the policy says of one key and model: compiled once, sent with every call.

    `denial` is a DenialReason that the policy itself gives (0: none). `key_revision` is that of the
    key's record (0: it has none). `blob` is the store's encoding, made on first use.
    """

    organization: str
    version: int
    key: Scope | None
    key_revision: int
    denial: int
    scopes: tuple[PlanScope, ...]
    blob: bytes | None = field(default=None, repr=False)


@dataclass(slots=True, eq=False)
class HoldCall:
    """One Reserve as the script gets it.

    `output_max` -1: the call has no output. `own_id`: the request id was made here, so that nobody else
    can ask for the same hold.
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


@dataclass(slots=True, eq=False)
class EndCall:
    """One Settle or Release as the script gets it. `tokens` -1: unknown, the hold's count stands."""

    name: ReservationName
    basis: Basis
    cost: int
    tokens: int
    flag: RowFlag
    retention_ms: int
    ending: bytes


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


class Code(IntEnum):
    """What a script did with one item. The numbers are those of the scripts."""

    GRANTED = 0
    DENIED = 1
    EXISTS = 2
    ENDED = 3
    STALE_VERSION = 4
    STALE_KEY = 5
    STALE_WINDOW = 6
    CLOCK_BEHIND = 7
    BACKLOG = 8


class Why(IntEnum):
    """Why a status is told. The numbers are those of the scripts."""

    INFORMS = 0
    REFUSES = 1
    SHADOWS = 2
    WARNS = 3


class RawStatus(NamedTuple):
    """A counter as the script told it: positions in the plan, the reason, and its five numbers.

    SPEND: window end, settled USD, settled nano, held USD, held nano. REQUESTS, TOKENS: last tick, level
    (in 1/ticks), amount, burst, ticks per period. CONCURRENCY: open holds, then zeros.
    """

    scope: int
    limit: int
    why: int
    a: int
    b: int
    c: int
    d: int
    e: int


class HoldReply(NamedTuple):
    """What reserve.lua answered for one hold. `state` is the reason where `code` is DENIED."""

    now_ms: int
    code: int
    state: int
    repeated: bool
    due_waiting: bool
    expires_ms: int
    held: int
    output_max: int
    statuses: list[RawStatus]


class EndReply(NamedTuple):
    """What a script that ends holds answered for one of them; `found` False: no such record."""

    now_ms: int
    found: bool
    state: State
    basis: Basis | None
    repeated: bool
    flags: RowFlag
    held: int
    cost: int


class ExtendReply(NamedTuple):
    """What extend.lua answered."""

    now_ms: int
    found: bool
    state: State
    repeated: bool
    expires_ms: int


class ChargeReply(NamedTuple):
    """What charge.lua answered."""

    now_ms: int
    code: int
    state: int
    repeated: bool
    flags: RowFlag
    cost: int


class InspectReply(NamedTuple):
    """What inspect.lua answered for one plan."""

    now_ms: int
    code: int
    statuses: list[RawStatus]


class Taken(NamedTuple):
    """A counter that a hold took from: `acme/search/bot daily:spend:day`, in the period that began at `period_ms`."""

    scope: Scope
    counter: str
    period_ms: int


@dataclass(frozen=True, slots=True)
class HoldRecord:
    """A reservation as the store keeps it."""

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


class Store(Protocol):
    """Where the truth is kept. Every method raises Unavailable if the store cannot be asked or trusted."""

    async def reserve(self, call: HoldCall, *, deadline: float | None) -> HoldReply:
        """Ask for one hold; `deadline` is by the event loop's clock."""

    async def settle(self, call: EndCall) -> EndReply:
        """End or correct one hold with what was used."""

    async def release(self, call: EndCall) -> EndReply:
        """End one hold with nothing spent."""

    async def extend(self, call: ExtendCall) -> ExtendReply:
        """Keep one hold open for longer."""

    async def charge(self, call: ChargeCall) -> ChargeReply:
        """Book spend that had no hold."""

    async def inspect(self, plans: Sequence[Plan]) -> list[InspectReply]:
        """Read the counters of plans, all of one organization."""

    async def expire_due(self, organizations: Sequence[str], *, limit: int, retention_ms: int) -> list[EndReply]:
        """End due holds in the shards of the organizations, at most `limit` per shard."""

    async def append_refusals(self, organization: str, name: str, summary: bytes) -> None:
        """Append a row of refusal sums."""

    async def time_ms(self) -> int:
        """The store's clock."""

    async def organizations(self) -> list[str]:
        """Every organization that ever had a policy."""

    async def policy(self, organization: str) -> StoredPolicy | None:
        """The organization's part of the policy."""

    async def replace_policy(self, new: StoredPolicy) -> bool:
        """Store `new` if the present version is the one before it; answers whether it was."""

    async def key(self, key: Scope) -> StoredKey:
        """A key's record."""

    def keys(self, organization: str) -> AsyncIterator[StoredKey]:
        """Every key record of an organization, in no order."""

    async def replace_key(self, new: StoredKey) -> bool:
        """Store `new` if the present revision is the one before it; answers whether it was."""

    async def digest_owner(self, digests: Sequence[str]) -> Scope | None:
        """The key that one of the digests belongs to."""

    async def claim_digest(self, digest: str, key: Scope) -> bool:
        """Bind a digest to a key for ever; False: another key has it."""

    async def retire_digest(self, digest: str, *, ttl_ms: int) -> None:
        """Let a digest go after `ttl_ms`."""

    async def hold(self, name: ReservationName) -> HoldRecord | None:
        """A reservation's record."""

    async def open_holds(self, organization: str, *, after: str, count: int) -> tuple[list[HoldRecord], str]:
        """Open holds by due time, a page at a time; the second value continues ("" at the end)."""

    async def rows(self, shard: int, *, after: tuple[int, int] | None, count: int) -> list[Row]:
        """Ledger rows of a shard behind (epoch, seq), oldest first."""

    async def last_rows(self, shard: int, *, count: int) -> list[Row]:
        """The newest ledger rows of a shard, oldest first."""

    async def check_pepper(self, fingerprints: dict[str, str]) -> list[str]:
        """Compare the fingerprints of pepper versions with the store's, adding new ones; answers those that differ."""

    async def counts(self, organizations: Sequence[str]) -> tuple[int, int]:
        """Open holds, and the largest number of ledger rows in one shard, over the organizations' shards."""

    def shard_of(self, organization: str) -> int:
        """The shard that an organization is in."""
