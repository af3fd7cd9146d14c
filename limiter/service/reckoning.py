"""What a call cost: from usage or the provider's answer, at the price of what was reserved."""

from __future__ import annotations

import json
from collections.abc import Mapping

from limiter.domain.calls import Outcome, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument, NotFound
from limiter.domain.money import CALL_MAX_NANOUSD, format_usd
from limiter.domain.reservations import Basis, ReservationName
from limiter.pricing.answers import ResponseReading, read_response
from limiter.pricing.model_price import ModelPrice
from limiter.pricing.suspicion import RUNS_MAX, beyond, settled_reading
from limiter.service.booking import Reckoning, Subject
from limiter.service.calls import BookCall, SettleCall
from limiter.service.desk import Desk
from limiter.service.doubts import doubt_nothing, doubted, not_for_nothing, with_missing
from limiter.service.facts import Facts, facts_in
from limiter.service.plans import CallPlan
from limiter.store.port import HoldRecord

#: Of a model whose context window is not known: as large as the largest of any.
_WINDOW_MAX = 10_000_000


class Reckoner:
    """Prices what was used."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def of_settle(self, call: SettleCall) -> Reckoning:
        """What a Settle says that the call cost."""
        basis = Basis.ESTIMATED if call.estimated else Basis.USAGE
        if isinstance(call.actual, int):
            said = Reckoning(checked_cost(call.actual), -1, basis, call.outcome, model=call.model)
            return said if said.cost else doubt_nothing(said, await self.subject(call.name))
        subject = await self.subject(call.name)
        if isinstance(call.actual, Usage):
            # Who counts need not know the terms: those that were asked for hold for the model as served, too.
            reading = ResponseReading("", call.actual, "", context=dict(subject.context))
        elif isinstance(call.actual, ProviderResponse):
            reading = read_response(provider=subject.provider, response=call.actual)
        else:
            reading = call.actual
        outcome = call.outcome if reading.outcome is Outcome.COMPLETED else reading.outcome
        told = Reckoning(0, -1, basis, outcome, reading.usage, model=call.model or reading.model)
        told.provider_request_id = reading.provider_request_id
        if told.usage is None and reading.as_asked and subject.facts.asked is not None:
            told.usage, told.basis = subject.facts.asked, Basis.ESTIMATED
            told.warnings = ("such an answer does not say what was used: charged as asked for, as an estimate",)
        if told.usage is None:
            told.cost, told.basis = subject.held or 0, Basis.ESTIMATED
            told.warnings = ("the answer does not say what was used: the hold is charged in full, as an estimate",)
            return told
        return self._reckoned(told, told.usage, subject, reading)

    def _reckoned(self, told: Reckoning, usage: Usage, subject: Subject, reading: ResponseReading) -> Reckoning:
        """Put the price of the usage into `told`; of the larger reading, where the usage contradicts itself."""
        said = usage
        usage, doubts = settled_reading(reading.larger or usage)
        doubts = (*reading.suspect, *doubts)
        if usage != said:
            told.said = said
        price, warnings = self._price(subject, told.model, reading.context)
        told.usage, told.price, told.tokens = usage, price, usage.total_tokens
        told.model = told.model or subject.model
        told.warnings += warnings
        if subject.free:
            return doubted(told, subject, doubts, absurd=False)
        if price is None:
            if usage.total_tokens or usage.units:
                raise InvalidArgument("actual.usage", subject.model, "the model has no price; settle with cost_nanousd")
            return not_for_nothing(told, subject)
        if told.outcome is Outcome.FAILED and not usage.total_tokens and not usage.units:
            return told  # not even the fee of the request
        told.cost = price.charge_nanousd(usage)
        missing = [f"{price.model} has no price for {unit}" for unit in price.unpriced_units(usage.units)]
        for model, used in reading.others:
            missing += self._add_other(told, subject, model, used)
        beyond_reason = beyond(
            usage,
            context_window=price.context_window or _WINDOW_MAX,
            max_output_tokens=price.max_output_tokens,
            choices=subject.facts.choices,
            runs=1 if subject.facts.runs_once else RUNS_MAX,
        )
        told = doubted(told, subject, (*doubts, *beyond_reason), absurd=bool(beyond_reason))
        return not_for_nothing(with_missing(told, subject, missing), subject)

    def _add_other(self, told: Reckoning, subject: Subject, model: str, used: Usage) -> list[str]:
        """Add what another model ("": the same) did for the call; answers what has no price."""
        model = model or told.model
        price = self._desk.prices.find(provider=subject.provider, model=model, at_ms=subject.reserved_ms)
        if price is None:
            return [f"{model}, which was called too, has no price"]
        told.cost += price.charge_nanousd(settled_reading(used)[0])
        return [f"{model} has no price for {unit}" for unit in price.unpriced_units(used.units)]

    def _price(
        self, subject: Subject, served: str, context: Mapping[str, str]
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

    async def subject(self, name: ReservationName) -> Subject:
        """What was reserved; from memory if it was granted here."""
        known = self._desk.granted.get(name)
        if known is not None:
            return _subject_of_plan(known.plan, name.organization, known.reserved_ms, known.held, known.facts)
        record = await self._desk.store.hold(name)
        if record is None:
            raise not_found(name)
        return self.subject_of_record(record)

    def subject_of_record(self, record: HoldRecord) -> Subject:
        """What was reserved, as the store keeps it."""
        call = json.loads(record.call)
        model, provider = call.get("alias_of") or call["model"], call.get("provider", "")
        price = None
        if "priced_as" in call:
            price = self._desk.prices.find(
                provider=provider, model=model, at_ms=record.reserved_ms, context=call.get("context")
            )
        return Subject(
            organization=record.name.organization,
            model=model,
            provider=provider,
            price=price,
            free=call.get("free", False),
            reserved_ms=record.reserved_ms,
            held=record.held,
            context=call.get("context", {}),
            facts=facts_in(call),
            max_cost=call.get("max_cost_nanousd"),
        )

    def of_charge(self, call: BookCall, plan: CallPlan, organization: str) -> Reckoning:
        """What a Charge says that the call cost."""
        facts = Facts(floor=plan.floor(""))
        subject = _subject_of_plan(plan, organization, call.occurred_ms, None, facts)
        told = Reckoning(0, -1, Basis.USAGE, Outcome.COMPLETED, provider_request_id=call.provider_request_id)
        if isinstance(call.actual, int):
            told.cost = checked_cost(call.actual)
            return told if told.cost else doubt_nothing(told, subject)
        reading = ResponseReading("", call.actual, "") if isinstance(call.actual, Usage) else None
        if reading is None:
            reading = read_response(provider=subject.provider, response=call.actual)  # type: ignore[arg-type]
        if reading.usage is None:
            raise InvalidArgument("actual.provider_response", "no usage", "charge with usage or cost_nanousd")
        told.model = reading.model if reading.model != call.model else ""
        told.outcome = reading.outcome
        told.provider_request_id = call.provider_request_id or reading.provider_request_id
        return self._reckoned(told, reading.usage, subject, reading)


def _subject_of_plan(plan: CallPlan, organization: str, reserved_ms: int, held: int | None, facts: Facts) -> Subject:
    most = plan.settings.max_cost_per_call_nanousd
    return Subject(
        organization=organization,
        model=plan.model,
        provider=plan.provider,
        price=plan.price,
        free=plan.free,
        reserved_ms=reserved_ms,
        held=held,
        context=plan.context,
        facts=facts,
        max_cost=most if most < CALL_MAX_NANOUSD else None,
    )


def checked_cost(cost: int) -> int:
    """Return a cost that one call can have."""
    if not 0 <= cost <= CALL_MAX_NANOUSD:
        raise InvalidArgument("cost_nanousd", cost, f"use 0 to {CALL_MAX_NANOUSD} ({format_usd(CALL_MAX_NANOUSD)} USD)")
    return cost


def not_found(name: ReservationName) -> NotFound:
    """The error for a reservation that nobody knows."""
    return NotFound(
        f"reservation: {name} is not known: it never existed or its record was retired; nothing was charged."
        " Book the spend with Charge"
    )
