"""`margin`: what customers cost, what they paid, and what is left."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from limiter.cli.arguments import read_file
from limiter.cli.books import with_books
from limiter.cli.failures import say
from limiter.cli.lazy import example
from limiter.cli.output import table, write, write_json
from limiter.domain.calls import TAG_NAME
from limiter.domain.errors import InvalidArgument
from limiter.domain.money import format_usd
from limiter.domain.windows import INSTANT_MAX
from limiter.domain.zones import zone
from limiter.ledger.database import Database
from limiter.ledger.invoicing.margin import Margin, Margins, Revenue, margins, read_revenue, span, within
from limiter.ledger.invoicing.months import Month, instant
from limiter.ledger.invoicing.pages import amount, safe_cell
from limiter.ledger.invoicing.usages import Question, usages
from limiter.ledger.periods import instant as read_instant


class Form(StrEnum):
    """How margins are written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


@example(
    "limiter margin --revenue revenue.csv --month 2026-11",
    "limiter margin --revenue revenue.csv --from 2026-10-01 --to 2027-01-01 --format csv",
)
@with_books
def margin(
    *,
    revenue: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            help="CSV with the columns customer and revenue (USD), and month if it has several; - is the standard "
            "input.",
            show_default=False,
        ),
    ],
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="TIME",
            help="A date or an ISO 8601 time, in the time zone.",
            show_default="the first month of the file, if every line names one",
        ),
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="Likewise; calls of that instant are left out.")
    ] = None,
    month: Annotated[str | None, typer.Option(metavar="YYYY-MM", help="A whole month.")] = None,
    timezone: Annotated[
        str, typer.Option(metavar="ZONE", help="Where days and months begin, such as Europe/Berlin.")
    ] = "UTC",
    tag: Annotated[str, typer.Option(metavar="NAME", help="The tag that names the customer.")] = "customer",
    output: Annotated[
        Form, typer.Option("--format", metavar="table|json|csv", help="For people, or for programs.")
    ] = Form.TABLE,
    books: Database,
) -> None:
    """Compare what customers cost with what they paid.

    The worst margin stands first. Customers without revenue and revenue without calls are shown, calls that name no
    customer have a line of their own, and the total counts every call once.
    """
    if TAG_NAME.fullmatch(tag) is None:
        raise InvalidArgument("--tag", tag, "write the name of a tag, such as customer")
    lines = read_revenue(read_file(revenue, option="--revenue"), file=str(revenue))
    since_ms, until_ms = _stretch(lines, start, end, month, timezone)
    counted = list(within(lines, since_ms, until_ms, timezone))
    if len(counted) < len(lines):
        say(f"{len(lines) - len(counted)} of {len(lines)} lines of revenue are of other months, and left out")
    with books.read() as connection:
        made = margins(usages(connection, Question(since_ms, until_ms)), counted, tag=tag)
    shown = _shown(since_ms, until_ms, timezone)
    if output is Form.JSON:
        customers = [{"customer": name, **_plain(one)} for name, one in made.customers]
        others = {"untagged": made.untagged, "several_customers": made.several, "total": made.total}
        plain = {name: _plain(one) for name, one in others.items()}
        write_json({"from": shown[0], "to": shown[1], "tag": tag, "customers": customers, **plain})
    elif output is Form.CSV:
        _write_csv(made)
    else:
        _show(made, shown)


def _stretch(
    lines: list[Revenue], start: str | None, end: str | None, month: str | None, timezone: str
) -> tuple[int, int]:
    place = zone(timezone)
    if month is not None:
        if start or end:
            raise InvalidArgument("--month", month, "give either --month, or --from and --to")
        asked = Month.parse(month, timezone, field="--month")
        return asked.since_ms, asked.until_ms
    first, last = 0, int(time.time() * 1000)
    if start is None and end is None:
        return span(lines, timezone) or (first, last)
    since_ms = first if start is None else read_instant(start, place, field="--from")
    until_ms = last if end is None else read_instant(end, place, field="--to")
    if since_ms >= until_ms:
        raise InvalidArgument("--to", end or "now", "write a time after --from")
    return since_ms, min(until_ms, INSTANT_MAX)


def _shown(since_ms: int, until_ms: int, timezone: str) -> tuple[str | None, str]:
    return instant(since_ms, timezone) if since_ms else None, instant(until_ms, timezone)


def _rows(made: Margins) -> Iterator[tuple[str, Margin, str]]:
    """Who, the figures, and what is to be said of them."""
    for name, one in made.customers:
        yield name, one, "no revenue" if one.revenue_nanousd is None else "" if one.calls else "no calls"
    if made.several.calls or made.several.cost_nanousd:
        yield "several customers", made.several, "calls that name more than one"
    if made.untagged.calls or made.untagged.cost_nanousd:
        yield "untagged", made.untagged, "calls that name no customer"
    yield "total", made.total, ""


def _show(made: Margins, shown: tuple[str | None, str]) -> None:
    rows = [
        [
            name,
            f"{one.calls:,}",
            amount(format_usd(one.cost_nanousd)),
            "—" if one.revenue_nanousd is None else amount(format_usd(one.revenue_nanousd)),
            amount(format_usd(one.nanousd)),
            "—" if one.percent is None else f"{amount(str(one.percent))} %",
            note,
        ]
        for name, one, note in _rows(made)
    ]
    titles = ("customer", "calls>", "cost USD>", "revenue USD>", "margin USD>", "margin>", "")
    write(f"From {shown[0] or 'the first call'} to {shown[1]}", "", table(titles, rows))


def _write_csv(made: Margins) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\r\n")
    writer.writerow(("customer", "calls", "cost_usd", "revenue_usd", "margin_usd", "margin_percent", "note"))
    for name, one, note in _rows(made):
        figures = _plain(one)
        cells = [figures[key] for key in ("calls", "cost_usd", "revenue_usd", "margin_usd", "margin_percent")]
        writer.writerow([safe_cell(name), *("" if cell is None else cell for cell in cells), note])


def _plain(one: Margin) -> dict[str, Any]:
    revenue, percent = one.revenue_nanousd, one.percent
    return {
        "calls": one.calls,
        "cost_nanousd": one.cost_nanousd,
        "cost_usd": format_usd(one.cost_nanousd),
        "revenue_nanousd": revenue,
        "revenue_usd": None if revenue is None else format_usd(revenue),
        "margin_nanousd": one.nanousd,
        "margin_usd": format_usd(one.nanousd),
        "margin_percent": None if percent is None else str(percent),
    }
