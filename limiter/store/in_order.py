"""Plays the past: many calls in one exchange, decided in their order, each at its own time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from limiter.store import encoding, keys, replies
from limiter.store.cargo import Cargo
from limiter.store.port import ChargeCall, EndCall, HoldCall, Plan
from limiter.store.port.timed import TimedCall, TimedReply
from limiter.store.registry import Registry
from limiter.store.scripts import library
from limiter.store.wire import Client

_DECODE = {
    "reserve": replies.hold_reply,
    "settle": replies.end_reply,
    "release": replies.end_reply,
    "charge": replies.charge_reply,
    "inspect": replies.inspect_reply,
}


class InOrder(Registry):
    """Implements :class:`limiter.store.port.timed.PastStore` on one server that nobody else uses.

    The calls of an exchange are commands of one connection, so that the server runs them in this order.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._loaded = False

    async def play(self, calls: Sequence[TimedCall]) -> list[TimedReply]:
        """Decide calls in their order, each at its own time. Ledger rows and ended holds are thrown away."""
        if not self._loaded:
            await self._load("")
            self._loaded = True
        commands = [_command(timed) for timed in calls]
        answers = (await self._all([*commands, *_clearing(calls)]))[: len(calls)]
        this = asyncio.current_task()
        if this is not None and this.cancelling():
            raise asyncio.CancelledError  # redis-py can take a cancellation for an answer, and go on
        return [
            cast("TimedReply", _DECODE[timed.verb](int(now_ms), raw))
            for timed, (now_ms, raw) in zip(calls, answers, strict=True)
        ]


def _organization(call: HoldCall | EndCall | ChargeCall | Plan) -> str:
    return call.organization if isinstance(call, Plan) else call.name.organization


def _clearing(calls: Sequence[TimedCall]) -> list[tuple[Any, ...]]:
    """Commands that throw away what nobody reads again."""
    shards = {keys.shard_of(_organization(timed.call)) for timed in calls}
    ended = [keys.hold_key(timed.call.name) for timed in calls if isinstance(timed.call, EndCall | ChargeCall)]
    ended += [
        keys.hold_key(timed.call.name) for timed in calls if isinstance(timed.call, HoldCall) and timed.call.consume
    ]
    trims: list[tuple[Any, ...]] = [("XTRIM", keys.shard_keys(shard)[1], "MAXLEN", 0) for shard in sorted(shards)]
    return [*trims, ("UNLINK", *ended)] if ended else trims


def _command(timed: TimedCall) -> tuple[Any, ...]:
    """The script call of one call."""
    cargo = Cargo(0)
    call = timed.call
    items: list[bytes]
    if isinstance(call, HoldCall):
        items = [encoding.hold_blob(call, cargo.plan_index(call.plan))]
    elif isinstance(call, ChargeCall):
        items = [encoding.charge_blob(call, cargo.plan_index(call.plan))]
    elif isinstance(call, EndCall):
        encode = encoding.settle_blob if timed.verb == "settle" else encoding.release_blob
        items = [encode(call, cargo.organization_index(call.name.organization))]
    else:
        cargo.plan_index(call)
        items = []
    if not isinstance(call, Plan):
        cargo.add_hold(call.name)
    names, heading, placing = cargo.label()
    arguments = (str(timed.at_ms), heading, placing, *cargo.blobs(), *items)
    return ("FCALL", library().functions[timed.verb], len(names), *names, *arguments)
