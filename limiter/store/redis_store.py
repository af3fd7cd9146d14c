"""The store on Redis or Valkey: asks the scripts, maps errors; no rule of the hold is here."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError

from limiter.domain.errors import Unavailable
from limiter.domain.reservations import ReservationName
from limiter.domain.scopes import Scope
from limiter.store import encoding, keys, replies
from limiter.store.courier import Courier
from limiter.store.diagnosis import STORE_ERRORS, diagnose
from limiter.store.port import (
    ChargeCall,
    ChargeReply,
    EndCall,
    EndReply,
    ExtendCall,
    ExtendReply,
    HoldCall,
    HoldRecord,
    HoldReply,
    InspectReply,
    Plan,
    Row,
    StoredKey,
    StoredPolicy,
)
from limiter.store.scripts import script

Client = Redis | RedisCluster
C = TypeVar("C", bound=HoldCall | EndCall | ExtendCall | ChargeCall)
R = TypeVar("R")

_HEADING = struct.Struct("<HHHQ")
_ORGANIZATION_SCANNED = 512


class RedisStore:
    """Implements :class:`limiter.store.port.Store`.

    `max_backlog` is the number of ledger rows of a shard at which Reserve stops (0: never). `clock_ms`
    replaces the store's clock in tests. `abandoned` is told of Reserves that were decided while nobody
    waited for the answer (with the reply), or whose reply was lost (None). `observe` gets (script, seconds, calls in
    the batch), `observe_error` the kind of every trouble.
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
        self._client = client
        self._cluster = isinstance(client, RedisCluster)
        self._max_backlog = max_backlog
        self._clock_ms = clock_ms
        self._observe = observe
        self._observe_error = observe_error
        self._reserves: Courier[HoldCall, HoldReply] = Courier(self._send_reserves, abandoned=abandoned)
        self._settles: Courier[EndCall, EndReply] = Courier(self._send_settles)
        self._releases: Courier[EndCall, EndReply] = Courier(self._send_releases)
        self._extends: Courier[ExtendCall, ExtendReply] = Courier(self._send_extends)
        self._charges: Courier[ChargeCall, ChargeReply] = Courier(self._send_charges)

    # ------------------------------------------------------------------ the verbs

    async def reserve(self, call: HoldCall, *, deadline: float | None) -> HoldReply:
        """Ask for one hold."""
        return await self._reserves.carry(call, deadline=deadline)

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

    async def inspect(self, plans: Sequence[Plan]) -> list[InspectReply]:
        """Read the counters of plans, all of one organization."""
        cargo = _Cargo(self._max_backlog)
        for plan in plans:
            cargo.plan_index(plan)
        blobs = cargo.plan_blobs
        reply = await self._run("inspect", cargo, blobs, len(plans))
        return [replies.inspect_reply(int(reply[0]), raw) for raw in reply[1:]]

    async def _send_reserves(self, calls: Sequence[HoldCall]) -> Sequence[HoldReply]:
        def load(cargo: _Cargo, call: HoldCall) -> bytes:
            return encoding.hold_blob(call, cargo.plan_index(call.plan))

        return await self._send("reserve", calls, load, replies.hold_reply)

    async def _send_settles(self, calls: Sequence[EndCall]) -> Sequence[EndReply]:
        def load(cargo: _Cargo, call: EndCall) -> bytes:
            return encoding.settle_blob(call, cargo.organization_index(call.name.organization))

        return await self._send("settle", calls, load, replies.end_reply)

    async def _send_releases(self, calls: Sequence[EndCall]) -> Sequence[EndReply]:
        def load(cargo: _Cargo, call: EndCall) -> bytes:
            return encoding.release_blob(call, cargo.organization_index(call.name.organization))

        return await self._send("release", calls, load, replies.end_reply)

    async def _send_extends(self, calls: Sequence[ExtendCall]) -> Sequence[ExtendReply]:
        def load(cargo: _Cargo, call: ExtendCall) -> bytes:
            return struct.pack("<HQ", cargo.organization_index(call.name.organization), call.ttl_ms)

        return await self._send("extend", calls, load, replies.extend_reply)

    async def _send_charges(self, calls: Sequence[ChargeCall]) -> Sequence[ChargeReply]:
        def load(cargo: _Cargo, call: ChargeCall) -> bytes:
            return encoding.charge_blob(call, cargo.plan_index(call.plan))

        return await self._send("charge", calls, load, replies.charge_reply)

    async def _send(
        self,
        verb: str,
        calls: Sequence[C],
        load: Callable[[_Cargo, C], bytes],
        decode: Callable[[int, bytes], R],
    ) -> Sequence[R]:
        """Send a batch: in one script call on one node, in one per shard on a cluster."""
        if not self._cluster:
            return await self._send_together(verb, calls, load, decode)
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
        load: Callable[[_Cargo, C], bytes],
        decode: Callable[[int, bytes], R],
    ) -> list[R]:
        cargo = _Cargo(self._max_backlog)
        items = [load(cargo, call) for call in calls]
        cargo.holds = [keys.hold_key(call.name) for call in calls]
        reply = await self._run(verb, cargo, [*cargo.plan_blobs, *items], len(calls))
        now_ms = int(reply[0])
        return [decode(now_ms, raw) for raw in reply[1:]]

    # ------------------------------------------------------------------ expiry and refusals

    async def expire_due(self, organizations: Sequence[str], *, limit: int, retention_ms: int) -> list[EndReply]:
        """End due holds in the shards of the organizations, at most `limit` per shard."""
        now_ms = await self.time_ms()
        ended: list[EndReply] = []
        for members in await self._due(sorted({keys.shard_of(name) for name in organizations}), now_ms, limit):
            names = [keys.name_of_member(member.decode()) for member in members]
            cargo = _Cargo(0)
            items = [struct.pack("<HQ", cargo.organization_index(name.organization), retention_ms) for name in names]
            cargo.holds = [keys.hold_key(name) for name in names]
            reply = await self._run("expire", cargo, items, len(items))
            ended += [replies.end_reply(int(reply[0]), raw) for raw in reply[1:]]
        return ended

    async def _due(self, shards: Sequence[int], now_ms: int, limit: int) -> list[list[bytes]]:
        """Members of the shards' due indexes whose time has come, shards without any left out."""
        commands = [("ZRANGEBYSCORE", keys.shard_keys(shard)[0], "-inf", now_ms, "LIMIT", 0, limit) for shard in shards]
        if self._cluster:  # a Cluster pipeline does not ask anew where a slot is
            found = await asyncio.gather(*(self._command(*command) for command in commands))
        else:
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            try:
                found = await pipeline.execute()
            except STORE_ERRORS as error:
                raise self._unavailable(error) from error
        return [members for members in found if members]

    async def append_refusals(self, organization: str, name: str, summary: bytes) -> None:
        """Append a row of refusal sums."""
        cargo = _Cargo(0)
        item = struct.pack("<H", cargo.organization_index(organization)) + name.encode() + b"\0" + summary
        await self._run("append", cargo, [item], 1)

    # ------------------------------------------------------------------ policy and keys

    async def time_ms(self) -> int:
        """The store's clock."""
        if self._clock_ms is not None:
            return self._clock_ms()
        seconds, micros = await self._command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def organizations(self) -> list[str]:
        """Every organization that ever had a policy."""
        return sorted(member.decode() for member in await self._command("SMEMBERS", keys.ORGS))

    async def policy(self, organization: str) -> StoredPolicy | None:
        """The organization's part of the policy."""
        version, document = await self._command(
            "HMGET", keys.organization_key(organization), keys.VERSION_FIELD, keys.DOCUMENT_FIELD
        )
        if version is None:
            return None
        return StoredPolicy(organization, int(version), document.decode())

    async def replace_policy(self, new: StoredPolicy) -> bool:
        """Store `new` if the present version is the one before it; answers whether it was."""
        await self._command("SADD", keys.ORGS, new.organization)
        expected = str(new.version - 1) if new.version > 1 else ""
        fields = [keys.VERSION_FIELD, str(new.version), keys.DOCUMENT_FIELD, new.document]
        return await self._replace(new.organization, keys.VERSION_FIELD, expected, fields)

    async def key(self, key: Scope) -> StoredKey:
        """A key's record."""
        raw = await self._command("HGET", keys.organization_key(key.organization), keys.key_field(key))
        return _stored_key(key, raw)

    async def keys(self, organization: str) -> AsyncIterator[StoredKey]:
        """Every key record of an organization, in no order."""
        cursor = 0
        while True:
            cursor, flat = await self._command(
                "HSCAN", keys.organization_key(organization), cursor, "MATCH", "key:*", "COUNT", _ORGANIZATION_SCANNED
            )
            for field, raw in _pairs(flat):
                team, _, key = field.decode().removeprefix("key:").partition("/")
                yield _stored_key(Scope(organization, team, key), raw)
            cursor = int(cursor)
            if cursor == 0:
                return

    async def replace_key(self, new: StoredKey) -> bool:
        """Store `new` if the present revision is the one before it; answers whether it was."""
        field = keys.key_field(new.key)
        before = await self._command("HGET", keys.organization_key(new.key.organization), field)
        if _stored_key(new.key, before).revision != new.revision - 1:
            return False
        value = struct.pack("<Q", new.revision) + new.record.encode()
        return await self._replace(new.key.organization, field, before or "", [field, value])

    async def digest_owner(self, digests: Sequence[str]) -> Scope | None:
        """The key that one of the digests belongs to."""
        for digest in digests:
            owner = await self._command("GET", keys.digest_key(digest))
            if owner is not None:
                return Scope(*owner.decode().split("/"))
        return None

    async def claim_digest(self, digest: str, key: Scope) -> bool:
        """Bind a digest to a key for ever; False: another key has it."""
        if await self._command("SET", keys.digest_key(digest), key.path, "NX"):
            return True
        return await self.digest_owner([digest]) == key

    async def retire_digest(self, digest: str, *, ttl_ms: int) -> None:
        """Let a digest go after `ttl_ms`."""
        await self._command("PEXPIRE", keys.digest_key(digest), max(1, ttl_ms))

    async def check_pepper(self, fingerprints: dict[str, str]) -> list[str]:
        """Compare the fingerprints of pepper versions with the store's, adding new ones; answers those that differ."""
        wrong = []
        for version, fingerprint in fingerprints.items():
            field = f"pepper:{version}"
            await self._command("HSETNX", keys.META, field, fingerprint)
            if (await self._command("HGET", keys.META, field)).decode() != fingerprint:
                wrong.append(version)
        await self._command("HSETNX", keys.META, "shards", keys.SHARDS)
        if int(await self._command("HGET", keys.META, "shards")) != keys.SHARDS:
            raise Unavailable(f"the store was laid out with another number of shards than {keys.SHARDS}")
        return wrong

    # ------------------------------------------------------------------ reservations and rows

    async def hold(self, name: ReservationName) -> HoldRecord | None:
        """A reservation's record."""
        raw = await self._command("GET", keys.hold_key(name))
        return None if raw is None else replies.hold_record(name, raw)

    async def open_holds(self, organization: str, *, after: str, count: int) -> tuple[list[HoldRecord], str]:
        """Open holds by due time, a page at a time; the second value continues ("" at the end)."""
        start = int(after or 0)
        due = keys.shard_keys(keys.shard_of(organization))[0]
        members = await self._command("ZRANGE", due, start, start + count - 1)
        names = [keys.name_of_member(member.decode()) for member in members]
        records = [await self.hold(name) for name in names if name.organization == organization]
        following = str(start + len(members)) if len(members) == count else ""
        return [record for record in records if record is not None], following

    async def rows(self, shard: int, *, after: tuple[int, int] | None, count: int) -> list[Row]:
        """Ledger rows of a shard behind (epoch, seq), oldest first."""
        start = "-" if after is None else f"({after[0]}-{after[1]}"
        entries = await self._command("XRANGE", keys.shard_keys(shard)[1], start, "+", "COUNT", count)
        return [replies.row(shard, entry, fields[1]) for entry, fields in _entries(entries)]

    async def last_rows(self, shard: int, *, count: int) -> list[Row]:
        """The newest ledger rows of a shard, oldest first."""
        entries = await self._command("XREVRANGE", keys.shard_keys(shard)[1], "+", "-", "COUNT", count)
        return [replies.row(shard, entry, fields[1]) for entry, fields in _entries(entries)][::-1]

    async def counts(self, organizations: Sequence[str]) -> tuple[int, int]:
        """Open holds, and the largest number of ledger rows in one shard, over the organizations' shards."""
        held, rows = 0, 0
        for shard in {keys.shard_of(organization) for organization in organizations}:
            due, ledger, _ = keys.shard_keys(shard)
            held += await self._command("ZCARD", due)
            rows = max(rows, await self._command("XLEN", ledger))
        return held, rows

    def shard_of(self, organization: str) -> int:
        """The shard that an organization is in."""
        return keys.shard_of(organization)

    # ------------------------------------------------------------------ the wire

    async def _replace(self, organization: str, field: bytes, expected: bytes | str, fields: list[bytes | str]) -> bool:
        return bool(await self._eval("replace", [keys.organization_key(organization)], [field, expected, *fields]))

    async def _run(self, verb: str, cargo: _Cargo, items: Sequence[bytes], count: int) -> list[Any]:
        clock = b"" if self._clock_ms is None else str(self._clock_ms()).encode()
        names, heading, placing = cargo.label()
        began = time.perf_counter()
        reply: list[Any] = await self._eval(verb, names, [clock, heading, placing, *items])
        if self._observe is not None:
            self._observe(verb, time.perf_counter() - began, count)
        return reply

    async def _eval(self, verb: str, names: Sequence[str], arguments: Sequence[bytes | str]) -> Any:  # noqa: ANN401 - a reply
        code = script(verb)
        try:
            try:
                return await self._client.execute_command("EVALSHA", code.sha, len(names), *names, *arguments)
            except NoScriptError:
                return await self._client.execute_command("EVAL", code.source, len(names), *names, *arguments)
        except STORE_ERRORS as error:
            raise self._unavailable(error) from error

    async def _command(self, *arguments: Any) -> Any:  # noqa: ANN401 - whatever a command takes and answers
        try:
            return await self._client.execute_command(*arguments)
        except STORE_ERRORS as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: BaseException) -> Unavailable:
        trouble = diagnose(error)
        if self._observe_error is not None:
            self._observe_error(trouble.kind)
        return Unavailable(trouble.text)

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.aclose()


class _Cargo:
    """The keys of one script call and where they stand: see open_batch in _prelude.lua."""

    def __init__(self, extra: int) -> None:
        self._extra = extra
        self._organizations: dict[str, int] = {}
        self._plans: dict[int, int] = {}
        self._plan_organizations: list[int] = []
        self.plan_blobs: list[bytes] = []
        self.holds: list[str] = []

    def organization_index(self, organization: str) -> int:
        return self._organizations.setdefault(organization, len(self._organizations))

    def plan_index(self, plan: Plan) -> int:
        index = self._plans.get(id(plan))
        if index is None:
            index = self._plans[id(plan)] = len(self.plan_blobs)
            self.plan_blobs.append(encoding.plan_blob(plan))
            self._plan_organizations.append(self.organization_index(plan.organization))
        return index

    def label(self) -> tuple[list[str], bytes, bytes]:
        """KEYS, heading and placing."""
        shards: dict[int, int] = {}
        placing = [shards.setdefault(keys.shard_of(organization), len(shards)) for organization in self._organizations]
        names = [name for shard in shards for name in keys.shard_keys(shard)]
        names += [keys.organization_key(organization) for organization in self._organizations]
        names += self.holds
        heading = _HEADING.pack(len(shards), len(self._organizations), len(self.holds), self._extra)
        placing += self._plan_organizations
        return names, heading, struct.pack(f"<{len(placing)}H", *placing)


def _stored_key(key: Scope, raw: bytes | None) -> StoredKey:
    if raw is None:
        return StoredKey(key, 0, "")
    return StoredKey(key, struct.unpack_from("<Q", raw)[0], raw[8:].decode())


def _pairs(flat: dict[bytes, bytes] | list[bytes]) -> Iterable[tuple[bytes, bytes]]:
    """Field and value, in whichever shape the protocol version returned them."""
    if isinstance(flat, dict):
        return flat.items()
    return zip(flat[0::2], flat[1::2], strict=True)


def _entries(entries: list[tuple[bytes, Any]] | None) -> Iterable[tuple[bytes, list[bytes]]]:
    """Id and flat fields of stream entries, in whichever shape the client returned them."""
    for entry, fields in entries or ():
        yield entry, [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else fields
