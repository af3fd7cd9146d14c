"""Which spend limits a change brings into force: they start from what was spent before they were there."""

from __future__ import annotations

from collections.abc import Iterable

from limiter.domain.limits import Limit, LimitKind
from limiter.domain.scopes import Scope
from limiter.policy.changes import added_spend_limits, keys_without_limits
from limiter.policy.document import OrganizationPolicy
from limiter.policy.matching import resolve
from limiter.service.directory import KeyRecord, KnownKey
from limiter.store.port import EVERY_KEY, NewLimit, Store


async def new_limits(
    store: Store, before: OrganizationPolicy | None, after: OrganizationPolicy, *, version: int = 0
) -> list[NewLimit]:
    """The spend limits that a policy of that version brings into force, those of minted keys included."""
    found = []
    for added in added_spend_limits(before, after):
        scope = Scope(after.id, added.team, EVERY_KEY if added.key is None else added.key)
        known = await _known(store, before, scope) if added.key else ()
        if added.limit.counter not in known:
            found.append(_note(after, scope, added.limit, since=version, fresh=before is None))
    for team, key in keys_without_limits(before, after):
        scope = Scope(after.id, team, key)
        record = KnownKey.read(await store.key(scope)).record
        if key in after.rules.teams[team].keys or (record is not None and not record.declared):
            known = await _known(store, before, scope)
            found += _of_key(after, scope, record, known, since=version)
    return list(dict.fromkeys(found))


def new_limits_of_key(
    policy: OrganizationPolicy, key: Scope, before: KeyRecord, after: KeyRecord, *, revision: int
) -> list[NewLimit]:
    """The spend limits that a change of a key's record to that revision brings into force."""
    return _of_key(policy, key, after, _counters(_limits(policy, key, before)), since=revision)


def limits_of_minted_key(policy: OrganizationPolicy, key: Scope, record: KeyRecord, *, revision: int) -> list[NewLimit]:
    """The spend limits that a key gets, at that revision, which nobody could call with right before."""
    return _of_key(policy, key, record, (), since=revision)


def _of_key(
    policy: OrganizationPolicy, key: Scope, record: KeyRecord | None, known: Iterable[str], *, since: int
) -> list[NewLimit]:
    limits = _limits(policy, key, record)
    new = _counters(limits) - set(known)
    return [_note(policy, key, limit, since=since) for limit in limits if limit.counter in new]


async def _known(store: Store, policy: OrganizationPolicy | None, key: Scope) -> set[str]:
    """The spend counters that a key had under a policy."""
    if policy is None:
        return set()
    team = policy.rules.teams.get(key.team)
    declared = team.keys.get(key.key) if team is not None else None
    if declared is not None and declared.limits is not None:
        return _counters(declared.limits)
    return _counters(_limits(policy, key, KnownKey.read(await store.key(key)).record))


def _limits(policy: OrganizationPolicy, key: Scope, record: KeyRecord | None) -> tuple[Limit, ...]:
    return resolve(policy, key=key, own_limits=record.limits if record is not None else None).scopes[-1][1]


def _counters(limits: Iterable[Limit]) -> set[str]:
    return {limit.counter for limit in limits if limit.kind is LimitKind.SPEND}


def _note(policy: OrganizationPolicy, scope: Scope, limit: Limit, *, since: int, fresh: bool = False) -> NewLimit:
    return NewLimit(scope, limit.counter, policy.rules.timezone, since, limit.models, fresh)
