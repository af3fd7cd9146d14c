"""The state of the reference: counters, holds, ledger rows, and what every verb does with them."""

from __future__ import annotations

from collections import defaultdict

from limiter.domain.limits import LimitKind
from limiter.domain.reservations import ReservationName, RowFlag, State
from limiter.domain.rows import Row, RowKind
from limiter.domain.scopes import Scope
from limiter.store.keys import shard_of
from limiter.store.port import Code, HoldRecord, Plan, RawStatus
from tests.model.counters import ScopeCounters, present
from tests.model.statuses import Present, with_warnings

CLOCK_SLACK_MS = 60_000


class Hold:
    """What is remembered of a call; `touched` are the scopes that have limits, whether or not one applied."""

    def __init__(self, record: HoldRecord, touched: tuple[Scope, ...]) -> None:
        self.record = record
        self.touched = touched
        self.claims = 1

    @property
    def open(self) -> bool:
        return self.record.state is State.HELD

    @property
    def never_given(self) -> bool:
        """Released because nobody received it: as if it had never been."""
        return self.record.state is State.RELEASED and RowFlag.UNCLAIMED in self.record.flags


class Books:
    """A store's content. `now_ms` is its clock, moved by the test."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.versions: dict[str, int] = defaultdict(int)
        self.revisions: dict[Scope, int] = defaultdict(int)
        self.scopes: dict[Scope, ScopeCounters] = {}
        self.holds: dict[ReservationName, Hold] = {}
        self.rows: dict[int, list[Row]] = defaultdict(list)

    def out_of_date(self, plan: Plan) -> Code | None:
        """Rules 5 and 7: version, key, window, clock, in this order."""
        if plan.version != self.versions[plan.organization]:
            return Code.STALE_VERSION
        if plan.key is not None and plan.key_revision != self.revisions[plan.key]:
            return Code.STALE_KEY
        for scope in plan.scopes:
            for rule in scope.limits:
                start, _, finish = rule.window
                if rule.limit.kind is LimitKind.SPEND and not start <= self.now_ms < finish:
                    return Code.STALE_WINDOW
        for scope in plan.scopes:
            known = self.scopes.get(scope.scope)
            if known is not None and known.last_ms - self.now_ms > CLOCK_SLACK_MS:
                return Code.CLOCK_BEHIND
        return None

    def present(self, plan: Plan) -> Present:
        """The counters on a call's path, brought to this moment; nothing is kept."""
        return {entry.scope: present(self.scopes.get(entry.scope), entry, self.now_ms) for entry in plan.scopes}

    def keep(self, plan: Plan, at_hand: Present) -> None:
        """What a grant or charge made of the counters is the truth from now on."""
        for entry in plan.scopes:
            known = self.scopes.get(entry.scope)
            if entry.limits or (known is not None and known.counters):  # those of limits that went are dropped
                self.scopes[entry.scope] = at_hand[entry.scope]
                self.scopes[entry.scope].written(self.now_ms)

    def due(self) -> list[HoldRecord]:
        """Open holds that have expired, by due time and then by name."""
        due = [hold.record for hold in self.holds.values() if hold.open and hold.record.expires_ms <= self.now_ms]
        return sorted(due, key=lambda record: (record.expires_ms, member(record.name)))

    def warn(self, plan: Plan, at_hand: Present, name: ReservationName) -> list[RawStatus]:
        """Report thresholds that are passed; the first time in a window by an event row."""
        tell = []
        for status, events in with_warnings(plan, at_hand):
            tell.append(status)
            for event in events:
                self.add_note(RowKind.EVENT, shard_of(name.organization), member(name), event)
        return tell

    def add_note(self, kind: RowKind, shard: int, subject: str, text: bytes) -> None:
        """Append a row that moves no counter."""
        now = self.now_ms
        self._append(shard, kind, subject, None, None, RowFlag(0), 0, 0, 0, 0, now, now, now, (), text, b"")

    def add_row(self, kind: RowKind, record: HoldRecord, *, amount: int, ending: bytes = b"") -> None:
        """Append the row of an end, charge or correction."""
        self._append(
            shard_of(record.name.organization), kind, member(record.name), record.state, record.basis, record.flags,
            amount, record.held, record.cost, record.tokens, record.reserved_ms, record.expires_ms, self.now_ms,
            record.taken, record.call, ending,
        )  # fmt: skip

    def _append(self, shard: int, *rest: object) -> None:
        rows = self.rows[shard]
        epoch = rows[0].epoch if rows else self.now_ms
        rows.append(Row(shard, epoch, len(rows), *rest))  # type: ignore[arg-type] # the fields of a Row, in order


def member(name: ReservationName) -> str:
    """How rows and the due index name a hold."""
    return f"{name.organization}/{name.id}"


def with_limits(plan: Plan) -> tuple[Scope, ...]:
    """The scopes of a plan that have limits."""
    return tuple(entry.scope for entry in plan.scopes if entry.limits)
