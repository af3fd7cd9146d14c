"""What came back during a replay: counts, latencies, the largest overshoots, and what was wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Final

from limiter.cli.replay_checks import CounterName, counter_name, overshoot, refusal_faults, refuses
from limiter.client.contract import messages as pb
from limiter.domain.limits import LimitKind
from limiter.domain.reservations import State
from limiter.domain.verdicts import DenialReason

#: So many faults of a check are told in words; all are counted.
FAULTS_TOLD: Final = 20

_SPEND: Final = LimitKind.SPEND.value


class Faults:
    """What is wrong, by check: how often, and the first of them in words."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.told: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, check: str, sentence: str) -> None:
        """Note one fault."""
        self.counts[check] += 1
        if len(self.told[check]) < FAULTS_TOLD:
            self.told[check].append(sentence)

    def __bool__(self) -> bool:
        return bool(self.counts)


@dataclass(slots=True)
class LimitTally:
    """What was seen of one limit. `overshoot` is the largest amount above the ceiling in any answer."""

    status: pb.LimitStatus
    granted: int = 0
    refused: Counter[DenialReason] = field(default_factory=Counter)
    overshoot: int = 0


@dataclass(slots=True)
class CustomerTally:
    """What one customer's calls came to."""

    granted: int = 0
    denied: int = 0
    cost_nanousd: int = 0


class Tally:
    """Takes in every answer of a replay.

    `costs` has what Settle said that a reservation cost, None while it is open. `charges` has, by key,
    the enforced spend limits that all grants of that key named: what every ledger row of it must charge.
    """

    def __init__(self) -> None:
        self.faults = Faults()
        self.granted = 0
        self.denied: Counter[DenialReason] = Counter()
        self.undecided: Counter[str] = Counter()
        self.unsettled: Counter[str] = Counter()
        self.settled = 0
        self.retried = 0
        self.latencies_s: list[float] = []
        self.limits: dict[CounterName, LimitTally] = {}
        self.customers: defaultdict[str, CustomerTally] = defaultdict(CustomerTally)
        self.costs: dict[str, int | None] = {}
        self.charges: dict[str, set[CounterName]] = {}

    @property
    def done(self) -> int:
        """Calls that have come to their end or wait for it."""
        return self.granted + self.denied.total() + self.undecided.total()

    def answered(self, answer: pb.ReserveResponse, *, key: str, customer: str) -> None:
        """Take in a grant or a final refusal."""
        for status in answer.limits:
            self._limit(status)
        if answer.decision == pb.ReserveResponse.GRANTED:
            self._granted(answer, key, customer)
        elif answer.decision == pb.ReserveResponse.DENIED:
            self._denied(answer, customer)
        else:
            self.undecided["decision missing"] += 1
            self.faults.add("answers", f"an answer had the decision {answer.decision}")

    def refused_for_now(self, answer: pb.ReserveResponse) -> None:
        """Take in a refusal that is asked again."""
        self.retried += 1
        for sentence in refusal_faults(answer):
            self.faults.add("refusals", sentence)

    def settled_as(self, answer: pb.SettleResponse, *, reservation: str, customer: str) -> None:
        """Take in what a call cost."""
        self.settled += 1
        self.costs[reservation] = answer.cost_nanousd
        self.customers[customer].cost_nanousd += answer.cost_nanousd
        if answer.state != State.SETTLED.value:
            self.faults.add("answers", f"{reservation} was settled, but its state is {State(answer.state).name}")

    def _granted(self, answer: pb.ReserveResponse, key: str, customer: str) -> None:
        self.granted += 1
        self.customers[customer].granted += 1
        if answer.reservation in self.costs:
            self.faults.add("answers", f"{answer.reservation} was granted twice")
        self.costs[answer.reservation] = None
        charged = {counter_name(status) for status in answer.limits if status.kind == _SPEND and not status.shadow}
        for status in answer.limits:
            self.limits[counter_name(status)].granted += 1
        for status in answer.warnings:
            if status.shadow and (reason := refuses(status)):  # what it would have refused
                self._limit(status).refused[reason] += 1
        known = self.charges.setdefault(key, charged)
        if known != charged:
            known &= charged

    def _denied(self, answer: pb.ReserveResponse, customer: str) -> None:
        denial = answer.denial
        self.customers[customer].denied += 1
        for sentence in refusal_faults(answer):
            self.faults.add("refusals", sentence)
        if denial.reason in _REASONS:
            reason = _REASONS[denial.reason]
            self.denied[reason] += 1
            for status in denial.violations:
                self._limit(status).refused[refuses(status) or reason] += 1
        else:
            self.undecided["reason unknown"] += 1

    def _limit(self, status: pb.LimitStatus) -> LimitTally:
        name = counter_name(status)
        known = self.limits.get(name)
        if known is None:
            known = self.limits[name] = LimitTally(status)
        known.overshoot = max(known.overshoot, overshoot(status))
        return known


_REASONS: Final = {reason.value: reason for reason in DenialReason}
