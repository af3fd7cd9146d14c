"""Stretches of time that people ask about: from dates and times as they are written, in a time zone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple

from limiter.domain.errors import InvalidArgument
from limiter.domain.windows import INSTANT_MAX, window_bounds

#: What time can be divided into, in a report.
KINDS: Final = ("hour", "day", "week", "month")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_MONTH: Final = re.compile(r"(\d{4})-(\d{2})", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)


class Tile(NamedTuple):
    """From start to before end, in ms since 1970, and what it is called by each kind of period that was asked for."""

    start_ms: int
    end_ms: int
    names: tuple[str, ...]


def tiles(start_ms: int, end_ms: int, kinds: Sequence[str], zone: tzinfo) -> Iterator[Tile]:
    """Divide a stretch of time so that each part lies in one period of each kind; no kinds: one part, with no name."""
    while start_ms < end_ms:
        bounds = [window_bounds(kind, start_ms, zone)[:2] for kind in kinds]
        end = min(end_ms, *(end for _, end in bounds)) if bounds else end_ms
        yield Tile(
            start_ms, end, tuple(_name(kind, start, zone) for kind, (start, _) in zip(kinds, bounds, strict=True))
        )
        start_ms = end


def _name(kind: str, start_ms: int, zone: tzinfo) -> str:
    start = local(start_ms, zone)
    if kind == "hour":
        return start.isoformat(timespec="minutes")  # with its offset: an hour that comes twice has two names
    if kind == "week":
        year, week, _ = start.isocalendar()
        return f"{year}-W{week:02}"
    return start.strftime("%Y-%m" if kind == "month" else "%Y-%m-%d")


def local(at_ms: int, zone: tzinfo) -> datetime:
    """The wall clock's reading at an instant."""
    return (_EPOCH + at_ms * _MILLISECOND).astimezone(zone)


def instant(text: str, zone: tzinfo, *, field: str) -> int:
    """Read a date (its first instant in the zone) or an ISO 8601 time (in the zone where it names none), as ms.

    Raises InvalidArgument naming `field`.
    """
    try:
        if _DATE.fullmatch(text):
            return _first_of(date.fromisoformat(text), zone)
        read = datetime.fromisoformat(text) if len(text) > 10 else None
        if read is not None:
            at_ms = ((read if read.tzinfo else read.replace(tzinfo=zone)).astimezone(UTC) - _EPOCH) // _MILLISECOND
            if 0 <= at_ms <= INSTANT_MAX:
                return at_ms
    except (ValueError, OverflowError):
        pass
    raise InvalidArgument(field, text, "write a date such as 2026-11-01, or a time such as 2026-11-01T12:30:00Z")


def month(text: str, zone: tzinfo, *, field: str) -> tuple[int, int]:
    """Read YYYY-MM: where the month starts and where the next one does, as ms. Raises InvalidArgument."""
    found = _MONTH.fullmatch(text)
    try:
        if found is not None:
            start = _first_of(date(int(found[1]), int(found[2]), 1), zone)
            return start, window_bounds("month", start, zone)[1]
    except (ValueError, OverflowError):
        pass
    raise InvalidArgument(field, text, "write a month such as 2026-11")


def month_start(at_ms: int, zone: tzinfo) -> int:
    """Where the month of an instant starts."""
    return window_bounds("month", at_ms, zone)[0]


def _first_of(day: date, zone: tzinfo) -> int:
    """The first instant of a day. Of a day that the zone skipped: where the next one starts."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    at_ms = (midnight.astimezone(UTC) - _EPOCH) // _MILLISECOND
    if not 0 <= at_ms <= INSTANT_MAX:
        raise ValueError(day)
    return window_bounds("day", at_ms, zone)[0]


@lru_cache(maxsize=1024)
def month_of(hour: int) -> int:
    """The month in UTC, in months since 1970, that an hour (since 1970) is in."""
    day = _EPOCH + timedelta(hours=hour)
    return (day.year - 1970) * 12 + day.month - 1


def month_hours(month: int) -> tuple[int, int]:
    """The first hour of a month in UTC, and of the next one."""
    first, end = (datetime(1970 + at // 12, at % 12 + 1, 1, tzinfo=UTC) for at in (month, month + 1))
    return (first - _EPOCH) // timedelta(hours=1), (end - _EPOCH) // timedelta(hours=1)
