"""Settle, Release, Extend, Charge and GetHeadroom: what a call really cost, booked once."""

from __future__ import annotations

import json

import structlog

from limiter.domain.calls import Outcome
from limiter.domain.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from limiter.domain.reservations import Basis, ReservationName, RowFlag, State
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason, LimitStatus
from limiter.service.booking import Reckoning
from limiter.service.calls import BookCall, Principal, SettleCall, Settled
from limiter.service.desk import RETENTION_SETTLED_MS, STALE_SUBJECTS, TRIES, Desk, ledger_call
from limiter.service.plans import Question
from limiter.service.reckoning import Reckoner, not_found
from limiter.service.statuses import limits_read
from limiter.store.port import AdjustCall, ChargeCall, Code, EndCall, EndReply, ExtendCall, ExtendReply, HoldRecord

#: How far clocks may differ.
_FUTURE_MS = 60_000

_log = structlog.get_logger(__name__)

_OUTCOME_FLAGS = {
    Outcome.COMPLETED: RowFlag(0),
    Outcome.ABORTED: RowFlag.ABORTED,
    Outcome.FAILED: RowFlag.FAILED,
}


class Accounting:
    """The verbs that end holds and book spend."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.reckoner = Reckoner(desk)

    async def settle(self, call: SettleCall) -> Settled:
        """Replace a hold by what was used; charged once, whatever happened meanwhile."""
        known = self._desk.granted.get(call.name)
        reckoning = await self.reckoner.of_settle(call)
        if call.provider_request_id:
            reckoning.provider_request_id = call.provider_request_id
        settled = await self.book(call.name, reckoning, reserved_ms=known.reserved_ms if known is not None else 0)
        return await self.settle(call) if settled is None else settled

    async def book(self, name: ReservationName, reckoning: Reckoning, *, reserved_ms: int) -> Settled | None:
        """End or correct the hold of that name which was taken at `reserved_ms` (0: whichever has the name).

        None: the hold that has the name now is another one. What is remembered of it is forgotten: ask the store.
        """
        reply = await self._desk.store.settle(
            EndCall(
                name=name,
                basis=reckoning.basis,
                cost=reckoning.cost,
                tokens=reckoning.tokens,
                flags=_OUTCOME_FLAGS[reckoning.outcome] | reckoning.flags,
                retention_ms=RETENTION_SETTLED_MS,
                ending=reckoning.ending(),
                reserved_ms=reserved_ms,
            )
        )
        if reply.other:
            self._desk.granted.forget(name)
            return None
        return self._settled(name, reply, reckoning)

    async def release(self, name: ReservationName, *, reason: str = "", flag: RowFlag | None = None) -> Settled:
        """End a hold with nothing spent."""
        ending = json.dumps({"reason": reason}).encode() if reason else b""
        reply = await self._desk.store.release(
            EndCall(name, Basis.RELEASED, 0, 0, flag or RowFlag(0), RETENTION_SETTLED_MS, ending)
        )
        return self._settled(name, reply, Reckoning(0, 0, Basis.RELEASED, Outcome.COMPLETED))

    async def extend(self, name: ReservationName, ttl_ms: int) -> ExtendReply:
        """Keep a hold open until no earlier than now + ttl."""
        reply = await self._desk.store.extend(ExtendCall(name, ttl_ms))
        if not reply.found:
            raise not_found(name)
        if reply.state is not State.HELD:
            raise FailedPrecondition(f"reservation: {name} is {reply.state.name}; only an open hold can be extended")
        return reply

    async def charge(self, call: BookCall) -> Settled:
        """Book spend that had no hold; never refused for money."""
        desk = self._desk
        key = await self._who(call.principal)
        question = Question(key, call.model, call.provider, cost_known=isinstance(call.actual, int))
        if call.occurred_ms > await desk.clock.now_ms(desk.store) + _FUTURE_MS:
            raise InvalidArgument("occurred_at", call.occurred_ms, "name a time that has come, in ms since 1970")
        name = ReservationName(key.organization, desk.pepper.reservation_id(key, call.request_id))
        for _ in range(TRIES):
            plan = await desk.plans.get(question)
            if plan is None:
                raise NotFound(f"principal: organization {key.organization} has no policy")
            if plan.plan.denial == DenialReason.KEY_UNKNOWN:
                unknown = NotFound(f"principal: the key {question.key.path} is not known")
                await desk.forget_if_stale(question, plan, unknown)
                continue
            try:
                reckoning = self.reckoner.of_charge(call, plan, key.organization)
            except InvalidArgument as error:
                await desk.forget_if_stale(question, plan, error)
                continue
            reply = await desk.store.charge(
                ChargeCall(
                    plan=plan.plan,
                    name=name,
                    fingerprint=call.fingerprint,
                    cost=reckoning.cost,
                    occurred_ms=call.occurred_ms,
                    retention_ms=RETENTION_SETTLED_MS,
                    call=ledger_call(plan, call.request_id, call.tags),
                    ending=reckoning.ending(),
                    flags=_OUTCOME_FLAGS[reckoning.outcome] | reckoning.flags,
                )
            )
            desk.clock.hear(reply.now_ms)
            if reply.code in STALE_SUBJECTS:
                desk.refresh(question, reply.code, reply.now_ms)
                await self._who(call.principal)
                continue
            if reply.code == Code.EXISTS:
                raise AlreadyExists(
                    f"request_id: {name} ({State(reply.state).name}) has it for other content; settle that if it is a"
                    " hold of this call, else use a new request_id"
                )
            reckoning.cost = reply.cost
            booked = _booked(name, reckoning, flags=reply.flags, repeated=reply.repeated)
            self._tell_doubts(booked)
            return booked
        raise Unavailable(f"the policy of {key.organization} changes faster than it can be read; try again")

    async def adjust(
        self, name: ReservationName, *, cost: int, reason: str, by: str, retired: HoldRecord | None
    ) -> Settled:
        """Book what an operator says an ended call cost. `retired`: what it was, where the store has no record."""
        ending = json.dumps({"adjusted_by": by, "reason": reason}).encode()
        reply = await self._desk.store.adjust(AdjustCall(name, cost, RETENTION_SETTLED_MS, ending, retired))
        if reply.found and reply.state is State.HELD:
            raise FailedPrecondition(f"reservation: {name} is still open (HELD); settle or release it instead")
        return self._settled(name, reply, Reckoning(cost, -1, Basis.USAGE, Outcome.COMPLETED))

    async def _who(self, principal: Principal) -> Scope:
        """The key that asks; raises NotFound for a secret that nobody has, or that has ended."""
        identity = await self._desk.identify(principal)
        if identity is None:
            raise NotFound("principal: the API key is not known")
        key, not_after_ms = identity
        if 0 < not_after_ms <= await self._desk.clock.now_ms(self._desk.store):
            raise NotFound("principal: the API key has been replaced by a newer one")
        return key

    async def headroom(self, principal: Principal, model: str, provider: str) -> tuple[LimitStatus, ...]:
        """Every limit on the path of a key and model, as it is now."""
        desk = self._desk
        question = Question(await self._who(principal), model, provider, cost_known=True)
        for _ in range(TRIES):
            plan = await desk.plans.get(question)
            if plan is None:
                raise NotFound(f"principal: organization {question.key.organization} has no policy")
            reply = (await desk.store.inspect([plan.plan]))[0]
            if reply.code in STALE_SUBJECTS:
                desk.refresh(question, reply.code, reply.now_ms)
                continue
            if plan.plan.denial == DenialReason.KEY_UNKNOWN:
                raise NotFound(f"principal: the key {question.key.path} is not known")
            return limits_read(plan.plan, reply)
        raise Unavailable(f"the policy of {question.key.organization} changes faster than it can be read; try again")

    def _settled(self, name: ReservationName, reply: EndReply, reckoning: Reckoning) -> Settled:
        if not reply.found:
            raise not_found(name)
        if not reply.repeated:
            self._desk.granted.forget(name)
        settled = Settled(
            name=name,
            state=reply.state,
            basis=reply.basis,
            held_nanousd=reply.held,
            cost_nanousd=reply.cost,
            flags=reply.flags,
            repeated_call=reply.repeated,
            usage=reckoning.said or reckoning.usage,
            model=reckoning.priced_model,
            price_version=reckoning.price_version,
            warnings=(*reckoning.warnings, *_remarks(reply.flags)),
        )
        self._count(settled)
        return settled

    def _count(self, settled: Settled) -> None:
        if settled.repeated_call or settled.basis is None:
            return
        metrics = self._desk.metrics
        metrics.settled[settled.basis.name].inc()
        if settled.overage_nanousd:
            metrics.overage_nanousd.inc(settled.overage_nanousd)
        if RowFlag.LATE in settled.flags:
            metrics.late.inc()
        self._tell_doubts(settled)

    def _tell_doubts(self, settled: Settled) -> None:
        """Count and log what was told but cannot be so."""
        if settled.repeated_call or not settled.flags & (RowFlag.ZERO_COST | RowFlag.SUSPECT):
            return
        facts = {
            "reservation": str(settled.name), "model": settled.model, "cost_nanousd": settled.cost_nanousd,
            "reasons": list(settled.warnings),
        }  # fmt: skip
        if RowFlag.ZERO_COST in settled.flags:
            self._desk.metrics.zero_cost.inc()
            _log.warning("settlement.zero_cost", **facts)
        if RowFlag.SUSPECT in settled.flags:
            self._desk.metrics.suspect.inc()
            _log.warning("settlement.suspect", **facts)


def _booked(name: ReservationName, reckoning: Reckoning, *, flags: RowFlag, repeated: bool) -> Settled:
    return Settled(
        name=name,
        state=State.SETTLED,
        basis=Basis.USAGE,
        held_nanousd=0,
        cost_nanousd=reckoning.cost,
        flags=flags,
        repeated_call=repeated,
        usage=reckoning.said or reckoning.usage,
        model=reckoning.priced_model,
        price_version=reckoning.price_version,
        warnings=(*reckoning.warnings, *_remarks(flags)),
        held_at_all=False,
    )


def _remarks(flags: RowFlag) -> tuple[str, ...]:
    """What a caller should know of how it was booked."""
    if RowFlag.WINDOW_CLOSED in flags:
        return (
            "a day, month or other window that this belongs to is over: it is in the books, and moves no counter there",
        )
    return ()
