"""Learns what calls really cost from the ledger rows, and publishes it; of a shard's rows one sidecar at a time.

A row is a sample if it ends a call of which a usage was told and nothing is doubtful; it carries the two parts of its
safe hold, `"safe": [input, output]`, where its policy learns. A correction by usage is one too: no call has two.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any

import structlog

from limiter.domain.reservations import Basis, RowFlag
from limiter.domain.rows import Row, RowKind
from limiter.domain.scopes import Scope
from limiter.policy.document import OrganizationPolicy
from limiter.pricing.learning import QUANTILE_DEFAULT, Factor, Learning, Sample
from limiter.service.desk import Desk
from limiter.service.learning import Kind, Published, decode, encode
from limiter.service.memory import Memory

LOOK_EVERY_S = 0.5
#: What another sidecar has published is used after at most so long.
REFRESH_EVERY_S = 2.0
#: Of a sidecar that is gone, another takes over after so long.
LEASE_MS = 10_000
PUBLISHED_FOR_MS = 30 * 86_400_000

#: Rows read by one look, over all shards; the samples need not be complete.
ROWS_PER_LOOK = 2_000
#: How far back the rows are read of a shard that was not read before, and the most that a look may lag behind.
ROWS_BEHIND_MAX = 10_000
#: Decoding so many rows takes a millisecond or two; between pages other work goes on.
_PAGE = 50

#: Kinds of calls that a sidecar learns about at a time: 150 kB each.
KINDS_MAX = 256
_IDLE_MS = 600_000
#: Factors published of one organization, and different quantiles of one team.
_PUBLISHED_MAX = 512
_QUANTILES_MAX = 4
_TEAMS_REMEMBERED = 10_000

_DOUBTFUL = RowFlag.UNCLAIMED | RowFlag.FAILED | RowFlag.FORCED | RowFlag.CONSUMED | RowFlag.ZERO_COST | RowFlag.SUSPECT

_log = structlog.get_logger(__name__)


def sample_of(row: Row) -> tuple[Scope, str, Sample] | None:
    """The key, the model after aliases and the sample that a ledger row is; None: it is none."""
    if row.kind not in (RowKind.SETTLEMENT, RowKind.CORRECTION) or row.basis is not Basis.USAGE or row.cost <= 0:
        return None
    if row.flags & _DOUBTFUL or b'"safe"' not in row.call:
        return None
    call: dict[str, Any] = json.loads(row.call)
    safe = call.get("safe")
    if safe is None:  # a tag said so
        return None
    have, out = safe
    return Scope.parse_key(call["key"]), call.get("alias_of") or call["model"], Sample(have, out, row.cost)


@dataclass(slots=True)
class _Student:
    """One kind of calls that is learned about. `fed_ms`: when its latest call ended."""

    learning: Learning
    fed_ms: int = 0


@dataclass(slots=True)
class _Shard:
    """How far a shard was read, and the kinds of calls of its organizations."""

    after: tuple[int, int] | None = None
    students: dict[tuple[str, Kind], _Student] = field(default_factory=dict)


class Learner:
    """The background work; `look` is one round of it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._name = token_hex(8)
        self._shards: dict[int, _Shard] = {}
        self._full = False
        #: Quantiles by organization and team, with the policy that they were read from.
        self._wanted: Memory[tuple[str, str], tuple[OrganizationPolicy, tuple[int, ...]]] = Memory(_TEAMS_REMEMBERED)

    async def look(self) -> None:
        """Read the rows that are new in the shards whose turn it is, learn from them, publish what changed."""
        store = self._desk.store
        for number in sorted({store.shard_of(name) for name in self._desk.learned.organizations()}):
            if await store.lead_learning(number, self._name, ttl_ms=LEASE_MS):
                self._shards.setdefault(number, _Shard())
            else:
                self._shards.pop(number, None)
        for number, shard in self._shards.items():
            await self._read(number, shard, max(1, ROWS_PER_LOOK // len(self._shards)))
            await self._study(shard)
        self._desk.metrics.learned_kinds.set(self._desk.learned.count)

    async def keep_up(self) -> None:
        """Read what others have published: after a while, and of a further organization as soon as it is asked for."""
        learned = self._desk.learned
        try:
            async with asyncio.timeout(REFRESH_EVERY_S):
                await learned.asked.wait()
        except TimeoutError:
            await self._refresh(learned.organizations())
        else:
            await self._refresh(learned.take_unread())

    async def _refresh(self, organizations: Iterable[str]) -> None:
        for organization in organizations:
            self._desk.learned.put(organization, await self._desk.store.learned(organization))

    async def _read(self, number: int, shard: _Shard, most: int) -> None:
        """Take in what is new, about `most` rows at most; of a shard that goes faster, some are left out."""
        store, page = self._desk.store, min(_PAGE, most)
        if shard.after is None:
            shard.after = await self._behind(number, ROWS_BEHIND_MAX)
        while shard.after is not None:
            rows = await store.rows(number, after=shard.after, count=page)
            if rows:
                shard.after = rows[-1].epoch, rows[-1].seq
                await self._take(shard, rows)
            most -= page
            if len(rows) < page:
                return
            if most < page:
                newest = await self._behind(number, ROWS_BEHIND_MAX)
                shard.after = max(shard.after, newest) if newest is not None else shard.after
                return

    async def _behind(self, number: int, rows: int) -> tuple[int, int] | None:
        """The position so many rows before a shard's end, at most its beginning; None: it has no rows."""
        last = await self._desk.store.last_rows(number, count=1)
        if not last:
            return None
        return (last[0].epoch, last[0].seq - rows) if last[0].seq >= rows else (0, 0)

    async def _take(self, shard: _Shard, rows: Iterable[Row]) -> None:
        taken = 0
        for row in rows:
            found = sample_of(row)
            if found is None:
                continue
            key, model, sample = found
            taken += 1
            for quantile in await self._quantiles(key):
                student = self._student(shard, (key.organization, Kind(key.team, model, quantile)), row.at_ms)
                if student is not None:
                    student.learning.add(sample)
                    student.fed_ms = row.at_ms
        self._desk.metrics.learned_samples.inc(taken)

    async def _quantiles(self, key: Scope) -> tuple[int, ...]:
        """The quantiles that the policy wants of a team's calls."""
        organization = await self._desk.directory.organization(key.organization)
        if organization is None:
            return ()
        place = key.organization, key.team
        known = self._wanted.get(place)
        if known is None or known[0] is not organization.policy:
            wanted = tuple(sorted(_quantiles(organization.policy, key.team)))[-_QUANTILES_MAX:]
            known = organization.policy, wanted
            self._wanted.put(place, known)
        return known[1]

    def _student(self, shard: _Shard, kind: tuple[str, Kind], now_ms: int) -> _Student | None:
        student = shard.students.get(kind)
        if student is None:
            if sum(len(each.students) for each in self._shards.values()) >= KINDS_MAX and not self._let_go(now_ms):
                if not self._full:
                    _log.warning("learned.full", kinds=KINDS_MAX, effect="holds of further teams and models stay safe")
                self._full = True
                return None
            student = shard.students[kind] = _Student(Learning(quantile=kind[1].quantile))
        return student

    def _let_go(self, now_ms: int) -> bool:
        """Forget the kind of calls that was not seen for the longest time, if that was long ago."""
        students = (
            (each.fed_ms, kind, shard) for shard in self._shards.values() for kind, each in shard.students.items()
        )
        fed_ms, kind, shard = min(students, key=lambda student: student[0])
        if fed_ms > now_ms - _IDLE_MS:
            return False
        del shard.students[kind]
        return True

    async def _study(self, shard: _Shard) -> None:
        """Compute the factors that are due, a few milliseconds at a time; publish them."""
        changed: dict[str, dict[Kind, Factor]] = {}
        for (organization, kind), student in shard.students.items():
            if not student.learning.due:
                continue
            before = student.learning.factor
            for _ in student.learning.study():
                await asyncio.sleep(0)
            factor = student.learning.factor
            if factor is not None and factor != before:
                changed.setdefault(organization, {})[kind] = factor
                self._tell(organization, kind, factor, before)
        for organization, factors in changed.items():
            await self._publish(organization, factors)

    async def _publish(self, organization: str, factors: dict[Kind, Factor]) -> None:
        """Put factors among those that are published; those of calls that were not seen for long go."""
        store = self._desk.store
        now_ms = await self._desk.clock.now_ms(store)
        published = decode(await store.learned(organization))
        published |= {kind: Published(factor, now_ms) for kind, factor in factors.items()}
        kept = sorted(published.items(), key=lambda entry: entry[1].at_ms, reverse=True)[:_PUBLISHED_MAX]
        text = encode({kind: entry for kind, entry in kept if entry.at_ms > now_ms - PUBLISHED_FOR_MS})
        await store.publish_learned(organization, text, ttl_ms=PUBLISHED_FOR_MS)
        self._desk.learned.put(organization, text)

    def _tell(self, organization: str, kind: Kind, factor: Factor, before: Factor | None) -> None:
        self._desk.metrics.learned_published["wide" if factor.wide else "usual"].inc()
        log = _log.debug if before is not None and before.wide == factor.wide else _log.info
        log(
            "learned.published",
            organization=organization,
            team=kind.team,
            model=kind.model,
            slope=factor.slope,
            share=factor.share,
            amount_nanousd=factor.amount,
            samples=factor.samples,
            wide=factor.wide,
        )


def _quantiles(policy: OrganizationPolicy, team: str) -> set[int]:
    """The quantiles that calls of a team may be held by: its own, and those of its keys."""
    rules = policy.rules
    part = rules.teams.get(team)
    usual, further = rules.settings.learned_quantile, []
    if part is not None:
        usual = part.settings.learned_quantile or usual
        further = [part.key_defaults.settings, *(key.settings for key in part.keys.values())]
    return {usual or QUANTILE_DEFAULT, *(own for each in further if (own := each.learned_quantile) is not None)}
