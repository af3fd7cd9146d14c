"""What operators ask: policies, keys, reservations, scopes, ledger rows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from limiter.domain.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from limiter.domain.limits import Limit
from limiter.domain.money import CALL_MAX_NANOUSD
from limiter.domain.reservations import OnExpiry, ReservationName, RowFlag, State
from limiter.domain.rows import Position, Row, RowKind
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import LimitStatus
from limiter.ledger.database import Database
from limiter.ledger.lookup import rows_before, rows_behind, rows_of
from limiter.policy.changes import Change, changes, keys_gone, notes
from limiter.policy.document import OrganizationPolicy, Policy, policy_to_yaml
from limiter.policy.matching import resolve
from limiter.service.accounting import Accounting
from limiter.service.calls import Settled
from limiter.service.desk import Desk
from limiter.service.directory import KnownKey
from limiter.service.new_limits import new_limits
from limiter.service.openings import Opening, Openings
from limiter.service.plans import plan_scopes
from limiter.service.statuses import limits_read
from limiter.store.port import CounterState, HoldRecord, InspectReply, Plan, StoredPolicy

PAGE_MAX = 1_000
_INSPECTED_AT_ONCE = 64
_RACES = 10


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply changed, or would change; each change with its organization. `openings` are of new spend limits."""

    changes: tuple[tuple[str, Change], ...]
    versions: dict[str, int]
    notes: tuple[str, ...]
    openings: tuple[Opening, ...] = ()


@dataclass(frozen=True, slots=True)
class ScopeView:
    """A scope with the present counters of its limits, and how many calls each limit has refused."""

    scope: Scope
    limits: tuple[LimitStatus, ...]
    refused: dict[str, int]


class Administration:
    """The verbs of the Admin service."""

    def __init__(self, desk: Desk, accounting: Accounting, openings: Openings, books: Database | None) -> None:
        self._desk = desk
        self._openings = openings
        self._books = books
        self._accounting = accounting

    # ------------------------------------------------------------------ policies

    async def apply(self, policy: Policy, *, dry_run: bool) -> Applied:
        """Replace the parts of the organizations that the policy names; each in one step."""
        found: list[tuple[str, Change]] = []
        said: list[str] = []
        openings: list[Opening] = []
        versions: dict[str, int] = {}
        for organization in policy.organizations.values():
            part = await self._apply(organization, dry_run=dry_run)
            found += part.changes
            said += [remark for remark in part.notes if remark not in said]
            openings += part.openings
            versions |= part.versions
        return Applied(tuple(found), versions, tuple(said), tuple(openings))

    async def _apply(self, organization: OrganizationPolicy, *, dry_run: bool) -> Applied:
        for _ in range(_RACES):
            stored = await self._desk.store.policy(organization.id)
            before = None if stored is None else OrganizationPolicy.from_json(stored.document)
            version = 0 if stored is None else stored.version
            differences = tuple((organization.id, change) for change in changes(before, organization))
            remarks = tuple(notes(before, organization, opened_from_ledger=self._openings.has_books))
            if before is not None and not differences:
                return Applied(differences, {organization.id: version}, remarks)
            if dry_run:
                shown = await self._openings.preview(before, organization)
                return Applied(differences, {organization.id: version}, remarks, tuple(shown))
            new = StoredPolicy(organization.id, version + 1, organization.to_json())
            limits = await new_limits(self._desk.store, before, organization, version=new.version)
            left = [] if before is None else [Scope(organization.id, *key) for key in keys_gone(before, organization)]
            if await self._desk.store.replace_policy(new, new_limits=limits, left=left):
                self._desk.directory.forget_organization(organization.id)
                shown = await self._openings.show(organization.id, limits)
                return Applied(differences, {organization.id: new.version}, remarks, tuple(shown))
        raise Unavailable(f"the policy of {organization.id} is being changed by others; try again")

    async def policy(self, organization: str) -> tuple[str, dict[str, int]]:
        """The policy as YAML, and the versions; "" for every organization."""
        names = [organization] if organization else await self._desk.store.organizations()
        stored = [await self._desk.store.policy(name) for name in names]
        known = [part for part in stored if part is not None]
        if organization and not known:
            raise NotFound(f"organization: {organization} has no policy")
        text = policy_to_yaml([OrganizationPolicy.from_json(part.document) for part in known])
        return text, {part.organization: part.version for part in known}

    # ------------------------------------------------------------------ reservations, scopes, rows

    async def reservation(self, name: ReservationName) -> HoldRecord:
        """One reservation, open or ended."""
        record = await self._desk.store.hold(name)
        if record is None:
            raise NotFound(f"reservation: {name} is not known, or its record was retired")
        return record

    async def open_reservations(self, organization: str, *, after: str, count: int) -> tuple[list[HoldRecord], str]:
        """A page of open holds of an organization, those that expire first first."""
        return await self._desk.store.open_holds(organization, after=after, count=min(count, PAGE_MAX))

    async def organizations(self) -> list[str]:
        """Every organization that has a policy."""
        return await self._desk.store.organizations()

    async def force_release(self, name: ReservationName, *, reason: str) -> Settled:
        """End an open hold with nothing spent, whoever took it."""
        return await self._accounting.release(name, reason=reason or "released by an operator", flag=RowFlag.FORCED)

    async def adjust(self, name: ReservationName, *, cost: int, reason: str, by: str) -> Settled:
        """Correct what an ended hold or charge cost. Raises NotFound, FailedPrecondition for an open hold."""
        if not 0 <= cost <= CALL_MAX_NANOUSD:
            raise InvalidArgument("cost_nanousd", cost, f"use 0 to {CALL_MAX_NANOUSD} nano-USD")
        for field, text in (("reason", reason), ("by", by)):
            if not text:
                raise InvalidArgument(field, text, "say it: the ledger keeps who corrected what, and why")
        retired = None
        if await self._desk.store.hold(name) is None:
            rows = [] if self._books is None else await asyncio.to_thread(rows_of, self._books, *name)
            if not rows:
                where = "" if self._books is not None else "; its record may be retired, and this sidecar has no books"
                raise NotFound(f"reservation: {name} is not known{where}")
            retired = _ended(name, rows)
        return await self._accounting.adjust(name, cost=cost, reason=reason, by=by, retired=retired)

    async def counters(
        self, organization: str, scopes: Sequence[Scope]
    ) -> tuple[int, Position | None, list[CounterState]]:
        """The spend counters of scopes of one organization, its shard, and the newest row that they count."""
        position, found = await self._desk.store.counters(organization, scopes)
        return self._desk.store.shard_of(organization), position, found

    async def scopes(self, scope: Scope | None) -> list[ScopeView]:
        """The present counters of every limit of a scope and what stands under it."""
        found: list[ScopeView] = []
        for name in [scope.organization] if scope is not None else await self._desk.store.organizations():
            self._desk.directory.forget_organization(name)
            known = await self._desk.directory.organization(name)
            if known is None:
                continue
            wanted = [
                (place, limits)
                for place, limits in (await self._places(known.policy)).items()
                if scope is None or place.path == scope.path or place.path.startswith(scope.path + "/")
            ]
            found += await self._inspect(known.version, known.policy, wanted)
        return found

    async def _places(self, policy: OrganizationPolicy) -> dict[Scope, tuple[Limit, ...]]:
        """Every scope of an organization with its limits, the organization first."""
        keys = {Scope(policy.id, team, key): None for team, key in _declared(policy)}
        own: dict[Scope, tuple[Limit, ...] | None] = {}
        async for stored in self._desk.store.keys(policy.id):
            record = KnownKey.read(stored).record
            keys[stored.key] = None
            own[stored.key] = record.limits if record is not None else None
        places: dict[Scope, tuple[Limit, ...]] = {Scope(policy.id): policy.rules.limits}
        places |= {Scope(policy.id, team): part.limits for team, part in policy.rules.teams.items()}
        for key in keys:
            places |= dict(resolve(policy, key=key, own_limits=own.get(key)).scopes)
        return dict(sorted(places.items()))

    async def _inspect(
        self, version: int, policy: OrganizationPolicy, wanted: list[tuple[Scope, tuple[Limit, ...]]]
    ) -> list[ScopeView]:
        now_ms = await self._desk.store.time_ms()
        plans = [
            Plan(
                organization=policy.id,
                version=version,
                key=None,
                key_revision=0,
                denial=0,
                scopes=plan_scopes((place,), model=None, zone_name=policy.rules.timezone, now_ms=now_ms),
            )
            for place in wanted
        ]
        found = []
        for batch in _batches(plans):
            replies = await self._desk.store.inspect(batch)
            if any(reply.code for reply in replies):
                raise Unavailable(f"the policy of {policy.id} changed while it was read; try again")
            places = [(part.scope, rule.limit.id) for plan in batch for part in plan.scopes for rule in part.limits]
            refused = dict(zip(places, await self._desk.store.refused(policy.id, places), strict=True))
            found += [_view(plan, reply, refused) for plan, reply in zip(batch, replies, strict=True)]
        return found

    async def rows(self, shard: int, *, after: Position | None, count: int) -> list[Row]:
        """Ledger rows of a shard, oldest first: out of the books as far as they have them, then out of the store."""
        rows = await self._desk.store.rows(shard, after=after, count=count)
        if self._books is None and after is None and rows and rows[0].seq and await self._desk.store.bound_books():
            raise FailedPrecondition(
                f"ledger: rows of shard {shard} before {rows[0].epoch}-{rows[0].seq} are in the books, and this sidecar"
                " has none; ask one that has, or start this one with --books URL"
            )
        if self._books is None or (after is not None and (not rows or rows[0].position == (after[0], after[1] + 1))):
            return rows
        booked = await asyncio.to_thread(rows_behind, self._books, shard, after=after, count=count)
        if not booked or len(booked) == count:
            return booked or rows
        return booked + await self._desk.store.rows(shard, after=booked[-1].position, count=count - len(booked))

    async def last_rows(self, shard: int, *, count: int) -> list[Row]:
        """The newest ledger rows of a shard, oldest first: out of the store, and the books where it has forgotten."""
        rows = await self._desk.store.last_rows(shard, count=count)
        if self._books is None or len(rows) >= count:
            return rows
        before, more = rows[0].position if rows else None, count - len(rows)
        return await asyncio.to_thread(rows_before, self._books, shard, before=before, count=more) + rows

    async def shards(self, scope: Scope | None) -> list[int]:
        """The shards that a scope's rows are in."""
        names = [scope.organization] if scope is not None else await self._desk.store.organizations()
        return sorted({self._desk.store.shard_of(name) for name in names})


def _view(plan: Plan, reply: InspectReply, refused: dict[tuple[Scope, str], int]) -> ScopeView:
    scope = plan.scopes[0].scope
    statuses = limits_read(plan, reply)
    return ScopeView(scope, statuses, {status.limit.id: refused[scope, status.limit.id] for status in statuses})


def _declared(policy: OrganizationPolicy) -> Iterator[tuple[str, str]]:
    for team, part in policy.rules.teams.items():
        for key in part.keys:
            yield team, key


def _batches(plans: list[Plan]) -> Iterator[list[Plan]]:
    for start in range(0, len(plans), _INSPECTED_AT_ONCE):
        yield plans[start : start + _INSPECTED_AT_ONCE]


def _ended(name: ReservationName, rows: Sequence[Row]) -> HoldRecord:
    """A hold or charge whose record was retired, as its rows tell of it."""
    row = rows[-1]
    return HoldRecord(
        name=name,
        state=row.state or State.SETTLED,
        basis=row.basis,
        on_expiry=OnExpiry.CHARGE,
        flags=row.flags,
        claims=0 if rows[0].kind is RowKind.CHARGE else 1,
        reserved_ms=row.reserved_ms,
        expires_ms=row.expires_ms,
        expires_max_ms=row.expires_ms,
        ended_ms=row.at_ms,
        held=row.held,
        cost=row.cost,
        tokens=row.tokens,
        output_max=-1,
        fingerprint=bytes(16),
        taken=row.taken,
        call=row.call,
    )
