"""`invoice`, `invoices …`: documents from the books, without a sidecar."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sqlalchemy import update

from limiter.ledger.booking import Booking
from limiter.ledger.database import Database, sqlite_url
from limiter.ledger.schema import ledger
from tests.cli.conftest import CommandLine
from tests.ledger.rows import DAY, NOVEMBER, Ledger

USD = 1_000_000_000
#: The month before the tests' usual one, of a year that is over.
LAST_YEAR = NOVEMBER - 365 * DAY
PLAN = """\
version: 1
seller: "We & Co <us>"
terms: {markup_percent: 20}
customers:
  globex: {buyer: Globex Corporation}
"""


@pytest.fixture
def books(directory: Path) -> Database:
    (directory / "data").mkdir()
    (directory / "plans.yaml").write_text(PLAN)
    database = Database(sqlite_url(directory / "data" / "books.db"))
    database.migrate()
    return database


@pytest.fixture
def book(books: Database) -> Ledger:
    book = Ledger()
    book.row(at_ms=LAST_YEAR, cost=10 * USD)
    book.row(at_ms=LAST_YEAR + DAY, cost=100 * USD, model="<b>o3</b>")
    book.row(at_ms=LAST_YEAR + 30 * DAY, cost=USD, tags=[("customer", "hooli")])
    book.book(Booking(books))
    return book


ASK = ("invoice", "--customer", "globex", "--month", "2025-11", "--plan", "plans.yaml")


@pytest.mark.usefixtures("book")
def test_an_invoice_is_issued_once_and_the_same_ever_after(limiter: CommandLine, directory: Path) -> None:
    first = limiter.run(*ASK)
    assert first.err.startswith("issued INV-20")
    assert first.row("gpt-4o") == ["gpt-4o", "1", "10", "5", "12.00"]
    assert "Total 132.00 USD. Taxes are not included" in first.out
    again = limiter.run(*ASK)
    assert (again.out, again.err.endswith("was issued before; this is the same document\n")) == (first.out, True)
    (directory / "plans.yaml").write_text(PLAN.replace("20", "30"))
    frozen = limiter.run(*ASK)
    assert (frozen.out, "by another plan than the one given now: it is frozen" in frozen.err) == (first.out, True)
    for form in ("json", "csv", "html"):
        number = limiter.run("invoices", "list", "--format", "json").json[0]["number"]
        shown = limiter.run("invoices", "show", number, "--format", form)
        assert shown.out == limiter.run(*ASK, "--format", form).out


@pytest.mark.usefixtures("book")
def test_a_preview_issues_nothing(limiter: CommandLine) -> None:
    output = limiter.run(*ASK, "--preview", "--format", "json")
    assert (output.json["number"], output.json["total_usd"], output.err) == (None, "132.00", "")
    assert limiter.run("invoices", "list").out == "no invoice was issued\n"


def test_rows_that_may_still_come_are_spoken_of(limiter: CommandLine, books: Database) -> None:
    book = Ledger()
    book.row(at_ms=LAST_YEAR, cost=USD)
    book.book(Booking(books))
    output = limiter.run(*ASK)
    assert "the newest row in the books is of 2025-11-01 00:00:02Z, before the month's end" in output.err
    assert "rows may still be coming" in output.err


@pytest.mark.usefixtures("book")
def test_the_sums_of_report_and_invoice_agree(limiter: CommandLine) -> None:
    report = limiter.run("report", "--by", "customer,model", "--month", "2025-11", "--format", "json").json
    costs = [line["cost_nanousd"] for line in report["lines"] if "globex" in json.dumps(line)]
    lines = limiter.run(*ASK, "--format", "json").json["lines"]
    assert sorted(line["amount_nanousd"] for line in lines) == sorted(cost * 12 // 10 for cost in costs)


@pytest.mark.usefixtures("book")
def test_the_page_loads_nothing_runs_nothing_and_takes_names_as_text(limiter: CommandLine, directory: Path) -> None:
    limiter.run(*ASK, "--format", "html", "--output", "acme.html")
    page = (directory / "acme.html").read_text()

    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.seen: set[str] = set()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen |= {tag, *(name for name, _ in attrs)}

    reader = Tags()
    reader.feed(page)
    assert not reader.seen & {"script", "link", "img", "src", "href", "b", "us"}
    assert "&lt;b&gt;o3&lt;/b&gt;" in page
    assert "We &amp; Co &lt;us&gt;" in page
    assert "Globex Corporation" in page
    assert "@page" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.usefixtures("book")
def test_csv_has_a_line_for_each_line_and_the_total(limiter: CommandLine) -> None:
    rows = list(csv.DictReader(io.StringIO(limiter.run(*ASK, "--format", "csv").out)))
    assert [(row["kind"], row["about"], row["amount_usd"]) for row in rows] == [
        ("usage", "<b>o3</b>", "120.00"),
        ("usage", "gpt-4o", "12.00"),
        ("total", "Total", "132.00"),
    ]


def test_text_that_a_spreadsheet_would_run_is_defused(limiter: CommandLine, books: Database) -> None:
    book = Ledger()
    book.row(at_ms=LAST_YEAR, model="=HYPERLINK(1)")
    book.book(Booking(books))
    assert "'=HYPERLINK(1)" in limiter.run(*ASK, "--preview", "--format", "csv").out


def test_verify_finds_a_changed_row(limiter: CommandLine, book: Ledger, books: Database) -> None:
    limiter.run(*ASK)
    assert limiter.run("invoices", "verify").out == "1 of 1 invoices are as their rows say\n"
    with books.write() as connection:
        connection.execute(update(ledger).where(ledger.c.seq == book.made[0].seq).values(amount_nanousd=1))
    output = limiter.run("invoices", "verify", "--format", "json", exit_code=1)
    assert output.json["valid"] is False
    assert "made anew from its rows" in output.json["invoices"][0]["trouble"]
    assert "made anew from its rows" in limiter.run("invoices", "verify", exit_code=1).out


@pytest.mark.usefixtures("book")
@pytest.mark.parametrize(
    ("words", "exit_code", "message"),
    [
        (("--month", "2025-13"), 2, "--month: '2025-13' is not valid; write a year and a month"),
        (("--month", "2999-11"), 6, "2999-11 is not over before 2999-12-01 (UTC); use --preview"),
        (("--customer", "globx"), 5, "did you mean globex?"),
        (("--plan", "none.yaml"), 2, "--plan: 'none.yaml' is not valid; name a file that can be read"),
        (("--customer", "hooli"), 6, "there is nothing to bill to hooli for 2025-11"),
        (("--output", "acme.html"), 2, "add --format html, csv or json"),
        (("--output", "no/acme.csv", "--format", "csv"), 2, "name a file that can be written"),
    ],
)
def test_what_cannot_be_is_refused_and_said(
    limiter: CommandLine, words: tuple[str, ...], exit_code: int, message: str
) -> None:
    assert message in limiter.run(*ASK, *words, exit_code=exit_code).err


@pytest.mark.usefixtures("book")
@pytest.mark.parametrize("preview", [(), ("--preview",)])
def test_usage_that_the_plan_does_not_price_is_named_with_the_remedy(
    limiter: CommandLine, directory: Path, preview: tuple[str, ...]
) -> None:
    (directory / "plans.yaml").write_text(
        "version: 1\nterms: {prices: [{match: 'gpt*', input_per_million: 1, units: {searches: 1}}]}\n"
    )
    assert limiter.run(*ASK, *preview, exit_code=6).err.splitlines()[:-1] == [
        "limiter: prices: the plan does not say what globex pays for all that was used:",
        "  2025-11: no price matches <b>o3</b> (openai): 1 call, 10 input tokens, 5 output tokens",
        "  2025-11: gpt-4o (openai) has no price for 5 output tokens (1 call to the model)",
    ]
    assert "Price it in the plan; 0 makes it free" in limiter.run(*ASK, *preview, exit_code=6).err
    assert limiter.run("invoices", "list").out == "no invoice was issued\n"


@pytest.mark.usefixtures("book")
def test_an_invoice_is_of_one_organization_where_it_is_named(
    limiter: CommandLine, books: Database, directory: Path
) -> None:
    other = Ledger(shard=9)
    other.row(at_ms=LAST_YEAR, cost=USD, key="umbrella/t/k")
    other.book(Booking(books))
    preview = limiter.run(*ASK, "--preview")
    assert "the calls of organizations acme, umbrella are billed together; if globex is another" in preview.err
    for name, total in (("acme", "132.00"), ("umbrella", "1.20")):
        made = limiter.run(*ASK, "--organization", name)
        assert ("together" in made.err, f"Total {total} USD" in made.out) == (False, True)
        assert made.row("organization") == ["organization", name]
    listed = limiter.run("invoices", "list", "--organization", "umbrella", "--format", "json").json
    assert [(one["organization"], one["total_usd"]) for one in listed] == [("umbrella", "1.20")]
    assert "bills the calls to globex of organization acme alone" in limiter.run(*ASK, exit_code=6).err
    (directory / "plans.yaml").write_text(PLAN + "organization: acme\n")
    assert "the plan is of organization acme" in limiter.run(*ASK, "--organization", "umbrella", exit_code=2).err
    assert limiter.run("invoices", "verify").out == "2 of 2 invoices are as their rows say\n"


@pytest.mark.usefixtures("book")
def test_every_mistake_of_a_plan_is_told_with_its_file_and_path(limiter: CommandLine, directory: Path) -> None:
    (directory / "plans.yaml").write_text("version: 1\nterms: {markup: 5, minimum: 1.005}\nterms: {}\nlines: x\n")
    output = limiter.run(*ASK, exit_code=2)
    assert output.err.splitlines() == [
        "limiter: plans.yaml: terms: line 3: given twice, first in line 2; remove one",
        "plans.yaml: lines: 'x' is not valid; write model, or tag:NAME such as tag:feature",
        "plans.yaml: terms.minimum: 1.005 is not valid; write an amount of USD in whole cents, such as 49.90",
        "plans.yaml: terms.markup: unknown field; did you mean markup_percent?",
    ]
    (directory / "plans.yaml").write_text("version: [")
    assert "plans.yaml: line " in limiter.run(*ASK, exit_code=2).err


def test_without_books_nothing_is_made(limiter: CommandLine, directory: Path) -> None:
    limiter.run(*ASK, exit_code=6)
    assert not list(directory.iterdir())
