"""When prices change: days on which they begin, and hours of the day."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, time, timedelta
from typing import Final

from genai_prices.types import StartDateConstraint, TimeOfDateConstraint

DAY_MS: Final = 24 * 60 * 60 * 1000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def instant(at_ms: int) -> datetime:
    """Return the time of `at_ms` (ms since the epoch), in UTC."""
    return _EPOCH + timedelta(milliseconds=at_ms)


def milliseconds(moment: datetime) -> int:
    """Return `moment` in ms since the epoch."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def switch_times(
    constraints: Iterable[StartDateConstraint | TimeOfDateConstraint | None], *, at_ms: int
) -> Iterator[int]:
    """Yield the instants (ms) at which a constraint begins or ceases to hold.

    Of a daily interval, those from one day before to two days after `at_ms`.
    """
    for constraint in constraints:
        if isinstance(constraint, StartDateConstraint):
            yield milliseconds(datetime.combine(constraint.start_date, time(tzinfo=UTC)))
        elif isinstance(constraint, TimeOfDateConstraint):
            for day in range(-2, 4):
                date = (instant(at_ms) + timedelta(days=day)).date()
                for clock in (constraint.start_time, constraint.end_time):
                    aware = clock if clock.tzinfo is not None else clock.replace(tzinfo=UTC)
                    yield milliseconds(datetime.combine(date, aware))
