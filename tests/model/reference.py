"""The rules of the store, written down to be run: what every call must answer, in plain integers.

This is the design's text as a program, not the scripts' text in another language: no limbs, no packing,
no batches, one call after the other. The tests drive it and the store side by side.

The design's words for it: rules 1-7 and what follows them. Where they leave a choice open, the comment
of the Lua file decides, and the place here says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from limiter.domain.limits import LimitKind
from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag, State
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason
from limiter.store.keys import shard_of
from limiter.store.port import (
    ChargeCall,
    ChargeReply,
    Code,
    EndCall,
    EndReply,
    ExtendCall,
    ExtendReply,
    HoldCall,
    HoldRecord,
    HoldReply,
    InspectReply,
    Plan,
    RawStatus,
    Row,
    RowKind,
    Taken,
    Why,
)
from tests.model.counters import Bucket, Counter, Money, ScopeCounters, Slots, present
from tests.model.statuses import refusal, tell_all, tell_tightest, told, with_warnings

CLOCK_SLACK_MS = 60_000

Present = dict[Scope, ScopeCounters]


class Hold:
    """What is remembered of a call: what it took, from whom, and how it ended."""

    def __init__(self, record: HoldRecord, touched: tuple[Scope, ...]) -> None:
        self.record = record
        self.touched = touched
        self.claims = 1

    @property
    def never_given(self) -> bool:
        """Released because nobody received it: as if it had never been."""
        return self.record.state is State.RELEASED and RowFlag.UNCLAIMED in self.record.flags


class Reference:
    """A whole store. `now_ms` is its clock, moved by the test; `max_backlog` as in RedisStore."""

    def __init__(self, now_ms: int, *, max_backlog: int = 0) -> None:
        self.now_ms = now_ms
        self.max_backlog = max_backlog
        self.versions: dict[str, int] = defaultdict(int)
        self.revisions: dict[Scope, int] = defaultdict(int)
        self.scopes: dict[Scope, ScopeCounters] = {}
        self.holds: dict[ReservationName, Hold] = {}
        self.rows: dict[int, list[Row]] = defaultdict(list)

    # ------------------------------------------------------------------ reserve

    def reserve(self, calls: Sequence[HoldCall]) -> list[HoldReply]:
        """Decide calls in their order; the backlog and what is due are those before the first of them."""
        backlog = {shard: len(rows) for shard, rows in self.rows.items()}
        due = {shard_of(hold.record.name.organization) for hold in self._due()}
        return [self._reserve(call, backlog=backlog, due=due) for call in calls]

    def _reserve(self, call: HoldCall, *, backlog: dict[int, int], due: set[int]) -> HoldReply:
        plan, shard = call.plan, shard_of(call.name.organization)
        stale = self._out_of_date(plan)
        if stale is not None:
            return self._undecided(stale)
        turned_away = self._turned_away(call)
        if turned_away is not None:
            return self._undecided(Code.DENIED, turned_away)
        before = self.holds.get(call.name)
        if before is not None and not call.dry_run and not before.never_given:
            return self._again(call, before)
        if self.max_backlog and not call.dry_run and backlog.get(shard, 0) >= self.max_backlog:
            return self._undecided(Code.BACKLOG)
        at_hand = self._present(plan)
        refusing: dict[tuple[int, int], DenialReason] = {}
        shadows: set[tuple[int, int]] = set()
        tell: list[RawStatus] = []
        for s, i, entry, counter in _applying(plan, at_hand):
            reason = refusal(entry.limit, counter, call)
            if reason is None:
                continue
            tell.append(told(s, i, Why.SHADOWS if entry.limit.shadow else Why.REFUSES, counter))
            if entry.limit.shadow:
                shadows.add((s, i))
            else:
                refusing[s, i] = reason
        if not refusing:
            return self._grant(call, at_hand, shadows, tell)
        first = min(refusing.values())
        waits = first in {DenialReason.SPEND_CEILING, DenialReason.SPEND_HELD, DenialReason.CONCURRENCY}
        if call.all_limits:
            tell += tell_all(plan, at_hand)
        return HoldReply(self.now_ms, Code.DENIED, first, False, waits and shard in due, 0, 0, -1, tell)

    def _out_of_date(self, plan: Plan) -> Code | None:
        """Rules 5 and 7: version, key, window, clock, in this order."""
        if plan.version != self.versions[plan.organization]:
            return Code.STALE_VERSION
        if plan.key is not None and plan.key_revision != self.revisions[plan.key]:
            return Code.STALE_KEY
        for scope in plan.scopes:
            for entry in scope.limits:
                start, _, finish = entry.window
                if entry.limit.kind is LimitKind.SPEND and not start <= self.now_ms < finish:
                    return Code.STALE_WINDOW
        for scope in plan.scopes:
            known = self.scopes.get(scope.scope)
            if known is not None and known.last_ms - self.now_ms > CLOCK_SLACK_MS:
                return Code.CLOCK_BEHIND
        return None

    def _turned_away(self, call: HoldCall) -> DenialReason | None:
        """What the policy and the key's dates say before any limit is asked, by precedence."""
        reasons = [DenialReason(call.plan.denial)] if call.plan.denial else []
        if any(0 < end <= self.now_ms for end in (call.key_expires_ms, call.secret_expires_ms)):
            reasons.append(DenialReason.KEY_EXPIRED)
        return min(reasons, default=None)

    def _again(self, call: HoldCall, before: Hold) -> HoldReply:
        """Rule 3: the same id once more."""
        record = before.record
        if record.fingerprint != call.fingerprint:
            return self._undecided(Code.EXISTS, record.state)
        if record.state is not State.HELD:
            return self._undecided(Code.ENDED, record.state)
        if record.expires_ms <= self.now_ms:
            return self._undecided(Code.ENDED, State.EXPIRED)
        before.claims += 1
        at_hand = self._present(call.plan)
        tell = tell_all(call.plan, at_hand) if call.all_limits else tell_tightest(call.plan, at_hand)
        return HoldReply(
            self.now_ms, Code.GRANTED, State.HELD, True, False, record.expires_ms, record.held, record.output_max, tell
        )

    def _grant(
        self, call: HoldCall, at_hand: Present, shadows: set[tuple[int, int]], tell: list[RawStatus]
    ) -> HoldReply:
        state, expires_ms = State.HELD, self.now_ms + call.ttl_ms
        if not call.dry_run:
            for s, i, entry, counter in _applying(call.plan, at_hand):
                if (s, i) not in shadows:
                    _take(counter, call)
                    if isinstance(counter, Money) and not entry.limit.shadow and call.cost:
                        assert counter.settled + counter.held <= entry.limit.amount, "rule 1"
            if call.consume:
                state, expires_ms = State.SETTLED, self.now_ms
            self._keep(call.plan, at_hand)
            tell += self._warn(call.plan, at_hand, call.name)
            record = HoldRecord(
                name=call.name,
                state=state,
                basis=Basis.USAGE if call.consume else None,
                on_expiry=call.on_expiry,
                flags=(RowFlag.SHADOWED if shadows else RowFlag(0)) | (RowFlag.CONSUMED if call.consume else RowFlag(0)),
                reserved_ms=self.now_ms,
                expires_ms=expires_ms,
                expires_max_ms=self.now_ms + call.lifetime_ms,
                ended_ms=self.now_ms if call.consume else 0,
                held=call.cost,
                cost=call.cost if call.consume else 0,
                tokens=call.tokens,
                output_max=call.output_max,
                fingerprint=call.fingerprint,
                taken=tuple(
                    Taken(call.plan.scopes[s].scope, entry.limit.counter, counter.period_ms)
                    for s, i, entry, counter in _applying(call.plan, at_hand)
                    if (s, i) not in shadows
                ),
                call=call.call,
            )
            self.holds[call.name] = Hold(record, _with_limits(call.plan))
            if call.consume:
                self._add_row(RowKind.SETTLEMENT, record, amount=call.cost)
        tell += tell_all(call.plan, at_hand) if call.all_limits else tell_tightest(call.plan, at_hand)
        return HoldReply(
            self.now_ms, Code.GRANTED, state, False, False, expires_ms, call.cost, call.output_max, tell
        )

    def _undecided(self, code: Code, state: int = 0) -> HoldReply:
        return HoldReply(self.now_ms, code, state, False, False, 0, 0, -1, [])

    # ------------------------------------------------------------------ endings

    def settle(self, calls: Sequence[EndCall]) -> list[EndReply]:
        """Settle calls in their order."""
        return [self._end(call, State.SETTLED, call.basis) for call in calls]

    def release(self, calls: Sequence[EndCall]) -> list[EndReply]:
        """Release calls in their order: nothing was spent, no token was used."""
        return [self._end(replace_end(call), State.RELEASED, Basis.RELEASED) for call in calls]

    def expire_due(self, organizations: Sequence[str], *, limit: int) -> list[EndReply]:
        """End what is due, by due time and then by name."""
        replies = []
        for shard in sorted({shard_of(organization) for organization in organizations}):
            due = [hold.record for hold in self._due() if shard_of(hold.record.name.organization) == shard]
            due.sort(key=lambda record: (record.expires_ms, _member(record.name)))
            for record in due[:limit]:
                cost = record.held if record.on_expiry is OnExpiry.CHARGE else 0
                call = EndCall(record.name, Basis.EXPIRED, cost, -1, RowFlag(0), 0, b"")
                replies.append(self._end(call, State.EXPIRED, Basis.EXPIRED))
        return replies

    def _due(self) -> list[Hold]:
        return [
            hold
            for hold in self.holds.values()
            if hold.record.state is State.HELD and hold.record.expires_ms <= self.now_ms
        ]

    def _end(self, call: EndCall, state: State, basis: Basis) -> EndReply:
        hold = self.holds.get(call.name)
        if hold is None:
            return EndReply(self.now_ms, False, State.HELD, None, False, RowFlag(0), 0, 0)
        old = hold.record
        if old.state is State.HELD:
            if basis is Basis.RELEASED and call.flag is RowFlag.UNCLAIMED and hold.claims > 1:
                hold.claims -= 1
                return _ended(self.now_ms, old, repeated=True)
        elif basis <= (old.basis or 0):
            return _ended(self.now_ms, old, repeated=True)
        first = old.state is State.HELD
        flags = (old.flags & ~RowFlag.OVERAGE) | call.flag
        passed = old.state is State.EXPIRED or (first and self.now_ms >= old.expires_ms)
        if passed and basis is not Basis.EXPIRED:
            flags |= RowFlag.LATE
        if call.cost > old.held:
            flags |= RowFlag.OVERAGE
        amount = call.cost if first else call.cost - old.cost
        for scope in hold.touched:
            if scope in self.scopes:
                self.scopes[scope].last_ms = max(self.scopes[scope].last_ms, self.now_ms)
        for taken in old.taken:
            known = self.scopes.get(taken.scope)
            counter = known.counters.get(taken.counter) if known else None
            if counter is None or counter.period_ms != taken.period_ms:
                counter = None
            if ":spend:" in taken.counter and not (isinstance(counter, Money) and self.now_ms < counter.ends_ms):
                flags |= RowFlag.WINDOW_CLOSED
            flags |= self._give_back(counter, old, call, basis=basis, first=first, amount=amount)
        hold.record = replace(old, state=state, basis=basis, flags=flags, cost=call.cost, ended_ms=self.now_ms)
        self._add_row(
            RowKind.SETTLEMENT if first else RowKind.CORRECTION, hold.record, amount=amount, ending=call.ending
        )
        return _ended(self.now_ms, hold.record, repeated=False)

    def _give_back(
        self, counter: Counter | None, old: HoldRecord, call: EndCall, *, basis: Basis, first: bool, amount: int
    ) -> RowFlag:
        """Move one counter by the end of a hold. Expiry and corrections move money and slots only."""
        if isinstance(counter, Money):
            counter.settled += amount
            counter.held -= old.held if first else 0
        elif isinstance(counter, Slots) and first:
            counter.open -= 1
        elif isinstance(counter, Bucket) and first and basis is not Basis.EXPIRED:
            counter.refill(self.now_ms)
            if counter.kind is LimitKind.REQUESTS:
                unused = 1 if basis is Basis.RELEASED else 0
            else:
                unused = old.tokens - call.tokens if call.tokens >= 0 else 0
            if not counter.return_unused(unused, reserved_ms=old.reserved_ms, now_ms=self.now_ms):
                return RowFlag.TOKEN_EXCESS
        return RowFlag(0)

    # ------------------------------------------------------------------ the other verbs

    def extend(self, calls: Sequence[ExtendCall]) -> list[ExtendReply]:
        """Keep holds open until not before now + ttl, within their lifetime."""
        return [self._extend(call) for call in calls]

    def _extend(self, call: ExtendCall) -> ExtendReply:
        hold = self.holds.get(call.name)
        if hold is None:
            return ExtendReply(self.now_ms, False, State.HELD, False, 0)
        record = hold.record
        if record.state is not State.HELD or record.expires_ms <= self.now_ms:
            state = State.EXPIRED if record.state is State.HELD else record.state
            return ExtendReply(self.now_ms, True, state, False, record.expires_ms)
        expires_ms = max(record.expires_ms, min(self.now_ms + call.ttl_ms, record.expires_max_ms))
        hold.record = replace(record, expires_ms=expires_ms)
        return ExtendReply(self.now_ms, True, State.HELD, expires_ms == record.expires_ms, expires_ms)

    def charge(self, calls: Sequence[ChargeCall]) -> list[ChargeReply]:
        """Book spend that had no hold, in order."""
        return [self._charge(call) for call in calls]

    def _charge(self, call: ChargeCall) -> ChargeReply:
        stale = self._out_of_date(call.plan)
        if stale is not None and stale is not Code.CLOCK_BEHIND:
            return ChargeReply(self.now_ms, stale, 0, False, RowFlag(0), 0)
        before = self.holds.get(call.name)
        if before is not None and not before.never_given:
            old = before.record
            same = old.fingerprint == call.fingerprint
            return ChargeReply(self.now_ms, 0 if same else Code.EXISTS, old.state, same, old.flags, old.cost)
        occurred_ms = call.occurred_ms or self.now_ms
        at_hand, taken, flags = self._present(call.plan), [], RowFlag(0)
        for s, _, entry, counter in _applying(call.plan, at_hand):
            if not isinstance(counter, Money):
                continue
            start, following, _ = entry.window
            if occurred_ms < (start if self.now_ms < following else following):
                flags |= RowFlag.WINDOW_CLOSED
            elif not entry.limit.shadow or counter.refuses(entry.limit.amount, call.cost) is None:
                counter.settled += call.cost
                taken.append(Taken(call.plan.scopes[s].scope, entry.limit.counter, counter.period_ms))
        self._keep(call.plan, at_hand)
        self._warn(call.plan, at_hand, call.name)
        now = self.now_ms
        record = HoldRecord(
            call.name, State.SETTLED, Basis.USAGE, OnExpiry.CHARGE, flags, occurred_ms, now, now, now, 0, call.cost, 0, -1,
            call.fingerprint, tuple(taken), call.call,
        )  # fmt: skip
        self.holds[call.name] = Hold(record, _with_limits(call.plan))
        self._add_row(RowKind.CHARGE, record, amount=call.cost, ending=call.ending)
        return ChargeReply(self.now_ms, 0, State.SETTLED, False, flags, call.cost)

    def inspect(self, plans: Sequence[Plan]) -> list[InspectReply]:
        """Tell every limit that applies, brought to the present."""
        replies = []
        for plan in plans:
            stale = self._out_of_date(plan)
            if stale is None or stale is Code.CLOCK_BEHIND:
                replies.append(InspectReply(self.now_ms, 0, tell_all(plan, self._present(plan))))
            else:
                replies.append(InspectReply(self.now_ms, stale, []))
        return replies

    def append(self, organization: str, name: str, summary: bytes) -> None:
        """Append sums of refusals."""
        self._add_note(RowKind.REFUSALS, shard_of(organization), name, summary)

    # ------------------------------------------------------------------ counters and rows

    def _present(self, plan: Plan) -> Present:
        return {entry.scope: present(self.scopes.get(entry.scope), entry, self.now_ms) for entry in plan.scopes}

    def _keep(self, plan: Plan, at_hand: Present) -> None:
        """What a grant or charge saw of the scopes that have limits is the truth from now on."""
        for scope in _with_limits(plan):
            self.scopes[scope] = at_hand[scope]
            self.scopes[scope].written(self.now_ms)

    def _warn(self, plan: Plan, at_hand: Present, name: ReservationName) -> list[RawStatus]:
        tell = []
        for status, events in with_warnings(plan, at_hand):
            tell.append(status)
            for event in events:
                self._add_note(RowKind.EVENT, shard_of(name.organization), _member(name), event)
        return tell

    def _add_note(self, kind: RowKind, shard: int, member: str, text: bytes) -> None:
        now = self.now_ms
        self._append(shard, kind, member, None, None, RowFlag(0), 0, 0, 0, 0, now, now, now, (), text, b"")

    def _add_row(self, kind: RowKind, record: HoldRecord, *, amount: int, ending: bytes = b"") -> None:
        self._append(
            shard_of(record.name.organization), kind, _member(record.name), record.state, record.basis, record.flags,
            amount, record.held, record.cost, record.tokens, record.reserved_ms, record.expires_ms, self.now_ms,
            record.taken, record.call, ending,
        )  # fmt: skip

    def _append(self, shard: int, *rest: object) -> None:
        rows = self.rows[shard]
        epoch = rows[0].epoch if rows else self.now_ms
        rows.append(Row(shard, epoch, len(rows), *rest))  # type: ignore[arg-type] # the fields of a Row, in order
