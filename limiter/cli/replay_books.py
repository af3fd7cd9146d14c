"""Do the books balance? Counters before and after, ledger rows between them, open holds: all must agree.

Pure: what Admin said goes in, sentences about what does not agree come out.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from limiter.cli.replay_checks import CounterName
from limiter.domain.limits import LimitKind
from limiter.domain.money import format_usd
from limiter.domain.reservations import State
from limiter.domain.scopes import Scope

_SPEND: Final = LimitKind.SPEND.value


class SpendCounter(NamedTuple):
    """A spend limit and its counter at one moment, in nano-USD; the window is [starts_ms, ends_ms)."""

    ceiling: int
    settled: int
    held: int
    starts_ms: int
    ends_ms: int
    shadow: bool


class OpenHold(NamedTuple):
    """An open reservation and the counters that it took from."""

    reservation: str
    request_id: str
    held: int
    reserved_ms: int
    charged: tuple[CounterName, ...]


#: Of each shard, the last row: (epoch, seq).
Positions = dict[int, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The books at rest: no row was written while it was taken."""

    counters: Mapping[CounterName, SpendCounter]
    open_holds: tuple[OpenHold, ...]
    positions: Positions


@dataclass(slots=True)
class Booked:
    """What rows added to a counter; `unheld` is the part that no hold had made room for."""

    amount: int = 0
    unheld: int = 0


def _periods() -> defaultdict[int, Booked]:
    return defaultdict(Booked)


@dataclass(slots=True)
class Ended:
    """How one of our own reservations ended, by its rows."""

    state: str
    cost: int = 0
    settlements: int = 0
    unclaimed: bool = False


@dataclass(slots=True)
class LedgerSums:
    """Adds up rows of the ledger from `after` on; `request_prefix` tells which calls are our own."""

    after: Positions
    request_prefix: str
    rows: int = 0
    booked: defaultdict[CounterName, defaultdict[int, Booked]] = field(default_factory=lambda: defaultdict(_periods))
    ended: dict[str, Ended] = field(default_factory=dict)
    charges: defaultdict[tuple[str, frozenset[CounterName]], int] = field(default_factory=lambda: defaultdict(int))
    gaps: list[str] = field(default_factory=list)
    positions: Positions = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.positions = dict(self.after)

    def add(self, *, shard: int, epoch: int, seq: int, text: str) -> None:
        """Take in the next row of a shard; rows before the start are left out."""
        last = self.positions.get(shard)
        if last is not None and (epoch, seq) <= last:
            return
        if self.lacks_before(shard=shard, epoch=epoch, seq=seq):
            self.gaps.append(f"shard {shard}, epoch {epoch}: row {seq} follows on {_row(last)}")
        self.positions[shard] = (epoch, seq)
        self.rows += 1
        self._book(json.loads(text))

    def lacks_before(self, *, shard: int, epoch: int, seq: int) -> bool:
        """Whether a row should have come before this one; the rows of an epoch are numbered from 0."""
        last = self.positions.get(shard)
        if last is None or last[0] < epoch:
            return seq != 0
        return (epoch, seq) > (last[0], last[1] + 1)

    def _book(self, row: dict[str, Any]) -> None:
        if row["kind"] not in ("SETTLEMENT", "CHARGE", "CORRECTION"):
            return
        amount = row["amount_nanousd"]
        unheld = max(0, amount - row["held_nanousd"] if row["kind"] == "SETTLEMENT" else amount)
        charged = frozenset(_charged(row))
        for name, period_ms in charged:
            booked = self.booked[name][period_ms]
            booked.amount += amount
            booked.unheld += unheld
        call = row["call"]
        if not str(call.get("request_id", "")).startswith(self.request_prefix):
            return
        self.charges[call["key"], frozenset(name for name, _ in charged)] += amount
        ended = self.ended.setdefault(row["reservation"], Ended(row["state"]))
        ended.state, ended.cost = row["state"], row["cost_nanousd"]
        unclaimed = "UNCLAIMED" in row["flags"]  # the limiter took it back; the same id may be granted again
        ended.settlements += row["kind"] == "SETTLEMENT" and not unclaimed
        ended.unclaimed = ended.unclaimed or unclaimed


def _row(position: tuple[int, int] | None) -> str:
    return "none" if position is None else "row {1} of epoch {0}".format(*position)


def _charged(row: dict[str, Any]) -> Iterator[tuple[CounterName, int]]:
    for taken in row["charged"]:
        name = spend_counter(taken["scope"], taken["counter"])
        if name is not None:
            yield name, taken["period_ms"]


def spend_counter(scope: str, counter: str) -> CounterName | None:
    """Name a counter that rows write as `acme/search` and `monthly:spend:month`; None: it counts no money."""
    limit, kind, window = counter.split(":")
    if kind != LimitKind.SPEND.name.lower():
        return None
    return CounterName(Scope.parse(scope).name, limit, _SPEND, window)


@dataclass(frozen=True, slots=True)
class Books:
    """Everything that must agree.

    `costs` and `charges` are the tally's: what Settle said of each reservation that was granted (None:
    nothing yet), and the counters that all rows of a key must charge. `undecided` counts calls that got
    no answer, so that the limiter may know reservations that we do not.
    """

    before: Snapshot
    after: Snapshot
    ledger: LedgerSums
    costs: Mapping[str, int | None]
    charges: Mapping[str, set[CounterName]]
    undecided: int
    window_start: Callable[[CounterName, int], int]

    def faults(self) -> Iterator[str]:
        """Yield every disagreement."""
        for gap in self.ledger.gaps:
            yield f"the ledger has a gap: {gap}"
        yield from self._settled()
        yield from self._held()
        yield from self._levels()
        yield from self._reservations()

    def _settled(self) -> Iterator[str]:
        for name, counter in self.after.counters.items():
            expected = self.settled_in(name, counter.starts_ms)
            if expected != counter.settled:
                yield (
                    f"{name.limit} of {name.scope} has {format_usd(counter.settled)} settled,"
                    f" but its ledger rows say {format_usd(expected)}"
                )

    def settled_in(self, name: CounterName, starts_ms: int) -> int:
        """What the ledger says was settled in the window that began at `starts_ms`."""
        before = self.before.counters.get(name)
        base = before.settled if before is not None and before.starts_ms == starts_ms else 0
        return base + sum(
            booked.amount
            for period_ms, booked in self._booked(name).items()
            if self.window_start(name, period_ms) == starts_ms
        )

    def windows(self, name: CounterName) -> set[int]:
        """The starts of the windows in which a counter was seen or charged."""
        seen = {self.window_start(name, period_ms) for period_ms in self._booked(name)}
        known = (self.before.counters.get(name), self.after.counters.get(name))
        return seen | {counter.starts_ms for counter in known if counter is not None}

    def explained(self, name: CounterName) -> int:
        """How far a counter may be above its ceiling: by what it was before, and by spend that nobody held."""
        before = self.before.counters.get(name)
        already = max(0, before.settled + before.held - before.ceiling) if before is not None else 0
        return already + sum(booked.unheld for booked in self._booked(name).values())

    def _booked(self, name: CounterName) -> Mapping[int, Booked]:
        return self.ledger.booked.get(name, {})

    def _held(self) -> Iterator[str]:
        held: defaultdict[CounterName, int] = defaultdict(int)
        for hold in self.after.open_holds:
            for name in hold.charged:
                counter = self.after.counters.get(name)
                if counter is not None and hold.reserved_ms >= counter.starts_ms:
                    held[name] += hold.held
        for name, counter in self.after.counters.items():
            if held[name] != counter.held:
                yield (
                    f"{name.limit} of {name.scope} has {format_usd(counter.held)} held,"
                    f" but its open reservations hold {format_usd(held[name])}"
                )

    def _levels(self) -> Iterator[str]:
        """What a key's calls cost must stand at the key, its team and its organization, wherever they have a limit."""
        for (key, charged), amount in self.ledger.charges.items():
            for name in sorted(self.charges.get(key, set()) - charged):
                yield f"{format_usd(amount)} of {key} are missing at {name.limit} of {name.scope}"

    def _reservations(self) -> Iterator[str]:
        """Every grant is settled, released, expired or open; once, and at the cost that Settle told."""
        open_now = {hold.reservation for hold in self.after.open_holds}
        for reservation, cost in self.costs.items():
            ended = self.ledger.ended.get(reservation)
            if ended is None:
                if reservation not in open_now:
                    yield f"{reservation} was granted, but is neither open nor in the ledger"
            elif reservation in open_now:
                yield f"{reservation} is open and in the ledger"
            elif ended.settlements > 1 or not (ended.settlements or ended.unclaimed):
                yield f"{reservation} has {ended.settlements} settlement rows"
            elif cost is not None and ended.cost != cost:
                yield f"{reservation} cost {format_usd(cost)} by its answer, {format_usd(ended.cost)} by the ledger"
            if cost is not None and ended is None and reservation in open_now:
                yield f"{reservation} was settled, but is open"
        strangers = [
            name for name, ended in self.ledger.ended.items() if name not in self.costs and not ended.unclaimed
        ]
        if len(strangers) > self.undecided:
            yield f"the ledger has {len(strangers)} reservations that no answer granted, such as {strangers[0]}"

    def states(self) -> dict[str, int]:
        """How many of our grants are in each state."""
        counts = dict.fromkeys(("settled", "released", "expired", "open"), 0)
        for reservation in self.costs:
            ended = self.ledger.ended.get(reservation)
            name = "open" if ended is None else State[ended.state].name.lower()
            counts[name] += 1
        return counts
