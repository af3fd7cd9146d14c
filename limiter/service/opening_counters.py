"""The counters of new limits: started, and told what they should have been opened with."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from limiter.domain.limits import Limit
from limiter.domain.scopes import Scope
from limiter.ledger.openings import Span
from limiter.policy.document import OrganizationPolicy
from limiter.policy.matching import resolve
from limiter.service.desk import Desk
from limiter.service.directory import Directory, KnownOrganization
from limiter.service.opening_views import View, total_of
from limiter.service.plans import plan_scopes
from limiter.store.port import EVERY_KEY, NO_ROW, NewLimit, OpenCall, OpenReply, PendingOpening, Plan

_KEYS_AT_ONCE: Final = 32

_log = structlog.get_logger(__name__)


class StalePlanError(Exception):
    """A plan was out of date."""


@dataclass(slots=True)
class Counter:
    """A counter that is opened. `version` is that of the view that was told last; -1: none was.

    `over`: it counts another period by now.
    """

    period_ms: int
    version: int = -1
    opened: int = 0
    over: bool = False


@dataclass(slots=True, eq=False)
class Note:
    """A pending opening, and what was done about it.

    `counters`: by scope, one unless it is for every key of a team. `version` is that of the view that was worked in
    last, -1: none was. `amount` None: the limit is not there (any more, but it may return with its counter).
    """

    pending: PendingOpening
    span: Span
    ends_ms: int
    counters: dict[Scope, Counter] = field(default_factory=dict)
    version: int = -1
    amount: int | None = 0

    @property
    def limit(self) -> NewLimit:
        """What is opened."""
        return self.pending.limit


@dataclass(frozen=True, slots=True)
class _Work:
    """One counter of a note, and the plan by which it is asked."""

    note: Note
    scope: Scope
    plan: Plan
    view: View

    @property
    def counter(self) -> Counter:
        """What is known of the counter, once it was started."""
        return self.note.counters[self.scope]

    def call(self) -> OpenCall:
        """What the counter should have been opened with by now."""
        limit, period_ms = self.note.limit, self.counter.period_ms
        total = total_of(self.view, self.scope, limit.models, (self.scope.path, limit.counter, period_ms))
        return OpenCall(self.plan, limit.counter, period_ms, total, self.view.spent.position or NO_ROW)


class Notes:
    """All notes of an organization: of those that name the same counter, one says what it is opened with."""

    def __init__(self, notes: Iterable[Note]) -> None:
        self._of_scope: dict[tuple[Scope, str], Note] = {}
        self._of_team: defaultdict[tuple[str, str], list[Note]] = defaultdict(list)
        for note in notes:
            if note.limit.scope.key == EVERY_KEY:
                self._of_team[note.limit.scope.team, note.limit.counter].append(note)
            else:
                self._of_scope[note.limit.scope, note.limit.counter] = note

    def decides(self, note: Note, scope: Scope, counter: Counter) -> bool:
        """Whether it is this one: the newest that the counter began after. One that a key had before is complete."""
        if counter.over:
            return False
        order, name = note.pending.order, note.limit.counter
        if note.limit.scope.key == EVERY_KEY:
            own = self._of_scope.get((scope, name))
            if counter.period_ms < order or (own is not None and own.pending.order >= order):
                return False
        others = self._of_team.get((scope.team, name), ()) if scope.key else ()
        return not any(order < other.pending.order <= counter.period_ms for other in others)


async def open_counters(
    desk: Desk, notes: Sequence[Note], among: Notes, views: Mapping[Span, View], now_ms: int
) -> None:
    """Bring the counters of notes, all of one organization, up to what the views say. `among` are all of its notes.

    Raises StalePlanError if the policy, a key or a window has changed meanwhile: to be done again.
    """
    known = await desk.directory.organization(notes[0].limit.scope.organization) if notes else None
    if known is None:
        return
    work, gone = await _work(desk.directory, known, notes, views, now_ms)
    await _start(desk, [one for one in work if one.scope not in one.note.counters])
    work = [one for one in work if among.decides(one.note, one.scope, one.counter)]
    await _say(desk, [one for one in work if one.counter.version != one.view.version])
    for note in notes:
        note.amount = None if note in gone else sum(counter.opened for counter in note.counters.values())
        note.version = views[note.span].version


async def _work(
    directory: Directory, known: KnownOrganization, notes: Sequence[Note], views: Mapping[Span, View], now_ms: int
) -> tuple[list[_Work], set[Note]]:
    """The counters that notes are about, and the notes whose limit is not there."""
    plans: dict[Scope, tuple[frozenset[str], Plan]] = {}
    work: list[_Work] = []
    gone: set[Note] = set()
    for note in notes:
        view = views[note.span]
        for scope in await scopes_of(directory, known.policy, note.limit, view):
            if not view.touches(scope) and scope not in note.counters:
                continue  # nothing was spent, and it is not worth a counter
            if scope not in plans:
                plans[scope] = await _plan(directory, known, scope, now_ms)
            counters, plan = plans[scope]
            if note.limit.counter in counters:
                work.append(_Work(note, scope, plan, view))
            elif note.limit.scope.key != EVERY_KEY:
                gone.add(note)
    return work, gone


async def _start(desk: Desk, work: Sequence[_Work]) -> None:
    """Start counters that nobody has used yet, and hear their periods."""
    calls = [OpenCall(one.plan, one.note.limit.counter) for one in work]
    for one, reply in zip(work, await _ask(desk, calls), strict=True):
        one.note.counters[one.scope] = Counter(reply.period_ms)


async def _say(desk: Desk, work: Sequence[_Work]) -> None:
    for one, reply in zip(work, await _ask(desk, [one.call() for one in work]), strict=True):
        if reply.period_ms != one.counter.period_ms:
            one.counter.over = True
            continue
        if reply.opened != one.counter.opened:
            name = one.note.limit.counter
            _log.info("opening.moved", scope=one.scope.path, counter=name, opened_nanousd=reply.opened)
        one.counter.opened, one.counter.version = reply.opened, one.view.version


async def _ask(desk: Desk, calls: Sequence[OpenCall]) -> list[OpenReply]:
    replies = await desk.store.open(calls)
    for call, reply in zip(calls, replies, strict=True):
        if reply.code:
            if call.plan.key is not None:
                desk.directory.forget_key(call.plan.key)
            raise StalePlanError
    return replies


async def _plan(
    directory: Directory, known: KnownOrganization, scope: Scope, now_ms: int
) -> tuple[frozenset[str], Plan]:
    """The counters that a scope has by now, and the plan that asks for all of them."""
    policy, revision = known.policy, 0
    limits: tuple[Limit, ...] = policy.rules.limits
    if scope.key:
        key = await directory.key(scope)
        revision, own = key.revision, key.record.limits if key.record is not None else None
        limits = resolve(policy, key=scope, own_limits=own).scopes[-1][1]
    elif scope.team:
        limits = policy.rules.teams[scope.team].limits if scope.team in policy.rules.teams else ()
    plan = Plan(
        organization=scope.organization,
        version=known.version,
        key=scope if scope.key else None,
        key_revision=revision,
        denial=0,
        scopes=plan_scopes(((scope, limits),), model=None, zone_name=policy.rules.timezone, now_ms=now_ms),
    )
    return frozenset(limit.counter for limit in limits), plan


async def scopes_of(directory: Directory, policy: OrganizationPolicy, limit: NewLimit, view: View) -> dict[Scope, bool]:
    """The scopes whose counters a limit may have, and whether it is the limit that is meant there.

    A limit of key_defaults is that of every key that has none of its own; keys that have them may have had it before.
    """
    if limit.scope.key != EVERY_KEY:
        return {limit.scope: True}
    team = policy.rules.teams.get(limit.scope.team)
    if team is None:
        return {}
    found: dict[Scope, bool] = {}
    keys = [limit.scope._replace(key=key) for key in view.keys(limit.scope.team)]
    for at in range(0, len(keys), _KEYS_AT_ONCE):
        part = keys[at : at + _KEYS_AT_ONCE]
        for scope, known in zip(part, await asyncio.gather(*map(directory.key, part)), strict=True):
            declared, record = team.keys.get(scope.key), known.record
            if declared is not None or record is not None:  # else nobody can call with it
                found[scope] = all(part is None or part.limits is None for part in (declared, record))
    return found
