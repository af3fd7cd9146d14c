"""Settle, Release, Extend, Charge and GetHeadroom: what a call really cost, booked once."""

from __future__ import annotations

import json
from dataclasses import dataclass

from limiter.domain.calls import Outcome, ProviderResponse, Usage
from limiter.domain.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from limiter.domain.money import CALL_MAX_NANOUSD, format_usd
from limiter.domain.reservations import Basis, ReservationName, RowFlag, State
from limiter.domain.verdicts import LimitStatus
from limiter.pricing.answers import read_response
from limiter.pricing.model_price import ModelPrice
from limiter.service.calls import BookCall, Principal, SettleCall, Settled
from limiter.service.desk import RETENTION_SETTLED_MS, STALE_SUBJECTS, TRIES, Desk, ledger_call
from limiter.service.plans import CallPlan, Question
from limiter.service.statuses import limit_status
from limiter.store.port import ChargeCall, Code, EndCall, EndReply, ExtendCall, ExtendReply

_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")

_OUTCOME_FLAGS = {
    Outcome.COMPLETED: RowFlag(0),
    Outcome.ABORTED: RowFlag.ABORTED,
    Outcome.FAILED: RowFlag.FAILED,
}


@dataclass(frozen=True, slots=True)
class Subject:
    """What was reserved, as far as pricing its usage needs it. `price` None: free, or the caller's own cost."""

    organization: str
    model: str
    provider: str
    price: ModelPrice | None
    free: bool
    reserved_ms: int
    held: int | None


@dataclass(slots=True)
class Reckoning:
    """What a call cost and what that rests on. `tokens` -1: unknown."""

    cost: int
    tokens: int
    basis: Basis
    outcome: Outcome
    usage: Usage | None = None
    price: ModelPrice | None = None
    model: str = ""
    provider_request_id: str = ""
    warnings: tuple[str, ...] = ()

    def ending(self) -> bytes:
        """The end of the call as the ledger keeps it (JSON)."""
        facts: dict[str, object] = {"outcome": self.outcome.name}
        if self.usage is not None:
            usage = self.usage
            facts["usage"] = {name: count for name in _COUNTS if (count := getattr(usage, name))} | usage.units
        if self.model:
            facts["model_served"] = self.model
        if self.price is not None:
            facts |= {"priced_as": self.price.model, "price_version": self.price.price_version}
            facts["price"] = dict(self.price.for_ledger())
        if self.provider_request_id:
            facts["provider_request_id"] = self.provider_request_id
        if self.warnings:
            facts["warnings"] = self.warnings
        return json.dumps(facts, separators=(",", ":")).encode()


class Accounting:
    """The verbs that end holds and book spend."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def settle(self, call: SettleCall) -> Settled:
        """Replace a hold by what was used; charged once, whatever happened meanwhile."""
        if isinstance(call.actual, int):
            basis = Basis.ESTIMATED if call.estimated else Basis.USAGE
            reckoning = Reckoning(_checked(call.actual), -1, basis, call.outcome, model=call.model)
        else:
            reckoning = await self._reckon(call)
        if call.provider_request_id:
            reckoning.provider_request_id = call.provider_request_id
        reply = await self._desk.store.settle(
            EndCall(
                name=call.name,
                basis=reckoning.basis,
                cost=reckoning.cost,
                tokens=reckoning.tokens,
                flag=_OUTCOME_FLAGS[reckoning.outcome],
                retention_ms=RETENTION_SETTLED_MS,
                ending=reckoning.ending(),
            )
        )
        return self._settled(call.name, reply, reckoning)

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
            raise _not_found(name)
        if reply.state is not State.HELD:
            raise FailedPrecondition(f"reservation: {name} is {reply.state.name}; only an open hold can be extended")
        return reply

    async def charge(self, call: BookCall) -> Settled:
        """Book spend that had no hold; never refused for money."""
        desk = self._desk
        identity = await desk.identify(call.principal)
        if identity is None:
            raise NotFound("principal: the API key is not known; spend is booked on a key that exists")
        key, _ = identity
        question = Question(key, call.model, call.provider, cost_known=isinstance(call.actual, int))
        name = ReservationName(key.organization, desk.pepper.reservation_id(key, call.request_id))
        for _ in range(TRIES):
            plan = await desk.plans.get(question)
            if plan is None:
                raise NotFound(f"principal: organization {key.organization} has no policy")
            reckoning = self._reckon_charge(call, plan, key.organization)
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
                )
            )
            desk.clock.hear(reply.now_ms)
            if reply.code in STALE_SUBJECTS:
                desk.refresh(question, reply.code, reply.now_ms)
                continue
            if reply.code == Code.EXISTS:
                raise AlreadyExists(
                    f"request_id: it belongs to {name} ({State(reply.state).name}); settle that instead"
                )
            reckoning.cost = reply.cost
            return _booked(name, reckoning, flags=reply.flags, repeated=reply.repeated)
        raise Unavailable(f"the policy of {key.organization} changes faster than it can be read; try again")

    async def headroom(self, principal: Principal, model: str, provider: str) -> tuple[LimitStatus, ...]:
        """Every limit on the path of a key and model, as it is now."""
        desk = self._desk
        identity = await desk.identify(principal)
        if identity is None:
            raise NotFound("principal: the API key is not known")
        question = Question(identity[0], model, provider, cost_known=True)
        for _ in range(TRIES):
            plan = await desk.plans.get(question)
            if plan is None:
                raise NotFound(f"principal: organization {identity[0].organization} has no policy")
            reply = (await desk.store.inspect([plan.plan]))[0]
            if reply.code in STALE_SUBJECTS:
                desk.refresh(question, reply.code, reply.now_ms)
                continue
            return tuple(
                limit_status(plan.plan, raw, now_ms=reply.now_ms, cost=0, tokens=0, requests=0)
                for raw in reply.statuses
            )
        raise Unavailable(f"the policy of {question.key.organization} changes faster than it can be read; try again")

    # ------------------------------------------------------------------ what it cost

    async def _reckon(self, call: SettleCall) -> Reckoning:
        subject = await self._subject(call.name)
        outcome, usage, model, request_id, context = call.outcome, None, call.model, "", {}
        if isinstance(call.actual, ProviderResponse):
            reading = read_response(provider=subject.provider, response=call.actual)
            usage, context, request_id = reading.usage, reading.context, reading.provider_request_id
            model = call.model or reading.model
            if reading.outcome is not Outcome.COMPLETED:
                outcome = reading.outcome
        elif isinstance(call.actual, Usage):
            usage = call.actual
        if usage is None:
            held = subject.held if subject.held is not None else await self._held(call.name)
            warning = "the answer does not say what was used: the hold is charged in full, as an estimate"
            return Reckoning(
                held, -1, Basis.ESTIMATED, outcome, model=model, provider_request_id=request_id, warnings=(warning,)
            )
        basis = Basis.ESTIMATED if call.estimated else Basis.USAGE
        price, warnings = self._price(subject, model, context)
        cost = self._cost(subject, price, usage)
        if price is not None and usage.units:
            # Refusing would leave what was priced unbooked until expiry: say what is missing instead.
            missing = price.unpriced_units(usage.units)
            warnings += tuple(f"{price.model} has no price for {unit}: not charged" for unit in missing)
        return Reckoning(
            cost, usage.total_tokens, basis, outcome, usage, price, model or subject.model, request_id, warnings
        )

    def _cost(self, subject: Subject, price: ModelPrice | None, usage: Usage) -> int:
        if subject.free:
            return 0
        if price is None:
            if usage.total_tokens == 0 and not usage.units:
                return 0
            raise InvalidArgument("actual.usage", subject.model, "the model has no price; settle with cost_nanousd")
        return _checked(price.charge_nanousd(usage))

    def _price(
        self, subject: Subject, served: str, context: dict[str, str]
    ) -> tuple[ModelPrice | None, tuple[str, ...]]:
        """The price of the model as served; that of the model as reserved where the book does not know it."""
        if subject.free:
            return None, ()
        if served and (served != subject.model or context):
            price = self._desk.prices.find(
                provider=subject.provider, model=served, at_ms=subject.reserved_ms, context=context
            )
            if price is not None:
                return price, ()
            return subject.price, (f"model {served} has no price: priced as {subject.model}, which was reserved",)
        return subject.price, ()

    async def _subject(self, name: ReservationName) -> Subject:
        known = self._desk.granted.get(name)
        if known is not None:
            plan, reserved_ms = known
            return _subject_of_plan(plan, name.organization, reserved_ms)
        record = await self._desk.store.hold(name)
        if record is None:
            raise _not_found(name)
        call = json.loads(record.call)
        model, provider = call.get("alias_of") or call["model"], call.get("provider", "")
        price = None
        if "priced_as" in call:
            price = self._desk.prices.find(
                provider=provider, model=model, at_ms=record.reserved_ms, context=call.get("context")
            )
        return Subject(
            organization=name.organization,
            model=model,
            provider=provider,
            price=price,
            free=call.get("free", False),
            reserved_ms=record.reserved_ms,
            held=record.held,
        )

    async def _held(self, name: ReservationName) -> int:
        record = await self._desk.store.hold(name)
        if record is None:
            raise _not_found(name)
        return record.held

    def _reckon_charge(self, call: BookCall, plan: CallPlan, organization: str) -> Reckoning:
        if isinstance(call.actual, int):
            return Reckoning(
                _checked(call.actual), -1, Basis.USAGE, Outcome.COMPLETED, provider_request_id=call.provider_request_id
            )
        subject = _subject_of_plan(plan, organization, call.occurred_ms)
        usage, model, request_id = call.actual, call.model, ""
        if isinstance(usage, ProviderResponse):
            reading = read_response(provider=subject.provider, response=usage)
            if reading.usage is None:
                raise InvalidArgument("actual.provider_response", "no usage", "charge with usage or cost_nanousd")
            usage, model, request_id = reading.usage, reading.model or model, reading.provider_request_id
        price, warnings = self._price(subject, model if model != call.model else "", {})
        cost = self._cost(subject, price, usage)
        return Reckoning(
            cost,
            usage.total_tokens,
            Basis.USAGE,
            Outcome.COMPLETED,
            usage,
            price,
            model,
            call.provider_request_id or request_id,
            warnings,
        )

    def _settled(self, name: ReservationName, reply: EndReply, reckoning: Reckoning) -> Settled:
        if not reply.found:
            raise _not_found(name)
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
            usage=reckoning.usage,
            model=_priced_model(reckoning),
            price_version=reckoning.price.price_version if reckoning.price is not None else "",
            warnings=reckoning.warnings,
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


def _booked(name: ReservationName, reckoning: Reckoning, *, flags: RowFlag, repeated: bool) -> Settled:
    return Settled(
        name=name,
        state=State.SETTLED,
        basis=Basis.USAGE,
        held_nanousd=0,
        cost_nanousd=reckoning.cost,
        flags=flags,
        repeated_call=repeated,
        usage=reckoning.usage,
        model=_priced_model(reckoning),
        price_version=reckoning.price.price_version if reckoning.price is not None else "",
        warnings=reckoning.warnings,
        held_at_all=False,
    )


def _priced_model(reckoning: Reckoning) -> str:
    return reckoning.price.model if reckoning.price is not None else reckoning.model


def _subject_of_plan(plan: CallPlan, organization: str, reserved_ms: int) -> Subject:
    return Subject(organization, plan.model, plan.provider, plan.price, plan.free, reserved_ms, None)


def _checked(cost: int) -> int:
    if not 0 <= cost <= CALL_MAX_NANOUSD:
        raise InvalidArgument("cost_nanousd", cost, f"use 0 to {CALL_MAX_NANOUSD} ({format_usd(CALL_MAX_NANOUSD)} USD)")
    return cost


def _not_found(name: ReservationName) -> NotFound:
    return NotFound(
        f"reservation: {name} is not known: it never existed or its record was retired; nothing was charged."
        " Book the spend with Charge"
    )
