"""A bill made from the same calls has no drift; what is changed in it is found, and explained to the nano-dollar."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from limiter.domain.reservations import Basis, State
from limiter.domain.rows import RowKind
from limiter.ledger.alerting.alerts import tell
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database
from limiter.ledger.reconciling.bills import Bill
from limiter.ledger.reconciling.plan import Plan, Step
from limiter.ledger.reconciling.results import Kind
from limiter.ledger.reconciling.run import Reconciliation, drift_of
from limiter.ledger.schema import alerts
from tests.ledger.provider_calls import PRICES, SERVED, Call, booked, by_kind, calls_of, hundredth, settled
from tests.ledger.rows import HOUR, NOVEMBER, Ledger


def log(path: Path, calls: list[Call], decimals: int = 9) -> Bill:
    """A log of calls with ids and costs, rounded."""
    unit = Decimal(1).scaleb(-decimals)
    with path.open("w") as text:
        writer = csv.writer(text)
        writer.writerow(["id", "when", "model", "in", "out", "usd"])
        for call in calls:
            cost = Decimal(call.nanousd).scaleb(-9).quantize(unit, ROUND_HALF_EVEN)
            moment = datetime.fromtimestamp(call.at_ms / 1000, UTC).isoformat()
            writer.writerow([call.id, moment, SERVED[call.model], call.input, call.output, f"{cost:f}"])
    mapping = path.with_suffix(".yaml")
    mapping.write_text(
        "columns: {request_id: id, time: when, model: model, cost: usd, input_tokens: in, output_tokens: out}\n"
    )
    return Bill("openai", [path], mapping)


def openai(  # the parts of a provider's bill
    directory: Path,
    calls: list[Call],
    *,
    decimals: int = 6,
    at: Callable[[Call], int] = lambda call: call.at_ms,
    usage: str = "1d",
) -> Bill:
    """OpenAI's costs by day and line item, and its usage by bucket."""
    files = [directory / "costs.json"]
    costs: defaultdict[tuple[int, str], int] = defaultdict(int)
    counts: defaultdict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    width = {"1d": 24 * HOUR, "1h": HOUR, "": HOUR}[usage]
    for call in calls:
        day = at(call) // (24 * HOUR) * 24 * HOUR
        input_ = call.input * call.nanousd // (call.nanousd or 1) * PRICES[call.model][0]
        costs[day, f"{SERVED[call.model]}, input"] += input_
        costs[day, f"{SERVED[call.model]}, output"] += call.nanousd - input_
        for i, amount in enumerate((1, call.input, call.output)):
            counts[at(call) // width * width, SERVED[call.model]][i] += amount
    unit = Decimal(1).scaleb(-decimals)
    buckets: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
    for (day, item), nanousd in costs.items():
        value = float(Decimal(nanousd).scaleb(-9).quantize(unit))
        buckets[day, day + 24 * HOUR].append({"amount": {"value": value, "currency": "usd"}, "line_item": item})
    files[0].write_text(page(buckets))
    if usage:
        files.append(directory / "usage.json")
        used: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
        names = ("num_model_requests", "input_tokens", "output_tokens")
        for (start, model), told in counts.items():
            used[start, start + width].append({"model": model, **dict(zip(names, told, strict=True))})
        files[1].write_text(page(used))
    return Bill("openai", files)


def page(buckets: dict[tuple[int, int], list[Any]]) -> str:
    """A page of one of OpenAI's APIs."""
    data = [
        {"object": "bucket", "start_time": start // 1000, "end_time": end // 1000, "results": results}
        for (start, end), results in sorted(buckets.items())
    ]
    return json.dumps({"object": "page", "data": data, "has_more": False, "next_page": None}, indent=1)


@pytest.fixture
def calls() -> list[Call]:
    """Calls of thirty hours."""
    return calls_of(1500)


@pytest.fixture
def book(calls: list[Call], booking: Booking) -> Ledger:
    """The books of all calls."""
    return booked(calls, booking)


@pytest.mark.parametrize("decimals", [9, 6, 4])
def test_a_log_of_the_same_calls_has_no_drift_but_rounding(
    calls: list[Call], book: Ledger, database: Database, tmp_path: Path, decimals: int
) -> None:
    drift = drift_of(database, log(tmp_path / "log.csv", calls, decimals))
    assert drift.by_call
    assert drift.matched == len(calls)
    assert drift.ours == sum(row.amount for row in book.made)
    assert set(by_kind(drift)) <= {Kind.ROUNDING}
    assert (drift.harmful, drift.beyond(0)) == (0, False)
    assert drift.unit == Decimal(1).scaleb(-decimals)


@pytest.mark.parametrize("usage", ["", "1d", "1h"])
@pytest.mark.parametrize("decimals", [9, 6, 2])
def test_a_bill_of_sums_of_the_same_calls_has_no_drift_but_rounding(
    calls: list[Call], book: Ledger, database: Database, tmp_path: Path, *, decimals: int, usage: str
) -> None:
    del book
    drift = drift_of(database, openai(tmp_path, calls, decimals=decimals, usage=usage))
    assert not drift.by_call
    assert set(by_kind(drift)) <= {Kind.ROUNDING}
    assert not drift.beyond(0)


@pytest.mark.parametrize("usage", ["", "1d"])
def test_calls_over_midnight_that_the_provider_counts_by_their_end_are_no_drift(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path, usage: str
) -> None:
    late = [replace(one, at_ms=NOVEMBER + 24 * HOUR - 60_000 + i * 6000) for i, one in enumerate(calls[:10])]
    calls = [*calls[10:], *late]
    booked(calls, booking)
    bill = openai(tmp_path, calls, at=lambda call: call.at_ms + call.took_ms, usage=usage, decimals=9)
    drift = drift_of(database, bill)
    assert set(by_kind(drift)) <= {Kind.ROUNDING}  # in total nothing moved
    assert any(one.kind is Kind.NEIGHBOUR for cell in drift.cells for one in cell.explanations)
    assert not drift.beyond(0)


def test_calls_over_the_bills_own_ends_are_no_drift(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path
) -> None:
    before = [replace(calls[0], id="b", at_ms=NOVEMBER - 5_000, took_ms=9_000)]
    after = [replace(calls[1], id=f"a{i}", at_ms=NOVEMBER + 48 * HOUR - 2_000, took_ms=9_000 + i) for i in range(3)]
    booked([*before, *calls[2:], *after], booking)
    bill = openai(tmp_path, [*before, *calls[2:]], at=lambda call: call.at_ms + call.took_ms, decimals=9)
    drift = drift_of(database, bill, from_ms=NOVEMBER, to_ms=NOVEMBER + 48 * HOUR)
    assert by_kind(drift) == {Kind.NEIGHBOUR: before[0].nanousd - 3 * after[0].nanousd}
    assert not drift.beyond(0)


@pytest.mark.parametrize("rounds_up", [True, False])
def test_a_bill_that_is_rounded_up_is_off_by_more_than_half_a_unit(
    calls: list[Call], book: Ledger, database: Database, tmp_path: Path, *, rounds_up: bool
) -> None:
    del book
    upward = [replace(call, nanousd=-(-call.nanousd // 10**6) * 10**6) for call in calls]
    run = Reconciliation(database, log(tmp_path / "log.csv", upward, 3), rounds_up=rounds_up)
    assert run.drift.beyond(0) is not rounds_up
    run.close()


def test_calls_that_the_books_do_not_have_are_found_by_their_ids(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path
) -> None:
    gone = hundredth(calls)
    booked([call for call in calls if call not in gone], booking)
    drift = drift_of(database, log(tmp_path / "log.csv", calls))
    assert by_kind(drift) == {Kind.ONLY_THEIRS: sum(call.nanousd for call in gone)}
    assert {one.request_id for one in drift.examples} <= {call.id for call in gone}
    assert drift.beyond(1_000)


def test_calls_that_the_bill_does_not_have_are_found_by_their_ids(
    calls: list[Call], book: Ledger, database: Database, tmp_path: Path
) -> None:
    del book
    gone = hundredth(calls)
    drift = drift_of(database, log(tmp_path / "log.csv", [call for call in calls if call not in gone]))
    assert by_kind(drift) == {Kind.ONLY_OURS: -sum(call.nanousd for call in gone)}


def test_another_price_of_some_calls_is_found_with_its_ratio(
    calls: list[Call], book: Ledger, database: Database, tmp_path: Path
) -> None:
    del book
    dearer = set(hundredth(calls))
    billed = [replace(call, nanousd=call.nanousd * 11 // 10) if call in dearer else call for call in calls]
    drift = drift_of(database, log(tmp_path / "log.csv", billed))
    assert by_kind(drift) == {Kind.PRICE: sum(call.nanousd * 11 // 10 - call.nanousd for call in dearer)}
    assert {one.note for one in drift.explanations()} == {"theirs is 1.1 of ours"}


@pytest.mark.parametrize("ours_lacks", [True, False])
def test_calls_that_one_side_lacks_are_found_by_their_tokens_where_there_are_sums_only(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path, *, ours_lacks: bool
) -> None:
    gone = hundredth(calls)
    rest = [call for call in calls if call not in gone]
    booked(rest if ours_lacks else calls, booking)
    drift = drift_of(database, openai(tmp_path, calls if ours_lacks else rest, decimals=9))
    amount = sum(call.nanousd for call in gone)
    assert by_kind(drift) == ({Kind.ONLY_THEIRS: amount} if ours_lacks else {Kind.ONLY_OURS: -amount})
    assert sum(one.calls for one in drift.explanations()) == len(gone)


def test_another_price_is_found_by_equal_tokens_where_there_are_sums_only(
    calls: list[Call], book: Ledger, database: Database, tmp_path: Path
) -> None:
    del book
    dearer = set(hundredth(calls))
    billed = [replace(call, nanousd=call.nanousd * 2) if call in dearer else call for call in calls]
    drift = drift_of(database, openai(tmp_path, billed, decimals=9))
    assert by_kind(drift) == {Kind.PRICE: sum(call.nanousd for call in dearer)}


def test_a_bill_of_costs_alone_tells_a_price_by_the_same_ratio_in_all_buckets(
    calls: list[Call], book: Ledger, database: Database, tmp_path: Path
) -> None:
    del book
    doubled = [replace(call, nanousd=call.nanousd * 2) for call in calls]
    drift = drift_of(database, openai(tmp_path, doubled, decimals=9, usage=""))
    assert set(by_kind(drift)) == {Kind.PRICE}


def test_a_hold_that_nobody_settled_finds_its_bill_by_time_and_model(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path
) -> None:
    lost, *rest = calls
    book = booked(rest, booking)
    unsettled: dict[str, Any] = {
        "state": State.EXPIRED,
        "basis": Basis.EXPIRED,
        "provider_request_id": "",
        "took_ms": 600_000,
    }
    settled(book, lost, **unsettled, cost=3 * lost.nanousd)
    book.book(booking)
    drift = drift_of(database, log(tmp_path / "log.csv", calls))
    assert by_kind(drift) == {Kind.EXPIRED: -2 * lost.nanousd}
    assert [one.request_id for one in drift.examples] == [lost.id]
    drift = drift_of(database, openai(tmp_path, calls, decimals=9))
    assert by_kind(drift) == {Kind.EXPIRED: -2 * lost.nanousd}
    drift = drift_of(database, openai(tmp_path, calls, decimals=9, usage=""))
    assert by_kind(drift) == {Kind.EXPIRED: -2 * lost.nanousd}


def test_a_corrected_call_is_compared_as_it_is_now(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path
) -> None:
    late, *rest = calls
    book = booked(rest, booking)
    name = "0123456789abcdef" * 2
    settled(
        book, late, reservation=name, state=State.EXPIRED, basis=Basis.EXPIRED, cost=7 * late.nanousd, took_ms=600_000
    )
    book.book(booking)
    settled(book, late, reservation=name, kind=RowKind.CORRECTION, amount=-6 * late.nanousd, took_ms=700_000)
    book.book(booking)
    assert not by_kind(drift_of(database, log(tmp_path / "log.csv", calls)))
    assert not by_kind(drift_of(database, openai(tmp_path, calls, decimals=9)))


def test_a_model_that_only_one_side_has_is_named(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path
) -> None:
    mini = [call for call in calls if call.model == "gpt-4o-mini"]
    other = [call for call in calls if call.model == "gpt-4o"]
    booked(mini, booking)
    drift = drift_of(database, openai(tmp_path, other, decimals=9))
    assert by_kind(drift) == {
        Kind.MODEL_THEIRS: sum(call.nanousd for call in other),
        Kind.MODEL_OURS: -sum(call.nanousd for call in mini),
    }
    drift = drift_of(database, log(tmp_path / "log.csv", other))
    assert set(by_kind(drift)) == {Kind.MODEL_THEIRS, Kind.MODEL_OURS}


def test_other_providers_calls_are_not_compared(
    calls: list[Call], book: Ledger, database: Database, booking: Booking, tmp_path: Path
) -> None:
    book.row(provider="anthropic", model="claude-sonnet-4-5")
    book.row(provider="", model="a-model-of-nobody")
    book.book(booking)
    assert not by_kind(drift_of(database, openai(tmp_path, calls, decimals=9)))


def test_the_period_chooses_lines_and_rows(calls: list[Call], book: Ledger, database: Database, tmp_path: Path) -> None:
    del book
    bill = openai(tmp_path, calls, decimals=9)
    drift = drift_of(database, bill, from_ms=NOVEMBER + 24 * HOUR)
    assert not by_kind(drift)
    assert drift.theirs == sum(call.nanousd for call in calls if call.at_ms >= NOVEMBER + 24 * HOUR)
    assert bill.told.left_out["lines outside the period"].lines == 6


def test_the_same_lines_twice_count_once_and_are_told(
    calls: list[Call], book: Ledger, database: Database, tmp_path: Path
) -> None:
    del book
    path = tmp_path / "log.csv"
    log(path, calls)
    bill = Bill("openai", [path, path], path.with_suffix(".yaml"))
    assert not by_kind(drift_of(database, bill))
    assert bill.told.left_out["lines that the bill has twice"].lines == len(calls)


def test_drift_is_told_once_for_a_provider_and_period(calls: list[Call], database: Database, tmp_path: Path) -> None:
    drift = drift_of(database, log(tmp_path / "log.csv", calls))
    for at_ms in (1, 2):
        tell(database, drift.alert(at_ms))
    with database.read() as connection:
        (row,) = connection.execute(select(alerts)).all()
    assert (row.type, row.at_ms) == ("books.drift", 1)
    assert json.loads(row.data)["drift_nanousd"] == drift.drift


# ------------------------------------------------------------------ adjusting


def carried_out(run: Reconciliation, book: Ledger, booking: Booking) -> list[Step]:
    """Do what a plan says, as a sidecar and a drain would."""
    steps = list(Plan(run).steps())
    rows = {row.member.partition("/")[2]: row for row in book.made}
    for step in steps:
        if step.kind == "adjust":
            first = rows[step.reservation.rpartition("/")[2]]
            call = json.loads(first.call)
            book.row(
                kind=RowKind.CORRECTION, reservation=first.member.partition("/")[2], at_ms=first.reserved_ms,
                model=call["model"], cost=step.after, amount=step.nanousd, took_ms=10**6,
                usage={"input_tokens": 1, "output_tokens": 1},
            )  # fmt: skip
        else:
            book.row(
                kind=RowKind.CHARGE, model=step.model, cost=step.after, at_ms=step.at_ms, took_ms=10**6,
                provider_request_id=step.provider_request_id, call={"request_id": step.request_id}, usage={},
            )  # fmt: skip
    book.book(booking)
    return steps


def twice(make: Callable[[], Bill], database: Database, book: Ledger, booking: Booking) -> Iterator[list[Step]]:
    """Adjust, and adjust again."""
    for _ in range(2):
        run = Reconciliation(database, make())
        yield carried_out(run, book, booking)
        run.close()


def changed(calls: list[Call]) -> tuple[list[Call], list[Call]]:
    """Some calls the books lack, and a bill with some other prices."""
    some = hundredth(calls)
    half = set(some[:7])
    billed = [replace(call, nanousd=call.nanousd * 9 // 10) if call in half else call for call in calls]
    return [call for call in calls if call not in some[7:]], billed


def test_adjusting_calls_brings_the_books_to_the_bill_and_then_there_is_nothing_to_adjust(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path
) -> None:
    ours, billed = changed(calls)
    book = booked(ours, booking)
    first, second = twice(lambda: log(tmp_path / "log.csv", billed), database, book, booking)
    assert sorted({step.kind for step in first}) == ["adjust", "charge"]
    assert len(first) == len(calls) // 100
    assert second == []
    assert drift_of(database, log(tmp_path / "log.csv", billed)).drift == 0


@pytest.mark.parametrize("usage", ["", "1d"])
def test_adjusting_sums_brings_every_bucket_to_the_bill_exactly(
    calls: list[Call], database: Database, booking: Booking, tmp_path: Path, usage: str
) -> None:
    book = booked([call for call in calls if call.model != "gpt-4o" or call.at_ms < NOVEMBER + 20 * HOUR], booking)
    billed = [replace(call, nanousd=call.nanousd * 99 // 100) for call in calls]

    def make() -> Bill:
        return openai(tmp_path, billed, decimals=9, usage=usage)

    first, second = twice(make, database, book, booking)
    assert sorted({step.kind for step in first}) == ["adjust", "charge"]
    assert second == []
    assert not drift_of(database, make()).beyond(0)


def test_the_same_cause_has_the_same_request_id(calls: list[Call], database: Database, tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        run = Reconciliation(database, log(tmp_path / "log.csv", calls[:20]))
        made.append([step.request_id for step in Plan(run).steps()])
        run.close()
    assert made[0] == made[1]
    assert len(set(made[0])) == 20


def test_calls_that_the_bill_does_not_have_are_left_alone_unless_they_are_to_be_zeroed(
    calls: list[Call], book: Ledger, database: Database, tmp_path: Path
) -> None:
    del book
    run = Reconciliation(database, log(tmp_path / "log.csv", calls[:-5]))
    assert list(Plan(run).steps()) == []
    (step, *_) = Plan(run, zero_absent=True).steps()
    assert step.after == 0
    run.close()
