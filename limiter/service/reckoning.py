"""What a call cost: from usage or the provider's answer, at the price of what was reserved."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from limiter.domain.calls import Outcome, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument, NotFound
from limiter.domain.money import CALL_MAX_NANOUSD, format_usd
from limiter.domain.reservations import Basis, ReservationName
from limiter.pricing.answers import ResponseReading, read_response
from limiter.pricing.model_price import ModelPrice
from limiter.service.calls import BookCall, SettleCall
from limiter.service.desk import Desk
from limiter.service.plans import CallPlan
from limiter.store.port import HoldRecord

_COUNTS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


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
    context: Mapping[str, str]


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

    @property
    def priced_model(self) -> str:
        """The model by which it was priced."""
        return self.price.model if self.price is not None else self.model

    @property
    def price_version(self) -> str:
        """The price book that was used; "" where none was."""
        return self.price.price_version if self.price is not None else ""

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


class Reckoner:
    """Prices what was used."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def of_settle(self, call: SettleCall) -> Reckoning:
        """What a Settle says that the call cost."""
        if isinstance(call.actual, int):
            basis = Basis.ESTIMATED if call.estimated else Basis.USAGE
            return Reckoning(checked_cost(call.actual), -1, basis, call.outcome, model=call.model)
        subject = await self.subject(call.name)
        outcome, usage, model, request_id, context = call.outcome, None, call.model, "", {}
        if isinstance(call.actual, (ProviderResponse, ResponseReading)):
            reading = call.actual
            if isinstance(reading, ProviderResponse):
                reading = read_response(provider=subject.provider, response=reading)
            usage, context, request_id = reading.usage, reading.context, reading.provider_request_id
            model = call.model or reading.model
            if reading.outcome is not Outcome.COMPLETED:
                outcome = reading.outcome
        elif isinstance(call.actual, Usage):
            # Who counts need not know the terms: those that were asked for hold for the model as served, too.
            usage, context = call.actual, dict(subject.context)
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
        return checked_cost(price.charge_nanousd(usage))

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

    async def subject(self, name: ReservationName) -> Subject:
        """What was reserved; from memory if it was granted here."""
        known = self._desk.granted.get(name)
        if known is not None:
            plan, reserved_ms = known
            return _subject_of_plan(plan, name.organization, reserved_ms)
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
        )

    async def _held(self, name: ReservationName) -> int:
        record = await self._desk.store.hold(name)
        if record is None:
            raise not_found(name)
        return record.held

    def of_charge(self, call: BookCall, plan: CallPlan, organization: str) -> Reckoning:
        """What a Charge says that the call cost."""
        if isinstance(call.actual, int):
            return Reckoning(
                checked_cost(call.actual),
                -1,
                Basis.USAGE,
                Outcome.COMPLETED,
                provider_request_id=call.provider_request_id,
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


def _subject_of_plan(plan: CallPlan, organization: str, reserved_ms: int) -> Subject:
    return Subject(organization, plan.model, plan.provider, plan.price, plan.free, reserved_ms, None, plan.context)


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
