"""What the reference tells of its counters with an answer."""

from __future__ import annotations

from collections.abc import Iterator

from limiter.domain.limits import LimitKind
from limiter.domain.money import NANOUSD_PER_USD
from limiter.domain.scopes import Scope
from limiter.store.port import Plan, PlanLimit, RawStatus, Why
from tests.model.counters import Bucket, Counter, Money, ScopeCounters

#: The counters of a call's path as they are at this moment.
Present = dict[Scope, ScopeCounters]


def applying(plan: Plan, at_hand: Present) -> Iterator[tuple[int, int, PlanLimit, Counter]]:
    """Every limit that applies to the call: its place in the plan, the rule, the counter."""
    for s, scope in enumerate(plan.scopes):
        for i, rule in enumerate(scope.limits):
            if rule.applies:
                yield s, i, rule, at_hand[scope.scope].counters[rule.limit.counter]


def told(s: int, i: int, why: Why, counter: Counter) -> RawStatus:
    return RawStatus(s, i, why, *counter.numbers())


def tell_all(plan: Plan, at_hand: Present) -> list[RawStatus]:
    """Every limit that applies."""
    return [told(s, i, Why.INFORMS, counter) for s, i, _, counter in applying(plan, at_hand)]


def tell_overages(plan: Plan, at_hand: Present) -> list[int]:
    """What every limit that applies was charged above its holds."""
    counters = [counter for _, _, _, counter in applying(plan, at_hand)]
    return [counter.overage if isinstance(counter, Money) else 0 for counter in counters]


def tell_tightest(plan: Plan, at_hand: Present) -> list[RawStatus]:
    """The enforced limit of each kind with the least left; of equals, the first in the plan."""
    tightest: dict[LimitKind, tuple[float, RawStatus]] = {}
    for s, i, rule, counter in applying(plan, at_hand):
        left, kind = _left(rule, counter), rule.limit.kind
        if not rule.limit.shadow and (kind not in tightest or left < tightest[kind][0]):
            tightest[kind] = left, told(s, i, Why.INFORMS, counter)
    return [tightest[kind][1] for kind in LimitKind if kind in tightest]


def _left(rule: PlanLimit, counter: Counter) -> float:
    """What is left, as a double: beyond 2⁵³ nano-USD, ceilings that differ by a micro-dollar are equals."""
    if isinstance(counter, Money):
        usd, nano = divmod(rule.limit.amount, NANOUSD_PER_USD)
        for used in (counter.settled, counter.held):
            usd, nano = usd - used // NANOUSD_PER_USD, nano - used % NANOUSD_PER_USD
        return float(usd) * NANOUSD_PER_USD + nano
    if isinstance(counter, Bucket):
        return counter.level / counter.ticks
    return float(rule.limit.amount - counter.open)


def _start(rule: PlanLimit, counter: Money) -> int:
    """When the window began that is open, if it is one of the plan's."""
    start, end, following = rule.window
    return start if counter.ends_ms == end else end if counter.ends_ms == following else 0


def with_warnings(plan: Plan, at_hand: Present) -> Iterator[tuple[RawStatus, list[bytes]]]:
    """Spend limits with a threshold passed, and the events of those passed for the first time in the window."""
    for s, i, rule, counter in applying(plan, at_hand):
        if not isinstance(counter, Money):
            continue
        spent, ceiling = counter.settled + counter.held, rule.limit.amount
        passed = [at for at in rule.limit.warn_at if spent * 1_000_000 >= ceiling * at]
        if not passed:
            continue
        path, name = plan.scopes[s].scope.path, rule.limit.id
        events = [
            (
                f'{{"event":"threshold","scope":"{path}","limit":"{name}","window":"{rule.limit.per}",'
                f'"window_start_ms":{_start(rule, counter)},"resets_at_ms":{counter.ends_ms},'
                f'"threshold":{at / 1_000_000:.6f},"ceiling_nanousd":{ceiling},"settled_nanousd":{counter.settled},'
                f'"held_nanousd":{counter.held}}}'
            ).encode()
            for at in passed
            if at > counter.warned
        ]
        counter.warned = max(counter.warned, *passed)
        yield told(s, i, Why.WARNS, counter), events
