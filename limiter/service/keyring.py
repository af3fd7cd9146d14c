"""Keys: minted, imported, rotated, disabled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from limiter.domain.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from limiter.domain.limits import Limit
from limiter.domain.scopes import Scope
from limiter.policy.document import OrganizationPolicy
from limiter.service.desk import Desk
from limiter.service.directory import KeyRecord, KnownKey, Secret
from limiter.service.new_limits import limits_of_minted_key, new_limits_of_key
from limiter.service.openings import Openings
from limiter.service.secrets import check_secret, mint_secret
from limiter.store.port import NewLimit, StoredKey

OVERLAP_MS = 86_400_000
_DIGEST_KEPT_MS = 86_400_000
#: A shorter secret gets no hint: its last four characters would tell too much of it.
_HINTED_FROM = 16


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key as an operator sees it."""

    key: Scope
    record: KeyRecord
    declared: bool


class Keyring:
    """The verbs of the Admin service that concern keys."""

    def __init__(self, desk: Desk, openings: Openings) -> None:
        self._desk = desk
        self._openings = openings

    async def create(
        self, key: Scope, *, limits: tuple[Limit, ...] | None, expires_ms: int, secret: str = ""
    ) -> tuple[KeyView, str]:
        """Mint a key, or import one whose `secret` exists elsewhere; answers the secret if it was minted."""
        organization = await self._organization(key)
        _check_team(organization, key)
        declared = _declares(organization, key)
        stored = await self._desk.store.key(key)
        known = KnownKey.read(stored)
        if known.record is not None and known.record.secrets:
            raise AlreadyExists(f"key: {key.path} has a secret already; `limiter keys rotate` mints a further one")
        if declared and limits is not None:
            raise InvalidArgument("limits", key.path, "the policy file declares this key: write its limits there")
        now_ms = await self._desk.store.time_ms()
        _check_expiry(expires_ms, now_ms)
        shown = check_secret(secret, field="secret") if secret else mint_secret()
        entry = await self._claim(key, shown, now_ms)
        begun = known.record or KeyRecord()  # a declared key may have been disabled before it had a secret
        record = replace(
            begun,
            expires_ms=expires_ms or begun.expires_ms,
            limits=limits,
            secrets=(entry,),
            created_ms=now_ms,
            declared=declared,
        )
        # Only a key that the policy named before can have spent: minting any other stays cheap.
        new = limits_of_minted_key(organization, key, record, revision=known.revision + 1) if stored.left else []
        await self._store_key(key, known.revision, record, new)
        await self._openings.show(key.organization, new)
        return KeyView(key, record, declared), "" if secret else shown

    async def rotate(self, key: Scope, *, overlap_ms: int) -> tuple[KeyView, str]:
        """Mint a further secret; older ones end after `overlap_ms`."""
        organization = await self._organization(key)
        known = await self._known(key)
        now_ms = await self._desk.store.time_ms()
        end_ms = now_ms + overlap_ms
        shown = mint_secret()
        entry = await self._claim(key, shown, now_ms)
        record = known.record
        ending = [replace(old, not_after_ms=min(old.not_after_ms or end_ms, end_ms)) for old in record.secrets]
        kept = [old for old in ending if old.not_after_ms > now_ms]
        record = replace(record, secrets=(*kept, entry))
        await self._store_key(key, known.revision, record)
        # Only now: had somebody else changed the key meanwhile, its secrets would live on.
        for old in ending:
            await self._desk.store.retire_digest(old.digest, ttl_ms=max(0, old.not_after_ms - now_ms) + _DIGEST_KEPT_MS)
        return KeyView(key, record, _declares(organization, key)), shown

    async def update(
        self,
        key: Scope,
        *,
        enabled: bool | None,
        expires_ms: int | None,
        limits: tuple[Limit, ...] | None,
        clear_limits: bool,
    ) -> KeyView:
        """Enable or disable a key, set its expiry (0: never) or its limits; None leaves a value as it is."""
        organization = await self._organization(key)
        known = await self._known(key, may_be_declared=organization)
        record = known.record
        if enabled is not None:
            record = replace(record, enabled=enabled)
        if expires_ms is not None:
            record = replace(record, expires_ms=expires_ms)
        if clear_limits:
            record = replace(record, limits=None)
        elif limits is not None:
            if _declares(organization, key):
                raise InvalidArgument("limits", key.path, "the policy file declares this key: write its limits there")
            record = replace(record, limits=limits)
        new = new_limits_of_key(organization, key, known.record, record, revision=known.revision + 1)
        await self._store_key(key, known.revision, record, new)
        await self._openings.show(key.organization, new)
        return KeyView(key, record, _declares(organization, key))

    async def under(self, scope: Scope | None) -> AsyncIterator[KeyView]:
        """Every key under a scope that was minted or imported."""
        for name in [scope.organization] if scope is not None else await self._desk.store.organizations():
            organization = await self._desk.directory.organization(name)
            async for stored in self._desk.store.keys(name):
                if scope is not None and scope.team and stored.key.team != scope.team:
                    continue
                declared = organization is not None and _declares(organization.policy, stored.key)
                record = KnownKey.read(stored).record
                if record is not None:
                    yield KeyView(stored.key, record, declared)

    async def _organization(self, key: Scope) -> OrganizationPolicy:
        stored = await self._desk.store.policy(key.organization)
        if stored is None:
            raise NotFound(f"key: organization {key.organization} has no policy; apply one with `limiter apply`")
        return OrganizationPolicy.from_json(stored.document)

    async def _known(self, key: Scope, *, may_be_declared: OrganizationPolicy | None = None) -> _Minted:
        known = KnownKey.read(await self._desk.store.key(key))
        if known.record is not None:
            return _Minted(known.revision, known.record)
        if may_be_declared is not None and _declares(may_be_declared, key):
            return _Minted(0, KeyRecord(declared=True))
        raise NotFound(f"key: {key.path} has no secret yet; mint one with `limiter keys create {key.path}`")

    async def _claim(self, key: Scope, secret: str, now_ms: int) -> Secret:
        digest = self._desk.pepper.digest(secret)
        if not await self._desk.store.claim_digest(digest, key):
            raise AlreadyExists("secret: it belongs to another key")
        return Secret(digest, secret[-4:] if len(secret) >= _HINTED_FROM else "", now_ms)

    async def _store_key(
        self, key: Scope, revision: int, record: KeyRecord, new_limits: Sequence[NewLimit] = ()
    ) -> None:
        new = StoredKey(key, revision + 1, record.to_json())
        if not await self._desk.store.replace_key(new, new_limits=new_limits):
            raise FailedPrecondition(f"key: {key.path} was changed by somebody else meanwhile; try again")
        self._desk.directory.forget_key(key)


@dataclass(frozen=True, slots=True)
class _Minted:
    """A key's record that exists, or begins to."""

    revision: int
    record: KeyRecord


def _check_expiry(expires_ms: int, now_ms: int) -> None:
    if 0 < expires_ms <= now_ms:
        at = datetime.fromtimestamp(expires_ms / 1000, UTC).isoformat()
        raise InvalidArgument("expires_at", at, "name a time to come; disable a key to end it now")


def _check_team(policy: OrganizationPolicy, key: Scope) -> None:
    """A key of a team that nobody declared would be under the organization's limits only: likely a typo."""
    if key.team not in policy.rules.teams:
        known = ", ".join(sorted(policy.rules.teams)) or "none"
        raise NotFound(f"key: {key.organization} has no team {key.team} (it has: {known}); declare it in the policy")


def _declares(policy: OrganizationPolicy, key: Scope) -> bool:
    team = policy.rules.teams.get(key.team)
    return team is not None and key.key in team.keys
