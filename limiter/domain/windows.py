"""Calendar windows: which hour, day, week, month, quarter or year an instant belongs to, in a time zone.

The windows of one kind tile time: each ends in the millisecond in which the next one starts, and every
instant belongs to exactly one. A day (week, month, …) starts at the first instant at which the wall clock
reads its midnight or later. So a day lasts 23 or 25 hours where the clocks change, a midnight that is
skipped is the instant of the change, a midnight that comes twice counts the first time, and a day that
is skipped altogether has no window.

An hour is an hour that really passes, between two full hours of the wall clock: where a clock goes back
from 02:00 to 01:00, the hour from 01:00 comes twice and is two windows. A change by part of an hour
(Lord Howe: 30 minutes) ends the window early, so that none ever lasts longer than 60 minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Final

from limiter.domain.errors import InvalidArgument

#: The end of `total`, in ms since the epoch: the year 10000. Below 2⁵³, so that Lua holds it exactly.
TOTAL_END: Final = 253_402_300_800_000

#: The largest instant that has a window: the year 9000.
INSTANT_MAX: Final = 221_845_392_000_000

_HOUR_MS: Final = 3_600_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def window_bounds(kind: str, at_ms: int, zone: tzinfo) -> tuple[int, int, int]:
    """Return start, end and the next window's end of the window that contains `at_ms`, all in ms since the epoch.

    start ≤ at_ms < end, and the next window starts at end. `kind` is one of limits.SPEND_WINDOWS; `total`
    is (0, TOTAL_END, TOTAL_END) in every zone. Raises InvalidArgument for another kind, or for an instant
    before 1970 or after INSTANT_MAX.
    """
    if not 0 <= at_ms <= INSTANT_MAX:
        raise InvalidArgument("at_ms", at_ms, "use milliseconds since 1970, up to the year 9000")
    if kind == "total":
        return 0, TOTAL_END, TOTAL_END
    start, end = _window(kind, at_ms, zone)
    return start, end, _window(kind, end, zone)[1]


def _window(kind: str, at_ms: int, zone: tzinfo) -> tuple[int, int]:
    if kind == "hour":
        return _hour(at_ms, zone)
    if kind not in _PERIODS:
        raise InvalidArgument("window", kind, f"use one of hour, {', '.join(_PERIODS)}, total")
    first_day_of, next_period = _PERIODS[kind]
    first = first_day_of(_wall_clock(at_ms, zone).date())
    start = _beginning(first, zone)
    while (end := _beginning(next_period(first), zone)) <= at_ms:
        # The clock went back over midnight after the next period had begun, or that period was skipped.
        first, start = next_period(first), end
    return start, end


def _hour(at_ms: int, zone: tzinfo) -> tuple[int, int]:
    def phase(ms: int) -> int:
        return _offset_ms(ms, zone) % _HOUR_MS

    now = phase(at_ms)
    start = at_ms - (at_ms + now) % _HOUR_MS
    end = start + _HOUR_MS
    if phase(start) != now:
        start = _first(start, at_ms, lambda ms: phase(ms) == now)
    if phase(end - 1) != now:
        end = _first(at_ms, end - 1, lambda ms: phase(ms) != now)
    return start, end


def _beginning(day: date, zone: tzinfo) -> int:
    """Return the first instant at which the wall clock reads midnight of `day` or later."""
    midnight = datetime(day.year, day.month, day.day)  # noqa: DTZ001 a wall clock's reading has no zone yet
    by_earlier_offset = _instant(midnight.replace(tzinfo=zone, fold=0))
    by_later_offset = _instant(midnight.replace(tzinfo=zone, fold=1))
    if by_earlier_offset <= by_later_offset:
        return by_earlier_offset
    # Midnight is skipped: the change lies between the two readings.
    return _first(by_later_offset, by_earlier_offset, lambda ms: _wall_clock(ms, zone) >= midnight)


def _first(before: int, after: int, holds: Callable[[int], bool]) -> int:
    """Return the first instant in (before, after] at which `holds`, given that it then goes on to hold."""
    while after - before > 1:
        middle = (before + after) // 2
        if holds(middle):
            after = middle
        else:
            before = middle
    return after


def _wall_clock(at_ms: int, zone: tzinfo) -> datetime:
    return (_EPOCH + at_ms * _MILLISECOND).astimezone(zone).replace(tzinfo=None)


def _instant(local: datetime) -> int:
    return (local.astimezone(UTC) - _EPOCH) // _MILLISECOND


def _offset_ms(at_ms: int, zone: tzinfo) -> int:
    offset = (_EPOCH + at_ms * _MILLISECOND).astimezone(zone).utcoffset()
    return 0 if offset is None else offset // _MILLISECOND


def _months_later(day: date, months: int) -> date:
    years, month = divmod(day.month - 1 + months, 12)
    return date(day.year + years, month + 1, 1)


#: By kind: the first day of the period that a day is in, and the first day of the period after that.
_PERIODS: Final[dict[str, tuple[Callable[[date], date], Callable[[date], date]]]] = {
    "day": (lambda day: day, lambda first: first + timedelta(days=1)),
    "week": (lambda day: day - timedelta(days=day.weekday()), lambda first: first + timedelta(weeks=1)),
    "month": (lambda day: day.replace(day=1), lambda first: _months_later(first, 1)),
    "quarter": (lambda day: date(day.year, day.month - (day.month - 1) % 3, 1), lambda first: _months_later(first, 3)),
    "year": (lambda day: date(day.year, 1, 1), lambda first: _months_later(first, 12)),
}
