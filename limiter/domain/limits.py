"""A limit is a rule on one scope."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from limiter.domain.reservations import Sizing


class LimitKind(IntEnum):
    """What a limit counts. The numbers are those of the wire contract and of the scripts."""

    SPEND = 1
    REQUESTS = 2
    TOKENS = 3
    CONCURRENCY = 4


#: Calendar windows of a spend ceiling; `total` never ends.
SPEND_WINDOWS: Final = ("hour", "day", "week", "month", "quarter", "year", "total")

#: Period of a rate in ticks of the bucket's clock, and the length of a tick in ms. Levels are kept in
#: units of 1/ticks of a token, so that refilling is exact integer arithmetic (amount per tick).
RATE_PERIODS: Final = {"second": (1_000, 1), "minute": (60_000, 1), "hour": (3_600, 1_000), "day": (86_400, 1_000)}

#: Largest amount and burst of a rate: amount × ticks stays below 2⁵³.
RATE_MAX: Final = 50_000_000_000

#: Largest number of open holds that a limit may allow.
CONCURRENCY_MAX: Final = 1_000_000_000

#: Limits on one scope.
LIMITS_PER_SCOPE_MAX: Final = 32

UNITS: Final = {
    LimitKind.SPEND: "nanousd",
    LimitKind.REQUESTS: "requests",
    LimitKind.TOKENS: "tokens",
    LimitKind.CONCURRENCY: "holds",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule.

    `amount` is nano-USD per window for SPEND, a count per period for REQUESTS and TOKENS, and open
    holds for CONCURRENCY. `per` is the window or period ("" for CONCURRENCY). `burst` is the bucket's
    size (REQUESTS, TOKENS; else 0). `models` are glob patterns; empty: every call. A `shadow` limit
    counts what it would refuse and never refuses. `warn_at` are fractions of the ceiling in
    millionths, ascending (SPEND only). `sizing`: how large holds are for it, None: as the settings say (SPEND only).
    """

    id: str
    kind: LimitKind
    amount: int
    per: str = ""
    burst: int = 0
    models: tuple[str, ...] = ()
    shadow: bool = False
    warn_at: tuple[int, ...] = ()
    sizing: Sizing | None = None

    @property
    def counter(self) -> str:
        """The name of its counter within the scope: an amount can change without losing it."""
        return f"{self.id}:{self.kind.name.lower()}:{self.per}"
