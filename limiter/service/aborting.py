"""What a call costs of which no final usage is known: by the policy's on_abort, and never more than its hold."""

from __future__ import annotations

import json
from dataclasses import replace

from limiter.domain.calls import Usage
from limiter.domain.errors import InvalidArgument
from limiter.domain.reservations import Basis, OnAbort, RowFlag
from limiter.domain.scopes import Scope
from limiter.pricing.model_price import ModelPrice
from limiter.service.accounting import Accounting
from limiter.service.booking import Reckoning, Subject
from limiter.service.calls import BrokenOff, Settled
from limiter.service.desk import Desk
from limiter.service.doubts import not_for_nothing
from limiter.service.plans import CallPlan, Question
from limiter.service.reckoning import not_found
from limiter.store.port import HoldRecord

#: Bytes of text in a token, as far as that can be said without the model's tokenizer.
_TOKEN_BYTES = 4


class Aborting:
    """Ends holds of calls that broke off. What it books is an estimate: the provider's own count corrects it."""

    def __init__(self, desk: Desk, accounting: Accounting) -> None:
        self._desk = desk
        self._accounting = accounting

    async def settle(self, call: BrokenOff) -> Settled:
        """End the hold. Raises NotFound for a reservation that nobody knows; it then charged nothing."""
        if not call.reached_provider:
            return await self._accounting.release(call.name, reason="the provider was not reached")
        while True:
            record = await self._desk.store.hold(call.name)
            if record is None:
                raise not_found(call.name)
            if record.basis is not None and record.basis >= Basis.ESTIMATED:
                return _unchanged(record)
            reckoning, on_abort = await self._reckon(call, record)
            settled = await self._accounting.book(call.name, reckoning, reserved_ms=record.reserved_ms)
            if settled is not None:
                if not settled.repeated_call:
                    self._desk.metrics.broken_off[on_abort.name].inc()
                return settled

    async def _reckon(self, call: BrokenOff, record: HoldRecord) -> tuple[Reckoning, OnAbort]:
        plan = await self._plan(record)
        on_abort = OnAbort.ESTIMATE if plan is None else plan.settings.on_abort
        subject = self._accounting.reckoner.subject_of_record(record)
        cost, usage = record.held, None
        if on_abort is not OnAbort.FULL_HOLD:
            try:
                cost, usage = _cost(on_abort, call, subject, record)
            except InvalidArgument:  # the provider contradicted itself: what it counted cannot be priced
                cost, usage = record.held, None
        reckoning = Reckoning(
            cost=max(0, min(cost, record.held)),
            tokens=-1 if usage is None else min(usage.total_tokens, record.tokens),
            basis=Basis.ESTIMATED,
            outcome=call.outcome,
            usage=usage,
            price=subject.price,
            model=call.model or subject.model,
            provider_request_id=call.provider_request_id,
            warnings=(f"the provider's final count is not known: charged by on_abort {on_abort.name.lower()}",),
        )
        return not_for_nothing(reckoning, subject), on_abort

    async def _plan(self, record: HoldRecord) -> CallPlan | None:
        """The present plan of the key and model; None: the organization has no policy any more."""
        known = self._desk.granted.get(record.name)
        if known is not None and known.reserved_ms == record.reserved_ms:
            return known.plan
        call = json.loads(record.call)
        context = tuple(sorted(call.get("context", {}).items()))
        priced = "priced_as" in call or call.get("free", False)
        question = Question(Scope.parse_key(call["key"]), call["model"], call.get("provider", ""), not priced, context)
        return await self._desk.plans.get(question)


def _cost(on_abort: OnAbort, call: BrokenOff, subject: Subject, record: HoldRecord) -> tuple[int, Usage | None]:
    """What it cost, and the usage that this takes for granted; the hold itself where nothing can be said."""
    if call.unseen and on_abort is OnAbort.ESTIMATE and call.usage_seen is None:
        return record.held, None
    seen = call.usage_seen or Usage()
    output = seen.output_tokens
    if on_abort is OnAbort.ESTIMATE:
        output = max(output, -(-call.output_bytes // _TOKEN_BYTES))
    output_max = max(0, record.output_max)
    if seen.input_tokens:
        # The provider has counted the input: better than the bound that was held for it.
        usage = replace(seen, output_tokens=output)
    else:
        usage = Usage(input_tokens=max(0, record.tokens - output_max), output_tokens=min(output, output_max))
    if subject.free:
        return 0, usage
    if subject.price is None:
        return record.held, None
    if seen.input_tokens:
        return subject.price.charge_nanousd(usage), usage
    if subject.facts.safe is not None and output_max:
        # The hold is by what such calls cost; what this one could is in its safe parts.
        inputs, outputs = subject.facts.safe
        return inputs + -(-outputs * usage.output_tokens // output_max), usage
    return record.held - _unspent(subject.price, record, usage), usage


def _unspent(price: ModelPrice, record: HoldRecord, usage: Usage) -> int:
    """What of the hold was for output that did not come. All the rest is the input's, with all its units and fees."""

    def held(input_tokens: int, output_tokens: int) -> int:
        return price.hold_nanousd(input_tokens=input_tokens, max_output_tokens=output_tokens, units={})

    output_max = max(0, record.output_max)
    input_tokens = usage.input_tokens
    if held(input_tokens, output_max) > record.held:
        # Several choices: their output stands in the input here, and may seem to reach a dearer tier.
        input_tokens = 0
    return held(input_tokens, output_max) - held(input_tokens, usage.output_tokens)


def _unchanged(record: HoldRecord) -> Settled:
    """The answer where an equal or better settlement is there."""
    return Settled(
        name=record.name,
        state=record.state,
        basis=record.basis,
        held_nanousd=record.held,
        cost_nanousd=record.cost,
        flags=RowFlag(record.flags),
        repeated_call=True,
    )
