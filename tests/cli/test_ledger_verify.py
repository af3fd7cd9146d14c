"""`ledger verify` and `ledger heads`: what they print, and how they end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import Connection, delete, update

from limiter.ledger.booking import Booking
from limiter.ledger.database import Database, sqlite_url
from limiter.ledger.schema import cursors, ledger
from limiter.v1 import limiter_pb2 as pb
from tests.cli.conftest import CommandLine
from tests.cli.fake_sidecar import Fails, FakeSidecar
from tests.ledger.rows import DAY, HOUR, NOVEMBER, WINDOW, Ledger

SPENT = 1_000 + 1_001 + 1_002


@pytest.fixture
def books(directory: Path) -> Iterator[Database]:
    """The books of the default data directory: a call on each of three days; the last day goes on."""
    (directory / "data").mkdir(exist_ok=True)
    database = Database(sqlite_url(directory / "data" / "books.db"))
    database.migrate()
    book = Ledger()
    for i in range(3):
        book.row(cost=1_000 + i, at_ms=NOVEMBER + i * DAY + HOUR)
    book.book(Booking(database))
    yield database
    database.close()


def damage(database: Database, *statements: Any) -> None:  # noqa: ANN401 - of SQLAlchemy
    def each(connection: Connection) -> None:
        for statement in statements:
            connection.execute(statement)

    with database.write() as connection:
        each(connection)


def counters(settled: int = SPENT, *, seq: int = 2, scope: str = "acme") -> pb.ReadCountersResponse:
    counter = pb.Counter(scope=scope, counter="monthly:spend:month", period_ms=WINDOW, settled_nanousd=settled)
    return pb.ReadCountersResponse(shard=7, epoch=NOVEMBER, seq=seq, counters=[counter])


@pytest.mark.usefixtures("books")
def test_books_without_a_fault_end_well_and_say_what_was_left_out(limiter: CommandLine) -> None:
    output = limiter.run("ledger", "verify")
    assert output.row("sequence") == ["sequence", "3", "0", "no row of any sequence is missing"]
    assert output.lines[-1] == "no fault"
    assert "note: the store's counters were left out: no sidecar serves data" in output.lines
    assert (
        "note: the store's counters were left out: --no-counters"
        in limiter.run("ledger", "verify", "--no-counters").lines
    )


def test_a_fault_is_told_with_where_what_and_what_to_do_and_ends_with_1(limiter: CommandLine, books: Database) -> None:
    damage(books, delete(ledger).where(ledger.c.seq == 1), update(ledger).values(request_id="x"))
    output = limiter.run("ledger", "verify", exit_code=1)
    at = output.lines.index(f"sequence: shard 7, row {NOVEMBER}-1")
    assert output.lines[at + 1 : at + 3] == [
        "  expected  there",
        f"  found     missing: after {NOVEMBER}-0 comes {NOVEMBER}-2",
    ]
    assert output.lines[at + 3].startswith("  to do     restore the rows from a backup")
    assert output.lines[-1] == "5 faults"
    few = limiter.run("ledger", "verify", "--show", "1", exit_code=1)
    assert "checksum: 1 more; see --show" in few.lines


def test_programs_get_every_fault_with_its_parts(limiter: CommandLine, books: Database) -> None:
    whole = limiter.run("ledger", "verify", "--format", "json").json
    assert (whole["ok"], whole["fault_count"], whole["faults"]) == (True, 0, [])
    assert whole["checks"]["hours"] == {"looked_at": 3, "faults": 0}
    damage(books, update(cursors).values(seq=1))
    found = limiter.run("ledger", "verify", "--format", "json", exit_code=1).json
    assert (found["ok"], found["fault_count"]) == (False, 1)
    (fault,) = found["faults"]
    assert fault.keys() == {"check", "where", "expected", "found", "remedy"}
    assert (fault["check"], fault["where"]) == ("cursor", "shard 7")


@pytest.mark.usefixtures("books")
def test_the_stores_counters_are_held_against_the_rows(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("GetPolicy", pb.GetPolicyResponse(versions={"acme": 1}))
    sidecar.answers("ReadCounters", counters())
    output = limiter.run("ledger", "verify", "--format", "json")
    assert output.json["checks"]["counter"] == {"looked_at": 1, "faults": 0}
    assert list(sidecar.request("ReadCounters").scopes) == ["acme"]
    sidecar.answers("ReadCounters", counters(SPENT + 1))
    wrong = limiter.run("ledger", "verify", exit_code=1)
    assert "  expected  0.000003003 USD by the rows" in wrong.lines
    assert "  found     0.000003004 USD in the store" in wrong.lines


@pytest.mark.usefixtures("books")
def test_an_organization_that_only_the_store_knows_is_asked_for_too(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    sidecar.answers("GetPolicy", pb.GetPolicyResponse(versions={"globex": 1, "acme": 1}))
    sidecar.answers("ReadCounters", counters())
    strange = pb.ReadCountersResponse(shard=9, epoch=NOVEMBER, seq=0)
    sidecar.answers("ReadCounters", strange)
    output = limiter.run("ledger", "verify", "--wait", "0s", exit_code=1)
    assert "drain: shard 9 (globex)" in output.lines
    assert "  found     up to none" in output.lines
    assert [list(asked.scopes) for asked in sidecar.requests("ReadCounters")] == [["acme"], ["globex"]]


@pytest.mark.usefixtures("books")
def test_a_sidecar_that_was_named_must_answer(limiter: CommandLine, sidecar: FakeSidecar) -> None:
    output = limiter.run("ledger", "verify", "--admin", "unix:nothing.sock", exit_code=4)
    assert "no sidecar at unix:nothing.sock" in output.err
    sidecar.answers("GetPolicy", Fails(grpc.StatusCode.PERMISSION_DENIED, "not here"))
    assert "not here" in limiter.run("ledger", "verify", exit_code=7).err


@pytest.mark.usefixtures("books")
def test_the_data_directory_is_that_of_the_books_and_of_the_sidecar(
    limiter: CommandLine, sidecar: FakeSidecar, directory: Path
) -> None:
    sidecar.answers("ReadCounters", counters())
    (directory / "elsewhere").mkdir()
    (directory / "data").rename(directory / "moved")
    output = limiter.run("ledger", "verify", "--data-dir", "moved")
    assert any(line.split()[:3] == ["counter", "1", "0"] for line in output.lines)
    assert "there are none at" in limiter.run("ledger", "verify", "--data-dir", "elsewhere", exit_code=6).err


def test_heads_are_lines_that_books_can_be_held_to_later(
    limiter: CommandLine, books: Database, directory: Path
) -> None:
    shown = limiter.run("ledger", "heads")
    lines = [json.loads(line) for line in limiter.run("ledger", "heads", "--format", "json").lines]
    assert [(line["day"], line["final"]) for line in lines] == [
        ("2026-11-01", True), ("2026-11-02", True), ("2026-11-03", False),
    ]  # fmt: skip
    assert shown.row("2026-11-02") == ["2026-11-02", "1", "1", "yes", lines[1]["hash"]]
    file = directory / "heads.jsonl"
    file.write_text(
        limiter.run("ledger", "heads", "--format", "json", "--from", "2026-11-02", "--to", "2026-11-04").out
    )
    held = limiter.run("ledger", "verify", "--heads", str(file), "--format", "json").json
    assert held["checks"]["head"] == {"looked_at": 1, "faults": 0}
    damage(books, update(ledger).where(ledger.c.seq == 1).values(checksum=b"x" * 16))
    assert "head: 2026-11-02" in limiter.run("ledger", "verify", "--heads", str(file), exit_code=1).lines


@pytest.mark.usefixtures("books")
@pytest.mark.parametrize("columns", [40, 60, 80])
def test_no_day_and_no_hash_of_a_head_is_folded_however_narrow_the_terminal_is(
    columns: int, limiter: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [json.loads(line) for line in limiter.run("ledger", "heads", "--format", "json").lines]
    monkeypatch.setenv("COLUMNS", str(columns))
    output = limiter.run("ledger", "heads")
    for head in heads:
        assert output.row(head["day"])[-1] == head["hash"]


@pytest.mark.usefixtures("books")
def test_heads_of_chosen_days_only(limiter: CommandLine) -> None:
    chosen = limiter.run("ledger", "heads", "--from", "2026-11-02", "--to", "2026-11-03", "--format", "json")
    assert [json.loads(line)["day"] for line in chosen.lines] == ["2026-11-02"]
    assert limiter.run("ledger", "heads", "--from", "2027-01-01").err.strip() == "no day has rows"
    assert "write a day such as 2026-11-30" in limiter.run("ledger", "heads", "--from", "x", exit_code=2).err


@pytest.mark.usefixtures("books")
def test_a_file_of_heads_that_is_none_is_refused(limiter: CommandLine, directory: Path) -> None:
    (directory / "x").write_text("what?\n")
    assert "line 1 is no head" in limiter.run("ledger", "verify", "--heads", "x", exit_code=2).err
    assert "name a file that can be read" in limiter.run("ledger", "verify", "--heads", "none", exit_code=2).err


def test_without_books_it_says_how_they_are_made(limiter: CommandLine) -> None:
    assert "limiter serve" in limiter.run("ledger", "verify", exit_code=6).err
