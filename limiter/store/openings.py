"""Openings in the store: notes of limits to be opened, and the script that opens them."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Iterable, Sequence
from uuid import uuid4

from limiter.domain.money import NANOUSD_PER_USD
from limiter.domain.rows import Position
from limiter.domain.scopes import Scope
from limiter.store import keys
from limiter.store.cargo import Cargo
from limiter.store.port import EVERY_KEY, NewLimit, OpenCall, OpenReply, PendingOpening
from limiter.store.wire import Wire

_ITEM = struct.Struct("<HQqqQq")
_REPLY = struct.Struct("<BQqq")
_NOTE = struct.Struct("<BQQqQ")
_OPENED_AT_ONCE = 64
_FORGOTTEN_AT_ONCE = 256


class Openings(Wire):
    """Opens counters, and remembers which are to be opened."""

    async def open(self, calls: Sequence[OpenCall]) -> list[OpenReply]:
        """Let spend counters, all of one organization, start from what was spent before they were there."""
        found: list[OpenReply] = []
        for at in range(0, len(calls), _OPENED_AT_ONCE):
            part = calls[at : at + _OPENED_AT_ONCE]
            cargo = Cargo(len(part))
            items = [_item(call, cargo.plan_index(call.plan)) for call in part]
            reply = await self._run("open", cargo, [*cargo.blobs(), *items], len(part))
            found += [_reply(int(reply[0]), raw) for raw in reply[1:]]
        return found

    async def opening_organizations(self) -> dict[str, str]:
        """The organizations that may have limits to be opened, each with a word that changes when one is noted."""
        flat = await self._command("HGETALL", keys.OPENINGS)
        return {name.decode(): word.decode() for name, word in pairs(flat)}

    async def pending_openings(self, organization: str) -> list[PendingOpening]:
        """The limits of an organization that are to be opened, in no order."""
        flat = await self._command("HGETALL", keys.openings_key(organization))
        return [_pending(organization, name.decode(), raw) for name, raw in pairs(flat)]

    async def forget_openings(self, organization: str, gone: Sequence[PendingOpening]) -> None:
        """Drop notes, but for limits that came anew meanwhile."""
        key = keys.openings_key(organization)
        for at in range(0, len(gone), _FORGOTTEN_AT_ONCE):
            names = [(note_of(pending.limit)[0], pending.raw) for pending in gone[at : at + _FORGOTTEN_AT_ONCE]]
            await asyncio.gather(
                *(self._compare_and_set(organization, key, (name, raw), [name, ""]) for name, raw in names)
            )
        if not await self._command("EXISTS", key):
            await self._command("HDEL", keys.OPENINGS, organization)
            if await self._command("EXISTS", key):  # a limit came right then
                await self.announce_openings(organization)

    async def announce_openings(self, organization: str) -> None:
        """Have everybody read an organization's notes."""
        await self._command("HSET", keys.OPENINGS, organization, uuid4().hex)

    async def _compare_and_set(
        self,
        organization: str,
        key: str,
        expected: tuple[bytes, bytes | str],
        fields: Sequence[bytes | str],
        notes: Sequence[bytes] = (),
    ) -> bool:
        """Set fields of a hash of an organization, and note openings, if one field is as expected ("": absent)."""
        names = [key]
        if notes:
            names += [keys.openings_key(organization), *keys.shard_keys(keys.shard_of(organization))[1:]]
        arguments = [self._clock(), *expected, str(len(fields) // 2), *fields, *notes]
        return bool(await self._fcall("replace", names, arguments))


def note_of(limit: NewLimit) -> tuple[bytes, bytes]:
    """The name of a new limit's note, and what the script writes behind the time: see replace.lua.

    The limits of key_defaults have a note for each time that they came: some keys may still count since an earlier one.
    """
    text = {"zone": limit.zone, "since": limit.since, "models": limit.models, "fresh": limit.fresh}
    name = keys.opening_name(limit.scope, limit.counter)
    if limit.scope.key == EVERY_KEY:
        name += f":{limit.since}".encode()
    return name, json.dumps(text, separators=(",", ":")).encode()


def _pending(organization: str, name: str, raw: bytes) -> PendingOpening:
    _, at_ms, epoch, seq, order = _NOTE.unpack_from(raw)
    text = json.loads(raw[_NOTE.size :])
    path, *counter = name.split(":")
    team, _, key = path.partition("/")
    scope, models = Scope(organization, team, key), tuple(text["models"])
    limit = NewLimit(scope, ":".join(counter[:3]), text["zone"], text["since"], models, text["fresh"])
    return PendingOpening(limit, at_ms, Position(epoch, seq), order, raw)


def _item(call: OpenCall, plan_index: int) -> bytes:
    limit, _, window = call.counter.split(":")
    row = {"event": "opening", "scope": call.plan.scopes[0].scope.path, "limit": limit, "window": window}
    head = _ITEM.pack(plan_index, call.period_ms, *divmod(call.total, NANOUSD_PER_USD), *call.position)
    return head + call.counter.encode() + b"\0" + json.dumps(row, separators=(",", ":")).encode()


def _reply(now_ms: int, raw: bytes) -> OpenReply:
    code, period_ms, usd, nano = _REPLY.unpack(raw)
    return OpenReply(now_ms, code, period_ms, usd * NANOUSD_PER_USD + nano)


def pairs(flat: dict[bytes, bytes] | list[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Field and value, in whichever shape the protocol version returned them."""
    if isinstance(flat, dict):
        return flat.items()
    return zip(flat[0::2], flat[1::2], strict=True)
