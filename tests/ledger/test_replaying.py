"""The calls of a period come out of the books in the order in which they happened, each with what it costs by now."""

from __future__ import annotations

from dataclasses import replace

from limiter.domain.reservations import Basis, RowFlag, State
from limiter.domain.rows import RowKind
from limiter.domain.scopes import Scope
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database
from limiter.ledger.replaying import PastCall, Spent, Way, count_calls, past_calls, spent
from tests.ledger.rows import DAY, HOUR, NOVEMBER, Ledger

BOT = Scope("acme", "search", "bot")
ONE = "1" * 32


def read(database: Database, *, start: int = NOVEMBER, end: int = NOVEMBER + DAY) -> list[PastCall]:
    with database.read() as connection:
        return list(past_calls(connection, start_ms=start, end_ms=end, organizations=["acme"]))


def test_calls_come_in_the_order_in_which_they_were_reserved(database: Database, booking: Booking) -> None:
    book = Ledger()
    for minute in (5, 1, 3, 2, 4):
        book.row(at_ms=NOVEMBER + minute * 60_000, took_ms=600_000 // minute, cost=minute)
    book.row(at_ms=NOVEMBER + 3 * 60_000, cost=33)
    book.book(booking)

    found = read(database)

    assert [call.cost for call in found] == [1, 2, 3, 33, 4, 5]  # of the same ms: as they ended
    assert found[0] == PastCall(
        key=BOT,
        model="gpt-4o",
        customer="globex",
        way=Way.SETTLED,
        reserved_ms=NOVEMBER + 60_000,
        ended_ms=NOVEMBER + 660_000,
        held=2,
        cost=1,
        bucket_tokens=100,
        used_tokens=15,
    )


def test_corrections_are_in_the_cost_and_the_end_is_the_first_one(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.row(reservation=ONE, cost=9_000, state=State.EXPIRED, basis=Basis.EXPIRED, took_ms=600_000)
    book.row(at_ms=NOVEMBER + HOUR, cost=7)
    book.book(booking)
    for cost, amount in ((4_000, -5_000), (5_500, 1_500)):
        book.row(kind=RowKind.CORRECTION, reservation=ONE, cost=cost, amount=amount, took_ms=900_000)
    book.book(booking)

    late, other = read(database)

    assert (late.cost, late.ended_ms, late.way) == (5_500, NOVEMBER + HOUR + 600_000, Way.SETTLED)
    assert late.used_tokens == -1  # its expiry told the buckets nothing
    assert other.cost == 7


def test_every_way_of_ending_is_told(database: Database, booking: Booking) -> None:
    book = Ledger()
    released = {"cost": 0, "held": 50, "state": State.RELEASED, "basis": Basis.RELEASED}
    book.row(at_ms=NOVEMBER + 1, **released)  # type: ignore[arg-type]
    book.row(at_ms=NOVEMBER + 2, **released, flags=RowFlag.UNCLAIMED)  # type: ignore[arg-type]
    book.row(at_ms=NOVEMBER + 3, cost=5, held=5, flags=RowFlag.CONSUMED)
    book.row(at_ms=NOVEMBER + 4, cost=6, held=0, kind=RowKind.CHARGE)
    book.row(at_ms=NOVEMBER + 5, reservation=ONE, **released)  # type: ignore[arg-type]
    book.row(at_ms=NOVEMBER + 5, reservation=ONE, kind=RowKind.CORRECTION, cost=8)
    book.book(booking)

    assert [(call.way, call.cost) for call in read(database)] == [
        (Way.RELEASED, 0),
        (Way.CONSUMED, 5),
        (Way.CHARGED, 6),
        (Way.SETTLED, 8),
    ]


def test_what_a_call_used_is_unknown_only_if_nobody_said(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.row(at_ms=NOVEMBER, usage={"images": 2})
    book.made.append(replace(book.row(at_ms=NOVEMBER + 1), ending=b'{"outcome":"COMPLETED"}'))
    del book.made[-2]
    book.book(booking)

    assert [call.used_tokens for call in read(database)] == [0, -1]


def test_other_times_and_organizations_are_left_out(database: Database, booking: Booking) -> None:
    book = Ledger()
    for at_ms in (NOVEMBER - 1, NOVEMBER, NOVEMBER + DAY - 1, NOVEMBER + DAY):
        book.row(at_ms=at_ms)
    book.row(at_ms=NOVEMBER, key="beta/search/bot")
    book.row(at_ms=NOVEMBER, key="acme/search/ant", model="asked", call={"alias_of": "gpt-4o"}, tags=())
    book.note(RowKind.EVENT, {"event": "threshold"})
    book.book(booking)

    found = read(database)

    assert [(call.reserved_ms, call.model, call.customer) for call in found] == [
        (NOVEMBER, "gpt-4o", "globex"),
        (NOVEMBER, "asked", ""),
        (NOVEMBER + DAY - 1, "gpt-4o", "globex"),
    ]
    with database.read() as connection:
        assert count_calls(connection, start_ms=NOVEMBER, end_ms=NOVEMBER + DAY) == {"acme": 3, "beta": 1}


def test_what_was_spent_before_is_told_by_stretch_to_the_last_ms(database: Database, booking: Booking) -> None:
    book = Ledger()
    start, end = NOVEMBER + HOUR // 2, NOVEMBER + 5 * HOUR + 1
    for at_ms, cost in ((start - 1, 1), (start, 10), (start + 2 * HOUR, 100), (end - 1, 1_000), (end, 10_000)):
        book.row(at_ms=at_ms, cost=cost)
    book.row(at_ms=start + HOUR, cost=7, key="acme/search/ant", reservation=ONE)
    book.row(at_ms=start + HOUR, cost=5, amount=-2, key="acme/search/ant", reservation=ONE, kind=RowKind.CORRECTION)
    book.row(at_ms=start, cost=9, key="beta/search/bot")
    book.book(booking)

    with database.read() as connection:
        found = spent(connection, [NOVEMBER + 2 * HOUR, start, end + 1], end_ms=end, organizations=["acme"])
        nothing = spent(connection, [end], end_ms=end, organizations=["acme"])

    assert found == [
        Spent(start, Scope("acme", "search", "ant"), "gpt-4o", 5),
        Spent(start, BOT, "gpt-4o", 10),
        Spent(NOVEMBER + 2 * HOUR, BOT, "gpt-4o", 1_100),
    ]
    assert nothing == []
