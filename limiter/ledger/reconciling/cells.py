"""Explains the drift of a model in a bucket where the bill has sums only, no calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

from limiter.domain.reservations import Basis
from limiter.ledger.reconciling.costs import explain_costs, explain_other_price
from limiter.ledger.reconciling.rates import Prices, Rates, usual_rates
from limiter.ledger.reconciling.results import Cell, Counts, Kind, half, ratio_note

#: Up to so many calls at an edge it is tried which of them the provider counted later; beyond it, any sum is possible.
_TRIED_MAX: Final = 14


class Straddler(NamedTuple):
    """A call that began in one bucket and ended in the next."""

    nanousd: int
    counts: Counts


Moves = dict[int, tuple[int, Counts]]  # by edge: what the provider counted after it


def explain_model(
    cells: Sequence[Cell],
    edges: Sequence[Sequence[Straddler]],
    *,
    unit: Decimal,
    prices: Prices,
) -> None:
    """Explain a model's cells, in the order of time.

    `edges[i]` are its calls into bucket i from the one before, the last ones those that go beyond the last bucket.
    `prices` are at least those of its rows.
    """
    prices = {number: prices.get(number) for cell in cells for number in cell.ours.by_price}
    moves = _moves(cells, edges, unit)
    for place, cell in enumerate(cells):
        in_usd, in_ = moves.get(place, (0, Counts()))
        out_usd, out = moves.get(place + 1, (0, Counts()))
        cell.explain(Kind.NEIGHBOUR, in_usd - out_usd, out.calls + in_.calls)
        moved = Counts()
        moved.add(in_)
        moved.add(out, -1)
        _explain(cell, in_usd - out_usd, moved, unit=unit, prices=prices)
    if not any(cell.ours.nanousd or cell.ours.counts.calls for cell in cells):
        _rename(cells, Kind.MODEL_THEIRS)
    elif not any(cell.theirs.lines for cell in cells):
        _rename(cells, Kind.MODEL_OURS)
    else:
        _find_price(cells, unit)
        for cell in cells:
            explain_costs(cell, unit, prices)


def _explain(cell: Cell, spilt: int, moved: Counts, *, unit: Decimal, prices: Prices) -> None:
    rest = cell.drift - spilt
    told = cell.theirs.counts
    if abs(rest) <= cell.allowance(unit):
        cell.explain(Kind.ROUNDING, rest)
        return
    if not (told.input or told.output):
        rest -= explain_other_price(cell, rest, unit, prices)
        rest -= _not_by_usage(cell, rest)
        if told.calls and rest:
            _by_calls(cell, rest, told.calls - cell.ours.counts.calls - moved.calls)
        elif rest:
            cell.explain(Kind.UNEXPLAINED, rest)
        return
    more = Counts()
    more.add(told)
    more.add(cell.ours.counts, -1)
    more.add(moved, -1)
    if not (told.cache_read or told.cache_write):
        more.cache_read = more.cache_write = 0
    _by_tokens(cell, rest, more, unit, usual_rates(cell.ours, prices))


def _by_tokens(cell: Cell, rest: int, more: Counts, unit: Decimal, rates: Rates | None) -> None:
    """Tell calls that one side lacks (other tokens) from another price (the same tokens)."""
    expired, expired_calls = cell.ours.of(Basis.EXPIRED)
    same = more.input == 0 and more.output == 0
    volume = 0 if same else None if rates is None else int(rates.of(more).to_integral_value())
    calls = abs(more.calls)
    if expired_calls and (same or (more.input >= 0 and more.output >= 0)):
        part = (volume or 0) - expired if volume is not None else max(min(rest, 0), -expired)
        cell.explain(Kind.EXPIRED, part, expired_calls)
        rest -= part
    elif volume:
        kind = Kind.ONLY_THEIRS if volume > 0 else Kind.ONLY_OURS
        if cell.theirs.counts.calls and more.calls == 0:
            kind = Kind.ESTIMATED if cell.ours.of(Basis.ESTIMATED)[1] else Kind.USAGE
        cell.explain(kind, volume, calls)
        rest -= volume
    elif volume is None and not cell.ours.nanousd:
        cell.explain(Kind.ONLY_THEIRS, rest, calls)
        rest = 0
    if abs(rest) <= max(cell.allowance(unit), half(unit, cell.ours.counts.calls) if same else 0):
        cell.explain(Kind.ROUNDING, rest)
    elif volume is not None:
        before = cell.theirs.nanousd - rest
        cell.explain(
            Kind.PRICE, rest, cell.theirs.counts.calls, ratio_note(before, cell.theirs.nanousd, cell.allowance(unit))
        )
    else:
        cell.explain(Kind.UNEXPLAINED, rest)


def _not_by_usage(cell: Cell, rest: int) -> int:
    """What holds that nobody settled can have been too much, and estimates too much or, up to twofold, too little."""
    taken = 0
    for basis, kind in ((Basis.EXPIRED, Kind.EXPIRED), (Basis.ESTIMATED, Kind.ESTIMATED)):
        charged, calls = cell.ours.of(basis)
        part = max(rest - taken, -charged)
        part = min(part, charged if basis is Basis.ESTIMATED else 0)
        if charged > 0 and part:
            cell.explain(kind, part, calls)
            taken += part
    return taken


def _by_calls(cell: Cell, rest: int, more: int) -> None:
    if more > 0 < rest:
        cell.explain(Kind.ONLY_THEIRS, rest, more)
    elif more < 0 > rest:
        cell.explain(Kind.ONLY_OURS, rest, -more)
    elif more == 0:
        note = ratio_note(cell.theirs.nanousd - rest, cell.theirs.nanousd)
        cell.explain(Kind.PRICE, rest, cell.theirs.counts.calls, note)
    else:
        cell.explain(Kind.UNEXPLAINED, rest)


def _rename(cells: Iterable[Cell], kind: Kind) -> None:
    """All that a model's cells have is that the other side does not know it."""
    for cell in cells:
        if cell.drift:
            calls = max(cell.ours.counts.calls, cell.theirs.counts.calls)
            cell.explanations.clear()
            cell.explain(kind, cell.drift, calls)


def _find_price(cells: Sequence[Cell], unit: Decimal) -> None:
    """Where several buckets are off by the same ratio, and nothing else explains it, the price changed."""
    off = [cell for cell in cells if any(one.kind is Kind.UNEXPLAINED for one in cell.explanations)]
    off = [cell for cell in off if cell.ours.nanousd > 0 and cell.theirs.nanousd > 0]
    if len(off) < 2:
        return
    largest = max(off, key=lambda cell: cell.ours.nanousd)
    theirs, ours = largest.theirs.nanousd, largest.ours.nanousd
    slack = Decimal(largest.allowance(unit)) / ours
    alike = [
        cell
        for cell in off
        if abs(cell.theirs.nanousd - Decimal(theirs) / ours * cell.ours.nanousd)
        <= cell.allowance(unit) + slack * cell.ours.nanousd
    ]
    if 2 * len(alike) <= len(off) or len(alike) < 2:
        return
    note = ratio_note(ours, theirs, largest.allowance(unit))
    for cell in alike:
        for one in cell.explanations:
            if one.kind is Kind.UNEXPLAINED:
                one.kind, one.note = Kind.PRICE, note


def _moves(cells: Sequence[Cell], edges: Sequence[Sequence[Straddler]], unit: Decimal) -> Moves:
    """Which calls the provider counted in the bucket after the one in which they began.

    By their end, if that fits all buckets better than by their beginning; beyond that, at each edge those of its calls
    whose sum is missing on the one side and too much on the other. At the bill's own beginning and end there is one
    side only: there a few calls must fit exactly.
    """
    if not any(edges):
        return {}
    rest = [cell.drift for cell in cells]
    allowed = [cell.allowance(unit) for cell in cells]
    sums = [sum(one.nanousd for one in edge) for edge in edges]
    by_end = [rest[i] + sums[i + 1] - sums[i] for i in range(len(cells))]
    ends = sum(map(abs, by_end)) < sum(map(abs, rest))
    moved = [list(edge) if ends else [] for edge in edges]
    rest = by_end if ends else rest
    sign = 1 if ends else -1
    for i, edge in enumerate(edges):
        before, after = i - 1 if i else None, i if i < len(cells) else None
        sides = [sign * rest[before]] if before is not None else []
        sides += [-sign * rest[after]] if after is not None else []
        slack = sum(allowed[side] for side in (before, after) if side is not None)
        wanted = min(*sides, sums[i])
        if wanted <= slack or (len(sides) == 1 and len(edge) > _TRIED_MAX):
            continue
        chosen = _subset(edge, wanted, slack)
        amount = sum(one.nanousd for one in chosen)
        moved[i] = [one for one in edge if one not in chosen] if ends else chosen
        if before is not None:
            rest[before] -= sign * amount
        if after is not None:
            rest[after] += sign * amount
    return {i: (sum(one.nanousd for one in part), _total(part)) for i, part in enumerate(moved) if part}


def _subset(calls: Sequence[Straddler], wanted: int, allowed: int) -> list[Straddler]:
    """Calls that cost `wanted` together; none if no calls do."""
    if len(calls) > _TRIED_MAX:
        chosen: list[Straddler] = []
        for one in sorted(calls, key=lambda one: -one.nanousd):
            if one.nanousd <= wanted + allowed:
                chosen.append(one)
                wanted -= one.nanousd
        return chosen
    reached: dict[int, tuple[Straddler, ...]] = {0: ()}
    for one in calls:
        reached |= {
            total + one.nanousd: (*part, one) for total, part in reached.items() if total + one.nanousd not in reached
        }
    nearest = min(reached, key=lambda total: abs(total - wanted))
    return list(reached[nearest]) if abs(nearest - wanted) <= allowed else []


def _total(calls: Iterable[Straddler]) -> Counts:
    found = Counts()
    for one in calls:
        found.add(one.counts)
    return found
