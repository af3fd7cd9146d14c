"""What people are told of: each thing once, with an id that whoever finds it again gives it too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from limiter.domain.reservations import Basis, State
from limiter.domain.rows import Position, RowKind
from limiter.domain.windows import TOTAL_END
from limiter.ledger.alerting.alerts import Alert, gap_alert, write_alert
from limiter.ledger.alerting.bodies import message_id, sentence
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database
from limiter.ledger.schema import alerts
from tests.ledger.rows import DAY, HOUR, NOVEMBER, Ledger

PASSED = {"event": "threshold", "scope": "acme/search", "limit": "monthly", "threshold": 0.8}
EXPIRED: dict[str, Any] = {"state": State.EXPIRED, "basis": Basis.EXPIRED}


def told(database: Database) -> list[Alert]:
    """The alerts in the books, oldest first."""
    with database.read() as connection:
        rows = connection.execute(select(alerts).order_by(alerts.c.at_ms, alerts.c.id))
        return [Alert(row.id, row.type, row.at_ms, json.loads(row.data)) for row in rows]


def refused(**other: Any) -> dict[str, Any]:  # noqa: ANN401 - the fields of a sum
    """A sum of refusals at a spend limit."""
    return {
        "minute_ms": NOVEMBER, "scope": "acme/search", "limit": "monthly", "reason": "SPEND_CEILING",
        "model": "gpt-4o", "customer": "globex", "resets_at_ms": NOVEMBER + 30 * DAY, "window": "month",
        "ceiling_nanousd": 800_000_000_000, "count": 3, "calls": 3,
    } | other  # fmt: skip


def test_a_threshold_that_was_passed_is_told_with_what_the_row_says(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.note(RowKind.EVENT, PASSED, at_ms=NOVEMBER + 5)
    book.book(booking)
    (alert,) = told(database)
    assert (alert.type, alert.at_ms) == ("budget.threshold", NOVEMBER + 5)
    assert alert.data == {
        "organization": "acme", "scope": "acme/search", "limit": "monthly", "threshold": 0.8,
        "row": f"7-{NOVEMBER}-0",
    }  # fmt: skip
    assert sentence(alert) == "acme/search has passed 80 % of its limit monthly."


def test_a_threshold_is_told_with_the_time_that_its_row_names(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.note(RowKind.EVENT, PASSED | {"window_start_ms": NOVEMBER, "resets_at_ms": NOVEMBER + 30 * DAY})
    book.book(booking)
    (alert,) = told(database)
    assert alert.data == {
        "organization": "acme", "scope": "acme/search", "limit": "monthly", "threshold": 0.8,
        "row": f"7-{NOVEMBER}-0",
        "window_start": "2026-11-01T00:00:00.000Z", "resets_at": "2026-12-01T00:00:00.000Z",
    }  # fmt: skip
    assert sentence(alert) == (
        "acme/search has passed 80 % of its limit monthly; the window began at 2026-11-01T00:00:00.000Z"
        " and ends at 2026-12-01T00:00:00.000Z."
    )


@pytest.mark.parametrize(
    ("row", "told_of_it"),
    [
        ({"window": "total", "window_start_ms": 0, "resets_at_ms": TOTAL_END}, {"window": "total"}),
        ({"window_start_ms": 0, "resets_at_ms": NOVEMBER}, {"resets_at": "2026-11-01T00:00:00.000Z"}),
    ],
)
def test_a_time_that_its_row_does_not_know_is_left_out_of_a_threshold(
    database: Database, booking: Booking, row: dict[str, Any], told_of_it: dict[str, Any]
) -> None:
    book = Ledger()
    book.note(RowKind.EVENT, PASSED | row)
    book.book(booking)
    (alert,) = told(database)
    assert alert.data.items() - (PASSED | {"organization": "acme", "row": f"7-{NOVEMBER}-0"}).items() == (
        told_of_it.items()
    )


def test_a_threshold_is_told_with_its_amounts_once_the_row_has_them() -> None:
    data = {"ceiling_nanousd": 800 * 10**9, "window": "month", "settled_nanousd": 641_500_000_000}
    alert = Alert("x", "budget.threshold", 0, PASSED | data)
    assert (
        sentence(alert)
        == "acme/search has passed 80 % of its limit monthly (800.00 USD per month): 641.50 USD are spent."
    )


def test_another_event_is_no_alert(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.note(RowKind.EVENT, {"event": "something", "scope": "acme"})
    book.book(booking)
    assert told(database) == []


def test_refusals_at_a_spend_limit_are_told_once_in_its_window(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.note(RowKind.REFUSALS, {"refusals": [refused(), refused(customer="initech")]}, at_ms=NOVEMBER + 1)
    book.note(RowKind.REFUSALS, {"refusals": [refused(minute_ms=NOVEMBER + DAY)]}, at_ms=NOVEMBER + DAY)
    later = {"minute_ms": NOVEMBER + 30 * DAY, "resets_at_ms": NOVEMBER + 61 * DAY}
    book.note(RowKind.REFUSALS, {"refusals": [refused(**later)]}, at_ms=NOVEMBER + 30 * DAY)
    book.book(booking)
    first, second = told(database)
    assert (first.type, first.at_ms, second.at_ms) == ("budget.refusals", NOVEMBER + 1, NOVEMBER + 30 * DAY)
    assert first.data == {
        "organization": "acme", "scope": "acme/search", "limit": "monthly", "reason": "SPEND_CEILING",
        "model": "gpt-4o", "customer": "globex", "count": 3, "calls": 3, "window": "month",
        "ceiling_nanousd": 800_000_000_000, "ceiling_usd": "800.00", "resets_at": "2026-12-01T00:00:00.000Z",
    }  # fmt: skip
    assert sentence(first) == (
        "Calls are refused at the limit monthly (800.00 USD per month) of acme/search: the spend ceiling is reached;"
        " the window ends at 2026-12-01T00:00:00.000Z. The first: model gpt-4o for customer globex."
    )


def test_refusals_at_a_limit_that_never_ends_are_told_once(database: Database, booking: Booking) -> None:
    book = Ledger()
    for day in range(3):
        total = refused(resets_at_ms=TOTAL_END, window="total", minute_ms=NOVEMBER + day * DAY)
        book.note(RowKind.REFUSALS, {"refusals": [total]})
    book.book(booking)
    (alert,) = told(database)
    assert "resets_at" not in alert.data
    assert "800.00 USD in total" in sentence(alert)


def test_refusals_at_a_rate_are_told_once_in_an_hour(database: Database, booking: Booking) -> None:
    book = Ledger()
    for minute in (0, 59, 60, 61):
        rate = {
            "minute_ms": NOVEMBER + minute * 60_000, "scope": "acme", "limit": "rpm", "reason": "REQUEST_RATE",
            "model": "", "customer": "", "count": 1,
        }  # fmt: skip
        book.note(RowKind.REFUSALS, {"refusals": [rate]}, at_ms=NOVEMBER + minute * 60_000)
    book.book(booking)
    assert [alert.at_ms for alert in told(database)] == [NOVEMBER, NOVEMBER + HOUR]
    assert sentence(told(database)[0]) == "Calls are refused at the limit rpm of acme: too many requests."


def test_refusals_that_no_limit_made_are_not_told(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.note(RowKind.REFUSALS, {"refusals": [refused(limit="", reason="MODEL_UNPRICED"), refused(model="(other)")]})
    book.book(booking)
    assert told(database) == []


def test_holds_that_expired_and_were_charged_are_told_once_for_a_key_and_hour(
    database: Database, booking: Booking
) -> None:
    book = Ledger()
    book.row(cost=420_000_000, took_ms=1_000, **EXPIRED)
    book.row(cost=1, took_ms=2_000, **EXPIRED)
    book.row(cost=2, key="acme/search/other", took_ms=3_000, **EXPIRED)
    book.row(cost=0, key="acme/search/free", **EXPIRED)
    book.row(cost=5)
    book.book(booking)
    book.row(cost=3, took_ms=4_000, **EXPIRED)
    book.row(cost=4, at_ms=NOVEMBER + 2 * HOUR, **EXPIRED)
    book.book(booking)
    found = [(alert.type, alert.data["key"], alert.data["amount_nanousd"]) for alert in told(database)]
    assert found == [
        ("hold.expired", "acme/search/bot", 420_000_000),
        ("hold.expired", "acme/search/other", 2),
        ("hold.expired", "acme/search/bot", 4),
    ]
    assert sentence(told(database)[0]) == (
        "A hold of acme/search/bot expired unsettled and was charged in full: 0.42 USD (model gpt-4o)."
        " Further ones of this key in this hour are not told."
    )


def test_all_books_give_an_alert_the_same_id_and_no_full_stop_is_in_it(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.note(RowKind.EVENT, PASSED)
    book.book(booking)
    (alert,) = told(database)
    assert alert.id == "budget_threshold_13944736ec451e19a29b7b8c"
    assert message_id(alert) == alert.id
    strange = Alert("store.rolled_back:7-1-2", "store.rolled_back", 0, {})
    assert message_id(strange).startswith("store_rolled_back_")
    assert "." not in message_id(strange)


def test_what_is_written_twice_is_there_once(database: Database) -> None:
    gap = gap_alert(7, Position(NOVEMBER, 4), Position(NOVEMBER, 9), at_ms=NOVEMBER)
    again = gap_alert(7, Position(NOVEMBER, 4), Position(NOVEMBER, 9), at_ms=NOVEMBER + 1)
    with database.write() as connection:
        write_alert(connection, gap)
        write_alert(connection, again)
    assert told(database) == [gap]
    assert f"none came between {NOVEMBER}-4 and {NOVEMBER}-9" in sentence(gap)


def test_drift_is_told_with_both_sums_whoever_writes_it(database: Database) -> None:
    data = {
        "provider": "openai", "from_ms": NOVEMBER, "to_ms": NOVEMBER + 30 * DAY, "ours_nanousd": 100 * 10**9,
        "theirs_nanousd": 112_500_000_000, "drift_nanousd": -12_500_000_000,
        "explained": {"missing": -12_500_000_000},
    }  # fmt: skip
    with database.write() as connection:
        write_alert(connection, Alert("books.drift:openai", "books.drift", NOVEMBER, data))
    (alert,) = told(database)
    assert (alert.data["drift_usd"], alert.data["ours_usd"]) == ("-12.50", "100.00")
    assert sentence(alert) == (
        "The books and the bill of openai differ by 12.50 USD from 2026-11-01 to 2026-12-01: ours 100.00 USD,"
        " theirs 112.50 USD. Found: missing -12.50 USD."
    )


def test_an_alert_of_an_unknown_shape_is_a_sentence_too() -> None:
    shape = {"provider": "openai", "drift_nanousd": -12_500_000_000, "drift_usd": "-12.50", "ok": True}
    assert sentence(Alert("x", "books.drift", 0, shape)) == "drift usd: -12.50, ok: True, provider: openai"
    assert sentence(Alert("x", "of.tomorrow", 0, {"what": 1})) == "what: 1"
    assert sentence(Alert("x", "hold.expired", 0, {"key": "k"})) == "key: k"
    assert sentence(Alert("x", "of.nothing", 0, {})) == "of.nothing"
