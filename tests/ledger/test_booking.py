"""What is booked is there once, adds up, and is what the store wrote."""

from __future__ import annotations

import json

from sqlalchemy import func, select

from limiter.domain.reservations import Basis, State
from limiter.domain.rows import Position, Row, RowKind, Taken
from limiter.domain.scopes import Scope
from limiter.ledger.booking import Booking, Page
from limiter.ledger.database import Database
from limiter.ledger.entries import checksum, entry_of, row_of
from limiter.ledger.schema import charges, cursors, hours, ledger
from limiter.ledger.texts import read_texts
from tests.ledger.rows import HOUR, NOVEMBER, WINDOW, Ledger

RESERVATION = "0123456789abcdef0123456789abcdef"


def sums(database: Database) -> tuple[int, int, int]:
    """Rows, and what hours and charges add up to."""
    with database.read() as connection:
        rows = connection.execute(select(func.count()).select_from(ledger)).scalar_one()
        spent = connection.execute(select(func.coalesce(func.sum(hours.c.amount_nanousd), 0))).scalar_one()
        charged = connection.execute(select(func.coalesce(func.sum(charges.c.amount_nanousd), 0))).scalar_one()
    return rows, int(spent), int(charged)


def plain(row: Row) -> tuple[object, ...]:
    """A row, its JSON read."""
    parts = [getattr(row, name) for name in Row.__slots__]
    return tuple(json.loads(part) if isinstance(part, bytes) and part else part for part in parts)


def test_rows_are_booked_once_whoever_brings_them_again(database: Database, booking: Booking) -> None:
    rows = [Ledger(seq=i).row(cost=1_000 + i) for i in range(20)]
    assert booking.book({7: Page(None, rows[:10])}).rows == 10
    assert booking.book({7: Page(None, rows[:10])}).rows == 0
    assert Booking(database).book({7: Page(rows[4].position, rows[5:15])}).rows == 0
    assert booking.book({7: Page(rows[9].position, rows[10:])}).rows == 10
    spent = sum(row.amount for row in rows)
    assert sums(database) == (20, spent, spent)
    assert booking.positions() == {7: Position(NOVEMBER, 19)}


def test_a_row_comes_back_from_the_books_as_the_store_wrote_it(database: Database, booking: Booking) -> None:
    book = Ledger()
    lesser = Taken(Scope("acme", "search", "bot"), "daily:spend:day", WINDOW, 700)
    slots = Taken(Scope("acme"), "inflight:concurrency:", 5, 0)
    book.row(taken=(Taken(Scope("acme"), "monthly:spend:month", WINDOW, 2_000), lesser, slots), provider_request_id="x")
    book.row(
        call={"alias_of": "gpt-4o-mini", "priced_as": "gpt-4o"}, end={"price": {"input": "2.5"}, "price_version": "v"}
    )
    book.row(state=State.EXPIRED, basis=Basis.EXPIRED, tags=(), operation="")
    book.note(RowKind.EVENT, {"event": "threshold", "scope": "acme", "limit": "monthly", "threshold": 0.8})
    book.book(booking)
    with database.read() as connection:
        found = connection.execute(select(ledger).order_by(ledger.c.seq)).mappings().all()
        texts = read_texts(connection, {row[name] for row in found for name in ("tags", "charged", "price")})
    assert [plain(row_of(row, texts)) for row in found] == [plain(row) for row in book.made]
    assert all(checksum(row) == row["checksum"] for row in found)


def test_a_correction_points_to_the_first_row_and_adds_only_what_changed(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.row()
    book.row(reservation=RESERVATION, cost=9_000, state=State.EXPIRED, basis=Basis.EXPIRED)
    book.book(booking)
    late = {"kind": RowKind.CORRECTION, "reservation": RESERVATION}
    book.row(**late, cost=4_000, amount=-5_000, basis=Basis.ESTIMATED, usage={"input_tokens": 7})  # type: ignore[arg-type]
    book.row(**late, cost=5_000, amount=1_000, usage={"input_tokens": 8, "output_tokens": 2})  # type: ignore[arg-type]
    book.book(booking)
    with database.read() as connection:
        found = connection.execute(select(ledger).order_by(ledger.c.seq)).mappings().all()
        total = connection.execute(select(hours)).mappings().one()
    assert [(row["corrects_epoch"], row["corrects_seq"]) for row in found[1:]] == [
        (None, None), (NOVEMBER, 1), (NOVEMBER, 1),
    ]  # fmt: skip
    assert (total["calls"], total["input_tokens"], total["output_tokens"]) == (2, 10 + 8, 5 + 2)
    assert total["amount_nanousd"] == 1_000 + 5_000


def test_a_hold_that_was_given_back_is_no_call_until_it_is_settled_after_all(
    database: Database, booking: Booking
) -> None:
    book = Ledger()
    book.row(reservation=RESERVATION, cost=0, state=State.RELEASED, basis=Basis.RELEASED, usage={})
    book.book(booking)
    with database.read() as connection:
        assert tuple(connection.execute(select(hours.c.calls, hours.c.released)).one()) == (0, 1)
    book.row(kind=RowKind.CORRECTION, reservation=RESERVATION, cost=500)
    book.book(booking)
    with database.read() as connection:
        assert tuple(connection.execute(select(hours.c.calls, hours.c.released)).one()) == (1, 0)


def test_rows_that_are_missing_are_told(booking: Booking) -> None:
    book = Ledger()
    first = book.row()
    booking.book({7: Page(None, [first])})
    book.seq = 5
    later = book.row()
    gaps = booking.book({7: Page(first.position, [later])}).gaps
    assert [(gap.after.seq, gap.before.seq) for gap in gaps] == [(0, 5)]


def test_a_ledger_that_begins_anew_follows_on_the_old_one(booking: Booking, database: Database) -> None:
    first = Ledger().row()
    booking.book({7: Page(None, [first])})
    anew = Ledger(epoch=NOVEMBER + HOUR).row(cost=5)
    assert not booking.book({7: Page(first.position, [anew])}).gaps
    with database.read() as connection:
        assert connection.execute(select(cursors.c.epoch)).scalar_one() == NOVEMBER + HOUR


def test_an_opening_moves_a_counter_and_is_no_spending(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.note(RowKind.OPENING, {"event": "opening"})
    opening = book.made.pop()
    book.made.append(
        Row(**{name: getattr(opening, name) for name in Row.__slots__} | {
            "amount": 700, "taken": (Taken(Scope("acme"), "monthly:spend:month", WINDOW, 0),),
        })
    )  # fmt: skip
    book.book(booking)
    assert sums(database) == (1, 0, 700)


def test_the_same_row_has_the_same_checksum_in_all_books(database: Database, booking: Booking) -> None:
    book = Ledger()
    row = book.row()
    book.book(booking)
    with database.read() as connection:
        assert connection.execute(select(ledger.c.checksum)).scalar_one() == entry_of(row, None).values["checksum"]
