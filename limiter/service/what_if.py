"""Plays the calls of the books again under a proposed policy, in a store of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush
from itertools import islice
from typing import Final, Literal, NamedTuple

from limiter.domain.errors import Unavailable
from limiter.domain.limits import LimitKind
from limiter.domain.money import CALL_MAX_NANOUSD
from limiter.domain.reservations import NO_FLAG, Basis, OnExpiry, ReservationName
from limiter.domain.verdicts import DenialReason
from limiter.ledger.replaying import PastCall, Spent, Way
from limiter.service.what_if_plans import VERSION, DatedPlan, Proposal
from limiter.service.what_if_tally import TOO_EXPENSIVE, Tally
from limiter.store.port import (
    ChargeCall,
    ChargeReply,
    Code,
    EndCall,
    EndReply,
    HoldCall,
    HoldReply,
    InspectReply,
    Plan,
    StoredPolicy,
)
from limiter.store.port.timed import PastStore, TimedCall, TimedReply

#: Calls in one exchange with the store.
_AT_ONCE: Final = 256
#: No hold of a replay expires: its call ends when it ended.
_TTL_MS: Final = 10 * 366 * 86_400_000
#: Nobody asks for an ended hold again; the store throws it away sooner.
_RETENTION_MS: Final = 60_000
_FINGERPRINT: Final = bytes(16)


class _Step(NamedTuple):
    """A call to the store, what it is of, and under which plan."""

    timed: TimedCall
    plan: Plan
    past: PastCall | None = None


class _End(NamedTuple):
    """An end that is still to come; ends of the same ms come in the order of their calls."""

    at_ms: int
    number: int
    past: PastCall
    name: ReservationName


class WhatIf:
    """One replay: `open` with what was spent before, then `play` the calls; `tally` has what came of them.

    A store is used for one replay only. `advance` is told how many calls have been played.
    """

    def __init__(
        self, store: PastStore, proposal: Proposal, *, advance: Callable[[int], object] = lambda _done: None
    ) -> None:
        self.tally = Tally()
        self._store = store
        self._proposal = proposal
        self._advance = advance
        self._names = 0

    async def open(self, spent: Iterable[Spent], *, at_ms: int) -> None:
        """Put the policy in force at a time; spend limits start from what was spent in their windows before.

        Whatever room there was: the money is gone.
        """
        for policy in self._proposal.organizations.values():
            if not await self._store.replace_policy(StoredPolicy(policy.id, VERSION, policy.to_json())):
                raise Unavailable("the store of the replay is used by somebody else")
        await self._run(self._openings(spent, at_ms))

    async def play(self, calls: Iterable[PastCall]) -> None:
        """Play calls, in the order in which they were reserved. Raises Unavailable if the store is lost meanwhile."""
        await self._run(self._steps(calls))
        self._advance(self.tally.calls + self.tally.charges)

    async def _run(self, steps: Iterator[_Step]) -> None:
        while batch := list(islice(steps, _AT_ONCE)):
            replies = await self._store.play([step.timed for step in batch])
            for step, reply in zip(batch, replies, strict=True):
                self._hear(step, reply)
            self._advance(self.tally.calls + self.tally.charges)

    # ------------------------------------------------------------------ what happened, in order

    def _openings(self, spent: Iterable[Spent], at_ms: int) -> Iterator[_Step]:
        for since_ms, key, model, amount in spent:
            plan = self._proposal.opening_plan(key, model, at_ms)
            if not _counts(plan, since_ms):
                continue
            self.tally.opening += amount
            for done in range(0, amount, CALL_MAX_NANOUSD):
                part = min(amount - done, CALL_MAX_NANOUSD)
                yield _Step(TimedCall(at_ms, "charge", self._charge(plan, part, since_ms)), plan)

    def _steps(self, calls: Iterable[PastCall]) -> Iterator[_Step]:
        """Beginnings and ends of calls in the order of their times; an end before a beginning of the same ms."""
        ends: list[_End] = []
        for number, past in enumerate(calls):
            while ends and ends[0][0] <= past.reserved_ms:
                yield from self._end(heappop(ends))
            name = self._name(past.key.organization)
            if past.way is not Way.CHARGED:
                step = self._begin(past, name)
                if step is None:
                    continue
                yield step
            if past.way is not Way.CONSUMED:
                heappush(ends, _End(max(past.ended_ms, past.reserved_ms), number, past, name))
        while ends:
            yield from self._end(heappop(ends))

    def _begin(self, past: PastCall, name: ReservationName) -> _Step | None:
        """A call asks; None: it costs more than a single call may."""
        dated = self._plan(past, past.reserved_ms)
        self.tally.calls += 1
        self.tally.cost += past.cost
        if not self._proposal.names(past.key):
            self.tally.unnamed_keys.add(past.key)
        if past.held > dated.max_cost and not dated.plan.denial:
            self.tally.refuse(past, TOO_EXPENSIVE, dated.plan, [])
            return None
        return _Step(TimedCall(past.reserved_ms, "reserve", _hold(past, dated.plan, name)), dated.plan, past)

    def _end(self, end: _End) -> Iterator[_Step]:
        """A call ends; one that was refused has no hold, and its end changes nothing."""
        at_ms, _, past, name = end
        plan = self._plan(past, at_ms).plan
        if past.way is Way.CHARGED:
            self.tally.charges += 1
            self.tally.cost += past.cost
            charge = self._charge(plan, past.cost, past.reserved_ms, name)
            yield _Step(TimedCall(at_ms, "charge", charge), plan)
        else:
            verb: Literal["release", "settle"] = "release" if past.way is Way.RELEASED else "settle"
            yield _Step(TimedCall(at_ms, verb, _ending(past, name)), plan)
        if past.cost > past.held:  # only then a counter is higher than when it was last told
            yield _Step(TimedCall(at_ms, "inspect", plan), plan)

    def _plan(self, past: PastCall, at_ms: int) -> DatedPlan:
        return self._proposal.plan(past.key, past.model, at_ms)

    def _charge(self, plan: Plan, cost: int, occurred_ms: int, name: ReservationName | None = None) -> ChargeCall:
        name = name or self._name(plan.organization)
        # Since 1970 would be taken for now.
        return ChargeCall(plan, name, _FINGERPRINT, cost, max(1, occurred_ms), _RETENTION_MS, b"", b"")

    def _name(self, organization: str) -> ReservationName:
        self._names += 1
        return ReservationName(organization, f"{self._names:032x}")

    # ------------------------------------------------------------------ what the store says

    def _hear(self, step: _Step, reply: TimedReply) -> None:
        if isinstance(reply, EndReply):
            return
        if isinstance(reply, ChargeReply | InspectReply):
            _expect(reply.code, Code.GRANTED)
        if isinstance(reply, InspectReply):
            self.tally.look(step.plan, reply.statuses, reply.now_ms)
        if isinstance(reply, HoldReply) and step.past is not None:
            _expect(reply.code, Code.GRANTED, Code.DENIED)
            if reply.code == Code.DENIED:
                self.tally.refuse(step.past, DenialReason(reply.state).name, step.plan, reply.statuses)
            else:
                self.tally.shadow(step.past, step.plan, reply.statuses)
            self.tally.look(step.plan, reply.statuses, reply.now_ms)


def _counts(plan: Plan, since_ms: int) -> bool:
    """Whether any spend limit of a plan counts what was spent then."""
    rules = (rule for scope in plan.scopes for rule in scope.limits)
    return any(rule.applies and rule.limit.kind is LimitKind.SPEND and rule.window[0] <= since_ms for rule in rules)


def _expect(code: int, *expected: Code) -> None:
    if code not in expected:
        raise Unavailable(f"the store of the replay lost its state ({Code(code).name}); try again")


def _hold(past: PastCall, plan: Plan, name: ReservationName) -> HoldCall:
    """The Reserve of a call, for what was held then."""
    return HoldCall(
        plan=plan,
        name=name,
        fingerprint=_FINGERPRINT,
        cost=past.held,
        tokens=past.bucket_tokens,
        requests=1,
        ttl_ms=_TTL_MS,
        lifetime_ms=_TTL_MS,
        retention_ms=_RETENTION_MS,
        key_expires_ms=0,
        secret_expires_ms=0,
        output_max=-1,
        on_expiry=OnExpiry.CHARGE,
        dry_run=False,
        all_limits=True,
        consume=past.way is Way.CONSUMED,
        own_id=True,
        call=b"",
    )


def _ending(past: PastCall, name: ReservationName) -> EndCall:
    basis, tokens = (Basis.RELEASED, 0) if past.way is Way.RELEASED else (Basis.USAGE, past.used_tokens)
    return EndCall(name, basis, past.cost, tokens, NO_FLAG, _RETENTION_MS, b"")
