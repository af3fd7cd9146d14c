"""Explains the drift of a model in a bucket where the bill has costs only: neither calls nor tokens.

Our rows tell by which other prices of the model they would fit, and whether the drift is a whole number of tokens at
our price: what calls cost that one side lacks always is, and what another price makes hardly ever. A price that is a
whole multiple of ours looks like calls that come twice.
"""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from math import prod
from typing import Final, NamedTuple

from limiter.ledger.reconciling.rates import Prices, Rates, grain
from limiter.ledger.reconciling.results import Cell, Explanation, Kind, half, ratio_note

TOKENS: Final = "by costs alone: whole tokens at our price; a multiple of it looks the same"
NO_TOKENS: Final = "by costs alone: no whole tokens at our price"
COARSE: Final = "the bill is rounded too coarsely to tell calls from prices"
MIXED: Final = "the bill has other lines than tokens"
#: How likely chance may be to make whole tokens, at most.
_CHANCE_MAX: Final = Decimal("0.1")
#: What is explained by another price is so many times what rounding can come to.
_CLEAR: Final = 8
_OUTPUT: Final = "output"


class _Part(NamedTuple):
    """What is compared: a kind of token, or all of a cell. nano-USD."""

    name: str
    drift: Decimal
    ours: Decimal
    allowed: Decimal  # by rounding
    grain: Decimal  # whole tokens cost multiples of it

    @property
    def off(self) -> bool:
        return abs(self.drift) > self.allowed

    @property
    def whole(self) -> bool:
        return bool(self.grain) and abs(self.drift - round(self.drift / self.grain) * self.grain) <= self.allowed

    @property
    def chance(self) -> Decimal:
        return min(Decimal(1), (2 * self.allowed + 1) / self.grain)


def explain_other_price(cell: Cell, rest: int, unit: Decimal, prices: Prices) -> int:
    """Of calls that were booked at one of the model's prices and are billed at another; answers what that explains."""
    allowed = cell.allowance(unit)
    known = sorted({rates for rates in prices.values() if rates is not None})
    for number, counts in cell.ours.by_price.items():
        booked = prices.get(number)
        if booked is None:
            continue
        for billed in known:
            shift = int(billed.of(counts) - booked.of(counts))
            if abs(shift) > _CLEAR * allowed and abs(rest - shift) <= allowed:
                cell.explain(Kind.PRICE, shift, counts.calls, f"booked at {booked}, billed at {billed}")
                cell.explain(Kind.ROUNDING, rest - shift)
                return rest
    return 0


def explain_costs(cell: Cell, unit: Decimal, prices: Prices) -> None:
    """Say what can be said of a drift that is unexplained so far."""
    told = cell.theirs.counts
    one = next((one for one in cell.explanations if one.kind is Kind.UNEXPLAINED), None)
    if one is not None and not (told.calls or told.input or told.output):
        one.kind, one.note = _found(cell, one, unit, prices)


def _found(cell: Cell, one: Explanation, unit: Decimal, prices: Prices) -> tuple[Kind, str]:
    lacks = Kind.ONLY_THEIRS if one.nanousd > 0 else Kind.ONLY_OURS
    if not cell.ours.nanousd or not cell.theirs.lines:
        return lacks, ""
    mixed = "" in cell.theirs.parts and len(cell.theirs.parts) > 1
    parts = [] if mixed else _parts(cell, one.nanousd, unit, prices)
    if not parts:
        return Kind.UNEXPLAINED, MIXED if mixed else ""
    before, after, allowed = cell.theirs.nanousd - one.nanousd, cell.theirs.nanousd, cell.allowance(unit)
    calls = _could_be_calls(parts)
    if len(parts) > 1 and _alike(parts) and (not calls or _neat(before, after, allowed)):
        return Kind.PRICE, ratio_note(before, after, allowed)
    certain = prod((part.chance for part in parts), start=Decimal(1)) <= _CHANCE_MAX
    return (Kind.PRICE, NO_TOKENS) if not calls else (lacks, TOKENS) if certain else (Kind.UNEXPLAINED, COARSE)


def _parts(cell: Cell, rest: int, unit: Decimal, prices: Prices) -> list[_Part]:
    """The drift by kind of token, where the bill's lines say it and our costs follow from tokens; else as one."""
    ours: defaultdict[str, Decimal] = defaultdict(Decimal)
    known: list[Rates] = []
    for number, counts in cell.ours.by_price.items():
        if rates := prices.get(number):
            known.append(rates)
            for name, amount in rates.parts(counts).items():
                ours[name] += amount
    if not known:
        return []
    theirs = cell.theirs.parts
    follow = abs(sum(ours.values(), Decimal(0)) - cell.ours.nanousd) <= cell.ours.counts.calls // 2 + 1
    if "" in theirs or not follow or rest != cell.drift:
        step = grain(rate for rates in known for rate in rates)
        ours_off = 0 if step == int(step) else cell.ours.counts.calls // 2
        allowed = Decimal(half(unit, cell.theirs.lines) + 1 + ours_off)
        return [_Part("", Decimal(rest), Decimal(cell.ours.nanousd), allowed, step)]
    found = []
    for name in Rates._fields:
        if name in theirs or ours[name]:
            usd, lines = theirs.get(name, (Decimal(0), 1))
            step = grain(getattr(rates, name) for rates in known)
            found.append(_Part(name, usd.scaleb(9) - ours[name], ours[name], Decimal(half(unit, lines) + 1), step))
    return found


def _could_be_calls(parts: list[_Part]) -> bool:
    """Whole tokens everywhere, all missing on one side, and none without input: no call is."""
    off = [part for part in parts if part.off]
    one_way = len({part.drift > 0 for part in off}) == 1
    return one_way and any(part.name != _OUTPUT for part in off) and all(part.whole for part in parts)


def _alike(parts: list[_Part]) -> bool:
    """Whether all parts are off by the same ratio."""
    ours = sum(part.ours for part in parts)
    share, slack = (sum(getattr(part, name) for part in parts) / ours for name in ("drift", "allowed"))
    return all(part.off and abs(part.drift - share * part.ours) <= part.allowed + slack * part.ours for part in parts)


def _neat(ours: int, theirs: int, allowed: int) -> bool:
    """A ratio of two decimals, as price lists change by."""
    return abs(theirs - round(Decimal(theirs) / ours, 2) * ours) <= allowed
