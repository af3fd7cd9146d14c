"""What Limiter would have held and charged for one recorded call, and why the one does not cover the other."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from limiter.cli.estimate_lines import BadLine, RecordedCall
from limiter.domain.calls import ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument, LimiterError
from limiter.pricing.reading import CallReading, ResponseReading, read_request, read_response
from limiter.service.booking import Reckoning
from limiter.service.plans import CallPlan
from limiter.service.sizing import Hold, Request, request_of, size_hold
from limiter.service.trial import Trial


class End(StrEnum):
    """What came of a call; the first that is true of it."""

    SKIPPED = "skipped"  # it used nothing, and its request is not understood: nothing to judge
    NO_USAGE = "no_usage"  # it used nothing, or its answer does not say what
    UNREAD = "unread"
    UNPRICED = "unpriced"
    REFUSED = "refused"
    UNCOVERED = "uncovered"
    COVERED = "covered"


@dataclass(slots=True)
class Finding:
    """What was found of one call. Amounts are nano-USD.

    `growth` names what the provider enlarges its input by, `suspect` what makes no sense in its answer's counts.
    """

    line: int
    provider: str
    end: End
    model: str = ""
    reason: str = ""
    answered: bool = False
    usage_read: bool = False
    hold: int | None = None
    actual: int | None = None
    growth: str = ""
    suspect: str = ""


#: Where lines go that hold no call.
NO_PROVIDER = "(no call)"


def examine(call: RecordedCall | BadLine, trial: Trial) -> Finding:
    """Read, hold, read the answer and price one call; never raises for what a call has in it."""
    if isinstance(call, BadLine):
        return Finding(call.line, NO_PROVIDER, End.UNREAD, reason=call.reason)
    try:
        reading = read_request(call.request)
    except LimiterError as error:
        end = End.UNREAD if call.answered else End.SKIPPED
        return Finding(call.line, call.request.host, end, reason=str(error), answered=call.answered)
    found = Finding(call.line, reading.provider, End.NO_USAGE, reading.model, answered=call.answered)
    try:
        sized = _sized(reading, trial)
    except InvalidArgument as error:
        found.end, found.reason = End.UNREAD if call.answered else End.SKIPPED, str(error)
        return found
    if sized.request.size.growth is not None:
        found.growth = sized.request.size.growth.reason
    if call.answered:
        _answered(found, sized, call, trial)
    return found


class _Sized(NamedTuple):
    """What is asked of the model that the request's name for it stands for."""

    plan: CallPlan
    request: Request
    provider: str


def _sized(reading: CallReading, trial: Trial) -> _Sized:
    plan = trial.plan(provider=reading.provider, model=reading.model, context=reading.context)
    return _Sized(plan, request_of(reading, plan.model), reading.provider)


def _answered(found: Finding, sized: _Sized, call: RecordedCall, trial: Trial) -> None:
    """Read the answer, and judge the call where it tells what was used."""
    try:
        answer = read_response(provider=sized.provider, response=call.response)
    except LimiterError as error:
        found.end, found.reason = End.UNREAD, str(error)
        return
    found.suspect = "; ".join(answer.suspect)
    if answer.usage is None:
        found.end, found.reason = End.UNREAD, "no usage was found in the answer"
        return
    found.usage_read = True
    _judge(found, sized, answer, call.response, trial)


def _judge(found: Finding, sized: _Sized, answer: ResponseReading, response: ProviderResponse, trial: Trial) -> None:
    """Hold and price a call whose usage is known."""
    plan = sized.plan
    if plan.free:
        found.hold, found.actual, found.end = 0, 0, End.COVERED
        return
    if plan.price is None:
        found.end, found.reason = End.UNPRICED, _unpriced(plan)
        return
    try:
        charged = trial.charge(plan, response)
    except InvalidArgument as error:
        found.end, found.reason = End.UNREAD, str(error)
        return
    if missing := _missing(charged, answer, plan, trial):
        found.end, found.reason = End.UNPRICED, "; ".join(missing)
    else:
        _compare(found, sized, charged)


def _compare(found: Finding, sized: _Sized, charged: Reckoning) -> None:
    """Compare the hold of a call with what it is charged."""
    found.actual = charged.cost
    try:
        hold = size_hold(sized.plan, sized.request)
    except InvalidArgument as error:
        found.end, found.reason = End.REFUSED, str(error)
        return
    found.hold = hold.cost
    found.end = End.COVERED if found.actual <= hold.cost else End.UNCOVERED
    if found.end is End.UNCOVERED:
        found.reason = _why(found, sized.request.choices, charged, hold)


def _missing(charged: Reckoning, answer: ResponseReading, plan: CallPlan, trial: Trial) -> list[str]:
    """What was used and has no price, though the model has one."""
    used = [(charged.price, charged.usage)] if charged.usage is not None else []
    missing = []
    for named, usage in answer.others:
        model = named or charged.model
        price = trial.prices.find(provider=plan.provider, model=model, at_ms=trial.at_ms)
        if price is None:
            missing.append(f"no price is known for {model} at {plan.provider}, which was called too")
        used.append((price, usage))
    for price, usage in used:
        if price is not None:
            missing += [f"{price.model} has no price for {unit}" for unit in price.unpriced_units(usage.units)]
    return missing


def _unpriced(plan: CallPlan) -> str:
    if plan.model.startswith("arn:"):
        return f"{plan.model} does not tell its model; name that among the aliases of the policy"
    return f"no price is known for {plan.model} at {plan.provider}; price it by --prices, or name it free in the policy"


def _why(found: Finding, choices: int, charged: Reckoning, hold: Hold) -> str:
    """Which part of a hold was too small."""
    usage = charged.usage or Usage()
    most_output = hold.most_output * choices
    most_input = hold.tokens - most_output
    if usage.output_tokens > most_output:
        return f"output: {usage.output_tokens} tokens of at most {most_output}"
    if usage.input_tokens > most_input:
        grown = f" (growth: {found.growth})" if found.growth else ""
        return f"input: {usage.input_tokens} tokens of at most {most_input}{grown}"
    return f"growth: {found.growth}" if found.growth else "price: the model as served, or a kind of token, costs more"
