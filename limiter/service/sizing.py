"""How large a call can become: the hold in money and tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from limiter.domain.calls import COUNT_MAX, Estimate, ProviderRequest
from limiter.domain.errors import InvalidArgument
from limiter.domain.money import CALL_MAX_NANOUSD, format_usd
from limiter.policy.matching import Settings
from limiter.pricing.model_price import ModelPrice
from limiter.pricing.reading import CallReading, read_request
from limiter.service.plans import CallPlan


class Request(NamedTuple):
    """What is asked for, whichever form it came in. `max_output_tokens` None: not said. `cost` None: to be priced."""

    input_tokens: int
    max_output_tokens: int | None
    choices: int
    units: Mapping[str, int]
    cost: int | None = None
    bounded: bool = True


class Hold(NamedTuple):
    """What is held. `max_output_tokens` is per choice, None where the call has no output to bound."""

    cost: int
    tokens: int
    max_output_tokens: int | None


def read_size(size: Estimate | ProviderRequest | CallReading | int | None) -> tuple[Request, CallReading | None]:
    """Read the size of a call; the reading also names the model that a provider's request asks for."""
    if isinstance(size, (ProviderRequest, CallReading)):
        reading = size if isinstance(size, CallReading) else read_request(size)
        request = Request(
            reading.input_tokens, reading.max_output_tokens, reading.choices, reading.units, bounded=reading.bounded
        )
        return request, reading
    if isinstance(size, Estimate):
        return Request(size.input_tokens, size.max_output_tokens, 1, size.units), None
    return Request(0, 0, 1, {}, cost=size or 0), None


def size_hold(plan: CallPlan, request: Request) -> Hold:
    """The most that the call can cost and use under the plan.

    Raises InvalidArgument above the policy's max_cost_per_call, for units without a price, and for calls
    that the provider enlarges where the model's context window is not known.
    """
    price, settings = plan.price, plan.settings
    if request.cost is not None:
        return Hold(_checked(request.cost, settings), 0, None)
    output = request.max_output_tokens
    if output is None:
        output = settings.default_max_output_tokens
        if price is not None and price.max_output_tokens is not None:
            output = min(output, price.max_output_tokens)
    input_tokens = request.input_tokens
    if not request.bounded:
        input_tokens = max(input_tokens, _window(price))
    tokens = input_tokens + output * request.choices
    if tokens > COUNT_MAX:
        raise InvalidArgument("estimate", tokens, f"a call has at most {COUNT_MAX} tokens")
    if price is None:
        return Hold(0, tokens, output)
    if request.units:
        unpriced = price.unpriced_units(request.units)
        if unpriced:
            raise InvalidArgument("estimate.units", unpriced[0], f"{price.model} has no price for it; price it first")
    cost = price.hold_nanousd(
        input_tokens=input_tokens, max_output_tokens=output * request.choices, units=request.units
    )
    return Hold(_checked(cost, settings), tokens, output)


def largest_output(plan: CallPlan, request: Request, *, asked: int, room_nanousd: int, room_tokens: int) -> int | None:
    """The largest max_output_tokens below `asked` whose hold fits into the room; None: not even one token does."""
    price = plan.price
    input_tokens = request.input_tokens if request.bounded else max(request.input_tokens, _window(price))
    fits, low, high = None, 1, asked
    while low <= high:
        output = (low + high) // 2
        total = output * request.choices
        tokens = input_tokens + total
        cost = 0
        if price is not None:
            cost = price.hold_nanousd(input_tokens=input_tokens, max_output_tokens=total, units=request.units)
        if cost <= room_nanousd and tokens <= room_tokens:
            fits, low = output, output + 1
        else:
            high = output - 1
    return fits


def _window(price: ModelPrice | None) -> int:
    if price is None:
        return 0
    if price.context_window is None:
        raise InvalidArgument(
            "provider_request.body",
            "input that the provider adds",
            "the context window of the model is not known; send an estimate instead",
        )
    return price.context_window


def _checked(cost: int, settings: Settings) -> int:
    if cost > CALL_MAX_NANOUSD or cost > settings.max_cost_per_call_nanousd:
        raise InvalidArgument(
            "cost",
            f"{format_usd(cost)} USD",
            f"a single call may cost at most {format_usd(settings.max_cost_per_call_nanousd)} USD (max_cost_per_call)",
        )
    return cost
