"""Sums up what was found of recorded calls."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from limiter.cli.estimate_call import End, Finding

#: So many calls of a kind are told one by one; the others are counted.
LISTED_MAX: Final = 10_000

#: What is told one by one, by the name of the list, in this order.
LISTED: Final = {
    End.UNCOVERED: "uncovered_calls",
    End.UNREAD: "unread",
    End.UNPRICED: "unpriced",
    End.REFUSED: "refused",
    End.SKIPPED: "skipped",
}
SUSPECT: Final = "suspect"


@dataclass(slots=True)
class Group:
    """Calls that have something in common: how many came how far, and how large their holds were."""

    calls: int = 0
    answered: int = 0
    usage_read: int = 0
    priced: int = 0
    ends: Counter[End] = field(default_factory=Counter)
    ratios: array[float] = field(default_factory=lambda: array("d"))

    def add(self, found: Finding) -> None:
        """Count a call in."""
        self.calls += 1
        self.answered += found.answered
        self.usage_read += found.usage_read
        self.priced += found.actual is not None
        self.ends[found.end] += 1
        if found.hold is not None and found.actual:
            self.ratios.append(found.hold / found.actual)

    @property
    def covered(self) -> int:
        """Calls that cost no more than their hold."""
        return self.ends[End.COVERED]

    @property
    def uncovered(self) -> int:
        """Calls that cost more than their hold."""
        return self.ends[End.UNCOVERED]

    def ratios_at(self, *percents: int) -> list[float | None]:
        """How many times its cost the hold of a call was, by percentile; None where no call cost anything."""
        ranked = sorted(self.ratios)
        if not ranked:
            return [None] * len(percents)
        return [round(ranked[max(0, math.ceil(len(ranked) * percent / 100) - 1)], 3) for percent in percents]


@dataclass(slots=True)
class Listing:
    """Calls with the reasons for which they are told, and how many there are of them, told or not."""

    count: int = 0
    told: list[tuple[Finding, str]] = field(default_factory=list)

    def add(self, found: Finding, reason: str) -> None:
        """Tell of a call."""
        self.count += 1
        if self.count <= LISTED_MAX:
            self.told.append((found, reason))


@dataclass(slots=True)
class Tally:
    """All calls of a recording."""

    total: Group = field(default_factory=Group)
    without_growth: Group = field(default_factory=Group)
    with_growth: Group = field(default_factory=Group)
    providers: defaultdict[str, Group] = field(default_factory=lambda: defaultdict(Group))
    listings: dict[str, Listing] = field(
        default_factory=lambda: {name: Listing() for name in (*LISTED.values(), SUSPECT)}
    )

    def add(self, found: Finding) -> None:
        """Count a call in."""
        for group in (self.total, self.providers[found.provider]):
            group.add(found)
        (self.with_growth if found.growth else self.without_growth).add(found)
        if found.end in LISTED:
            self.listings[LISTED[found.end]].add(found, found.reason)
        if found.suspect:
            self.listings[SUSPECT].add(found, found.suspect)
