"""Which sums to add up for a stretch of hours: whole months where they save work, hours for the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from limiter.ledger.periods import month_hours, month_of


class Piece(NamedTuple):
    """Hours, or (`month`) those of a month; with sign -1 what is too much in the month."""

    first: int
    end: int
    month: int | None = None
    sign: int = 1


def cover(first: int, end: int) -> Iterator[Piece]:
    """Say what to add up for the hours from `first` to before `end`, so that as few sums as possible are read."""
    while first < end:
        month = month_of(first)
        begins, ends = month_hours(month)
        last = min(end, ends)
        if last - first > (first - begins) + (ends - last):
            yield Piece(begins, ends, month)
            yield from (Piece(one, other, sign=-1) for one, other in ((begins, first), (last, ends)) if one < other)
        else:
            yield Piece(first, last)
        first = last
