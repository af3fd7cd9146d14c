"""What the sidecar remembers of organizations and keys. The scripts say when a memory is out of date."""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from limiter.domain.limits import Limit
from limiter.domain.scopes import Scope
from limiter.policy.document import OrganizationPolicy, limits_to_yaml, parse_limits
from limiter.service.secrets import Pepper
from limiter.store.port import Store, StoredKey

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_KEYS_REMEMBERED = 200_000
_ORGANIZATIONS_REMEMBERED = 20_000
_STRANGERS_REMEMBERED = 10_000
_STRANGER_FOR_S = 1.0


class Memory(Generic[K, V]):
    """A mapping that forgets what was not asked for the longest time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return what is remembered."""
        value = self._entries.get(key)
        if value is not None:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Remember, and forget the oldest beyond the size."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def forget(self, key: K) -> None:
        """Forget one entry, if there is one."""
        self._entries.pop(key, None)

    def forget_all(self) -> None:
        """Forget everything."""
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)


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

    def __init__(self, store: Store, pepper: Pepper) -> None:
        self._store = store
        self._pepper = pepper
        self._owners: Memory[str, Scope] = Memory(_KEYS_REMEMBERED)
        self._strangers: Memory[str, float] = Memory(_STRANGERS_REMEMBERED)
        self._keys: Memory[Scope, KnownKey] = Memory(_KEYS_REMEMBERED)
        self._organizations: Memory[str, KnownOrganization] = Memory(_ORGANIZATIONS_REMEMBERED)

    async def owner(self, digests: list[str]) -> Scope | None:
        """Whose secret this is. The answer never changes once there is one; "nobody" is believed for a second."""
        owner = self._owners.get(digests[0])
        if owner is not None:
            return owner
        since = self._strangers.get(digests[0])
        if since is not None and time.monotonic() - since < _STRANGER_FOR_S:
            return None
        owner = await self._store.digest_owner(digests)
        if owner is None:
            self._strangers.put(digests[0], time.monotonic())
        else:
            self._owners.put(digests[0], owner)
        return owner

    async def organization(self, organization: str) -> KnownOrganization | None:
        """An organization's policy; None: it has none."""
        known = self._organizations.get(organization)
        if known is None:
            stored = await self._store.policy(organization)
            if stored is None:
                return None
            known = KnownOrganization(stored.version, OrganizationPolicy.from_json(stored.document))
            self._organizations.put(organization, known)
        return known

    async def key(self, key: Scope) -> KnownKey:
        """A key's record."""
        known = self._keys.get(key)
        if known is None:
            known = KnownKey.read(await self._store.key(key))
            self._keys.put(key, known)
        return known

    def forget_organization(self, organization: str) -> None:
        """The policy has changed."""
        self._organizations.forget(organization)

    def forget_key(self, key: Scope) -> None:
        """The key's record has changed."""
        self._keys.forget(key)
