"""The store on Redis or Valkey: asks the scripts, in batches; no rule of the hold is here."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final, TypeVar

from limiter.domain.scopes import Scope
from limiter.store import encoding, keys, replies
from limiter.store.cargo import Cargo
from limiter.store.courier import Courier
from limiter.store.ledgers import Ledgers
from limiter.store.port import (
    AdjustCall,
    ChargeCall,
    ChargeReply,
    EndCall,
    EndReply,
    ExtendCall,
    ExtendReply,
    HoldCall,
    HoldReply,
    InspectReply,
    Plan,
)
from limiter.store.records import Records
from limiter.store.registry import Registry
from limiter.store.wire import Client

C = TypeVar("C", bound=HoldCall | EndCall | ExtendCall | ChargeCall | AdjustCall)
R = TypeVar("R")

#: Shards that are asked for due holds in one call: the store answers nobody else meanwhile.
_SHARDS_AT_ONCE: Final = 64


class RedisStore(Registry, Records, Ledgers):
    """Implements :class:`limiter.store.port.Store`.

    `max_backlog` is the number of ledger rows of a shard at which Reserve stops (0: never). `abandoned` is
    told of Reserves that were decided while nobody waited for the answer (with the reply), or whose reply
    was lost (None). For `clock_ms`, `observe` and `observe_error` see :class:`limiter.store.wire.Wire`.
    """

    def __init__(
        self,
        client: Client,
        *,
        max_backlog: int = 0,
        clock_ms: Callable[[], int] | None = None,
        abandoned: Callable[[HoldCall, HoldReply | None], None] | None = None,
        observe: Callable[[str, float, int], None] | None = None,
        observe_error: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(client, clock_ms=clock_ms, observe=observe, observe_error=observe_error)
        self._max_backlog = max_backlog
        self._reserves: Courier[HoldCall, HoldReply] = Courier(self._send_reserves, abandoned=abandoned)
        self._settles: Courier[EndCall, EndReply] = Courier(self._send_settles)
        self._releases: Courier[EndCall, EndReply] = Courier(self._send_releases)
        self._extends: Courier[ExtendCall, ExtendReply] = Courier(self._send_extends)
        self._charges: Courier[ChargeCall, ChargeReply] = Courier(self._send_charges)

    # ------------------------------------------------------------------ the verbs

    def reserve(self, call: HoldCall, *, deadline: float | None) -> Coroutine[Any, Any, HoldReply]:
        """Ask for one hold. Not a coroutine function: every call would pass through one more."""
        return self._reserves.carry(call, deadline=deadline)

    async def settle(self, call: EndCall) -> EndReply:
        """End or correct one hold with what was used."""
        return await self._settles.carry(call)

    async def release(self, call: EndCall) -> EndReply:
        """End one hold with nothing spent."""
        return await self._releases.carry(call)

    async def extend(self, call: ExtendCall) -> ExtendReply:
        """Keep one hold open for longer."""
        return await self._extends.carry(call)

    async def charge(self, call: ChargeCall) -> ChargeReply:
        """Book spend that had no hold."""
        return await self._charges.carry(call)

    async def adjust(self, call: AdjustCall) -> EndReply:
        """Correct what one ended hold cost; an open one is left alone."""

        def load(cargo: Cargo, call: AdjustCall) -> bytes:
            return encoding.adjust_blob(call, cargo.organization_index(call.name.organization))

        return (await self._send_together("adjust", [call], load, replies.end_reply))[0]

    async def inspect(self, plans: Sequence[Plan]) -> list[InspectReply]:
        """Read the counters of plans, all of one organization."""
        cargo = Cargo(self._max_backlog)
        places = [cargo.plan_index(plan) for plan in plans]
        reply = await self._run("inspect", cargo, cargo.blobs(), len(plans))
        found = [replies.inspect_reply(int(reply[0]), raw) for raw in reply[1:]]
        return [found[place] for place in places]

    def _send_reserves(self, calls: Sequence[HoldCall]) -> Awaitable[Sequence[HoldReply]]:
        def load(cargo: Cargo, call: HoldCall) -> bytes:
            return encoding.hold_blob(call, cargo.plan_index(call.plan))

        return self._send("reserve", calls, load, replies.hold_reply)

    def _send_settles(self, calls: Sequence[EndCall]) -> Awaitable[Sequence[EndReply]]:
        def load(cargo: Cargo, call: EndCall) -> bytes:
            return encoding.settle_blob(call, cargo.organization_index(call.name.organization))

        return self._send("settle", calls, load, replies.end_reply)

    def _send_releases(self, calls: Sequence[EndCall]) -> Awaitable[Sequence[EndReply]]:
        def load(cargo: Cargo, call: EndCall) -> bytes:
            return encoding.release_blob(call, cargo.organization_index(call.name.organization))

        return self._send("release", calls, load, replies.end_reply)

    def _send_extends(self, calls: Sequence[ExtendCall]) -> Awaitable[Sequence[ExtendReply]]:
        def load(cargo: Cargo, call: ExtendCall) -> bytes:
            return struct.pack("<HQ", cargo.organization_index(call.name.organization), call.ttl_ms)

        return self._send("extend", calls, load, replies.extend_reply)

    def _send_charges(self, calls: Sequence[ChargeCall]) -> Awaitable[Sequence[ChargeReply]]:
        def load(cargo: Cargo, call: ChargeCall) -> bytes:
            return encoding.charge_blob(call, cargo.plan_index(call.plan))

        return self._send("charge", calls, load, replies.charge_reply)

    def _send(
        self,
        verb: str,
        calls: Sequence[C],
        load: Callable[[Cargo, C], bytes],
        decode: Callable[[int, bytes], R],
    ) -> Awaitable[Sequence[R]]:
        """Send a batch: in one script call on one node, in one per shard on a cluster."""
        send = self._send_by_shard if self._cluster else self._send_together
        return send(verb, calls, load, decode)

    async def _send_by_shard(
        self,
        verb: str,
        calls: Sequence[C],
        load: Callable[[Cargo, C], bytes],
        decode: Callable[[int, bytes], R],
    ) -> Sequence[R]:
        by_shard: dict[int, list[int]] = {}
        for position, call in enumerate(calls):
            by_shard.setdefault(keys.shard_of(call.name.organization), []).append(position)
        answers = await asyncio.gather(
            *(
                self._send_together(verb, [calls[position] for position in positions], load, decode)
                for positions in by_shard.values()
            ),
            return_exceptions=True,
        )
        results: dict[int, Any] = {}
        for positions, answer in zip(by_shard.values(), answers, strict=True):
            failed = isinstance(answer, BaseException)
            for i, position in enumerate(positions):
                results[position] = answer if failed else answer[i]  # type: ignore[index]  # a list unless failed
        return [results[position] for position in range(len(calls))]

    async def _send_together(
        self,
        verb: str,
        calls: Sequence[C],
        load: Callable[[Cargo, C], bytes],
        decode: Callable[[int, bytes], R],
    ) -> list[R]:
        cargo = Cargo(self._max_backlog)
        items = [load(cargo, call) for call in calls]
        for call in calls:
            cargo.add_hold(call.name)
        reply = await self._run(verb, cargo, [*cargo.blobs(), *items], len(calls))
        now_ms = int(reply[0])
        return [decode(now_ms, raw) for raw in reply[1:]]

    # ------------------------------------------------------------------ expiry and refusals

    async def expire_due(self, organizations: Sequence[str], *, limit: int, retention_ms: int) -> list[EndReply]:
        """End due holds in the shards of the organizations, at most `limit` per shard."""
        ended: list[EndReply] = []
        for members in await self._due(sorted({keys.shard_of(name) for name in organizations}), limit):
            names = [keys.name_of_member(member.decode()) for member in members]
            cargo = Cargo(0)
            items = [struct.pack("<HQ", cargo.organization_index(name.organization), retention_ms) for name in names]
            for name in names:
                cargo.add_hold(name)
            reply = await self._run("expire", cargo, items, len(items))
            ended += [replies.end_reply(int(reply[0]), raw) for raw in reply[1:]]
        return ended

    async def _due(self, shards: Sequence[int], limit: int) -> list[list[bytes]]:
        """Members of the shards' due indexes whose time has come, shards without any left out."""
        indexes = [keys.shard_keys(shard)[0] for shard in shards]
        if self._cluster:  # what is in different slots cannot be asked for in one call
            found = await asyncio.gather(*(self._due_in([index], limit) for index in indexes))
        else:
            parts = [indexes[at : at + _SHARDS_AT_ONCE] for at in range(0, len(indexes), _SHARDS_AT_ONCE)]
            found = [await self._due_in(part, limit) for part in parts]
        return [members for part in found for members in part]

    async def _due_in(self, indexes: Sequence[str], limit: int) -> list[list[bytes]]:
        async with self._room:
            found: list[list[bytes]] = await self._fcall("due", indexes, [self._clock(), limit])
            return found

    async def append_refusals(
        self, organization: str, summary: bytes, refused: Mapping[tuple[Scope, str], int]
    ) -> None:
        """Append a row of refusal sums, and count them by scope and limit id."""
        cargo = Cargo(0)
        head = struct.pack("<H", cargo.organization_index(organization))
        counts = b"".join(
            keys.refused_field(scope, limit) + b"\0" + struct.pack("<Q", count)
            for (scope, limit), count in refused.items()
        )
        name = f"{organization}/refusals".encode()
        item = head + name + b"\0" + struct.pack("<H", len(refused)) + counts + summary
        await self._run("append", cargo, [item], 1)
