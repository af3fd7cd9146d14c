"""The store as the service sees it: plans and calls go in, verdicts of the scripts come out.

Times are ms since the epoch by the store's clock; money is nano-USD.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Protocol

from limiter.domain.reservations import ReservationName
from limiter.domain.rows import Position, Row
from limiter.domain.scopes import Scope
from limiter.store.port.calls import (
    AdjustCall,
    ChargeCall,
    EndCall,
    ExtendCall,
    HoldCall,
    Plan,
    PlanLimit,
    PlanScope,
)
from limiter.store.port.openings import EVERY_KEY, NO_ROW, NewLimit, OpenCall, OpenReply, PendingOpening
from limiter.store.port.records import CounterState, HoldRecord, StoredKey, StoredPolicy
from limiter.store.port.replies import (
    ChargeReply,
    Code,
    EndReply,
    ExtendReply,
    HoldReply,
    InspectReply,
    RawStatus,
    Why,
)

__all__ = [
    "EVERY_KEY",
    "NO_ROW",
    "AdjustCall",
    "ChargeCall",
    "ChargeReply",
    "Code",
    "CounterState",
    "EndCall",
    "EndReply",
    "ExtendCall",
    "ExtendReply",
    "HoldCall",
    "HoldRecord",
    "HoldReply",
    "InspectReply",
    "NewLimit",
    "OpenCall",
    "OpenReply",
    "PendingOpening",
    "Plan",
    "PlanLimit",
    "PlanScope",
    "RawStatus",
    "Store",
    "StoredKey",
    "StoredPolicy",
    "Why",
]


class Store(Protocol):
    """Where the truth is kept. Every method raises Unavailable if the store cannot be asked or trusted."""

    async def reserve(self, call: HoldCall, *, deadline: float | None) -> HoldReply:
        """Ask for one hold; `deadline` is by the event loop's clock."""

    async def settle(self, call: EndCall) -> EndReply:
        """End or correct one hold with what was used."""

    async def release(self, call: EndCall) -> EndReply:
        """End one hold with nothing spent."""

    async def adjust(self, call: AdjustCall) -> EndReply:
        """Correct what one ended hold cost; an open one is left alone."""

    async def extend(self, call: ExtendCall) -> ExtendReply:
        """Keep one hold open for longer."""

    async def charge(self, call: ChargeCall) -> ChargeReply:
        """Book spend that had no hold."""

    async def inspect(self, plans: Sequence[Plan]) -> list[InspectReply]:
        """Read the counters of plans, all of one organization."""

    async def expire_due(self, organizations: Sequence[str], *, limit: int, retention_ms: int) -> list[EndReply]:
        """End due holds in the shards of the organizations, at most `limit` per shard."""

    async def append_refusals(
        self, organization: str, summary: bytes, refused: Mapping[tuple[Scope, str], int]
    ) -> None:
        """Append a row of refusal sums, and count them by scope and limit id."""

    async def refused(self, organization: str, limits: Sequence[tuple[Scope, str]]) -> list[int]:
        """How many calls these limits have refused."""

    async def time_ms(self) -> int:
        """The store's clock."""

    async def organizations(self) -> list[str]:
        """Every organization that ever had a policy."""

    async def policy(self, organization: str) -> StoredPolicy | None:
        """The organization's part of the policy."""

    async def replace_policy(
        self, new: StoredPolicy, *, new_limits: Sequence[NewLimit] = (), left: Sequence[Scope] = ()
    ) -> bool:
        """Store `new` if the present version is the one before it; answers whether it was.

        Notes in the same step that `new_limits` are to be opened, but for those that have a counter already, and that
        it no longer names the keys `left`.
        """

    async def key(self, key: Scope) -> StoredKey:
        """A key's record."""

    def keys(self, organization: str) -> AsyncIterator[StoredKey]:
        """Every key record of an organization, in no order."""

    async def replace_key(self, new: StoredKey, *, new_limits: Sequence[NewLimit] = ()) -> bool:
        """Store `new` if the present revision is the one before it; answers whether it was.

        Notes in the same step that `new_limits` are to be opened, but for those that have a counter already.
        """

    async def open(self, calls: Sequence[OpenCall]) -> list[OpenReply]:
        """Let spend counters, all of one organization, start from what was spent before they were there."""

    async def opening_organizations(self) -> dict[str, str]:
        """The organizations that may have limits to be opened, each with a word that changes when one is noted."""

    async def pending_openings(self, organization: str) -> list[PendingOpening]:
        """The limits of an organization that are to be opened, in no order."""

    async def forget_openings(self, organization: str, gone: Sequence[PendingOpening]) -> None:
        """Drop notes, but for limits that came anew meanwhile."""

    async def announce_openings(self, organization: str) -> None:
        """Have everybody read an organization's notes."""

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

    async def lead_learning(self, shard: int, who: str, *, ttl_ms: int) -> bool:
        """Be the one who learns from a shard's rows for `ttl_ms`, or for as long again; False: somebody else is."""

    async def learned(self, organization: str) -> bytes | None:
        """What was learned of an organization's calls, as it was published."""

    async def publish_learned(self, organization: str, published: bytes, *, ttl_ms: int) -> None:
        """Replace what was learned of an organization's calls; forgotten after `ttl_ms`."""

    async def check_pepper(self, fingerprints: dict[str, str]) -> list[str]:
        """Compare the fingerprints of pepper versions with the store's, adding new ones; answers those that differ."""

    async def open_count(self, organizations: Sequence[str]) -> int:
        """Open holds in the shards of the organizations."""

    async def waiting(self, shards: Iterable[int]) -> dict[int, int]:
        """How many rows of each shard are not in the books yet, by what the drains have told the store."""

    async def newest(self, shards: Iterable[int]) -> dict[int, Position]:
        """Where the newest row of each shard stands; shards without rows are left out."""

    async def bound_books(self) -> str | None:
        """Which books this store's ledger goes into; None: into none yet."""

    async def counters(self, organization: str, scopes: Sequence[Scope]) -> tuple[Position | None, list[CounterState]]:
        """The spend counters of scopes, and the newest row that they count."""

    def shard_of(self, organization: str) -> int:
        """The shard that an organization is in."""
