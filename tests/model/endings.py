"""The reference's rules for what is open: settle, release, extend, expiry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from limiter.domain.limits import LimitKind
from limiter.domain.reservations import Basis, OnExpiry, RowFlag, State
from limiter.domain.rows import RowKind
from limiter.store.keys import shard_of
from limiter.store.port import EndCall, EndReply, ExtendCall, ExtendReply, HoldRecord
from tests.model.books import Books, Hold
from tests.model.counters import Counter, Money, Slots


class Endings(Books):
    """Rules 2 and 5, and what the rate limits get back."""

    def settle(self, calls: Sequence[EndCall]) -> list[EndReply]:
        """Settle calls in their order."""
        return [self._end(call, State.SETTLED, call.basis) for call in calls]

    def release(self, calls: Sequence[EndCall]) -> list[EndReply]:
        """Release calls in their order: nothing was spent and no token used."""
        return [self._end(replace(call, cost=0, tokens=0), State.RELEASED, Basis.RELEASED) for call in calls]

    def expire_due(self, organizations: Sequence[str], *, limit: int) -> list[EndReply]:
        """End what is due in the organizations' shards, charged or given back as each hold says."""
        replies = []
        for shard in sorted({shard_of(organization) for organization in organizations}):
            due = [record for record in self.due() if shard_of(record.name.organization) == shard]
            for record in due[:limit]:
                cost = record.held if record.on_expiry is OnExpiry.CHARGE else 0
                call = EndCall(record.name, Basis.EXPIRED, cost, -1, RowFlag(0), 0, b"")
                replies.append(self._end(call, State.EXPIRED, Basis.EXPIRED))
        return replies

    def _end(self, call: EndCall, state: State, basis: Basis) -> EndReply:
        hold = self.holds.get(call.name)
        if hold is None:
            return EndReply(
                self.now_ms, found=False, state=State.HELD, basis=None, repeated=False, flags=RowFlag(0), held=0, cost=0
            )
        if self._stands(hold, call, basis):
            return self._ended(hold.record, repeated=True)
        old = hold.record
        amount = call.cost if hold.open else call.cost - old.cost
        for scope in hold.touched:
            if scope in self.scopes:
                self.scopes[scope].written(self.now_ms)
        flags = self._flags(hold, call, basis)
        if hold.open:
            for taken, counter in zip(old.taken, self._still_counting(old), strict=True):
                if counter is not None and not self._give_back(counter, taken.held, old, call, basis):
                    flags |= RowFlag.TOKEN_EXCESS
        for taken, counter in zip(old.taken, self._still_counting(old), strict=True):
            if isinstance(counter, Money):
                counter.settled += amount
                counter.overage += max(call.cost - taken.held, 0) - max(old.cost - taken.held, 0)
        kind = RowKind.SETTLEMENT if hold.open else RowKind.CORRECTION
        hold.record = replace(old, state=state, basis=basis, flags=flags, cost=call.cost, ended_ms=self.now_ms)
        self.add_row(kind, hold.record, amount=amount, ending=call.ending)
        return self._ended(hold.record, repeated=False)

    def _stands(self, hold: Hold, call: EndCall, basis: Basis) -> bool:
        """Whether nothing changes: it ended on as good a basis, or another caller was given it too."""
        if basis is Basis.RELEASED and call.flags is RowFlag.UNCLAIMED and hold.claims > 1:
            if hold.open:
                hold.claims -= 1
            return True
        return not hold.open and basis <= (hold.record.basis or 0)

    def _flags(self, hold: Hold, call: EndCall, basis: Basis) -> RowFlag:
        """What the row says of this end: LATE if it comes after expiry, OVERAGE if it costs more than was held."""
        old = hold.record
        flags = (old.flags & ~(RowFlag.OVERAGE | RowFlag.ZERO_COST | RowFlag.SUSPECT)) | call.flags
        expired = old.state is State.EXPIRED or (hold.open and self.now_ms >= old.expires_ms)
        if expired and basis is not Basis.EXPIRED:
            flags |= RowFlag.LATE
        if call.cost > old.held:
            flags |= RowFlag.OVERAGE
        for taken, counter in zip(old.taken, self._still_counting(old), strict=True):
            spends = taken.counter.split(":")[1] == "spend"
            if spends and not (isinstance(counter, Money) and self.now_ms < counter.ends_ms):
                flags |= RowFlag.WINDOW_CLOSED
        return flags

    def _still_counting(self, record: HoldRecord) -> list[Counter | None]:
        """The counters that a hold took from, None for those that count another period by now."""
        found: list[Counter | None] = []
        for taken in record.taken:
            scope = self.scopes.get(taken.scope)
            counter = scope.counters.get(taken.counter) if scope is not None else None
            found.append(counter if counter is not None and counter.period_ms == taken.period_ms else None)
        return found

    def _give_back(self, counter: Counter, held: int, old: HoldRecord, call: EndCall, basis: Basis) -> bool:
        """End the hold in one counter; expiry moves money and slots only. False: debt would pass one burst."""
        if isinstance(counter, Money):
            counter.held -= held
        elif isinstance(counter, Slots):
            counter.open -= 1
        elif basis is not Basis.EXPIRED:
            unused = old.tokens - call.tokens if call.tokens >= 0 else 0
            if counter.kind is LimitKind.REQUESTS:
                # A settled request stays counted.
                unused = 1 if basis is Basis.RELEASED else 0
            if unused == 0:
                return True  # nothing moves, so that refilling can wait
            counter.refill(self.now_ms)
            return counter.return_unused(unused, reserved_ms=old.reserved_ms, now_ms=self.now_ms)
        return True

    def _ended(self, record: HoldRecord, *, repeated: bool) -> EndReply:
        return EndReply(
            self.now_ms,
            found=True,
            state=record.state,
            basis=record.basis,
            repeated=repeated,
            flags=record.flags,
            held=record.held,
            cost=record.cost,
        )

    def extend(self, calls: Sequence[ExtendCall]) -> list[ExtendReply]:
        """Keep holds open until not before now + ttl, within their lifetime."""
        return [self._extend(call) for call in calls]

    def _extend(self, call: ExtendCall) -> ExtendReply:
        hold = self.holds.get(call.name)
        if hold is None:
            return ExtendReply(self.now_ms, found=False, state=State.HELD, repeated=False, expires_ms=0)
        record = hold.record
        if not hold.open or record.expires_ms <= self.now_ms:
            state = State.EXPIRED if hold.open else record.state
            return ExtendReply(self.now_ms, found=True, state=state, repeated=False, expires_ms=record.expires_ms)
        expires_ms = max(record.expires_ms, min(self.now_ms + call.ttl_ms, record.expires_max_ms))
        hold.record = replace(record, expires_ms=expires_ms)
        return ExtendReply(
            self.now_ms, found=True, state=State.HELD, repeated=expires_ms == record.expires_ms, expires_ms=expires_ms
        )
