"""New spend limits start from what the books say was spent in their window before they were there.

Each limit that comes into force is noted in the store in the same step. Any number of sidecars that have the books
work on the notes: what a counter should have been opened with is computed from the rows that are in the books by now,
and told to the store again whenever it changes. So calls that were open when the limit came are added once they have
ended, as are corrections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from limiter.domain.errors import LimiterError, Unavailable
from limiter.domain.rows import Position
from limiter.domain.windows import window_bounds
from limiter.domain.zones import zone
from limiter.ledger.openings import OpeningSums, Span
from limiter.policy.document import OrganizationPolicy
from limiter.service.desk import RETENTION_EXPIRED_MS, TRIES, Desk
from limiter.service.new_limits import new_limits
from limiter.service.opening_counters import Note, Notes, StalePlanError, open_counters, scopes_of
from limiter.service.opening_views import View, total_of
from limiter.store.port import NO_ROW, NewLimit, PendingOpening

OPEN_EVERY_S: Final = 1.0

#: How long a hold that was open when the limit came can still end, or be corrected: its longest life, the time that
#: its record is kept then, and an hour.
FOLLOWED_MS: Final = 86_400_000 + RETENTION_EXPIRED_MS + 3_600_000
#: How long an apply waits for the books to take in what was written before it.
_SHOWN_WITHIN_S: Final = 2.0
_SHOWN_AGAIN_S: Final = 0.05

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Opening:
    """What a new limit starts from, in nano-USD.

    `scope` is a path; `acme/search/*` are the keys under key_defaults, together. `pending`: rows from before the limit
    are still on their way into the books.
    """

    scope: str
    limit: str
    window: str
    amount: int
    pending: bool


@dataclass(slots=True)
class _Known:
    """The notes of an organization, as they were read when its word was this."""

    word: str
    notes: list[Note]


class Openings:
    """Opens new limits. `sums` None: this process has no books, and only notes them."""

    def __init__(self, desk: Desk, sums: OpeningSums | None) -> None:
        self._desk = desk
        self._sums = sums
        self._views: dict[Span, View] = {}
        self._known: dict[str, _Known] = {}
        self._working = asyncio.Lock()
        self._everyone_asked = False
        self._shown: set[asyncio.Task[list[Note] | None]] = set()

    @property
    def has_books(self) -> bool:
        """Whether new limits are opened here."""
        return self._sums is not None

    async def look(self) -> None:
        """Open what is to be opened, or more of it; costs one look-up where there is nothing."""
        if self._sums is None:
            return
        words = await self._desk.store.opening_organizations()
        if not self._everyone_asked:  # a process that died right after an apply may have left one out
            words = dict.fromkeys(await self._desk.store.organizations(), "") | words
        for organization in [*self._known]:
            if organization not in words:
                self._forget(organization)
        troubled = False
        for organization, word in words.items():
            try:
                await self._work_on(organization, word)
            except LimiterError as error:
                troubled = True
                _log.warning("opening.waits", organization=organization, reason=str(error))
        self._everyone_asked = self._everyone_asked or not troubled

    async def show(self, organization: str, limits: Sequence[NewLimit]) -> list[Opening]:
        """Open limits that just came, and tell with what; waits a little for the books to take in the last rows."""
        if self._sums is None or not limits:
            return []
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _SHOWN_WITHIN_S
        wanted, notes = set(limits), None
        while loop.time() < until_s:
            work = loop.create_task(self._work_anew(organization))
            self._shown.add(work)  # goes on, even if it is not waited for
            work.add_done_callback(self._shown.discard)
            await asyncio.wait({work}, timeout=until_s - loop.time())
            notes = work.result() if work.done() else None
            if notes is not None and all(self._taken_in(note) for note in notes if note.limit in wanted):
                break
            await asyncio.sleep(_SHOWN_AGAIN_S)
        if notes is None:
            return [_opening(limit, 0, pending=True) for limit in limits]
        found = {note.limit: note for note in notes if note.amount is not None}
        return _worth_telling(
            (limit, _opening(limit, found[limit].amount or 0, pending=not self._taken_in(found[limit])))
            for limit in limits
            if limit in found
        )

    async def preview(self, before: OrganizationPolicy | None, after: OrganizationPolicy) -> list[Opening]:
        """What the limits that a policy would bring into force would start from now."""
        if self._sums is None:
            return []
        store = self._desk.store
        shard, now_ms = store.shard_of(after.id), await store.time_ms()
        newest = await store.last_rows(shard, count=1)
        position = newest[-1].position if newest else Position(now_ms, -1)
        limits = await new_limits(store, before, after)
        _, counters = (
            await store.counters(after.id, sorted({limit.scope for limit in limits})) if limits else (None, [])
        )
        there = {(counter.scope, counter.counter) for counter in counters}
        views: dict[Span, View] = {}
        shown = []
        for limit in limits:
            if (limit.scope, limit.counter) in there:
                continue
            note = _note(shard, PendingOpening(limit, now_ms, position, now_ms, b""))
            if note.span not in views:
                views[note.span] = View(await asyncio.to_thread(self._sums.spent, note.span))
            view = views[note.span]
            scopes = await scopes_of(self._desk.directory, after, limit, view)
            amount = sum(total_of(view, scope, limit.models, None) for scope, meant in scopes.items() if meant)
            shown.append((limit, _opening(limit, amount, pending=not _has_taken_in(view, position))))
        return _worth_telling(shown)

    # ------------------------------------------------------------------ one organization

    async def _work_anew(self, organization: str) -> list[Note] | None:
        """Bring all notes of an organization up to date; None: store or books are away."""
        try:
            words = await self._desk.store.opening_organizations()
            return await self._work_on(organization, words.get(organization, ""))
        except LimiterError as error:
            _log.warning("opening.waits", organization=organization, reason=str(error))
            return None

    async def _work_on(self, organization: str, word: str) -> list[Note]:
        """Bring all notes of an organization up to date; answers them, those that are done included."""
        async with self._working:
            known = self._known.get(organization)
            if known is None or known.word != word:
                known = self._known[organization] = await self._read(organization, word)
            if not known.notes:
                if word:
                    await self._desk.store.forget_openings(organization, ())
                return []
            if not word:
                await self._desk.store.announce_openings(organization)
            now_ms = await self._desk.store.time_ms()
            notes = known.notes
            present = [note for note in notes if now_ms < note.ends_ms]
            await self._see({note.span for note in present})
            await self._open(organization, present)
            gone = [note for note in notes if note not in present or self._is_done(note, now_ms)]
            if gone:
                await self._desk.store.forget_openings(organization, [note.pending for note in gone])
                known.notes = [note for note in notes if note not in gone]
            return present

    async def _read(self, organization: str, word: str) -> _Known:
        """Read the notes; what was said of them is said again, as limits may have returned, or the store gone back."""
        shard = self._desk.store.shard_of(organization)
        found = await self._desk.store.pending_openings(organization)
        # What is remembered of the policy may be older than the notes, and not have their limits.
        self._desk.directory.forget_organization(organization)
        for pending in found:
            if pending.limit.scope.key:
                self._desk.directory.forget_key(pending.limit.scope)
        notes = [_note(shard, pending) for pending in found]
        spans = {note.span for note in notes}
        self._views = {span: v for span, v in self._views.items() if span.organization != organization or span in spans}
        return _Known(word, notes)

    def _forget(self, organization: str) -> None:
        """Nothing of an organization is left to be opened."""
        self._known.pop(organization, None)
        self._views = {span: view for span, view in self._views.items() if span.organization != organization}

    async def _see(self, spans: Iterable[Span]) -> None:
        """Read what the books say of spans by now."""
        if self._sums is None:
            raise Unavailable("books: this process has none")
        positions = await asyncio.to_thread(self._sums.positions)
        for span in spans:
            view = self._views.get(span)
            if view is None:
                self._views[span] = View(await asyncio.to_thread(self._sums.spent, span))
            elif positions.get(span.shard) != view.spent.position:
                after = view.spent.position or NO_ROW
                view.add(await asyncio.to_thread(self._sums.further, span, after))

    async def _open(self, organization: str, present: Sequence[Note]) -> None:
        notes = [note for note in present if note.version != self._views[note.span].version]
        if any(note.amount is None for note in notes):
            self._desk.directory.forget_organization(organization)  # the limit may have returned
        for _ in range(TRIES):
            try:
                return await open_counters(
                    self._desk, notes, Notes(present), self._views, await self._desk.store.time_ms()
                )
            except StalePlanError:
                self._desk.directory.forget_organization(organization)
        raise Unavailable(f"openings: the policy of {organization} changes, or the store's clock is behind")

    def _taken_in(self, note: Note) -> bool:
        view = self._views.get(note.span)
        return view is not None and _has_taken_in(view, note.pending.position)

    def _is_done(self, note: Note, now_ms: int) -> bool:
        """Whether nothing can come any more that would change what a limit is opened with."""
        if note.version != self._views[note.span].version or not self._taken_in(note):
            return False
        return note.limit.fresh or now_ms >= note.pending.at_ms + FOLLOWED_MS


def _note(shard: int, pending: PendingOpening) -> Note:
    limit = pending.limit
    start_ms, ends_ms, _ = window_bounds(limit.counter.rpartition(":")[2], pending.at_ms, zone(limit.zone))
    return Note(pending, Span(shard, limit.scope.organization, start_ms, pending.at_ms, pending.position), ends_ms)


def _has_taken_in(view: View, position: Position) -> bool:
    """Whether the books have all rows up to a position; none if it comes before the first."""
    return position.seq < 0 or (view.spent.position is not None and view.spent.position >= position)


def _opening(limit: NewLimit, amount: int, *, pending: bool) -> Opening:
    name, _, window = limit.counter.split(":")
    return Opening(limit.scope.path, name, window, amount, pending)


def _worth_telling(openings: Iterable[tuple[NewLimit, Opening]]) -> list[Opening]:
    """All but those that start at nothing because their organization does."""
    return [shown for limit, shown in openings if shown.amount or shown.pending or not limit.fresh]
