"""Calendar months in a time zone, as instants."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from limiter.domain.errors import FailedPrecondition, InvalidArgument
from limiter.domain.windows import window_bounds
from limiter.domain.zones import zone

_MONTH = re.compile(r"([1-8]\d{3})-(0[1-9]|1[0-2])", re.ASCII)
_MIDDLE_MS = 14 * 86_400_000


@dataclass(frozen=True, slots=True)
class Month:
    """A month of a zone, from `since_ms` up to, and without, `until_ms`."""

    name: str
    timezone: str
    since_ms: int
    until_ms: int

    @classmethod
    def parse(cls, text: str, timezone: str, *, field: str = "month") -> Month:
        """Read 2026-11; raises InvalidArgument for anything else."""
        found = _MONTH.fullmatch(text)
        if found is None or int(found[1]) < 1970:
            raise InvalidArgument(field, text, "write a year and a month, such as 2026-11")
        middle = int(datetime(int(found[1]), int(found[2]), 1, tzinfo=UTC).timestamp()) * 1000 + _MIDDLE_MS
        since_ms, until_ms, _ = window_bounds("month", middle, zone(timezone))
        return cls(text, timezone, since_ms, until_ms)

    @property
    def number(self) -> int:
        """Months since the year 0."""
        return int(self.name[:4]) * 12 + int(self.name[5:])


def refuse_seam(number: str, then: Month, now: Month) -> None:
    """Raise FailedPrecondition if an invoiced month and the one next to it overlap, or leave hours between them."""
    first, second = sorted((then, now), key=lambda month: month.number)
    if second.number == first.number + 1 and first.until_ms != second.since_ms:
        done = "billed twice" if first.until_ms > second.since_ms else "billed never"
        raise FailedPrecondition(
            f"timezone: {number} is of {then.name} in {then.timezone}; with {now.name} in {now.timezone} the hours"
            f" between would be {done}. Issue {now.name} in {then.timezone}, too"
        )


def day_of(at_ms: int, timezone: str) -> str:
    """The day of an instant in a zone, such as 2026-12-01."""
    return datetime.fromtimestamp(at_ms / 1000, zone(timezone)).date().isoformat()


def instant(at_ms: int, timezone: str = "UTC") -> str:
    """An instant in ISO 8601, to the second, as the zone's clocks read."""
    return datetime.fromtimestamp(at_ms // 1000, zone(timezone)).isoformat().replace("+00:00", "Z")
