"""What is wrong with books: told with where, what should be there and what is, and what to do."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from limiter.domain.rows import Position

#: How many faults of a check are kept to be shown, where nobody says.
SHOWN: Final = 20

#: What each check looks at, and what to do about a fault of it.
CHECKS: Final = {
    "books": (
        "the books have one identity",
        "restore the table `books` from a backup: the store knows these books by their id",
    ),
    "sequence": (
        "no row of any sequence is missing",
        "restore the rows from a backup or an export; what never reached the books is in `store.rolled_back` alerts",
    ),
    "checksum": ("every row is as it was written", "restore the row from a backup or an export of the ledger"),
    "text": ("every text that rows refer to is there, and its own", "restore the text from a backup"),
    "cursor": (
        "the drain's position of each shard is its last row",
        "restore the rows from a backup; do not move cursors by hand: a row would be booked twice, or never",
    ),
    "correction": (
        "every correction points to the first row of its reservation",
        "restore the first row, or look for who inserted the correction",
    ),
    "cost": (
        "what a call costs is what its rows add up to",
        "compare the rows of the reservation with a backup or an export",
    ),
    "twice": (
        "no call is charged twice",
        "if it was one call, correct one of them: `limiter ledger adjust --reservation … --cost 0`",
    ),
    "hours": (
        "the sums of hours are those of the rows",
        "restore `hours` from a backup; if the rows are right, they win",
    ),
    "months": ("the sums of months are those of the hours", "restore `months` from a backup; the rows win"),
    "charges": ("the sums of counters are those of the rows", "restore `charges` from a backup; the rows win"),
    "refusals": ("the sums of refusals are those of the rows", "restore `refusals` from a backup; the rows win"),
    "invoice": ("issued invoices are as they were issued", "restore the invoice from a backup or the copy sent out"),
    "head": (
        "days are as exported heads say",
        "restore the day's rows from a backup: the head was taken when they were whole",
    ),
    "drain": (
        "every row that the store's counters count is in the books",
        "see that a drain runs on these books (`limiter ledger drain`), and verify again, with a longer --wait",
    ),
    "counter": (
        "the store's counters are the sums of the rows",
        "look for `store.rolled_back` alerts: rows that the store lost are in the books and not in its counters",
    ),
}


class Fault(NamedTuple):
    """One thing that is wrong."""

    check: str
    where: str
    expected: str
    found: str

    @property
    def remedy(self) -> str:
        """What to do."""
        return CHECKS[self.check][1]


@dataclass(slots=True)
class Findings:
    """What a verification found: all faults are counted, the first `shown` of each check are kept."""

    shown: int = SHOWN
    faults: list[Fault] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    looked_at: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many faults there are."""
        return self.counts.total()

    def fault(self, check: str, where: str, expected: object, found: object) -> None:
        """Tell a fault of one of CHECKS."""
        self.counts[check] += 1
        if self.counts[check] <= self.shown:
            self.faults.append(Fault(check, where, str(expected), str(found)))

    def shows(self, check: str) -> bool:
        """Whether the next fault of a check would be kept."""
        return self.counts[check] < self.shown

    def look(self, check: str, count: int = 0) -> None:
        """Say that a check looked at so many things (more)."""
        self.looked_at[check] = self.looked_at.get(check, 0) + count


def row_name(shard: object, position: tuple[object, object]) -> str:
    """A row as people find it: `shard 7, row 1793491200000-42`."""
    return f"shard {shard}, row {position_name(position)}"


def position_name(position: Position | tuple[object, object] | None) -> str:
    """A position as EPOCH-SEQ; that of no row is `none`."""
    return "none" if position is None else f"{position[0]}-{position[1]}"
