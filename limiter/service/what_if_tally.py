"""What a proposed policy would have refused: counts, money, and how near every limit came."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from limiter.domain.limits import RATE_PERIODS, Limit, LimitKind
from limiter.domain.money import NANOUSD_PER_USD
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason, Place
from limiter.ledger.replaying import PastCall
from limiter.store.port import Plan, RawStatus, Why

#: Not a reason of the limiter's verdicts: such a call is an error of the caller, and gets no decision.
TOO_EXPENSIVE: Final = "MAX_COST_PER_CALL"


@dataclass(slots=True)
class Sum:
    """Calls and what they cost in the end, in nano-USD; when the first of them came."""

    calls: int = 0
    cost: int = 0
    first_ms: int = 0

    def add(self, call: PastCall) -> None:
        """Count one more call."""
        self.first_ms = min(self.first_ms, call.reserved_ms) if self.calls else call.reserved_ms
        self.calls += 1
        self.cost += call.cost


@dataclass(slots=True)
class Split:
    """Refused calls in total, by reason, by customer and by model ("": none)."""

    total: Sum = field(default_factory=Sum)
    reasons: defaultdict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))
    customers: defaultdict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))
    models: defaultdict[str, Sum] = field(default_factory=lambda: defaultdict(Sum))

    def add(self, call: PastCall, reason: str) -> None:
        """Count one more call."""
        for found in (self.total, self.reasons[reason], self.customers[call.customer], self.models[call.model]):
            found.add(call)


@dataclass(slots=True)
class Use:
    """The most that was ever taken of a limit at once, and when; `of` so much that there is.

    Nano-USD settled and held, requests or tokens out of the bucket, or open holds.
    """

    most: int = 0
    at_ms: int = 0
    of: int = 0


@dataclass(slots=True)
class Tally:
    """What came of a replay. `calls` asked for a hold, or to be admitted; `charges` did not, and are never refused.

    A refused call counts once in `refused`, and at every limit that refused it. `shadowed` are calls that shadow limits
    would have refused, which therefore were not. `elsewhere` are refusals that no limit gave, by scope.
    """

    calls: int = 0
    charges: int = 0
    cost: int = 0
    opening: int = 0
    refused: Split = field(default_factory=Split)
    limits: defaultdict[Place, Split] = field(default_factory=lambda: defaultdict(Split))
    shadowed: defaultdict[Place, Split] = field(default_factory=lambda: defaultdict(Split))
    elsewhere: defaultdict[Scope, Split] = field(default_factory=lambda: defaultdict(Split))
    uses: dict[Place, Use] = field(default_factory=dict)
    unnamed_keys: set[Scope] = field(default_factory=set)

    def refuse(self, call: PastCall, reason: str, plan: Plan, raws: list[RawStatus]) -> None:
        """Count a refusal, at every limit that gave it."""
        self.refused.add(call, reason)
        refusing = [raw for raw in raws if raw.why == Why.REFUSES]
        for raw in refusing:
            place = _place(plan, raw)
            self.limits[place].add(call, limit_reason(place.limit, raw, call).name)
        if not refusing:
            self.elsewhere[call.key].add(call, reason)

    def shadow(self, call: PastCall, plan: Plan, raws: list[RawStatus]) -> None:
        """Count what shadow limits said of a call."""
        for raw in raws:
            if raw.why == Why.SHADOWS:
                place = _place(plan, raw)
                self.shadowed[place].add(call, limit_reason(place.limit, raw, call).name)

    def look(self, plan: Plan, raws: list[RawStatus], now_ms: int) -> None:
        """Note how much of each limit is taken."""
        for raw in raws:
            if raw.why != Why.INFORMS:
                continue
            place = _place(plan, raw)
            found = self.uses.get(place)
            if found is None:
                limit = place.limit
                found = self.uses[place] = Use(of=limit.burst or limit.amount)
            taken = _taken(place.limit, raw)
            if taken > found.most:
                found.most, found.at_ms = taken, now_ms


def _place(plan: Plan, raw: RawStatus) -> Place:
    return plan.scopes[raw.scope].places[raw.limit]


def _taken(limit: Limit, raw: RawStatus) -> int:
    if limit.kind is LimitKind.SPEND:
        return (raw.b + raw.d) * NANOUSD_PER_USD + raw.c + raw.e
    if limit.kind is LimitKind.CONCURRENCY:
        return raw.a
    return limit.burst - raw.b // RATE_PERIODS[limit.per][0]


def limit_reason(limit: Limit, raw: RawStatus, call: PastCall) -> DenialReason:
    """Why this limit refuses the call; the call's own reason is the first of all its limits'."""
    if limit.kind is LimitKind.SPEND:
        settled = raw.b * NANOUSD_PER_USD + raw.c
        return DenialReason.SPEND_CEILING if settled + call.held > limit.amount else DenialReason.SPEND_HELD
    if limit.kind is LimitKind.CONCURRENCY:
        return DenialReason.CONCURRENCY
    requests = limit.kind is LimitKind.REQUESTS
    if (1 if requests else call.bucket_tokens) > limit.burst:
        return DenialReason.NEVER_FITS
    return DenialReason.REQUEST_RATE if requests else DenialReason.TOKEN_RATE
