"""`report`: tables for people, files for programs, and what it says to mistakes."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from limiter.domain.rows import RowKind
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database, sqlite_url
from tests.cli.conftest import CommandLine
from tests.ledger.rows import DAY, HOUR, NOVEMBER, Ledger

MONTH = ("report", "--month", "2026-11")


@pytest.fixture
def database(directory: Path) -> Iterator[Database]:
    (directory / "data").mkdir()
    found = Database(sqlite_url(directory / "data" / "books.db"))
    found.migrate()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def book(database: Database) -> Ledger:
    book = Ledger()
    book.row(cost=1_500_000_000, tags=[("customer", "globex"), ("feature", "assistant")])
    book.row(cost=500_000_001, tags=[("customer", "=HYPERLINK(1)")], model="claude-x", at_ms=NOVEMBER + 2 * DAY)
    book.row(cost=1, tags=(), key="acme/ads/bot", at_ms=NOVEMBER + 2 * DAY)
    refused = {"scope": "acme/search", "limit": "monthly", "reason": "SPEND_CEILING", "model": "gpt-4o"}
    refused |= {"customer": "globex", "minute_ms": NOVEMBER + HOUR, "count": 1234}  # type: ignore[dict-item]
    book.note(RowKind.REFUSALS, {"refusals": [refused]}, at_ms=NOVEMBER + HOUR)
    book.book(Booking(database))
    return book


def test_a_table_has_every_customer_the_untagged_and_the_total(limiter: CommandLine) -> None:
    output = limiter.run(*MONTH, "--by", "customer")
    assert output.lines[0] == "Calls reserved from 2026-11-01 00:00:00 to 2026-12-01 00:00:00 (UTC)"
    assert output.row("globex")[:5] == ["globex", "1", "10", "5", "1.500000000"]
    assert output.row("(untagged)")[4:6] == ["0.000000001", "0.0 %"]
    total = output.row("total")
    assert total[:7] == ["total", "3", "30", "15", "2.000000002", "100.0 %", "4.000000004"]
    assert total[7:] == ["2.00", "1,234", "1,234 SPEND_CEILING"]
    assert output.row("acme/search", "monthly") == ["acme/search", "monthly", "SPEND_CEILING", "1,234"]


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_no_date_amount_or_name_is_folded_however_narrow_the_terminal_is(
    columns: int, limiter: CommandLine, database: Database, book: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "globex-international-holdings-gmbh"
    book.row(cost=1_500_000_000, tags=[("customer", name)], model="us.anthropic.claude-3-5-sonnet-20241022-v2:0")
    book.book(Booking(database))
    monkeypatch.setenv("COLUMNS", str(columns))

    output = limiter.run(*MONTH, "--by", "day,hour,customer,model")

    row = output.row(name)
    assert row[:4] == ["2026-11-01", "2026-11-01T01:00+00:00", name, "us.anthropic.claude-3-5-sonnet-20241022-v2:0"]
    assert "1.500000000" in row


def test_without_a_grouping_there_is_one_line(limiter: CommandLine) -> None:
    output = limiter.run(*MONTH, "--where", "team=ads", "--format", "json").json
    assert (output["lines"], output["total"]["cost_nanousd"]) == ([], 1)


def test_json_has_amounts_twice_and_null_for_the_untagged(limiter: CommandLine) -> None:
    output = limiter.run(*MONTH, "--by", "customer,tag:feature", "--by", "week", "--format", "json").json
    line = next(line for line in output["lines"] if line["group"]["customer"] == "globex")
    assert line["group"] == {"customer": "globex", "feature": "assistant", "week": "2026-W44"}
    assert (line["cost_nanousd"], line["cost_usd"], line["share"]) == (1_500_000_000, "1.50", "0.750000")
    assert {"customer": None, "feature": None, "week": "2026-W45"} in [line["group"] for line in output["lines"]]
    assert (output["from"], output["by"]) == ("2026-11-01T00:00:00+00:00", ["customer", "feature", "week"])
    assert output["refusals_by_limit"][0]["refusals"] == 1234


def test_csv_is_rfc_4180_and_no_formula(limiter: CommandLine, directory: Path) -> None:
    limiter.run(*MONTH, "--by", "customer", "--format", "csv", "--output", "report.csv")
    text = (directory / "report.csv").read_bytes().decode()
    assert text.count("\r\n") == text.count("\n") == 4
    lines = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [line["customer"] for line in lines] == ["globex", "'=HYPERLINK(1)", "(untagged)"]
    assert sum(int(line["cost_nanousd"]) for line in lines) == 2_000_000_002
    assert sum(Decimal(line["cost_usd"]) for line in lines) == Decimal("2.000000002")
    assert lines[0]["refused_by_reason"] == "SPEND_CEILING=1234"


def test_parquet_has_whole_nano_dollars_and_exact_decimals(limiter: CommandLine, directory: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="limiter[parquet] is not installed")
    limiter.run(*MONTH, "--by", "customer", "--format", "parquet", "-o", "report.parquet")
    table = parquet.read_table(directory / "report.parquet")
    assert str(table.schema.field("cost_nanousd").type) == "int64"
    assert str(table.schema.field("cost_usd").type) == "decimal128(38, 9)"
    lines = table.to_pylist()
    assert [line["customer"] for line in lines] == ["globex", "=HYPERLINK(1)", None]
    assert sum(line["cost_usd"] for line in lines) == Decimal("2.000000002")
    assert json.loads(table.schema.metadata[b"limiter"])["total"]["cost_nanousd"] == 2_000_000_002


def test_parquet_without_its_package_says_what_to_install(
    limiter: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    output = limiter.run(*MONTH, "--format", "parquet", "-o", "x.parquet", exit_code=6)
    assert "pip install 'limiter[parquet]'" in output.err
    assert "--output" in limiter.run(*MONTH, "--format", "parquet", exit_code=2).err


def test_lines_can_be_sorted_and_fewer(limiter: CommandLine) -> None:
    output = limiter.run(*MONTH, "--by", "customer", "--sort", "customer", "--limit", "1", "--format", "json").json
    assert [line["group"]["customer"] for line in output["lines"]] == ["=HYPERLINK(1)"]
    assert output["line_count"] == 3
    assert output["notes"] == ["the first 1 of 3 lines; the total is of all"]
    assert output["total"]["calls"] == 3


def test_days_come_in_their_order_and_begin_in_their_zone(limiter: CommandLine) -> None:
    words = ("--by", "day", "--timezone", "America/New_York", "--from", "2026-10-01", "--to", "2026-12-01")
    output = limiter.run("report", *words, "--format", "json").json
    assert [line["group"]["day"] for line in output["lines"]] == ["2026-10-31", "2026-11-02"]
    assert output["from"] == "2026-10-01T00:00:00-04:00"


def test_an_hour_that_comes_twice_has_two_lines_in_order(limiter: CommandLine, database: Database) -> None:
    book = Ledger(shard=8)
    for hour in (0, 1):
        book.row(at_ms=1_792_889_999_000 + hour * HOUR, cost=10 + hour)  # 25 October 2026, 02:59:59 in Berlin, twice
    book.book(Booking(database))
    words = ("--by", "hour", "--from", "2026-10-25", "--to", "2026-10-26", "--timezone", "Europe/Berlin")
    output = limiter.run("report", *words, "--format", "json").json
    assert [line["group"]["hour"] for line in output["lines"]] == ["2026-10-25T02:00+02:00", "2026-10-25T02:00+01:00"]


def test_nothing_is_said_to_be_nothing(limiter: CommandLine) -> None:
    output = limiter.run("report", "--from", "2020-01-01", "--to", "2020-02-01", "--by", "customer")
    assert "Nothing: no call was reserved or refused that fits." in output.out
    words = ("--where", "team=serch", "--format", "csv")
    assert "there is nothing to report" in limiter.run(*MONTH, *words).err
    assert "there is 'ads', 'search'" in limiter.run(*MONTH, "--where", "team=zzz").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--by", "custmer"), "did you mean customer?"),
        (("--by", "modle"), "did you mean model?"),
        (("--by", "a b"), "the name of a tag"),
        (("--where", "team"), "write NAME=VALUE"),
        (("--where", "day=2026-11-01"), "choose a time with --from"),
        (("--where", "custmer=x"), "did you mean customer?"),
        (("--from", "yesterday"), "write a date such as"),
        (("--from", "2026-11-31"), "write a date such as"),
        (("--from", "2026-11-02", "--to", "2026-11-01"), "must begin before it ends"),
        (("--from", "2026-11-02", "--to", "2026-11-02"), "must begin before it ends"),
        (("--month", "2026-13"), "write a month"),
        (("--month", "2026-11", "--last", "7d"), "not both"),
        (("--last", "soon"), "write a number"),
        (("--sort", "colour"), "use cost, held, refused"),
        (("--timezone", "Europe/Berlim"), "did you mean Europe/Berlin?"),
        (("--limit", "0"), "greater than or equal to 1"),
        (("--output", "none/there.csv", "--format", "csv"), "name a file that can be written"),
    ],
)
def test_mistakes_are_told_with_their_remedy(limiter: CommandLine, words: tuple[str, ...], said: str) -> None:
    output = limiter.run("report", *words, exit_code=2)
    assert said in " ".join(output.err.replace("│", " ").split())


def test_a_tag_that_nobody_has_may_be_asked_for_by_its_full_name(limiter: CommandLine) -> None:
    output = limiter.run(*MONTH, "--by", "tag:custmer")
    assert "Note: no call of this time has the tag custmer." in output.out


def test_a_tag_that_is_called_like_a_column_keeps_its_prefix(limiter: CommandLine, database: Database) -> None:
    book = Ledger(shard=9)
    book.row(tags=[("model", "x")])
    book.book(Booking(database))
    output = limiter.run(*MONTH, "--by", "model,tag:model", "--where", "tag:model=x", "--format", "json").json
    assert [line["group"] for line in output["lines"]] == [{"model": "gpt-4o", "tag:model": "x"}]


def test_books_that_are_not_there_are_told(limiter: CommandLine, directory: Path) -> None:
    output = limiter.run("report", "--data-dir", str(directory / "elsewhere"), exit_code=6)
    assert "there are none" in output.err
