"""Replays a trace through the learning of holds: what safe and learned ones would have been, call by call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from rich.console import RenderableType

from limiter.cli.estimate_call import End, Finding
from limiter.cli.estimate_report import numbers, row
from limiter.cli.estimate_tally import Group
from limiter.cli.output import table
from limiter.cli.replay_trace import TracedCall
from limiter.domain.calls import Usage
from limiter.domain.errors import InvalidArgument
from limiter.pricing.bounds import Bound, Size
from limiter.pricing.learning import SAMPLES_MIN, Factor, Learning, Sample, learned_cost
from limiter.service.sizing import Request, size_hold
from limiter.service.trial import Trial


@dataclass(slots=True)
class Replayed:
    """What came of a trace; the groups have the calls after the first `SAMPLES_MIN`."""

    model: str
    max_output_tokens: int
    price_version: str
    calls: int = 0
    safe: Group = field(default_factory=Group)
    learned: Group = field(default_factory=Group)
    factor: Factor | None = None


def replay_trace(
    calls: Sequence[TracedCall], trial: Trial, *, model: str, max_output_tokens: int, advance: Callable[[int], object]
) -> Replayed:
    """Hold for each call by what the ones before it taught, then learn from it.

    The input is known as it is in the trace; the output is at most `max_output_tokens`, or what the call wrote, if
    that is more. Raises InvalidArgument for a model without a price.
    """
    plan = trial.plan(provider="", model=model, context={})
    if plan.price is None:
        raise InvalidArgument("--model", model, "it has no price; add --prices FILE with one of your own")
    outcome = Replayed(plan.price.model, max_output_tokens, plan.price.price_version)
    learning = Learning(quantile=plan.settings.learned_quantile)
    for number, call in enumerate(calls, 1):
        size = Bound(call.context_tokens)
        request = Request(Size(size, size), max(max_output_tokens, call.generated_tokens), operation="chat")
        factor = learning.factor
        safe = size_hold(plan, request)
        learned = safe if factor is None else size_hold(plan, request, partial(learned_cost, factor=factor))
        cost = plan.price.charge_nanousd(Usage(call.context_tokens, call.generated_tokens))
        if number > SAMPLES_MIN:
            outcome.safe.add(_finding(number, plan.provider, safe.cost, cost))
            outcome.learned.add(_finding(number, plan.provider, learned.cost, cost))
        learning.add(Sample(*(safe.safe or (safe.cost, 0)), cost))
        if learning.due:
            for _ in learning.study():
                pass
        outcome.calls = number
        advance(number)
    outcome.factor = learning.factor
    return outcome


def _finding(line: int, provider: str, hold: int, actual: int) -> Finding:
    end = End.COVERED if actual <= hold else End.UNCOVERED
    return Finding(line, provider, end, answered=True, usage_read=True, hold=hold, actual=actual)


def trace_json(outcome: Replayed) -> dict[str, Any]:
    """All that is known of the trace; `of_safe` is how much of the median safe hold/cost the learned one is."""
    return {
        "mode": "learned",
        "price_version": outcome.price_version,
        "model": outcome.model,
        "max_output_tokens": outcome.max_output_tokens,
        "calls": outcome.calls,
        "samples_before": min(outcome.calls, SAMPLES_MIN),
        "safe": numbers(outcome.safe),
        "learned": numbers(outcome.learned),
        "covered_of_learned": _covered(outcome.learned),
        "of_safe": _of_safe(outcome),
        "factor": _factor(outcome.factor),
    }


def trace_parts(outcome: Replayed) -> Iterator[RenderableType]:
    """Yield what people read."""
    if not outcome.learned.calls:
        yield f"{outcome.calls} calls: nothing is learned from fewer than {SAMPLES_MIN}"
        return
    columns = ("hold", "calls>", "covered>", "uncovered>", "hold/cost p50>", "p90>", "p99>")
    named = (("safe", outcome.safe), ("learned", outcome.learned))
    yield table(columns, (row(name, (group.calls, group.covered, group.uncovered), group) for name, group in named))
    yield ""
    covered, of_safe = _covered(outcome.learned) or 0.0, _of_safe(outcome)
    share = "" if of_safe is None else f", at {100 * of_safe:.1f} % of the median safe hold"
    yield (
        f"after {SAMPLES_MIN} calls learned holds covered {100 * covered:.2f} %{share}"
        f" ({outcome.model}, prices {outcome.price_version})"
    )


def _covered(group: Group) -> float | None:
    return round(group.covered / group.calls, 5) if group.calls else None


def _of_safe(outcome: Replayed) -> float | None:
    (safe,), (learned,) = outcome.safe.ratios_at(50), outcome.learned.ratios_at(50)
    return round(learned / safe, 4) if learned and safe else None


def _factor(factor: Factor | None) -> dict[str, Any] | None:
    if factor is None:
        return None
    return {
        "slope_millionths": factor.slope,
        "share_millionths": factor.share,
        "amount_nanousd": factor.amount,
        "samples": factor.samples,
        "wide": factor.wide,
    }
