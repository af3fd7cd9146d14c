"""The counters of the reference: money, buckets, slots. Each knows its own arithmetic and nothing else."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field

from limiter.domain.limits import RATE_PERIODS, LimitKind
from limiter.domain.money import NANOUSD_PER_USD
from limiter.domain.verdicts import DenialReason
from limiter.store.port import HoldCall, PlanLimit, PlanScope

Numbers = tuple[int, int, int, int, int]


@dataclass(slots=True)
class Money:
    """What was spent and is held in one window.

    `warned` is the highest threshold reported, in millionths; `overage` what was spent above the holds.
    """

    period_ms: int
    ends_ms: int
    settled: int = 0
    held: int = 0
    warned: int = 0
    overage: int = 0

    def refuses(self, ceiling: int, cost: int) -> DenialReason | None:
        """Rule 1. A call that costs nothing needs no room."""
        if cost == 0 or self.settled + self.held + cost <= ceiling:
            return None
        return DenialReason.SPEND_CEILING if self.settled + cost > ceiling else DenialReason.SPEND_HELD

    def bring_forward(self, rule: PlanLimit, now_ms: int) -> None:
        """Leave a window behind that has ended, never one that is open."""
        if now_ms < self.ends_ms:
            return
        start, following, finish = rule.window
        if now_ms >= following:
            start, following = following, finish
        self.period_ms = max(start, self.ends_ms, self.period_ms + 1)
        self.ends_ms = following
        self.settled = self.held = self.warned = self.overage = 0

    def numbers(self) -> Numbers:
        return (self.ends_ms, *divmod(self.settled, NANOUSD_PER_USD), *divmod(self.held, NANOUSD_PER_USD))

    def stored(self) -> tuple[int, ...]:
        return (self.period_ms, *self.numbers(), self.warned)


@dataclass(slots=True)
class Bucket:
    """A token bucket; `level` is in 1/ticks of a token, so that each tick adds `amount`, exactly."""

    kind: LimitKind
    period_ms: int
    tick: int
    level: int
    amount: int
    burst: int
    ticks: int
    tick_ms: int

    def refuses(self, count: int) -> DenialReason | None:
        if count == 0 or count * self.ticks <= self.level:
            return None
        if count > self.burst:
            return DenialReason.NEVER_FITS
        return DenialReason.REQUEST_RATE if self.kind is LimitKind.REQUESTS else DenialReason.TOKEN_RATE

    def refill(self, now_ms: int) -> None:
        tick = now_ms // self.tick_ms
        if tick > self.tick:
            self.level = min(self.burst * self.ticks, self.level + (tick - self.tick) * self.amount)
            self.tick = tick

    def bring_forward(self, rule: PlanLimit, now_ms: int) -> None:
        """Refill at the old rate; then the policy's present rate and burst hold, for what is owed too."""
        self.refill(now_ms)
        self.amount, self.burst = rule.limit.amount, rule.limit.burst
        size = self.burst * self.ticks
        self.level = max(-size, min(size, self.level))

    def return_unused(self, unused: int, *, reserved_ms: int, now_ms: int) -> bool:
        """Give back what was not used, or (negative) take the difference; False: debt would pass one burst."""
        size = self.burst * self.ticks
        if unused > 0:
            elapsed = now_ms // self.tick_ms - reserved_ms // self.tick_ms
            if elapsed * self.amount < size:
                self.level = min(size, self.level + unused * self.ticks)
            return True
        wanted = self.level + unused * self.ticks
        self.level = max(-size, wanted)
        return wanted >= -size

    def numbers(self) -> Numbers:
        return (self.tick, self.level, self.amount, self.burst, self.ticks)

    def stored(self) -> tuple[int, ...]:
        return (self.period_ms, *self.numbers(), self.tick_ms)


@dataclass(slots=True)
class Slots:
    """Open holds."""

    period_ms: int
    open: int = 0

    def refuses(self, slots: int) -> DenialReason | None:
        return DenialReason.CONCURRENCY if self.open + 1 > slots else None

    def bring_forward(self, rule: PlanLimit, now_ms: int) -> None:
        """Slots know no time."""

    def numbers(self) -> Numbers:
        return (self.open, 0, 0, 0, 0)

    def stored(self) -> tuple[int, ...]:
        return (self.period_ms, *self.numbers(), 0)


#: Each tells its `numbers` as a status does, and all that is `stored` of it.
Counter = Money | Bucket | Slots


@dataclass(slots=True)
class ScopeCounters:
    """All counters of one scope by name, and when it was last written.

    `last_ms` is never before the period of a counter, so that a counter which begins later, even in the
    same millisecond or after the clock was set back, has a period that no counter of the scope had before.
    """

    last_ms: int = 0
    counters: dict[str, Counter] = field(default_factory=dict)

    def written(self, now_ms: int) -> None:
        self.last_ms = max([self.last_ms, now_ms, *(counter.period_ms for counter in self.counters.values())])


def refusal(rule: PlanLimit, counter: Counter, call: HoldCall) -> DenialReason | None:
    """Why this limit has no room for the whole hold, or None."""
    if isinstance(counter, Money):
        return counter.refuses(rule.limit.amount, call.amount(rule))
    if isinstance(counter, Slots):
        return counter.refuses(rule.limit.amount)
    return counter.refuses(call.requests if counter.kind is LimitKind.REQUESTS else call.tokens)


def take(rule: PlanLimit, counter: Counter, call: HoldCall) -> None:
    """Take the hold; a consumed call is settled at once and keeps no slot."""
    if isinstance(counter, Money) and call.consume:
        counter.settled += call.amount(rule)
    elif isinstance(counter, Money):
        counter.held += call.amount(rule)
    elif isinstance(counter, Slots):
        counter.open += 0 if call.consume else 1
    else:
        counter.level -= (call.requests if counter.kind is LimitKind.REQUESTS else call.tokens) * counter.ticks


def present(known: ScopeCounters | None, scope: PlanScope, now_ms: int) -> ScopeCounters:
    """A scope's counters as they are now under this plan: kept by name, new ones begun, gone ones dropped."""
    before = known or ScopeCounters()
    now = ScopeCounters(before.last_ms)
    for rule in scope.limits:
        old = before.counters.get(rule.limit.counter)
        counter = copy(old) if old is not None else _begin(rule, now_ms, max(now_ms, before.last_ms + 1))
        counter.bring_forward(rule, now_ms)
        now.counters[rule.limit.counter] = counter
    return now


def _begin(rule: PlanLimit, now_ms: int, period_ms: int) -> Counter:
    limit = rule.limit
    if limit.kind is LimitKind.SPEND:
        _, following, finish = rule.window
        return Money(period_ms, following if now_ms < following else finish)
    if limit.kind is LimitKind.CONCURRENCY:
        return Slots(period_ms)
    ticks, tick_ms = RATE_PERIODS[limit.per]
    return Bucket(
        limit.kind, period_ms, now_ms // tick_ms, limit.burst * ticks, limit.amount, limit.burst, ticks, tick_ms
    )
