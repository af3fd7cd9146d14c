"""Reserve: key → plan → estimate → hold → store → verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from secrets import token_hex

import structlog

from limiter.domain.calls import Estimate, ProviderRequest
from limiter.domain.errors import (
    DeadlineExceeded,
    InvalidArgument,
    Unavailable,
)
from limiter.domain.reservations import NO_FLAG, ReservationName, RowFlag, Sizing
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason, Denied, Granted, Verdict
from limiter.observability.metrics import NO_REASON
from limiter.pricing.learning import learned_cost
from limiter.pricing.reading import CallReading, read_request
from limiter.service.answering import denied, error_of, fitting_output, granted
from limiter.service.calls import ReserveCall, Tags
from limiter.service.desk import RETENTION_SETTLED_MS, STALE_SUBJECTS, TRIES, Desk, Remembered, ledger_call
from limiter.service.facts import Facts, facts_of
from limiter.service.plans import CallPlan, Question
from limiter.service.sizing import Hold, Learned, Request, request_of, size_hold
from limiter.service.statuses import refusal_message
from limiter.store.port import Code, HoldCall, HoldReply, Why

_log = structlog.get_logger(__name__)

#: An enum's member takes longer to find than what is then done with it.
_GRANTED, _DENIED, _CLOCK_BEHIND = Code.GRANTED, Code.DENIED, Code.CLOCK_BEHIND
_SHADOWS, _LEARNED = Why.SHADOWS, Sizing.LEARNED


class Reserving:
    """The Reserve of the service. `sweep` ends due holds of an organization's shard at once, if it may."""

    def __init__(self, desk: Desk, *, sweep: Callable[[str], asyncio.Future[bool]]) -> None:
        self._desk = desk
        self._sweep = sweep

    async def reserve(self, call: ReserveCall) -> Verdict:
        """Ask for a hold. A refusal is an answer; an error means that no decision was made."""
        desk = self._desk
        _check_deadline(call.deadline)
        identity = desk.known_identity(call.principal) or await desk.identify(call.principal)
        if identity is None:
            return self._refuse_unknown(call)
        key, secret_expires_ms = identity
        # Only now: a stranger's body is not worth the time.
        size = read_request(call.size) if isinstance(call.size, ProviderRequest) else call.size
        question, tags = _question(call, size, key)
        request_id = call.request_id or token_hex(16)
        own = desk.pepper.reservation_id(key, request_id) if call.request_id else request_id
        name = ReservationName(key.organization, own)
        swept = False
        for _ in range(TRIES):
            plan = desk.plans.lasting(question) or await desk.plans.get(question)
            if plan is None:
                return self._refuse_unknown(call, key)
            try:
                request, hold, learned = self._sized(call, size, plan, key)
            except InvalidArgument as error:
                await desk.forget_if_stale(question, plan, error)
                continue
            facts = facts_of(plan, request, hold)
            asked = self._hold_call(call, plan, hold, facts, name, request_id, tags, secret_expires_ms)
            reply = await desk.store.reserve(asked, deadline=call.deadline)
            desk.clock.hear(reply.now_ms)
            if reply.code in STALE_SUBJECTS:
                desk.refresh(question, reply.code, reply.now_ms)
                # With the key's record, the end of the secret may have changed.
                identity = await desk.identify(call.principal)
                if identity is None:
                    return self._refuse_unknown(call)
                _, secret_expires_ms = identity
                continue
            may_help = reply.code == _DENIED and reply.due_waiting and not swept and not call.dry_run
            if may_help and await self._sweep_helped(key.organization):
                swept = True
                continue
            verdict = self._verdict(call, plan, asked, reply, question, tags)
            if isinstance(verdict, Denied):
                return replace(verdict, fits_max_output_tokens=fitting_output(plan, request, hold, reply, learned))
            if not reply.repeated and not call.dry_run:
                desk.granted.put(name, Remembered(plan, reply.now_ms, hold.cost, facts))
            return _with_output_field(verdict, request)
        raise Unavailable(f"the policy of {key.organization} changes faster than it can be read; try again")

    def _sized(
        self, call: ReserveCall, size: _Size, plan: CallPlan, key: Scope
    ) -> tuple[Request, Hold, Learned | None]:
        """What is asked for, what is held, and what such calls really cost if the hold rests on it."""
        if plan.plan.denial:
            return request_of(None, ""), Hold(0, 0, None), None
        learned = None
        if plan.sizings[-1] is _LEARNED:
            quantile = plan.settings.learned_quantile
            factor = self._desk.learned.factor(key.organization, key.team, plan.model, quantile)
            learned = None if factor is None else partial(learned_cost, factor=factor)
        request = request_of(size, plan.model, capped=call.caps_output)
        return request, size_hold(plan, request, learned), learned

    async def _sweep_helped(self, organization: str) -> bool:
        """End what is due in the shard; answers whether anything ended."""
        # Others wait for the same sweep: that this call is cancelled must not end it.
        return await asyncio.shield(self._sweep(organization))

    def _hold_call(  # noqa: PLR0917 - private, called once
        self,
        call: ReserveCall,
        plan: CallPlan,
        hold: Hold,
        facts: Facts,
        name: ReservationName,
        request_id: str,
        tags: Tags,
        secret_expires_ms: int,
    ) -> HoldCall:
        settings = plan.settings
        ttl_ms = call.ttl_ms if call.ttl_ms is not None else settings.ttl_ms
        return HoldCall(
            plan=plan.plan,
            name=name,
            fingerprint=call.fingerprint,
            cost=hold.cost,
            tokens=hold.tokens,
            requests=1,
            ttl_ms=min(ttl_ms, settings.max_lifetime_ms),
            lifetime_ms=settings.max_lifetime_ms,
            retention_ms=RETENTION_SETTLED_MS,
            key_expires_ms=plan.key_expires_ms,
            secret_expires_ms=secret_expires_ms,
            output_max=-1 if hold.max_output_tokens is None else hold.max_output_tokens,
            on_expiry=settings.on_expiry,
            dry_run=call.dry_run,
            all_limits=call.all_limits,
            consume=call.consume,
            own_id=not call.request_id,
            call=ledger_call(plan, request_id, tags, facts),
            # A consumed call costs the same at every limit.
            lesser=None if call.consume else hold.lesser,
            flags=RowFlag.ZERO_COST if call.consume and plan.price is not None and not hold.cost else NO_FLAG,
        )

    def _verdict(  # noqa: PLR0917 - private, called once
        self,
        call: ReserveCall,
        plan: CallPlan,
        asked: HoldCall,
        reply: HoldReply,
        question: Question,
        tags: Tags,
    ) -> Verdict:
        for raw in reply.statuses:
            if raw.why == _SHADOWS:
                kind = plan.plan.scopes[raw.scope].limits[raw.limit].limit.kind
                self._desk.metrics.shadow_refusals[kind.name].inc()
        if reply.code == _GRANTED:
            self._desk.metrics.decisions["GRANTED", NO_REASON].inc()
            if asked.flags is not NO_FLAG and not call.dry_run and not reply.repeated:
                self._desk.metrics.zero_cost.inc()
                _log.warning("consume.zero_cost", reservation=str(asked.name), model=plan.model)
            return granted(plan.plan, asked, reply)
        if reply.code == _DENIED:
            refusal = denied(plan, asked, reply)
            self._desk.metrics.decisions["DENIED", refusal.reason.name].inc()
            if not call.dry_run:
                self._desk.refusals.add(question.key, plan.model, refusal, (*plan.tags.items(), *tags), reply.now_ms)
            return refusal
        if reply.code == _CLOCK_BEHIND:
            self._desk.metrics.clock_behind.inc()
        raise error_of(reply, asked.name)

    def _refuse_unknown(self, call: ReserveCall, key: Scope | None = None) -> Denied:
        if key is not None and call.principal.key is None:
            raise Unavailable(f"organization {key.organization} has no policy; apply one with `limiter apply`")
        self._desk.metrics.decisions["DENIED", DenialReason.KEY_UNKNOWN.name].inc()
        return Denied(DenialReason.KEY_UNKNOWN, refusal_message(DenialReason.KEY_UNKNOWN, ()), dry_run=call.dry_run)


#: A size whose provider's request was read.
_Size = Estimate | CallReading | int | None


def _question(call: ReserveCall, size: _Size, key: Scope) -> tuple[Question, Tags]:
    """What the plan is asked for, and the tags of the call."""
    model, provider, tags = call.model, call.provider, call.tags
    context: Tags = ()
    if isinstance(size, CallReading):
        model, provider = call.model or size.model, call.provider or size.provider
        tags, context = tags + size.tags, tuple(sorted(size.context.items()))
    cost_known = size is None or isinstance(size, int)
    if not model and not (call.consume or cost_known):
        raise InvalidArgument("model", model, "name the model; only consumed calls may have none")
    return Question(key, model, provider, cost_known=cost_known, context=context), tags


def _with_output_field(verdict: Granted, request: Request) -> Granted:
    """Say where the maximum output can be written in a request that names none."""
    if request.max_output_tokens is not None or not request.output_field:
        return verdict
    return verdict._replace(output_field=request.output_field)


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and asyncio.get_running_loop().time() >= deadline:
        raise DeadlineExceeded("the deadline had passed before the store was asked; nothing was changed")
