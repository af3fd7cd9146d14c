"""What the sidecar remembers of organizations and keys. The scripts say when a memory is out of date."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

from limiter.domain.limits import Limit
from limiter.domain.scopes import Scope
from limiter.policy.document import OrganizationPolicy, limits_to_yaml, parse_limits
from limiter.service.memory import Memory, Recall
from limiter.store.port import Store, StoredKey

_KEYS_REMEMBERED = 200_000
_ORGANIZATIONS_REMEMBERED = 20_000
_STRANGERS_REMEMBERED = 10_000
_STRANGER_FOR_S = 1.0


@dataclass(frozen=True, slots=True)
class Secret:
    """One secret of a key. `not_after_ms` 0: valid while the key is."""

    digest: str
    hint: str
    created_ms: int
    not_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is stored of a key. `expires_ms` 0: never. `limits` None: the policy's or its team's key_defaults.

    `declared`: the policy named the key when it was minted; if it no longer does, the key is disabled.
    """

    enabled: bool = True
    expires_ms: int = 0
    limits: tuple[Limit, ...] | None = None
    secrets: tuple[Secret, ...] = ()
    created_ms: int = 0
    declared: bool = False

    def to_json(self) -> str:
        """Write the record as it is stored."""
        record: dict[str, Any] = {
            "enabled": self.enabled,
            "expires_ms": self.expires_ms,
            "limits": None if self.limits is None else limits_to_yaml(self.limits),
            "secrets": [[s.digest, s.hint, s.created_ms, s.not_after_ms] for s in self.secrets],
            "created_ms": self.created_ms,
            "declared": self.declared,
        }
        return json.dumps(record, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> KeyRecord:
        """Read what to_json wrote."""
        record = json.loads(text)
        limits = record["limits"]
        return cls(
            enabled=record["enabled"],
            expires_ms=record["expires_ms"],
            limits=None if limits is None else parse_limits(limits),
            secrets=tuple(Secret(*values) for values in record["secrets"]),
            created_ms=record["created_ms"],
            declared=record["declared"],
        )


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key's record at a revision; revision 0: nobody minted it."""

    revision: int
    record: KeyRecord | None

    @classmethod
    def read(cls, stored: StoredKey) -> KnownKey:
        """Read what the store keeps."""
        return cls(stored.revision, KeyRecord.from_json(stored.record) if stored.revision else None)


@dataclass(frozen=True, slots=True)
class KnownOrganization:
    """An organization's policy at a version."""

    version: int
    policy: OrganizationPolicy


class Directory:
    """Owners of secrets, records of keys, policies of organizations, remembered in bounded space."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._owners: Recall[tuple[str, ...], Scope] = Recall(_KEYS_REMEMBERED, self._read_owner)
        self._strangers: Memory[tuple[str, ...], float] = Memory(_STRANGERS_REMEMBERED)
        self._keys: Recall[Scope, KnownKey] = Recall(_KEYS_REMEMBERED, self._read_key)
        self._organizations: Recall[str, KnownOrganization] = Recall(_ORGANIZATIONS_REMEMBERED, self._read_organization)

    def known_key(self, key: Scope) -> KnownKey | None:
        """A key's record, if it is remembered."""
        return self._keys.known(key)

    async def owner(self, secret: tuple[str, ...]) -> tuple[Scope, KnownKey] | None:
        """Whose secret this is (its digests) and the key's record.

        Whose it is never changes; "nobody" is believed for a second.
        """
        since = self._strangers.get(secret)
        if since is not None and time.monotonic() - since < _STRANGER_FOR_S:
            return None
        owner = await self._owners.get(secret)
        return None if owner is None else (owner, await self.key(owner))

    async def _read_owner(self, secret: tuple[str, ...]) -> Scope | None:
        owner = await self._store.digest_owner(secret)
        if owner is None:
            self._strangers.put(secret, time.monotonic())
        return owner

    async def organization(self, organization: str) -> KnownOrganization | None:
        """An organization's policy; None: it has none."""
        return await self._organizations.get(organization)

    async def _read_organization(self, organization: str) -> KnownOrganization | None:
        stored = await self._store.policy(organization)
        if stored is None:
            return None
        # A policy of thousands of keys takes a while to read: not on the event loop.
        policy = await asyncio.to_thread(OrganizationPolicy.from_json, stored.document)
        return KnownOrganization(stored.version, policy)

    async def key(self, key: Scope) -> KnownKey:
        """A key's record."""
        known = await self._keys.get(key)
        return known if known is not None else KnownKey(0, None)

    async def _read_key(self, key: Scope) -> KnownKey:
        return KnownKey.read(await self._store.key(key))

    def disown(self, secret: tuple[str, ...]) -> None:
        """The key has let this secret go: nobody's for a second, then asked for anew."""
        self._owners.forget(secret)
        self._strangers.put(secret, time.monotonic())

    def forget_organization(self, organization: str, *, up_to_version: int | None = None) -> None:
        """The policy has changed since `up_to_version`; None: whatever is remembered is out of date.

        A newer one is kept: after a change every plan is found out of date once, and reading the policy
        for each of them anew would take as long as it is large.
        """
        known = self._organizations.known(organization)
        if up_to_version is None or (known is not None and known.version <= up_to_version):
            self._organizations.forget(organization)

    def forget_key(self, key: Scope) -> None:
        """The key's record has changed."""
        self._keys.forget(key)
