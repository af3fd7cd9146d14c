"""The rules of the store, written down to be run: what every call must answer, in plain integers.

This is the design's text as a program, not the scripts' text in another language: no limbs, no packing,
no batches, one call after the other. The tests drive it and the store side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

from limiter.domain.limits import LimitKind
from limiter.domain.reservations import Basis, OnExpiry, RowFlag, State
from limiter.domain.rows import RowKind, Taken
from limiter.domain.verdicts import DenialReason
from limiter.store.keys import shard_of
from limiter.store.port import (
    ChargeCall,
    ChargeReply,
    Code,
    HoldCall,
    HoldRecord,
    HoldReply,
    InspectReply,
    Plan,
    PlanLimit,
    RawStatus,
    Why,
)
from tests.model.books import Hold, with_limits
from tests.model.counters import Money, refusal, take
from tests.model.endings import Endings
from tests.model.statuses import Present, applying, tell_all, tell_overages, tell_tightest, told

#: Refusals that the expiry of a hold may lift.
_EXPIRY_MAY_LIFT = (DenialReason.SPEND_CEILING, DenialReason.SPEND_HELD, DenialReason.CONCURRENCY)

#: Places in the plan of limits that the call takes nothing from.
Skipped = set[tuple[int, int]]


class Reference(Endings):
    """A whole store that decides one call after the other; `max_backlog` as in RedisStore."""

    def __init__(self, now_ms: int, *, max_backlog: int = 0) -> None:
        super().__init__(now_ms)
        self.max_backlog = max_backlog

    # ------------------------------------------------------------------ reserve

    def reserve(self, calls: Sequence[HoldCall]) -> list[HoldReply]:
        """Decide calls in their order. The backlog is that before the first of them."""
        backlog = {shard: len(rows) for shard, rows in self.rows.items()}
        return [self._reserve(call, backlog.get(shard_of(call.name.organization), 0)) for call in calls]

    def _reserve(self, call: HoldCall, backlog: int) -> HoldReply:
        stale = self.out_of_date(call.plan)
        if stale is not None:
            return self._no_grant(stale)
        turned_away = self._turned_away(call)
        if turned_away is not None:
            return self._no_grant(Code.DENIED, turned_away)
        before = self.holds.get(call.name)
        if before is not None and not call.dry_run and not before.never_given:
            return self._again(call, before)
        if 0 < self.max_backlog <= backlog and not call.dry_run:
            return self._no_grant(Code.BACKLOG)
        at_hand = self.present(call.plan)
        reasons: list[DenialReason] = []
        skipped: Skipped = set()
        tell: list[RawStatus] = []
        for s, i, rule, counter in applying(call.plan, at_hand):
            reason = refusal(rule, counter, call)
            if reason is not None and rule.limit.shadow:
                skipped.add((s, i))
                tell.append(told(s, i, Why.SHADOWS, counter))
            elif reason is not None:
                reasons.append(reason)
                tell.append(told(s, i, Why.REFUSES, counter))
        if not reasons:
            return self._grant(call, at_hand, skipped, tell)
        if call.all_limits:
            tell += tell_all(call.plan, at_hand)
        shard = shard_of(call.name.organization)
        due = min(reasons) in _EXPIRY_MAY_LIFT and any(shard_of(old.name.organization) == shard for old in self.due())
        return self._no_grant(Code.DENIED, min(reasons), due_waiting=due, tell=tell)

    def _turned_away(self, call: HoldCall) -> DenialReason | None:
        """What the policy and the key's dates say before any limit is asked, by precedence."""
        reasons = [DenialReason(call.plan.denial)] if call.plan.denial else []
        if any(0 < end_ms <= self.now_ms for end_ms in (call.key_expires_ms, call.secret_expires_ms)):
            reasons.append(DenialReason.KEY_EXPIRED)
        return min(reasons, default=None)

    def _again(self, call: HoldCall, before: Hold) -> HoldReply:
        """Rule 3: the same id once more."""
        record = before.record
        if record.fingerprint != call.fingerprint:
            return self._no_grant(Code.EXISTS, record.state)
        if record.state is not State.HELD:
            return self._no_grant(Code.ENDED, record.state)
        if record.expires_ms <= self.now_ms:
            return self._no_grant(Code.ENDED, State.EXPIRED)
        before.claims += 1
        return self._granted(record, self._inform(call, self.present(call.plan)), repeated=True)

    def _grant(self, call: HoldCall, at_hand: Present, skipped: Skipped, tell: list[RawStatus]) -> HoldReply:
        if call.dry_run:
            record = self._record(call, at_hand, skipped, settled=False)
            return self._granted(record, tell + self._inform(call, at_hand))
        for s, i, rule, counter in applying(call.plan, at_hand):
            if (s, i) in skipped:
                continue
            take(rule, counter, call)
            if isinstance(counter, Money) and not rule.limit.shadow and call.amount(rule):
                assert counter.settled + counter.held <= rule.limit.amount, "rule 1: a grant passed a ceiling"
        record = self._record(call, at_hand, skipped, settled=call.consume)
        self.keep(call.plan, at_hand)
        tell += self.warn(call.plan, at_hand, call.name)
        self.holds[call.name] = Hold(record, with_limits(call.plan))
        if call.consume:
            self.add_row(RowKind.SETTLEMENT, record, amount=call.cost)
        return self._granted(record, tell + self._inform(call, at_hand))

    def _record(self, call: HoldCall, at_hand: Present, skipped: Skipped, *, settled: bool) -> HoldRecord:
        now = self.now_ms
        flags = call.flags | RowFlag.SHADOWED if skipped else call.flags
        return HoldRecord(
            name=call.name,
            state=State.SETTLED if settled else State.HELD,
            basis=Basis.USAGE if settled else None,
            on_expiry=call.on_expiry,
            flags=flags | RowFlag.CONSUMED if settled else flags,
            reserved_ms=now,
            expires_ms=now if settled else now + call.ttl_ms,
            expires_max_ms=now + call.lifetime_ms,
            ended_ms=now if settled else 0,
            held=call.cost,
            cost=call.cost if settled else 0,
            tokens=call.tokens,
            output_max=call.output_max,
            fingerprint=call.fingerprint,
            taken=tuple(
                Taken(call.plan.scopes[s].scope, rule.limit.counter, counter.period_ms, _held(rule, call))
                for s, i, rule, counter in applying(call.plan, at_hand)
                if (s, i) not in skipped
            ),
            call=call.call,
        )

    def _inform(self, call: HoldCall, at_hand: Present) -> list[RawStatus]:
        return tell_all(call.plan, at_hand) if call.all_limits else tell_tightest(call.plan, at_hand)

    def _granted(self, record: HoldRecord, tell: list[RawStatus], *, repeated: bool = False) -> HoldReply:
        return HoldReply(
            self.now_ms,
            Code.GRANTED,
            record.state,
            repeated=repeated,
            due_waiting=False,
            expires_ms=record.expires_ms,
            held=record.held,
            output_max=record.output_max,
            statuses=tell,
        )

    def _no_grant(
        self, code: Code, state: int = 0, *, due_waiting: bool = False, tell: Sequence[RawStatus] = ()
    ) -> HoldReply:
        return HoldReply(
            self.now_ms,
            code,
            state,
            repeated=False,
            due_waiting=due_waiting,
            expires_ms=0,
            held=0,
            output_max=-1,
            statuses=list(tell),
        )

    # ------------------------------------------------------------------ spend without a hold, and reading

    def charge(self, calls: Sequence[ChargeCall]) -> list[ChargeReply]:
        """Book spend that had no hold, in order; neither money nor the clock refuses it."""
        return [self._charge(call) for call in calls]

    def _charge(self, call: ChargeCall) -> ChargeReply:
        stale = self.out_of_date(call.plan)
        if stale is not None and stale is not Code.CLOCK_BEHIND:
            return ChargeReply(self.now_ms, stale, 0, repeated=False, flags=RowFlag(0), cost=0)
        before = self.holds.get(call.name)
        if before is not None and not before.never_given:
            old, same = before.record, before.record.fingerprint == call.fingerprint
            return ChargeReply(self.now_ms, 0 if same else Code.EXISTS, old.state, same, old.flags, old.cost)
        now, at_hand, flags = self.now_ms, self.present(call.plan), call.flags
        occurred_ms, taken = call.occurred_ms or now, []
        for s, _, rule, counter in applying(call.plan, at_hand):
            if not isinstance(counter, Money):
                continue
            start, following, _ = rule.window
            if occurred_ms < (start if now < following else following):
                flags |= RowFlag.WINDOW_CLOSED
            elif not rule.limit.shadow or counter.refuses(rule.limit.amount, call.cost) is None:
                counter.settled += call.cost
                taken.append(Taken(call.plan.scopes[s].scope, rule.limit.counter, counter.period_ms))
        self.keep(call.plan, at_hand)
        self.warn(call.plan, at_hand, call.name)
        record = HoldRecord(
            call.name, State.SETTLED, Basis.USAGE, OnExpiry.CHARGE, flags, occurred_ms, now, now, now,
            0, call.cost, 0, -1, call.fingerprint, tuple(taken), call.call,
        )  # fmt: skip
        self.holds[call.name] = Hold(record, with_limits(call.plan))
        self.add_row(RowKind.CHARGE, record, amount=call.cost, ending=call.ending)
        return ChargeReply(now, 0, State.SETTLED, repeated=False, flags=flags, cost=call.cost)

    def inspect(self, plans: Sequence[Plan]) -> list[InspectReply]:
        """Tell every limit that applies, brought to the present."""
        replies = []
        for plan in plans:
            stale = self.out_of_date(plan)
            if stale is None or stale is Code.CLOCK_BEHIND:
                at_hand = self.present(plan)
                replies.append(InspectReply(self.now_ms, 0, tell_all(plan, at_hand), tell_overages(plan, at_hand)))
            else:
                replies.append(InspectReply(self.now_ms, stale, [], []))
        return replies

    def append(self, organization: str, summary: bytes) -> None:
        """Append a row of refusal sums."""
        self.add_note(RowKind.REFUSALS, shard_of(organization), f"{organization}/refusals", summary)


def _held(rule: PlanLimit, call: HoldCall) -> int:
    """What the hold is at one counter, where that counts money."""
    return call.amount(rule) if rule.limit.kind is LimitKind.SPEND else 0
