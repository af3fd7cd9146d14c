"""What was spent before a limit came, read from the books: the same sums as the rows, on both databases."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest

from limiter.domain.money import CALL_MAX_NANOUSD
from limiter.domain.reservations import Basis, RowFlag, State
from limiter.domain.rows import Position, Row, RowKind, Taken
from limiter.domain.scopes import Scope
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database
from limiter.ledger.openings import Later, OpeningSums, Span, Spender
from tests.ledger.rows import DAY, HOUR, NOVEMBER, Ledger

BOT = Spender("search", "bot", "gpt-4o")
CAME = NOVEMBER + 10 * DAY + 1_234_567
NEW = Taken(Scope("acme"), "new:spend:month", CAME + 5)


def span(
    position: Position, *, start_ms: int = NOVEMBER, until_ms: int = CAME, organization: str = "acme", shard: int = 7
) -> Span:
    return Span(shard, organization, start_ms, until_ms, position)


@pytest.fixture
def sums(database: Database) -> OpeningSums:
    return OpeningSums(database)


def test_empty_books_say_so(sums: OpeningSums) -> None:
    found = sums.spent(span(Position(NOVEMBER, 0)))
    assert (found.position, dict(found.sums), found.later) == (None, {}, [])
    assert sums.positions() == {}


@pytest.mark.parametrize("seed", range(3))
def test_the_sums_are_those_of_the_rows_wherever_the_span_begins_and_ends(
    booking: Booking, sums: OpeningSums, seed: int
) -> None:
    chance, book = Random(seed), Ledger()
    for _ in range(300):
        book.row(
            key=chance.choice(["acme/search/bot", "acme/search/dog", "acme/ads/bot", "globex/search/bot"]),
            model=chance.choice(["gpt-4o", "small"]),
            at_ms=NOVEMBER + chance.randrange(12 * HOUR),
            cost=chance.randrange(10**12),
        )
    book.book(booking)
    for _ in range(20):
        start_ms, until_ms = sorted(NOVEMBER + chance.randrange(12 * HOUR) for _ in range(2))
        if chance.random() < 0.5:
            start_ms -= start_ms % HOUR
        found = sums.spent(span(book.made[-1].position, start_ms=start_ms, until_ms=until_ms))
        assert +Counter(found.sums) == _summed(book.made, start_ms, until_ms)


def _summed(rows: list[Row], start_ms: int, until_ms: int) -> Counter[Spender]:
    found: Counter[Spender] = Counter()
    for row in rows:
        if row.member.startswith("acme/") and start_ms <= row.reserved_ms <= until_ms:
            key, model = (row.call.decode().split(f'"{name}": "')[1].split('"')[0] for name in ("key", "model"))
            _, team, bot = key.split("/")
            found[Spender(team, bot, model)] += row.amount
    return found


def test_an_alias_counts_as_the_model_that_it_stands_for(booking: Booking, sums: OpeningSums) -> None:
    book = Ledger()
    book.row(model="nick", call={"alias_of": "gpt-4o"}, cost=5)
    book.book(booking)
    assert dict(sums.spent(span(book.made[-1].position)).sums) == {BOT: 5}


def test_openings_events_and_other_shards_are_no_spending(booking: Booking, sums: OpeningSums) -> None:
    book = Ledger()
    book.row(cost=5)
    book.note(RowKind.EVENT, {"event": "threshold", "scope": "acme", "limit": "monthly", "threshold": 0.8})
    book.note(RowKind.OPENING, {"event": "opening"})
    book.book(booking)
    assert dict(sums.spent(span(book.made[-1].position)).sums) == {BOT: 5}


def test_sums_beyond_2_to_the_53rd_are_exact(booking: Booking, sums: OpeningSums) -> None:
    book = Ledger()
    for number in range(1_000):
        book.row(cost=CALL_MAX_NANOUSD - number, at_ms=NOVEMBER + number * HOUR // 5)
    book.book(booking)
    spent = sum(row.amount for row in book.made)
    assert spent > 2**62
    assert dict(sums.spent(span(book.made[-1].position, until_ms=NOVEMBER + 300 * HOUR)).sums) == {BOT: spent}


def came(book: Ledger) -> Position:
    """The limit comes after everything that was made so far."""
    return book.made[-1].position


def test_of_rows_that_are_written_later_the_ends_of_open_holds_and_corrections_count(
    booking: Booking, sums: OpeningSums
) -> None:
    book = Ledger()
    book.row(cost=10, reservation="a" * 32, basis=Basis.ESTIMATED)
    book.row(cost=20, kind=RowKind.CHARGE, reservation="b" * 32)
    position = came(book)
    late: dict[str, Any] = {"at_ms": NOVEMBER + HOUR, "took_ms": 20 * DAY}
    book.row(cost=100, **late)  # it was open when the limit came
    book.row(cost=200, taken=(NEW,), reservation="d" * 32, at_ms=CAME)  # in the same ms, and moved it
    book.row(cost=400, kind=RowKind.CHARGE, reservation="c" * 32, **late)  # spent before, but charged to the limit
    book.row(cost=800, flags=RowFlag.CONSUMED, at_ms=CAME)
    book.row(cost=1_600, at_ms=CAME + 1)
    again: dict[str, Any] = {"kind": RowKind.CORRECTION, "state": State.SETTLED}
    book.row(cost=11, amount=1, reservation="a" * 32, **again)
    book.row(cost=18, amount=-2, reservation="b" * 32, **again)
    book.row(cost=404, amount=4, reservation="c" * 32, **again)
    book.row(cost=208, amount=8, reservation="d" * 32, taken=(NEW,), at_ms=CAME, **again)
    book.book(booking)
    found = sums.spent(span(position))
    named = frozenset({("acme", NEW.counter, NEW.period_ms)})
    unnamed = frozenset({("acme", "monthly:spend:month", NOVEMBER)})
    assert found.position == book.made[-1].position
    assert {spender: amount for spender, amount in found.sums.items() if amount} == {BOT: 10 + 20 + 1 - 2}
    assert sorted(found.later, key=lambda one: one.amount) == [
        Later(BOT, 8, named), Later(BOT, 100, unnamed), Later(BOT, 200, named),
    ]  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_it_comes_to_the_same_whether_rows_are_read_together_or_as_they_come(
    booking: Booking, sums: OpeningSums, at_once: int
) -> None:
    chance, book = Random(5), Ledger()
    for number in range(40):
        book.row(cost=chance.randrange(1, 100), reservation=f"{number:032x}", at_ms=NOVEMBER + number * HOUR)
    wanted = span(book.made[-1].position, until_ms=NOVEMBER + 41 * HOUR)
    made, book.made = book.made, book.made[:10]
    book.book(booking)
    found = sums.spent(wanted)  # the books are behind
    book.made = made
    for number in range(60):
        kind = chance.choice([RowKind.CHARGE, RowKind.SETTLEMENT, RowKind.CORRECTION])
        name = f"{number % 50:032x}" if kind is RowKind.CORRECTION else f"{number + 100:032x}"
        at_ms = NOVEMBER + (number % 50 if kind is RowKind.CORRECTION else chance.randrange(60)) * HOUR
        book.row(cost=50, amount=chance.randrange(-20, 20), kind=kind, reservation=name, at_ms=at_ms)
    made = book.made
    for end in range(10, len(made) + at_once, at_once):
        book.made = made[:end]
        book.book(booking)
        assert found.position is not None
        found.add(sums.further(wanted, found.position))
    anew = sums.spent(wanted)
    assert found.position == anew.position == made[-1].position
    assert {who: amount for who, amount in found.sums.items() if amount} == {
        who: amount for who, amount in anew.sums.items() if amount
    }
    assert Counter(found.later) == Counter(anew.later)


def test_rows_of_before_a_store_was_lost_count(booking: Booking, sums: OpeningSums) -> None:
    book = Ledger()
    book.row(cost=7)
    book.row(cost=8, kind=RowKind.CHARGE)
    book.book(booking)
    assert dict(sums.spent(span(Position(CAME, -1))).sums) == {BOT: 15}


def test_nothing_new_is_nothing(booking: Booking, sums: OpeningSums) -> None:
    book = Ledger()
    book.row(cost=7)
    book.book(booking)
    wanted = span(came(book))
    found = sums.spent(wanted)
    assert found.position is not None
    assert not found.add(sums.further(wanted, found.position))
    book.row(cost=7, at_ms=CAME + HOUR)
    book.book(booking)
    assert not found.add(sums.further(wanted, found.position))
    assert found.position == book.made[-1].position
