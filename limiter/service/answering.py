"""What a Reserve is answered, by what the script said."""

from __future__ import annotations

from limiter.domain.errors import AlreadyExists, FailedPrecondition, LimiterError, Unavailable
from limiter.domain.limits import LimitKind
from limiter.domain.reservations import ReservationName, State
from limiter.domain.verdicts import DenialReason, Denied, Granted, LimitStatus
from limiter.service.plans import CallPlan
from limiter.service.sizing import Hold, Learned, Request, largest_output
from limiter.service.statuses import limit_status, refusal_message, retry_after_ms
from limiter.store.port import Code, HoldCall, HoldReply, Plan, PlanLimit, RawStatus, Why


def _statuses(plan: Plan, asked: HoldCall, reply: HoldReply, *wanted: Why) -> tuple[LimitStatus, ...]:
    return tuple(_status(plan, asked, raw, reply.now_ms) for raw in reply.statuses if raw.why in wanted)


def _status(plan: Plan, asked: HoldCall, raw: RawStatus, now_ms: int) -> LimitStatus:
    cost = asked.amount(plan.scopes[raw.scope].limits[raw.limit])
    return limit_status(plan, raw, now_ms=now_ms, cost=cost, tokens=asked.tokens, requests=asked.requests)


def granted(plan: Plan, asked: HoldCall, reply: HoldReply) -> Granted:
    """The answer to a grant."""
    limits: list[LimitStatus] = []
    warnings: list[LimitStatus] = []
    now_ms, cost, tokens, requests = reply.now_ms, asked.cost, asked.tokens, asked.requests
    for raw in reply.statuses:
        if asked.lesser is not None:
            cost = asked.amount(plan.scopes[raw.scope].limits[raw.limit])
        status = limit_status(plan, raw, now_ms=now_ms, cost=cost, tokens=tokens, requests=requests)
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


def denied(plan: CallPlan, asked: HoldCall, reply: HoldReply) -> Denied:
    """The answer to a refusal."""
    reason = DenialReason(reply.state)
    violations = _statuses(plan.plan, asked, reply, Why.REFUSES)
    refusing = [raw for raw in reply.statuses if raw.why == Why.REFUSES]
    return Denied(
        reason=reason,
        message=refusal_message(reason, violations, model=plan.model, provider=plan.provider),
        violations=violations,
        limits=_statuses(plan.plan, asked, reply, Why.INFORMS),
        warnings=_statuses(plan.plan, asked, reply, Why.SHADOWS),
        retry_after_ms=retry_after_ms(
            plan.plan, refusing, now_ms=reply.now_ms, tokens=asked.tokens, requests=asked.requests
        )
        if reason.retryable
        else None,
        dry_run=asked.dry_run,
    )


def fitting_output(
    plan: CallPlan, request: Request, hold: Hold, reply: HoldReply, learned: Learned | None
) -> int | None:
    """The most output that would have been granted, where output is what is too large."""
    rooms: list[tuple[PlanLimit, int]] = []
    for raw in reply.statuses:
        if raw.why != Why.REFUSES:
            continue
        rule = plan.plan.scopes[raw.scope].limits[raw.limit]
        if rule.limit.kind not in (LimitKind.SPEND, LimitKind.TOKENS):
            return None
        status = limit_status(plan.plan, raw, now_ms=0, cost=0, tokens=0, requests=1)
        rooms.append((rule, status.remaining))
    if not rooms or hold.most_output < 1:
        return None

    def fits(smaller: Hold) -> bool:
        return all(
            (smaller.amount(rule) if rule.limit.kind is LimitKind.SPEND else smaller.tokens) <= room
            for rule, room in rooms
        )

    return largest_output(plan, request, learned, asked=hold.most_output, fits=fits)


def error_of(reply: HoldReply, name: ReservationName) -> LimiterError:
    """The error where no decision was made."""
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
