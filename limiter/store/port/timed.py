"""A store of the past: calls go in with the time at which they happened, and are decided one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

from limiter.store.port.calls import ChargeCall, EndCall, HoldCall, Plan
from limiter.store.port.records import StoredPolicy
from limiter.store.port.replies import ChargeReply, EndReply, HoldReply, InspectReply

TimedReply = HoldReply | EndReply | ChargeReply | InspectReply


class TimedCall(NamedTuple):
    """A call and when it happened (ms since the epoch). What is inspected is a plan."""

    at_ms: int
    verb: Literal["reserve", "settle", "release", "charge", "inspect"]
    call: HoldCall | EndCall | ChargeCall | Plan


class PastStore(Protocol):
    """Where the past is played again. Every method raises Unavailable if the store cannot be asked or trusted."""

    async def replace_policy(self, new: StoredPolicy) -> bool:
        """Store `new` if the present version is the one before it; answers whether it was."""

    async def play(self, calls: Sequence[TimedCall]) -> list[TimedReply]:
        """Decide calls in their order, each at its own time. Ledger rows and ended holds are thrown away."""
