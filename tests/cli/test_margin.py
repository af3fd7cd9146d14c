"""`margin`: cost from the books beside revenue from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.ledger.booking import Booking
from limiter.ledger.database import Database, sqlite_url
from tests.cli.conftest import CommandLine
from tests.ledger.rows import DAY, NOVEMBER, Ledger

USD = 1_000_000_000


@pytest.fixture(autouse=True)
def books(directory: Path) -> None:
    (directory / "data").mkdir()
    database = Database(sqlite_url(directory / "data" / "books.db"))
    database.migrate()
    book = Ledger()
    book.row(cost=10 * USD)
    book.row(cost=4 * USD, tags=[("customer", "hooli")], at_ms=NOVEMBER + 29 * DAY)
    book.row(cost=2 * USD, tags=())
    book.row(cost=8 * USD, at_ms=NOVEMBER + 30 * DAY)
    book.book(Booking(database))
    (directory / "revenue.csv").write_text("customer,revenue\nglobex,40\nacme,5\n")


ASK = ("margin", "--revenue", "revenue.csv")


def test_margins_are_shown_the_worst_first(limiter: CommandLine) -> None:
    output = limiter.run(*ASK, "--month", "2026-11")
    assert output.lines[0] == "From 2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z"
    assert [line.split()[0] for line in output.lines[4:]] == ["hooli", "acme", "globex", "untagged", "total"]
    assert output.row("hooli") == ["hooli", "1", "4.00", "—", "−4.00", "—", "no revenue"]
    assert output.row("acme") == ["acme", "0", "0.00", "5.00", "5.00", "100.00 %", "no calls"]
    assert output.row("globex") == ["globex", "1", "10.00", "40.00", "30.00", "75.00 %"]
    assert output.row("total") == ["total", "3", "16.00", "45.00", "29.00", "64.44 %"]


def test_programs_get_every_figure(limiter: CommandLine) -> None:
    found = limiter.run(*ASK, "--from", "2026-11-01", "--to", "2026-12-02", "--format", "json").json
    assert (found["from"], found["to"]) == ("2026-11-01T00:00:00Z", "2026-12-02T00:00:00Z")
    assert found["total"]["cost_nanousd"] == 24 * USD
    assert found["untagged"]["margin_usd"] == "-2.00"
    assert [one["customer"] for one in found["customers"]] == ["hooli", "acme", "globex"]
    assert limiter.run(*ASK, "--month", "2026-11", "--format", "csv").lines[1] == "hooli,1,4.00,,-4.00,,no revenue"


def test_months_of_the_file_say_which_time_is_meant(limiter: CommandLine, directory: Path) -> None:
    (directory / "revenue.csv").write_text("customer,revenue,month\nglobex,40,2026-11\nglobex,5,2026-10\n")
    assert limiter.run(*ASK).lines[0] == "From 2026-10-01T00:00:00Z to 2026-12-01T00:00:00Z"
    output = limiter.run(*ASK, "--month", "2026-11")
    assert output.row("globex")[3] == "40.00"
    assert output.err == "1 of 2 lines of revenue are of other months, and left out\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--month", "2026-11", "--to", "2026-12-01"), "give either --month, or --from and --to"),
        (("--from", "2026-12-01", "--to", "2026-11-01"), "write a time after --from"),
        (("--timezone", "Berlin"), "timezone: 'Berlin' is not valid"),
        (("--tag", "a b"), "--tag: 'a b' is not valid"),
        (("--revenue", "none.csv"), "--revenue: 'none.csv' is not valid; name a file that can be read"),
    ],
)
def test_what_cannot_be_is_refused_and_said(limiter: CommandLine, words: tuple[str, ...], message: str) -> None:
    assert message in limiter.run(*ASK, *words, exit_code=2).err


def test_mistakes_of_the_file_are_told_by_line(limiter: CommandLine, directory: Path) -> None:
    (directory / "revenue.csv").write_text("customer,revenue\nglobex,many\n")
    assert limiter.run(*ASK, exit_code=2).err.startswith("limiter: revenue.csv: line 2: revenue: 'many' is not valid")
