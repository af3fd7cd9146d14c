"""A day's head holds every row of that day and of all days before; it is computed as the documentation says."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select, update

from limiter.domain.errors import InvalidArgument
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database
from limiter.ledger.entries import checksum
from limiter.ledger.schema import books, charges, cursors, hours, ledger, months
from limiter.ledger.verifying.findings import Fault, Findings
from limiter.ledger.verifying.heads import Head, make_heads, read_heads
from limiter.ledger.verifying.verify import verify
from tests.ledger.random_books import RandomBooks
from tests.ledger.rows import DAY, HOUR, NOVEMBER, Ledger

#: Long after all rows.
LATER = NOVEMBER + 365 * DAY


def heads_of(database: Database, *, now_ms: int = LATER) -> list[Head]:
    return make_heads(database, now_ms=now_ms)


def exported(database: Database) -> list[Head]:
    """Heads as they come back from the lines of a file."""
    return read_heads([head.line for head in heads_of(database)])


def compared(database: Database, heads: list[Head]) -> Findings:
    return verify(database, heads=heads, now_ms=LATER)


def fault(findings: Findings) -> Fault:
    """The only fault of heads."""
    (found,) = [fault for fault in findings.faults if fault.check == "head"]
    return found


def damage(database: Database, *statements: Any) -> None:  # noqa: ANN401 - of SQLAlchemy
    with database.write() as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def days(database: Database, booking: Booking) -> Database:
    """Books of three days: two rows each in shard 7, and one on the second day in shard 8; then one row of a fourth."""
    book, other = Ledger(), Ledger(shard=8)
    for day in range(3):
        for hour in (1, 2):
            book.row(cost=1_000 + day, at_ms=NOVEMBER + day * DAY + hour * HOUR)
    other.row(at_ms=NOVEMBER + DAY)
    book.row(at_ms=NOVEMBER + 3 * DAY + 2 * HOUR)
    book.book(booking)
    other.book(booking)
    return database


def anchor_by_hand(rows: list[dict[str, Any]], identity: str) -> list[dict[str, Any]]:
    """The heads as docs/books.md says, by nothing but hashes and JSON."""
    rows = sorted(rows, key=lambda row: (row["shard"], row["epoch"], row["seq"]))
    lines: list[dict[str, Any]] = []
    before = ""
    for day in sorted({row["at_ms"] // 86_400_000 for row in rows}):
        of_day = [row for row in rows if row["at_ms"] // 86_400_000 == day]
        shards = []
        for shard in sorted({row["shard"] for row in of_day}):
            of_shard = [row for row in of_day if row["shard"] == shard]
            shards.append([shard, len(of_shard), of_shard[-1]["epoch"], of_shard[-1]["seq"]])
        line = {
            "before": before,
            "books": identity,
            "day": datetime.fromtimestamp(day * 86_400, UTC).strftime("%Y-%m-%d"),
            "rows": len(of_day),
            "rows_hash": blake2b(b"".join(row["checksum"] for row in of_day), digest_size=32).hexdigest(),
            "shards": shards,
        }
        text = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        before = blake2b(text.encode("utf-8"), digest_size=32).hexdigest()
        lines.append(line | {"hash": before})
    return lines


@pytest.mark.parametrize("seed", [1, 2])
def test_heads_are_what_others_compute_from_the_documentation(database: Database, booking: Booking, seed: int) -> None:
    RandomBooks(seed=seed).write(booking)
    with database.read() as connection:
        rows = [dict(row) for row in connection.execute(select(ledger)).mappings()]
    expected = anchor_by_hand(rows, database.identity())
    made = [json.loads(head.line) for head in heads_of(database)]
    assert len(made) > 2
    assert [{name: value for name, value in line.items() if name != "final"} for line in made] == expected


def test_a_head_is_the_same_whoever_asks_and_whenever(days: Database, booking: Booking) -> None:
    early = heads_of(days, now_ms=NOVEMBER)
    more = Ledger(shard=9)
    more.row(at_ms=NOVEMBER + 5 * DAY)
    more.book(booking)
    late = heads_of(days)
    assert [head.hash for head in late[:4]] == [head.hash for head in early]
    assert [head.before for head in late[1:]] == [head.hash for head in late[:-1]]
    assert [(head.day, head.rows, len(head.shards)) for head in late[:2]] == [
        ("2026-11-01", 2, 1),
        ("2026-11-02", 3, 2),
    ]


def test_a_day_is_final_when_it_is_over_and_the_drain_has_passed_it(days: Database, booking: Booking) -> None:
    assert [head.final for head in heads_of(days)] == [True, True, True, False]
    assert [head.final for head in heads_of(days, now_ms=NOVEMBER + 2 * DAY)] == [True, True, False, False]
    slow = Ledger(shard=9)
    slow.row(at_ms=NOVEMBER + 3 * DAY - HOUR // 4)
    slow.book(booking)  # of that shard, rows of the third day may still be on their way
    following = Ledger(shard=10)
    following.row(at_ms=NOVEMBER + 3 * DAY + HOUR // 4)
    following.book(booking)
    assert [head.final for head in heads_of(days)] == [True, True, True, False]
    damage(days, update(cursors).where(cursors.c.shard == 7).values(at_ms=NOVEMBER + 3 * DAY + HOUR // 4))
    assert [head.final for head in heads_of(days)] == [True, True, False, False]


def test_books_that_are_as_their_heads_say_have_no_fault(days: Database) -> None:
    findings = compared(days, exported(days))
    assert (findings.count, findings.looked_at["head"]) == (0, 3)
    assert findings.notes == ["2026-11-04 was not final when its head was exported: not compared"]
    assert not compared(days, exported(days)[1:2]).count


def everything_made_anew(connection: Connection, seq: int) -> None:
    """Double what a row cost, and have its checksum and all sums follow: whoever can write to the books can."""
    row = dict(connection.execute(select(ledger).where(ledger.c.shard == 7, ledger.c.seq == seq)).mappings().one())
    more = row["amount_nanousd"]
    row |= {"amount_nanousd": 2 * more, "cost_nanousd": 2 * more}
    where = ledger.c.shard == 7, ledger.c.seq == seq
    connection.execute(update(ledger).where(*where).values(**row | {"checksum": checksum(row)}))
    hour = hours.c.hour == row["reserved_ms"] // HOUR
    connection.execute(update(hours).where(hour).values(amount_nanousd=hours.c.amount_nanousd + more))
    connection.execute(update(months).values(amount_nanousd=months.c.amount_nanousd + more))  # they have one
    where_charged = charges.c.charged == row["charged"]
    connection.execute(update(charges).where(where_charged).values(amount_nanousd=charges.c.amount_nanousd + more))


def test_a_change_that_all_sums_follow_is_found_by_heads_and_nothing_else(days: Database) -> None:
    heads = exported(days)
    with days.write() as connection:
        everything_made_anew(connection, 2)
    assert not verify(days, now_ms=LATER).count
    findings = compared(days, heads)
    assert set(findings.counts) == {"head"}
    assert fault(findings).where == "2026-11-02"
    # One line that was anchored later holds everything before it.
    assert fault(compared(days, heads[2:3])).where == "a day before 2026-11-03"


def test_a_last_row_that_was_removed_with_its_cursor_moved_back_is_found(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.row(at_ms=NOVEMBER)
    book.row(at_ms=NOVEMBER + HOUR)
    book.row(cost=0, at_ms=NOVEMBER + HOUR)
    book.book(booking)
    second = Ledger(shard=8)
    second.row(at_ms=NOVEMBER + DAY + 2 * HOUR)
    second.book(booking)
    heads = exported(database)
    at_ms = NOVEMBER + HOUR + 2_000
    wrong = hours.c.calls == 2
    damage(
        database,
        delete(ledger).where(ledger.c.shard == 7, ledger.c.seq == 2),
        update(cursors).where(cursors.c.shard == 7).values(seq=1, at_ms=at_ms),
        update(hours).where(wrong).values(calls=1, input_tokens=10, output_tokens=5),
        update(months).where(months.c.calls == 4).values(calls=3, input_tokens=30, output_tokens=15),
    )
    assert not verify(database, now_ms=LATER).count
    found = fault(compared(database, heads))
    assert found.where == "2026-11-01"
    assert found.expected.startswith(f"3 rows, shard 7: 3 to {NOVEMBER}-2, ")
    assert found.found.startswith(f"2 rows, shard 7: 2 to {NOVEMBER}-1, ")


def test_a_day_without_its_rows_is_found(days: Database) -> None:
    heads = exported(days)
    damage(days, delete(ledger).where(ledger.c.at_ms < NOVEMBER + DAY))
    assert fault(compared(days, heads)).found == "no row of that day"


def test_a_line_that_was_changed_is_found(days: Database) -> None:
    lines = [head.line for head in heads_of(days)]
    changed = json.loads(lines[0]) | {"rows": 3}
    findings = compared(days, read_heads([json.dumps(changed), *lines[1:]]))
    assert fault(findings).where == "exported line of 2026-11-01"


def test_heads_of_other_books_are_refused(days: Database) -> None:
    heads = exported(days)
    damage(days, update(books).values(id="other"))
    with pytest.raises(InvalidArgument, match="these are heads of other books"):
        compared(days, heads)


@pytest.mark.parametrize("line", ["x", "[]", "{}", '{"day": "2026-11-01"}', '{"books":1,"shards":7}'])
def test_what_is_no_head_is_refused_by_its_line(line: str) -> None:
    with pytest.raises(InvalidArgument, match="line 2 is no head"):
        read_heads(["", line])


def test_a_row_that_no_drain_wrote_changes_its_day_and_breaks_nothing(days: Database) -> None:
    if not days.is_sqlite:
        pytest.skip("PostgreSQL takes no text where a number belongs")
    heads = exported(days)
    file = str(days.shown).removeprefix("sqlite:///")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE ledger SET checksum = 'x' WHERE shard = 7 AND seq = 0")
        connection.execute("UPDATE ledger SET at_ms = 9223372036854775807 WHERE shard = 7 AND seq = 3")
    connection.close()
    assert {found.where for found in compared(days, heads).faults if found.check == "head"} == {
        "2026-11-01",
        "2026-11-02",
    }
