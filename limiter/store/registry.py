"""Policies, key records, digests and peppers in the store."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from limiter.domain.errors import Unavailable
from limiter.domain.scopes import Scope
from limiter.store import keys
from limiter.store.openings import Openings, note_of, pairs
from limiter.store.port import NewLimit, StoredKey, StoredPolicy

_ORGANIZATION_SCANNED = 512


class Registry(Openings):
    """What is configured, as opposed to what is counted."""

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

    async def replace_policy(
        self, new: StoredPolicy, *, new_limits: Sequence[NewLimit] = (), left: Sequence[Scope] = ()
    ) -> bool:
        """Store `new` if the present version is the one before it; answers whether it was.

        Notes in the same step that `new_limits` are to be opened, but for those that have a counter already, and that
        it no longer names the keys `left`.
        """
        await self._command("SADD", keys.ORGS, new.organization)
        expected = str(new.version - 1) if new.version > 1 else ""
        fields: list[bytes | str] = [keys.VERSION_FIELD, str(new.version), keys.DOCUMENT_FIELD, new.document]
        for key in left:
            fields += [keys.left_field(key), "1"]
        return await self._replace(new.organization, (keys.VERSION_FIELD, expected), fields, new_limits)

    async def key(self, key: Scope) -> StoredKey:
        """A key's record."""
        raw, left = await self._command(
            "HMGET", keys.organization_key(key.organization), keys.key_field(key), keys.left_field(key)
        )
        return replace(_stored_key(key, raw), left=left is not None)

    async def keys(self, organization: str) -> AsyncIterator[StoredKey]:
        """Every key record of an organization, in no order."""
        cursor = 0
        while True:
            cursor, flat = await self._command(
                "HSCAN",
                keys.organization_key(organization),
                cursor,
                "MATCH",
                keys.KEY_FIELD_PREFIX + b"*",
                "COUNT",
                _ORGANIZATION_SCANNED,
            )
            for field, raw in pairs(flat):
                team, _, key = field.removeprefix(keys.KEY_FIELD_PREFIX).decode().partition("/")
                yield _stored_key(Scope(organization, team, key), raw)
            cursor = int(cursor)
            if cursor == 0:
                return

    async def replace_key(self, new: StoredKey, *, new_limits: Sequence[NewLimit] = ()) -> bool:
        """Store `new` if the present revision is the one before it; answers whether it was.

        Notes in the same step that `new_limits` are to be opened, but for those that have a counter already.
        """
        field = keys.key_field(new.key)
        before = await self._command("HGET", keys.organization_key(new.key.organization), field)
        if _stored_key(new.key, before).revision != new.revision - 1:
            return False
        value = struct.pack("<Q", new.revision) + new.record.encode()
        return await self._replace(new.key.organization, (field, before or ""), [field, value], new_limits)

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

    async def lead_learning(self, shard: int, who: str, *, ttl_ms: int) -> bool:
        """Be the one who learns from a shard's rows for `ttl_ms`, or for as long again; False: somebody else is.

        Two at once would do the same work twice, nothing worse.
        """
        key = keys.learner_key(shard)
        if await self._command("SET", key, who, "NX", "PX", ttl_ms):
            return True
        if await self._command("GET", key) != who.encode():
            return False
        await self._command("PEXPIRE", key, ttl_ms)
        return True

    async def learned(self, organization: str) -> bytes | None:
        """What was learned of an organization's calls, as it was published."""
        published: bytes | None = await self._command("GET", keys.learned_key(organization))
        return published

    async def publish_learned(self, organization: str, published: bytes, *, ttl_ms: int) -> None:
        """Replace what was learned of an organization's calls; forgotten after `ttl_ms`."""
        await self._command("SET", keys.learned_key(organization), published, "PX", ttl_ms)

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

    async def _replace(
        self,
        organization: str,
        expected: tuple[bytes, bytes | str],
        fields: Sequence[bytes | str],
        new_limits: Sequence[NewLimit],
    ) -> bool:
        key = keys.organization_key(organization)
        if not new_limits:
            return await self._compare_and_set(organization, key, expected, fields)
        notes = [part for limit in new_limits for part in note_of(limit)]
        # Before: whoever looks finds the notes. And after: somebody may have found none until now.
        await self.announce_openings(organization)
        replaced = await self._compare_and_set(organization, key, expected, fields, notes)
        if replaced:
            await self.announce_openings(organization)
        return replaced


def _stored_key(key: Scope, raw: bytes | None) -> StoredKey:
    if raw is None:
        return StoredKey(key, 0, "")
    return StoredKey(key, struct.unpack_from("<Q", raw)[0], raw[8:].decode())
