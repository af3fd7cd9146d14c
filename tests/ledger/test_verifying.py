"""Healthy books have no fault; whatever is changed, taken away or put in between is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import pytest
from sqlalchemy import Connection, Table, delete, func, select, text, update

from limiter.domain.reservations import Basis, RowFlag, State
from limiter.domain.rows import Position, RowKind
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database
from limiter.ledger.entries import checksum
from limiter.ledger.schema import (
    alerts,
    books,
    charges,
    cursors,
    hours,
    invoices,
    ledger,
    metadata,
    months,
    refusals,
    texts,
)
from limiter.ledger.texts import text_id
from limiter.ledger.verifying import sums as verifying_sums
from limiter.ledger.verifying.counters import Counted, CounterKey, scopes_by_organization, wait_for
from limiter.ledger.verifying.findings import Fault, Findings
from limiter.ledger.verifying.verify import verify
from tests.ledger.random_books import RandomBooks
from tests.ledger.rows import HOUR, NOVEMBER, WINDOW, Ledger

RESERVATION = "0123456789abcdef0123456789abcdef"
ROW_COLUMNS = [column.name for column in ledger.columns]
MONTHLY = CounterKey("acme", "monthly:spend:month", WINDOW)


def verified(database: Database, **options: Any) -> Findings:  # noqa: ANN401 - those of verify
    """What is found; every fault says what should be there and what is, and what to do."""
    findings = verify(database, now_ms=NOVEMBER, **options)
    assert all(fault.where and fault.expected != fault.found and fault.remedy for fault in findings.faults)
    return findings


def checks(database: Database, **options: Any) -> set[str]:  # noqa: ANN401 - those of verify
    return set(verified(database, **options).counts)


def fault(findings: Findings, check: str) -> Fault:
    """The only fault of a check."""
    (found,) = [fault for fault in findings.faults if fault.check == check]
    return found


@pytest.fixture
def booked(database: Database, booking: Booking) -> Database:
    """Books of a call each of seconds 0 to 9, in shard 7."""
    book = Ledger()
    for i in range(10):
        book.row(cost=1_000 + i, at_ms=NOVEMBER + 1_000 * i, model=f"model-{i}", reservation=f"{i:032x}")
    book.book(booking)
    assert not verified(database).count
    return database


def of_row(seq: int, table: Table = ledger) -> tuple[Any, ...]:
    return table.c.shard == 7, table.c.epoch == NOVEMBER, table.c.seq == seq


def changed(database: Database, change: Callable[[Connection], object]) -> None:
    with database.write() as connection:
        change(connection)


def other(value: object) -> object:
    """Another value of the same type: one digit or letter more or less."""
    if value is None:
        return 1
    if isinstance(value, int):
        return value ^ 1
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    assert isinstance(value, str)
    return value[:-1] + ("1" if value.endswith("0") else "0") if value else "x"


def put(connection: Connection, seq: int, **values: object) -> None:
    """Put a copy of row 3 in, its checksum made anew."""
    row = dict(connection.execute(select(ledger).where(*of_row(3))).mappings().one())
    row |= {"seq": seq, "reservation": f"{1000 + seq:032x}"} | values
    connection.execute(ledger.insert().values(**row | {"checksum": checksum(row)}))


@pytest.mark.parametrize("seed", range(5))
def test_healthy_books_of_random_rows_have_no_fault(database: Database, booking: Booking, seed: int) -> None:
    rows = RandomBooks(seed=seed).write(booking)
    findings = verified(database)
    assert (findings.faults, findings.count) == ([], 0)
    assert findings.looked_at["sequence"] == findings.looked_at["checksum"] == len(rows)
    assert min(findings.looked_at[name] for name in ("correction", "hours", "charges", "refusals", "text")) > 0


def test_empty_books_have_no_fault(database: Database) -> None:
    assert not verified(database).count


@pytest.mark.parametrize("column", ROW_COLUMNS)
def test_one_digit_changed_in_any_column_is_found(booked: Database, column: str) -> None:
    with booked.read() as connection:
        value = connection.execute(select(ledger.c[column]).where(*of_row(4))).scalar_one()
    wrong = 99 if column == "seq" else other(value)
    changed(booked, lambda connection: connection.execute(update(ledger).where(*of_row(4)).values({column: wrong})))
    findings = verified(booked)
    assert findings.counts["checksum"] == 1
    seq = 99 if column == "seq" else 4
    shard = 6 if column == "shard" else 7
    epoch = NOVEMBER ^ 1 if column == "epoch" else NOVEMBER
    assert fault(findings, "checksum").where == f"shard {shard}, row {epoch}-{seq}"


@pytest.mark.parametrize("seq", [0, 5, 9])
def test_a_removed_row_is_found(booked: Database, seq: int) -> None:
    changed(booked, lambda connection: connection.execute(delete(ledger).where(*of_row(seq))))
    findings = verified(booked)
    assert {"hours", "charges"} < set(findings.counts)
    if seq == 9:
        assert fault(findings, "cursor").expected == f"the last row, {NOVEMBER}-8 written at {NOVEMBER + 10_000} ms"
    else:
        assert fault(findings, "sequence").where == f"shard 7, row {NOVEMBER}-{seq}"


def test_several_removed_rows_are_one_fault_of_their_sequence(booked: Database) -> None:
    wanted = ledger.c.seq.between(3, 6)
    changed(booked, lambda connection: connection.execute(delete(ledger).where(wanted)))
    assert fault(verified(booked), "sequence").where == f"shard 7, row {NOVEMBER}-3 to {NOVEMBER}-6"


def test_a_removed_last_row_is_found_by_its_sums_though_the_cursor_was_moved_back(booked: Database) -> None:
    def remove(connection: Connection) -> None:
        connection.execute(delete(ledger).where(*of_row(9)))
        connection.execute(update(cursors).values(seq=8, at_ms=NOVEMBER + 10_000))

    changed(booked, remove)
    assert checks(booked) == {"hours", "charges"}


@pytest.mark.parametrize(
    ("seq", "values", "found"),
    [
        (10, {}, {"cursor", "hours", "charges"}),
        (12, {}, {"sequence", "cursor", "hours", "charges"}),
        (0, {"shard": 8}, {"cursor", "hours", "charges"}),
        (0, {"epoch": NOVEMBER - 1}, {"hours", "charges"}),
        (0, {"epoch": NOVEMBER + 1}, {"cursor", "hours", "charges"}),
        (0, {"epoch": NOVEMBER - 1, "reservation": f"{4:032x}", "reserved_ms": NOVEMBER + 4_000}, {"twice"}),
    ],
)
def test_an_inserted_row_with_a_right_checksum_is_found(
    booked: Database, seq: int, values: dict[str, object], found: set[str]
) -> None:
    changed(booked, lambda connection: put(connection, seq, **values))
    assert found <= checks(booked)
    assert "checksum" not in checks(booked)


def test_a_row_that_was_changed_with_its_checksum_is_found_by_the_sums(booked: Database) -> None:
    def change(connection: Connection) -> None:
        row = dict(connection.execute(select(ledger).where(*of_row(4))).mappings().one())
        row |= {"amount_nanousd": 1, "cost_nanousd": 1}
        connection.execute(update(ledger).where(*of_row(4)).values(**row | {"checksum": checksum(row)}))

    changed(booked, change)
    findings = verified(booked)
    assert set(findings.counts) == {"hours", "charges"}
    assert fault(findings, "hours")[2:] == ("amount_nanousd 1", "amount_nanousd 1004")
    assert "gpt" not in fault(findings, "hours").where
    assert "model-4" in fault(findings, "hours").where


@pytest.mark.parametrize("column", [column.name for column in hours.columns])
def test_a_changed_sum_of_an_hour_is_found(database: Database, booking: Booking, column: str) -> None:
    RandomBooks(seed=3).write(booking)
    with database.read() as connection:
        first = connection.execute(select(hours).order_by(hours.c.hour, hours.c.place, hours.c.tags)).mappings().first()
    assert first is not None
    where = (hours.c.hour == first["hour"], hours.c.place == first["place"], hours.c.tags == first["tags"])
    changed(
        database,
        lambda connection: connection.execute(
            update(hours).where(*where).values({column: 1 << 40 if column != "hour" else 7})
        ),
    )
    assert "hours" in checks(database)


@pytest.mark.parametrize("table", [hours, months, charges, refusals])
def test_a_sum_that_is_gone_or_invented_is_found(database: Database, booking: Booking, table: Table) -> None:
    RandomBooks(seed=3).write(booking)
    with database.read() as connection:
        row = dict(connection.execute(select(table)).mappings().first() or {})
    changed(
        database, lambda connection: connection.execute(delete(table).where(*(table.c[n] == v for n, v in row.items())))
    )
    assert checks(database) == {table.name, *(["months"] if table is hours else [])}
    changed(database, lambda connection: connection.execute(table.insert().values(row)))
    assert not verified(database).count
    first = next(iter(table.primary_key.columns)).name
    changed(database, lambda connection: connection.execute(table.insert().values(row | {first: 1})))
    assert table.name in checks(database)


@pytest.mark.parametrize("column", ["refusals", "calls", "customer"])
def test_a_changed_sum_of_refusals_is_found(database: Database, booking: Booking, column: str) -> None:
    RandomBooks(seed=3).write(booking)
    value = "nobody" if column == "customer" else refusals.c[column] + 1
    first = select(refusals.c.hour).limit(1).scalar_subquery()
    changed(
        database,
        lambda connection: connection.execute(update(refusals).where(refusals.c.hour == first).values({column: value})),
    )
    assert checks(database) == {"refusals"}


def test_a_changed_sum_of_counters_is_found(booked: Database) -> None:
    changed(
        booked,
        lambda connection: connection.execute(update(charges).values(amount_nanousd=charges.c.amount_nanousd + 1)),
    )
    found = fault(verified(booked), "charges")
    assert found[2:] == ("amount_nanousd 10045", "amount_nanousd 10046")
    assert "monthly:spend:month" in found.where


def test_a_changed_text_is_found(booked: Database) -> None:
    tags = text_id('[["customer","globex"]]')
    new = '[["customer","hooli"]]'
    changed(booked, lambda connection: connection.execute(update(texts).where(texts.c.id == tags).values(text=new)))
    found = fault(verified(booked), "text")
    assert (found.where, found.found) == (f"text {tags}", f"'{new}', of id {text_id(new)}")


def test_a_text_that_is_gone_is_found_once(booked: Database) -> None:
    tags = text_id('[["customer","globex"]]')
    changed(booked, lambda connection: connection.execute(delete(texts).where(texts.c.id == tags)))
    findings = verified(booked)
    assert f"text {tags}, tags of shard 7, row {NOVEMBER}-0" in [found.where for found in findings.faults]
    place = text_id('["acme","search","bot","model-3","openai","chat"]')
    changed(booked, lambda connection: connection.execute(delete(texts).where(texts.c.id == place)))
    assert any(f"text {place}, of the sums" in found.where for found in verified(booked).faults)


@pytest.mark.parametrize(
    "change",
    [
        delete(cursors),
        update(cursors).values(seq=8),
        update(cursors).values(at_ms=1),
        update(cursors).values(epoch=NOVEMBER + 1),
        cursors.insert().values(shard=9, epoch=1, seq=1, at_ms=1),
    ],
)
def test_a_cursor_that_is_not_at_the_last_row_is_found(booked: Database, change: Any) -> None:  # noqa: ANN401
    changed(booked, lambda connection: connection.execute(change))
    assert checks(booked) == {"cursor"}


def test_books_without_an_identity_or_with_two_are_found(booked: Database) -> None:
    changed(booked, lambda connection: connection.execute(books.insert().values(id="other", created_ms=1)))
    assert checks(booked) == {"books"}
    changed(booked, lambda connection: connection.execute(delete(books)))
    assert fault(verified(booked), "books").found == "0 rows"


def corrected(booking: Booking) -> Ledger:
    """A call that expired and was corrected twice; a threshold was passed when it was reserved."""
    book = Ledger()
    book.row()
    passed = {"event": "threshold", "scope": "acme", "limit": "monthly", "threshold": 0.8}
    event = book.note(RowKind.EVENT, passed, at_ms=NOVEMBER + HOUR)
    fields = {name: getattr(event, name) for name in type(event).__slots__}
    book.made[-1] = type(event)(**fields | {"member": f"acme/{RESERVATION}"})
    book.row(reservation=RESERVATION, cost=9_000, state=State.EXPIRED, basis=Basis.EXPIRED)
    book.book(booking)
    book.row(kind=RowKind.CORRECTION, reservation=RESERVATION, cost=4_000, amount=-5_000, basis=Basis.ESTIMATED)
    book.row(kind=RowKind.CORRECTION, reservation=RESERVATION, cost=5_000, amount=1_000)
    book.book(booking)
    return book


def rewrite(database: Database, seq: int, **values: object) -> None:
    """Change a row, and its checksum with it."""

    def change(connection: Connection) -> None:
        row = dict(connection.execute(select(ledger).where(*of_row(seq))).mappings().one()) | values
        connection.execute(update(ledger).where(*of_row(seq)).values(**row | {"checksum": checksum(row)}))

    changed(database, change)


def test_a_correction_points_to_the_first_row_of_its_call(database: Database, booking: Booking) -> None:
    corrected(booking)
    assert not verified(database).count
    for wrong in ({"corrects_seq": None}, {"corrects_seq": 0}, {"corrects_seq": 1}, {"corrects_seq": 99}):
        rewrite(database, 4, **wrong)
        findings = verified(database)
        assert "correction" in findings.counts
        assert fault(findings, "correction").where == f"shard 7, row {NOVEMBER}-4"
    rewrite(database, 4, corrects_seq=2)
    assert not verified(database).count


def test_what_a_call_costs_is_what_its_rows_add_up_to(database: Database, booking: Booking) -> None:
    corrected(booking)
    rewrite(database, 4, cost_nanousd=5_001)
    assert fault(verified(database), "cost")[1:] == (f"shard 7, row {NOVEMBER}-4", "cost_nanousd 4000 + 1000", "5001")
    rewrite(database, 4, cost_nanousd=5_000)
    rewrite(database, 0, cost_nanousd=7)
    assert fault(verified(database), "cost").where == f"shard 7, row {NOVEMBER}-0"


def test_a_call_that_is_charged_twice_is_found_until_one_is_corrected_away(
    database: Database, booking: Booking
) -> None:
    book = Ledger()
    book.row(reservation=RESERVATION)
    book.row(reservation=RESERVATION)
    book.book(booking)
    assert checks(database) == {"twice"}
    book.row(kind=RowKind.CORRECTION, reservation=RESERVATION, cost=0, amount=-1_000)
    book.book(booking)
    assert not verified(database).count


def test_the_same_call_again_after_nobody_claimed_it_is_no_fault(database: Database, booking: Booking) -> None:
    book = Ledger()
    given_back = {"state": State.RELEASED, "basis": Basis.RELEASED, "flags": RowFlag.UNCLAIMED}
    book.row(reservation=RESERVATION, cost=0, **given_back)  # type: ignore[arg-type]
    book.row(reservation=RESERVATION)
    book.row(reservation=RESERVATION, at_ms=NOVEMBER + 2 * HOUR)  # and later, when the store had forgotten it
    book.book(booking)
    assert not verified(database).count


def test_a_changed_invoice_is_found(booked: Database) -> None:
    row = {"number": "A-1", "organization": "", "customer": "globex", "month": "2026-11", "issued_ms": 1,
           "positions": "{}", "plan": "{}", "document": "{}"}  # fmt: skip
    body = json.dumps(list(row.values()), ensure_ascii=False, separators=(",", ":"))
    signed = row | {"checksum": blake2b(body.encode(), digest_size=16).digest()}
    changed(booked, lambda connection: connection.execute(invoices.insert().values(signed)))
    assert not verified(booked).count
    changed(booked, lambda connection: connection.execute(update(invoices).values(document='{"total":0}')))
    assert fault(verified(booked), "invoice").where == "invoice A-1"


def test_all_faults_are_counted_and_some_are_shown(booked: Database) -> None:
    changed(booked, lambda connection: connection.execute(update(ledger).values(request_id="x")))
    findings = verified(booked, shown=3)
    assert (findings.counts["checksum"], len(findings.faults)) == (10, 3)


def test_what_no_drain_would_write_is_a_fault_and_no_error(booked: Database) -> None:
    if not booked.is_sqlite:
        pytest.skip("PostgreSQL takes no text where a number belongs")

    def damage(connection: Connection) -> None:
        for column in ("amount_nanousd", "reserved_ms", "at_ms", "checksum", "tags", "calls"):
            seq = ROW_COLUMNS.index(column) % 10
            connection.execute(text(f"UPDATE ledger SET {column} = 'x' WHERE seq = {seq}"))  # noqa: S608 - constants
        connection.execute(text("UPDATE ledger SET flags = 'x', reservation = '01234567890123456789012345678901'"))
        connection.execute(text("UPDATE ledger SET team = x'ff' WHERE seq = 4"))
        connection.execute(text("UPDATE ledger SET amount_nanousd = 9223372036854775807 WHERE seq IN (5, 6)"))

    changed(booked, damage)
    assert {"checksum", "hours", "charges"} <= checks(booked)


def test_sums_that_do_not_fit_into_memory_are_made_in_several_passes(
    database: Database, booking: Booking, monkeypatch: pytest.MonkeyPatch
) -> None:
    RandomBooks(seed=2).write(booking)
    monkeypatch.setattr(verifying_sums, "SUMS_AT_ONCE", 1)
    findings = verified(database)
    with database.read() as connection:
        counts = [connection.execute(select(func.count()).select_from(t)).scalar_one() for t in (charges, refusals)]
    assert (findings.count, findings.looked_at["charges"], findings.looked_at["refusals"]) == (0, *counts)


def test_rows_that_come_while_it_reads_do_not_disturb_it(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.row()
    book.book(booking)

    def meanwhile(_stage: str, _done: int, _total: int) -> None:
        book.row()
        book.book(booking)

    findings = verified(database, progress=meanwhile)
    assert (findings.count, findings.looked_at["sequence"]) == (0, 1)
    assert not verified(database).count


# ---------------------------------------------------------------------- the store's counters


def counted(settled: int, *, last: Position | None = None, key: CounterKey = MONTHLY) -> list[Counted]:
    return [Counted("acme", 7, last or Position(NOVEMBER, 9), {key: settled})]


def test_counters_that_are_the_sum_of_the_rows_are_right(booked: Database) -> None:
    assert scopes_by_organization(booked) == {"acme": {"acme"}}
    findings = verified(booked, counted=counted(10_045))
    assert (findings.count, findings.looked_at["counter"]) == (0, 1)


def test_rows_after_the_counters_were_read_do_not_count(booked: Database) -> None:
    later = 1_009 + 1_008
    assert not verified(booked, counted=counted(10_045 - later, last=Position(NOVEMBER, 7))).count


def test_a_counter_that_differs_from_its_rows_is_found(booked: Database) -> None:
    found = fault(verified(booked, counted=counted(10_046)), "counter")
    assert found[1:] == (
        f"acme monthly:spend:month since {WINDOW} ms",
        "0.000010045 USD by the rows",
        "0.000010046 USD in the store",
    )


def test_a_counter_of_a_period_without_rows_is_right_at_nothing_only(booked: Database) -> None:
    key = MONTHLY._replace(period_ms=WINDOW + 1)
    assert not verified(booked, counted=counted(0, key=key)).count
    assert checks(booked, counted=counted(1, key=key)) == {"counter"}


def test_a_store_that_lost_rows_is_told_as_the_reason(booked: Database) -> None:
    row = {"id": "x", "type": "store.rolled_back", "at_ms": 1, "data": '{"epoch":1,"seq":2,"shard":7}'}
    changed(booked, lambda connection: connection.execute(alerts.insert().values(row)))
    assert "store.rolled_back" in fault(verified(booked, counted=counted(1)), "counter").where


def test_rows_that_the_store_counts_and_the_books_do_not_have_are_a_fault(booked: Database) -> None:
    ahead = counted(10_045, last=Position(NOVEMBER, 10))
    wait_for(booked, ahead, wait_s=0)
    findings = verified(booked, counted=ahead)
    assert set(findings.counts) == {"drain"}
    assert fault(findings, "drain")[2:] == (f"rows up to {NOVEMBER}-10", f"up to {NOVEMBER}-9")
    wait_for(booked, counted(1), wait_s=3600)  # has what it waits for


def test_every_table_is_checked_or_told_not_to_be() -> None:
    follows_from_nothing = {"alerts", "deliveries"}
    checked = {"books", "texts", "ledger", "cursors", "hours", "months", "charges", "refusals", "invoices"}
    assert metadata.tables.keys() == follows_from_nothing | checked
