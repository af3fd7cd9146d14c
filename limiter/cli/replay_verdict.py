"""The outcome of a replay: every limit with what became of it, and whether the limiter kept its word."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from limiter.cli.replay_books import Books
from limiter.cli.replay_checks import CounterName
from limiter.cli.replay_driver import Score
from limiter.cli.replay_tally import Tally
from limiter.domain.limits import LimitKind
from limiter.domain.money import format_usd
from limiter.domain.scopes import Scope

#: The checks by name, and what is true if there are no faults.
CHECKS: Final = {
    "ceilings": "no ceiling was passed",
    "refusals": "every refusal was justified by its own numbers",
    "books": "counters, ledger and open holds agree to the nano-dollar",
    "answers": "every call got its answer",
}


@dataclass(frozen=True, slots=True)
class LimitLine:
    """One limit after a replay, in its unit (nano-USD, requests, tokens, holds).

    `overshoot` is the largest amount above the ceiling that was seen; `explained` the part of it that is
    there by right: it was above before, or calls cost more than they had held.
    """

    scope: Scope
    limit: str
    kind: LimitKind
    window: str
    ceiling: int
    settled: int
    held: int
    granted: int
    refused: dict[str, int]
    overshoot: int
    explained: int
    shadow: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything that a replay showed."""

    trace: str
    calls: int
    score: Score
    seconds: float
    tally: Tally
    books: Books
    limits: tuple[LimitLine, ...]

    @property
    def complete(self) -> bool:
        """Whether all calls of the trace were played."""
        return self.tally.done == self.calls

    @property
    def kept(self) -> bool:
        """Whether no check found a fault."""
        return not self.tally.faults


def judge(tally: Tally, books: Books) -> tuple[LimitLine, ...]:
    """Add what the ceilings and the books show to the tally's faults, and return a line for each limit."""
    for sentence in books.faults():
        tally.faults.add("books", sentence)
    names = sorted(set(tally.limits) | set(books.after.counters))
    lines = tuple(_line(name, tally, books) for name in names)
    for line in lines:
        if line.overshoot > line.explained and not line.shadow:
            tally.faults.add("ceilings", _passed(line))
    return lines


def _line(name: CounterName, tally: Tally, books: Books) -> LimitLine:
    seen, counter = tally.limits.get(name), books.after.counters.get(name)
    overshoot = max([seen.overshoot if seen else 0, *_beyond(name, books)])
    status = seen.status if seen else None
    return LimitLine(
        scope=Scope.parse(name.scope),
        limit=name.limit,
        kind=LimitKind(name.kind),
        window=name.window,
        ceiling=counter.ceiling if counter else status.limit_value if status else 0,
        settled=counter.settled if counter else 0,
        held=counter.held if counter else 0,
        granted=seen.granted if seen else 0,
        refused={reason.name: count for reason, count in sorted(seen.refused.items())} if seen else {},
        overshoot=overshoot,
        explained=min(overshoot, books.explained(name)),
        shadow=counter.shadow if counter else status.shadow if status else False,
    )


def _beyond(name: CounterName, books: Books) -> Iterator[int]:
    """Yield by how much a spend counter is above its ceiling by the last reading, and by the ledger in each window."""
    counter = books.after.counters.get(name)
    if counter is not None:
        yield counter.settled + counter.held - counter.ceiling
        for starts_ms in books.windows(name):
            yield books.settled_in(name, starts_ms) - counter.ceiling


def _passed(line: LimitLine) -> str:
    if line.kind is LimitKind.SPEND:
        by = f"{format_usd(line.overshoot)} USD, of which {format_usd(line.explained)} are explained"
    else:
        by = str(line.overshoot)
    return f"{line.limit} of {line.scope.path} was passed by {by}"
