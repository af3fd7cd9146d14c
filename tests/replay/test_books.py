"""Made-up books: those that balance are accepted, every single disagreement is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from limiter.cli.replay_books import Books, LedgerSums, OpenHold, Snapshot, SpendCounter, spend_counter
from limiter.cli.replay_checks import CounterName
from limiter.cli.replay_tally import Tally
from limiter.cli.replay_verdict import judge
from limiter.domain.scopes import Scope

KEY = "acme/search/bot"
HOUR_MS = 3_600_000
START_MS = 500_000 * HOUR_MS


def name_of(scope: str) -> CounterName:
    found = spend_counter(scope, "hourly:spend:hour")
    assert found is not None
    return found


LEVELS = [name_of(scope.path) for scope in Scope.parse(KEY).lineage()]


@dataclass
class Sheet:
    """Books that can be made wrong before they are read."""

    settled: dict[CounterName, int] = field(default_factory=lambda: dict.fromkeys(LEVELS, 0))
    held: dict[CounterName, int] = field(default_factory=lambda: dict.fromkeys(LEVELS, 0))
    opening: dict[CounterName, int] = field(default_factory=lambda: dict.fromkeys(LEVELS, 0))
    rows: list[dict[str, Any]] = field(default_factory=list)
    costs: dict[str, int | None] = field(default_factory=dict)
    holds: list[OpenHold] = field(default_factory=list)
    ceiling: int = 1000
    ends_ms: int = START_MS + HOUR_MS
    undecided: int = 0

    def call(
        self, cost: int, *, held: int | None = None, period_ms: int = START_MS + 7, **row: object
    ) -> dict[str, Any]:
        """Book one settled call everywhere."""
        number = len(self.rows)
        charged = [
            {"scope": Scope.parse(level.scope).path, "counter": "hourly:spend:hour", "period_ms": period_ms}
            for level in LEVELS
        ]
        charged.append({"scope": "acme", "counter": "rpm:requests:minute", "period_ms": period_ms})
        self.rows.append(
            {
                "seq": number,
                "kind": "SETTLEMENT",
                "reservation": f"r{number}",
                "state": "SETTLED",
                "flags": [],
                "amount_nanousd": cost,
                "held_nanousd": cost if held is None else held,
                "cost_nanousd": cost,
                "charged": charged,
                "call": {"key": KEY, "request_id": f"replay-x-{number}"},
            }
            | row
        )
        self.costs[f"r{number}"] = cost
        for level in LEVELS:
            self.settled[level] += cost
        return self.rows[-1]

    def read(self) -> Books:
        before = self._snapshot(self.opening, dict.fromkeys(LEVELS, 0), START_MS + HOUR_MS)
        ledger = LedgerSums({3: (1, 99)}, "replay-x-")
        ledger.add(shard=3, epoch=1, seq=99, text="{}")  # a row from before the replay
        for row in self.rows:
            ledger.add(shard=3, epoch=1, seq=100 + row["seq"], text=json.dumps(row))
        after = self._snapshot(self.settled, self.held, self.ends_ms)
        return Books(
            before,
            replace(after, open_holds=tuple(self.holds)),
            ledger,
            self.costs,
            {KEY: set(LEVELS)},
            self.undecided,
            lambda _, at_ms: at_ms // HOUR_MS * HOUR_MS,
        )

    def _snapshot(self, settled: dict[CounterName, int], held: dict[CounterName, int], ends_ms: int) -> Snapshot:
        counters = {
            level: SpendCounter(self.ceiling, settled[level], held[level], ends_ms - HOUR_MS, ends_ms, shadow=False)
            for level in LEVELS
        }
        return Snapshot(counters, (), {3: (1, 99)})

    def hold(self, amount: int, *, request_id: str = "replay-x-open", reserved_ms: int = START_MS + 7) -> None:
        """Leave one call open."""
        self.holds.append(OpenHold("open", request_id, amount, reserved_ms, tuple(LEVELS)))
        self.costs["open"] = None
        if reserved_ms >= self.ends_ms - HOUR_MS:
            for level in LEVELS:
                self.held[level] += amount


@pytest.fixture
def sheet() -> Sheet:
    made = Sheet()
    for cost in (100, 200, 300):
        made.call(cost)
    made.hold(50)
    return made


def test_books_that_balance_have_no_fault(sheet: Sheet) -> None:
    books = sheet.read()
    assert list(books.faults()) == []
    assert books.states() == {"settled": 3, "released": 0, "expired": 0, "open": 1}
    assert books.ledger.rows == 3


def test_what_was_settled_before_counts_only_within_its_window(sheet: Sheet) -> None:
    for level in LEVELS:
        sheet.opening[level] += 40
        sheet.settled[level] += 40
    assert list(sheet.read().faults()) == []
    late = Sheet(ends_ms=START_MS + 2 * HOUR_MS, opening=dict.fromkeys(LEVELS, 40))
    late.call(5, period_ms=START_MS + 9)  # its window has closed: in the ledger only
    for level in LEVELS:
        late.settled[level] = 0
    late.call(6, period_ms=START_MS + HOUR_MS)
    assert list(late.read().faults()) == []


def test_a_hold_of_a_closed_window_is_held_nowhere() -> None:
    late = Sheet(ends_ms=START_MS + 2 * HOUR_MS)
    late.hold(50)
    assert list(late.read().faults()) == []


def test_corrections_and_expiries_add_up() -> None:
    sheet = Sheet()
    sheet.call(100, state="EXPIRED")
    sheet.call(-60, kind="CORRECTION", reservation="r0", cost_nanousd=40)
    sheet.costs = {"r0": 40}
    books = sheet.read()
    assert list(books.faults()) == []
    assert books.states()["settled"] == 1
    released = Sheet()
    released.call(0, state="RELEASED", held=10)
    assert released.read().states()["released"] == 1


def shift_counter(sheet: Sheet) -> None:
    sheet.settled[LEVELS[1]] += 1


def shift_held(sheet: Sheet) -> None:
    sheet.held[LEVELS[2]] -= 1


def lose_row(sheet: Sheet) -> None:
    del sheet.rows[1]


def lose_last_row(sheet: Sheet) -> None:
    del sheet.rows[2]


def book_twice(sheet: Sheet) -> None:
    sheet.call(100, reservation="r0")
    sheet.costs = {"r0": 100, "r1": 200, "r2": 300, "open": None}


def skip_level(sheet: Sheet) -> None:
    del sheet.rows[0]["charged"][0]
    sheet.settled[LEVELS[0]] -= 100


def other_cost(sheet: Sheet) -> None:
    sheet.costs["r1"] = 201


def lose_hold(sheet: Sheet) -> None:
    sheet.holds.clear()
    sheet.held = dict.fromkeys(LEVELS, 0)


def stay_open(sheet: Sheet) -> None:
    sheet.holds.append(OpenHold("r0", "replay-x-0", 0, START_MS, ()))


def stranger(sheet: Sheet) -> None:
    del sheet.costs["r0"]


def settled_but_open(sheet: Sheet) -> None:
    sheet.costs["open"] = 50


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            shift_counter,
            "hourly of organizations/acme/teams/search has 0.000000601 settled, but its ledger rows say 0.0000006",
        ),
        (shift_held, "has 0.000000049 held, but its open reservations hold 0.00000005"),
        (lose_row, "gap"),
        (lose_last_row, "r2 was granted, but is neither open nor in the ledger"),
        (book_twice, "r0 has 2 settlement rows"),
        (skip_level, "0.0000001 of acme/search/bot are missing at hourly of organizations/acme"),
        (other_cost, "r1 cost 0.000000201 by its answer, 0.0000002 by the ledger"),
        (lose_hold, "open was granted, but is neither open nor in the ledger"),
        (stay_open, "r0 is open and in the ledger"),
        (stranger, "1 reservations that no answer granted, such as r0"),
        (settled_but_open, "open was settled, but is open"),
    ],
)
def test_every_disagreement_is_found(sheet: Sheet, damage: Callable[[Sheet], None], said: str) -> None:
    damage(sheet)
    assert said in " | ".join(sheet.read().faults())


def test_a_reservation_whose_answer_was_lost_is_no_disagreement(sheet: Sheet) -> None:
    stranger(sheet)
    sheet.undecided = 1
    assert list(sheet.read().faults()) == []
    sheet.undecided = 0
    sheet.rows[0]["flags"] = ["UNCLAIMED"]
    assert list(sheet.read().faults()) == []


def test_a_grant_that_the_limiter_took_back_may_be_given_again(sheet: Sheet) -> None:
    sheet.rows[2] |= {"seq": 3}
    taken_back = sheet.rows[2] | {"seq": 2, "amount_nanousd": 0, "cost_nanousd": 0, "flags": ["UNCLAIMED"]}
    sheet.rows.insert(2, taken_back | {"state": "RELEASED"})
    assert list(sheet.read().faults()) == []
    assert sheet.read().states()["settled"] == 3


def test_a_ceiling_that_the_ledger_passes_is_a_fault(sheet: Sheet) -> None:
    sheet.ceiling = 649
    tally = Tally()
    lines = judge(tally, sheet.read())
    assert [line.overshoot for line in lines] == [1, 1, 1]
    assert tally.faults.counts["ceilings"] == 3
    assert "hourly of acme was passed by 0.000000001 USD" in tally.faults.told["ceilings"][0]


def test_a_ceiling_that_was_passed_by_what_nobody_held_is_explained() -> None:
    sheet = Sheet(ceiling=100)
    sheet.call(90)
    sheet.call(30, held=5)  # used 25 more than it had held
    tally = Tally()
    lines = judge(tally, sheet.read())
    assert {(line.overshoot, line.explained) for line in lines} == {(20, 20)}
    assert not tally.faults


def test_a_charge_is_spend_that_nobody_held_and_other_rows_move_nothing() -> None:
    sheet = Sheet(ceiling=100)
    sheet.call(130, kind="CHARGE", call={"key": KEY, "request_id": "theirs"})
    sheet.rows.append({"seq": 1, "kind": "REFUSALS"})
    sheet.costs.clear()
    tally = Tally()
    judge(tally, sheet.read())
    assert not tally.faults


def test_a_ceiling_that_was_passed_in_a_window_that_has_closed_is_found() -> None:
    late = Sheet(ceiling=100, ends_ms=START_MS + 2 * HOUR_MS)
    late.call(101)
    late.settled = dict.fromkeys(LEVELS, 0)
    tally = Tally()
    judge(tally, late.read())
    assert tally.faults.counts == {"ceilings": 3}
