"""What a bill comes to, reckoned once more and otherwise: in decimals of USD, call by call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, localcontext
from fnmatch import fnmatch
from typing import Any, NamedTuple

CENT = Decimal("0.01")
_NEAR = Decimal("1e-40")


class Call(NamedTuple):
    """One call: what it used, and what it cost in nano-USD."""

    model: str
    feature: str
    used: Mapping[str, int]
    cost: int
    calls: int = 1


def total(terms: Mapping[str, Any], calls: Sequence[Call]) -> Decimal:
    """The month's total in USD. `terms` are as a plans file has them."""
    with localcontext(Context(prec=80)):
        return _total(terms, calls)


def _total(terms: Mapping[str, Any], calls: Sequence[Call]) -> Decimal:
    rounding = terms.get("rounding", {})
    how = ROUND_HALF_UP if rounding.get("rule") == "half-up" else ROUND_HALF_EVEN
    by_line = rounding.get("each", "line") == "line"

    def cents(amount: Decimal) -> Decimal:
        return amount.quantize(_NEAR).quantize(CENT, how)  # a third of three is one

    def each(amount: Decimal) -> Decimal:
        return cents(amount) if by_line else amount

    tokens = {model: sum(_tokens(call) for call in calls if call.model == model) for model in {c.model for c in calls}}
    lines: dict[str, Decimal] = {}
    of_tokens: dict[str, Decimal] = {}
    for call in calls:
        line = call.model if terms.get("lines", "model") == "model" else call.feature
        price = _price(terms, call)
        lines[line] = lines.get(line, Decimal()) + price
        of_tokens[line] = of_tokens.get(line, Decimal()) + (price if tokens[call.model] else 0)
    exact, lines = dict(lines), {line: each(amount) for line, amount in lines.items()}
    left = charged = sum(lines.values(), Decimal())
    included = terms.get("included") or {}
    if "usd" in included:
        left = charged - min(charged, Decimal(included["usd"]))
    elif "calls" in included and (number := sum(call.calls for call in calls)) > 0:
        left = charged + each(-charged * min(number, included["calls"]) / number)
    elif "tokens" in included and (number := sum(tokens.values())) > 0:
        base = sum((lines[line] * of_tokens[line] / exact[line] for line in lines if exact[line]), Decimal())
        left = charged + each(-base * min(number, included["tokens"]) / number)
    tiers = terms.get("tiers") or []
    ends = [Decimal(tier["above"]) for tier in tiers[1:]] + [left]
    amount = left
    for tier, end in zip(tiers, ends, strict=False):
        amount += each(max(Decimal(), min(left, end) - Decimal(tier["above"])) * Decimal(tier["percent"]) / 100)
    return max(cents(amount), Decimal(terms["minimum"])) if terms.get("minimum") is not None else cents(amount)


def _price(terms: Mapping[str, Any], call: Call) -> Decimal:
    matching = [price for price in terms.get("prices") or [] if fnmatch(call.model, price["match"])]
    if not matching:
        return Decimal(call.cost).scaleb(-9) * (1 + Decimal(terms.get("markup_percent") or 0) / 100)
    price = {name: Decimal(usd) for name, usd in matching[-1].items() if name not in ("match", "units")}
    get = call.used.get
    inputs = get("input_tokens", 0)
    amount = Decimal()
    if "cache_read_per_million" in price:
        inputs -= get("cache_read_tokens", 0)
        amount += get("cache_read_tokens", 0) * price["cache_read_per_million"]
    amount += inputs * price.get("input_per_million", Decimal())
    amount += get("output_tokens", 0) * price.get("output_per_million", Decimal())
    amount = amount / 1_000_000 + call.calls * price.get("per_call", Decimal())
    return amount + sum(get(unit, 0) * Decimal(usd) for unit, usd in matching[-1].get("units", {}).items())


def _tokens(call: Call) -> int:
    return call.used.get("input_tokens", 0) + call.used.get("output_tokens", 0)
