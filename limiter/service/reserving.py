"""Reserve: key → plan → estimate → hold → store → verdict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from secrets import token_hex

from limiter.domain.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    LimiterError,
    Unavailable,
)
from limiter.domain.limits import LimitKind
from limiter.domain.reservations import ReservationName, State
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason, Denied, Granted, LimitStatus, Verdict
from limiter.observability.metrics import NO_REASON
from limiter.service.calls import ReserveCall, Tags
from limiter.service.desk import RETENTION_SETTLED_MS, STALE_SUBJECTS, TRIES, Desk, ledger_call
from limiter.service.plans import CallPlan, Question
from limiter.service.sizing import Hold, Request, largest_output, read_size, size_hold
from limiter.service.statuses import limit_status, refusal_message, retry_after_ms
from limiter.store.port import Code, HoldCall, HoldReply, Plan, RawStatus, Why


class Reserving:
    """The Reserve of the service. `sweep` ends due holds of an organization's shard at once, if it may."""

    def __init__(self, desk: Desk, *, sweep: Callable[[str], asyncio.Future[bool]]) -> None:
        self._desk = desk
        self._sweep = sweep

    async def reserve(self, call: ReserveCall) -> Verdict:
        """Ask for a hold. A refusal is an answer; an error means that no decision was made."""
        desk = self._desk
        _check_deadline(call.deadline)
        request, reading = read_size(call.size)
        identity = desk.known_identity(call.principal) or await desk.identify(call.principal)
        if identity is None:
            return self._refuse_unknown(call)
        key, secret_expires_ms = identity
        model, provider, tags = call.model, call.provider, call.tags
        context: Tags = ()
        if reading is not None:
            model, provider = call.model or reading.model, call.provider or reading.provider
            tags, context = tags + reading.tags, tuple(sorted(reading.context.items()))
        if not model and not (call.consume or request.cost is not None):
            raise InvalidArgument("model", model, "name the model; only consumed calls may have none")
        question = Question(key, model, provider, cost_known=request.cost is not None, context=context)
        if call.request_id:
            request_id = call.request_id
            name = ReservationName(key.organization, desk.pepper.reservation_id(key, request_id))
        else:
            request_id = token_hex(16)
            name = ReservationName(key.organization, request_id)
        swept = False
        for _ in range(TRIES):
            plan = desk.plans.lasting(question) or await desk.plans.get(question)
            if plan is None:
                return self._refuse_unknown(call, key)
            hold = size_hold(plan, request) if not plan.plan.denial else Hold(0, 0, None)
            asked = self._hold_call(call, plan, hold, name, request_id, tags, secret_expires_ms)
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
            may_help = reply.code == Code.DENIED and reply.due_waiting and not swept and not call.dry_run
            if may_help and await self._sweep_helped(key.organization):
                swept = True
                continue
            return self._verdict(call, plan, request, asked, reply, question, tags)
        raise Unavailable(f"the policy of {key.organization} changes faster than it can be read; try again")

    async def _sweep_helped(self, organization: str) -> bool:
        """End what is due in the shard; answers whether anything ended."""
        # Others wait for the same sweep: that this call is cancelled must not end it.
        return await asyncio.shield(self._sweep(organization))

    def _hold_call(  # noqa: PLR0917 - private, called once
        self,
        call: ReserveCall,
        plan: CallPlan,
        hold: Hold,
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
            call=ledger_call(plan, request_id, tags),
        )

    def _verdict(  # noqa: PLR0917 - private, called once
        self,
        call: ReserveCall,
        plan: CallPlan,
        request: Request,
        asked: HoldCall,
        reply: HoldReply,
        question: Question,
        tags: Tags,
    ) -> Verdict:
        for raw in reply.statuses:
            if raw.why == Why.SHADOWS:
                kind = plan.plan.scopes[raw.scope].limits[raw.limit].limit.kind
                self._desk.metrics.shadow_refusals[kind.name].inc()
        if reply.code == Code.GRANTED:
            self._desk.metrics.decisions["GRANTED", NO_REASON].inc()
            if not call.dry_run and not reply.repeated:
                self._desk.granted.put(asked.name, (plan, reply.now_ms))
            return _granted(plan.plan, asked, reply)
        if reply.code == Code.DENIED:
            denied = _denied(plan, request, asked, reply)
            self._desk.metrics.decisions["DENIED", denied.reason.name].inc()
            if not call.dry_run:
                self._desk.refusals.add(question.key, plan.model, denied, (*plan.tags.items(), *tags), reply.now_ms)
            return denied
        if reply.code == Code.CLOCK_BEHIND:
            self._desk.metrics.clock_behind.inc()
        raise _error(reply, asked.name)

    def _refuse_unknown(self, call: ReserveCall, key: Scope | None = None) -> Denied:
        if key is not None and call.principal.key is None:
            raise Unavailable(f"organization {key.organization} has no policy; apply one with `limiter apply`")
        self._desk.metrics.decisions["DENIED", DenialReason.KEY_UNKNOWN.name].inc()
        return Denied(DenialReason.KEY_UNKNOWN, refusal_message(DenialReason.KEY_UNKNOWN, ()), dry_run=call.dry_run)


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and asyncio.get_running_loop().time() >= deadline:
        raise DeadlineExceeded("the deadline had passed before the store was asked; nothing was changed")


def _statuses(plan: Plan, asked: HoldCall, reply: HoldReply, *wanted: Why) -> tuple[LimitStatus, ...]:
    return tuple(
        limit_status(plan, raw, now_ms=reply.now_ms, cost=asked.cost, tokens=asked.tokens, requests=asked.requests)
        for raw in reply.statuses
        if raw.why in wanted
    )


def _granted(plan: Plan, asked: HoldCall, reply: HoldReply) -> Granted:
    limits: list[LimitStatus] = []
    warnings: list[LimitStatus] = []
    for raw in reply.statuses:
        status = limit_status(
            plan, raw, now_ms=reply.now_ms, cost=asked.cost, tokens=asked.tokens, requests=asked.requests
        )
        (warnings if raw.why else limits).append(status)  # Why.INFORMS is 0
    return Granted(
        "" if asked.dry_run else str(asked.name),
        reply.held,
        reply.expires_ms,
        None if reply.output_max < 0 else reply.output_max,
        tuple(limits),
        tuple(warnings),
        reply.repeated,
        asked.dry_run,
    )


def _denied(plan: CallPlan, request: Request, asked: HoldCall, reply: HoldReply) -> Denied:
    reason = DenialReason(reply.state)
    violations = _statuses(plan.plan, asked, reply, Why.REFUSES)
    refusing = [raw for raw in reply.statuses if raw.why == Why.REFUSES]
    return Denied(
        reason=reason,
        message=refusal_message(reason, violations, model=plan.model),
        violations=violations,
        limits=_statuses(plan.plan, asked, reply, Why.INFORMS),
        warnings=_statuses(plan.plan, asked, reply, Why.SHADOWS),
        retry_after_ms=retry_after_ms(
            plan.plan, refusing, now_ms=reply.now_ms, tokens=asked.tokens, requests=asked.requests
        )
        if reason.retryable
        else None,
        fits_max_output_tokens=_fitting_output(plan, request, asked, refusing),
        dry_run=asked.dry_run,
    )


def _fitting_output(plan: CallPlan, request: Request, asked: HoldCall, refusing: list[RawStatus]) -> int | None:
    """The most output that would have been granted, where output is what is too large."""
    room_nanousd, room_tokens = asked.cost, asked.tokens
    for raw in refusing:
        status = limit_status(plan.plan, raw, now_ms=0, cost=asked.cost, tokens=asked.tokens, requests=1)
        if status.limit.kind is LimitKind.SPEND:
            room_nanousd = min(room_nanousd, status.remaining)
        elif status.limit.kind is LimitKind.TOKENS:
            room_tokens = min(room_tokens, status.remaining)
        else:
            return None
    if not refusing or asked.output_max < 1:
        return None
    return largest_output(plan, request, asked=asked.output_max, room_nanousd=room_nanousd, room_tokens=room_tokens)


def _error(reply: HoldReply, name: ReservationName) -> LimiterError:
    if reply.code == Code.EXISTS:
        return AlreadyExists("request_id: it was used for other content by this key; use a new one for another call")
    if reply.code == Code.ENDED:
        state = State(reply.state).name
        return FailedPrecondition(f"request_id: its reservation {name} is {state}; use a new one for another call")
    if reply.code == Code.CLOCK_BEHIND:
        return Unavailable("the store's clock is more than a minute behind its own counters; set the clock right")
    if reply.code == Code.BACKLOG:
        return Unavailable("the ledger's backlog is full (max_backlog); see that its rows are drained")
    return Unavailable(f"the store answered with a code that is not known: {reply.code}")
