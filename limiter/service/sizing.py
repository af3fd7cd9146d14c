"""How large a call can become: the hold in money and tokens, by the ways of sizing that its plan asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from limiter.domain.calls import COUNT_MAX, Estimate
from limiter.domain.errors import InvalidArgument
from limiter.domain.money import CALL_MAX_NANOUSD, format_usd
from limiter.domain.reservations import Sizing
from limiter.policy.matching import Settings
from limiter.pricing.bounds import Bound, Growth, Size
from limiter.pricing.model_price import ModelPrice
from limiter.pricing.reading import CallReading
from limiter.pricing.units import direction
from limiter.service.plans import CallPlan
from limiter.store.port import PlanLimit

_NOTHING = Bound(0)

#: The most that it takes to name a maximum output in a request, wherever that stands.
_NAMING_TOKENS = 64

#: What such calls really cost, by the input and output parts of their safe hold in nano-USD.
Learned = Callable[[int, int], int]


class Request(NamedTuple):
    """What is asked for, whichever form it came in.

    `max_output_tokens` is per choice, None: not said. `cost` None: to be priced. `capped`: the caller will write the
    answer's max_output_tokens into a request that names none. `field` is what errors name, `output_field` where in a
    provider's request a maximum output would be. `thinking` comes on top of an output that is assumed.
    """

    size: Size
    max_output_tokens: int | None
    choices: int = 1
    cost: int | None = None
    capped: bool = False
    operation: str = ""
    field: str = "estimate"
    output_field: str = ""
    thinking: int = 0


class Extent(NamedTuple):
    """What a call can become by one way of sizing: in nano-USD, and in tokens. `output` is per choice."""

    cost: int
    tokens: int
    output: int
    input: Bound


class Hold(NamedTuple):
    """What is held.

    `cost` is the most of all limits; `lesser` are the amounts of those that take less (see PlanLimit). The most output
    that all of them pay for is `max_output_tokens`, per choice, None where the call has none to bound; `most_output` is
    what the largest of them pays for. `safe` are the input and output parts of the safe amount, where the plan learns.
    """

    cost: int
    tokens: int
    max_output_tokens: int | None
    lesser: tuple[int, int] | None = None
    most_output: int = 0
    safe: tuple[int, int] | None = None

    def amount(self, rule: PlanLimit) -> int:
        """What a spend limit takes."""
        return rule.amount_of(self.cost, self.lesser)


def request_of(size: Estimate | CallReading | int | None, model: str, *, capped: bool = False) -> Request:
    """What is asked of `model`, which the name in a provider's request stands for (see CallPlan).

    Raises InvalidArgument where a provider's request cannot be one to that model.
    """
    if isinstance(size, CallReading):
        reading = size.for_model(model)
        return Request(
            reading.size,
            reading.max_output_tokens,
            reading.choices,
            capped=capped and reading.output_field != "",
            operation=reading.operation,
            field="provider_request.body",
            output_field=reading.output_field,
            thinking=reading.thinking,
        )
    if isinstance(size, Estimate):
        bound = Bound(size.input_tokens, size.units)
        return Request(Size(bound, bound), size.max_output_tokens, 1, None, capped)
    return Request(Size(_NOTHING, _NOTHING), 0, cost=size or 0)


def size_hold(plan: CallPlan, request: Request, learned: Learned | None = None) -> Hold:
    """What to hold for the call under its plan; `learned` None: too little is known of such calls, held for as safe.

    Raises InvalidArgument above the policy's max_cost_per_call, for units without a price, and, where an upper bound is
    asked for, for a call that has none.
    """
    price, settings = plan.price, plan.settings
    if request.cost is not None:
        return Hold(_checked(request.cost, settings), 0, None)
    # Of the ways, the strictest comes first; most plans have one only.
    strictest = loosest = size_call(price, request, plan.ways[0], default_output=plan.default_output)
    if plan.is_plain:
        return Hold(_checked(strictest.cost, settings), strictest.tokens, strictest.output, None, strictest.output)
    if len(plan.ways) > 1:
        loosest = size_call(price, request, plan.ways[1], default_output=plan.default_output)
    tokens = strictest.tokens if settings.estimate is Sizing.STRICT else loosest.tokens
    least, most = loosest.output, strictest.output
    if price is None:
        return Hold(0, tokens, least, most_output=most)
    floor = plan.floor(request.operation) if plan.floors else 0
    amounts, safe = [], None
    for sizing in plan.sizings:
        extent = strictest if sizing is Sizing.STRICT else loosest
        amount = extent.cost
        if sizing is Sizing.LEARNED:
            safe = _parts(price, extent)
            # What is held for as nothing passes a spent budget.
            amount = max(amount if learned is None else min(amount, learned(*safe)), 1 if amount else 0)
        amounts.append(max(amount, floor) if floor else amount)
    if len(amounts) == 1:
        return Hold(_checked(amounts[0], settings), tokens, least, None, most, safe)
    cost = _checked(max(amounts), settings)
    # The strict amount is an upper bound, so that none of the others need be more.
    lesser = min(cost, amounts[1]), min(cost, amounts[-1])
    return Hold(cost, tokens, min(least, most), lesser, max(least, most), safe)


def size_call(price: ModelPrice | None, request: Request, way: Sizing, *, default_output: int) -> Extent:
    """What a call can become by one way of sizing, STRICT or SAFE; `price` None: it costs nothing.

    Raises InvalidArgument for units without a price, and for STRICT where the call has no upper bound: the model's
    longest output or context window is not known, or nothing bounds what the provider adds to the input.
    """
    growth = request.size.growth
    bound = request.size.strict if way is Sizing.STRICT else request.size.safe
    if growth is not None and price is not None:
        bound = _grown(price, request, growth, bound) if way is Sizing.STRICT else _with_allowance(price, growth, bound)
    output = request.max_output_tokens
    if output is None:
        output = _output(price, request, way, default_output)
    total = output * request.choices
    tokens = bound.input_tokens + total
    if tokens > COUNT_MAX:
        raise InvalidArgument(request.field, tokens, f"a call has at most {COUNT_MAX} tokens")
    if price is None:
        return Extent(0, tokens, output, bound)
    if bound.units and (unpriced := price.unpriced_units(bound.units)):
        raise InvalidArgument(
            f"{request.field}.units", unpriced[0], f"{price.model} has no price for it; price it first"
        )
    cost = price.hold_nanousd(input_tokens=bound.input_tokens, max_output_tokens=total, units=bound.units)
    return Extent(cost, tokens, output, bound)


def _output(price: ModelPrice | None, request: Request, way: Sizing, default_output: int) -> int:
    """The output of a call that names none: what somebody will write into it, else all that the model can write."""
    longest = price.max_output_tokens if price is not None else None
    if way is not Sizing.STRICT or request.capped or price is None:
        # The policy's number is for an answer: what the model is told to think is not to be cut off by it.
        assumed = min(default_output + request.thinking, COUNT_MAX)
        return assumed if longest is None else min(assumed, longest)
    if longest is None and _is_silent(price):
        return default_output
    if longest is None:
        named = request.output_field or ("a maximum output" if request.operation else "max_output_tokens")
        remedy = f"name {named}: how much {price.model} can write is not known (estimate: strict)"
        raise InvalidArgument(request.field, "no maximum output", remedy)
    return longest


def _is_silent(price: ModelPrice) -> bool:
    """Whether output of the model costs nothing: it is billed by the image, the second or the call."""
    fee = price.hold_nanousd(input_tokens=0, max_output_tokens=0, units={})
    return price.hold_nanousd(input_tokens=0, max_output_tokens=COUNT_MAX, units={}) == fee


def _grown(price: ModelPrice, request: Request, growth: Growth, bound: Bound) -> Bound:
    """The most that goes in where the provider adds to the input: every round at most a context window."""
    if growth.rounds is None:
        raise InvalidArgument(request.field, growth.reason, f"{growth.remedy} (estimate: strict)")
    if price.context_window is None:
        remedy = f"the context window of {price.model} is not known, so that nothing bounds it (estimate: strict)"
        raise InvalidArgument(request.field, growth.reason, remedy)
    grown = (growth.rounds + 1) * price.context_window
    # What is added may be of the dearer kinds, too: sound by its URL, a document that is cached for an hour.
    units = {unit: max(count, grown) if _is_input(unit) else count for unit, count in bound.units.items()}
    return Bound(max(bound.input_tokens, grown), _sum(units, growth.fees))


def _is_input(unit: str) -> bool:
    return unit.endswith("_tokens") and direction(unit) == "input"


def _with_allowance(price: ModelPrice, growth: Growth, bound: Bound) -> Bound:
    """An estimate of what the provider adds; fees that have no price are found out at the settlement."""
    allowance = growth.allowance
    unpriced = price.unpriced_units(allowance.units) if allowance.units else ()
    fees = {unit: count for unit, count in allowance.units.items() if unit not in unpriced}
    return Bound(bound.input_tokens + allowance.input_tokens, _sum(bound.units, fees))


def _sum(units: Mapping[str, int], more: Mapping[str, int]) -> Mapping[str, int]:
    if not more:
        return units
    return {unit: units.get(unit, 0) + more.get(unit, 0) for unit in (*units, *more)}


def _parts(price: ModelPrice, extent: Extent) -> tuple[int, int]:
    """The input part of an amount, with all fees, and what its output adds to that."""
    bound = extent.input
    inputs = price.hold_nanousd(input_tokens=bound.input_tokens, max_output_tokens=0, units=bound.units)
    return inputs, extent.cost - inputs


def largest_output(
    plan: CallPlan, request: Request, learned: Learned | None, *, asked: int, fits: Callable[[Hold], bool]
) -> int | None:
    """The largest max_output_tokens, named in the request and at most `asked`, whose hold fits; None: not even one."""
    found, low, high = None, 1, asked
    named = request if request.max_output_tokens is not None or not request.operation else _with_room(request)
    while low <= high:
        output = (low + high) // 2
        if fits(size_hold(plan, named._replace(max_output_tokens=output), learned)):
            found, low = output, output + 1
        else:
            high = output - 1
    return found


def _with_room(request: Request) -> Request:
    """The request when it names a maximum that it did not name before: the name is text of its body, too."""
    strict, safe, growth = request.size.strict, request.size.safe, request.size.growth
    return request._replace(
        size=Size(
            strict._replace(input_tokens=strict.input_tokens + _NAMING_TOKENS),
            safe._replace(input_tokens=safe.input_tokens + _NAMING_TOKENS),
            growth,
        )
    )


def _checked(cost: int, settings: Settings) -> int:
    if cost > CALL_MAX_NANOUSD or cost > settings.max_cost_per_call_nanousd:
        raise InvalidArgument(
            "cost",
            f"{format_usd(cost)} USD",
            f"a single call may cost at most {format_usd(settings.max_cost_per_call_nanousd)} USD (max_cost_per_call)",
        )
    return cost
