"""An invoice's document as a page to print, and as lines of CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final
from unicodedata import normalize

from jinja2 import Environment, PackageLoader, StrictUndefined

_COUNTS: Final = (
    "calls",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
CSV_COLUMNS: Final = (
    *("number", "issued_on", "customer", "month", "kind", "about"),
    *_COUNTS,
    *("amount_usd", "currency"),
)
#: A spreadsheet takes a text that begins so for a formula.
_FORMULA: Final = frozenset("=+-@\t\r\n")


def page(document: Mapping[str, Any]) -> str:
    """The invoice as one HTML page: nothing is loaded from elsewhere, and no script runs."""
    environment = Environment(
        loader=PackageLoader("limiter.ledger.invoicing"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"amount": amount, "count": _count, "quantity": quantity}
    return environment.get_template("invoice.html.j2").render(document)


def lines_of_csv(document: Mapping[str, Any]) -> str:
    """The invoice's lines as CSV, and its total as the last."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    total = {"kind": "total", "about": "Total", "amount_usd": document["total_usd"]}
    for line in (*document["lines"], total):
        about = {"month": line.get("month", document["month"]), "number": document["number"] or "draft"}
        whole = {name: document[name] for name in ("issued_on", "customer", "currency")}
        writer.writerow([safe_cell({**whole, **line, **about}.get(name)) for name in CSV_COLUMNS])
    return target.getvalue()


def safe_cell(value: object) -> object:
    """A cell of CSV; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    if isinstance(value, str) and normalize("NFKC", value[:1]) in _FORMULA and not _is_number(value):
        return f"'{value}"
    return "" if value is None else value


def amount(text: str) -> str:
    """Write 1234.5 as 1,234.50, a real minus before it."""
    whole, _, decimals = text.removeprefix("-").partition(".")
    return f"{'−' if text.startswith('-') else ''}{int(whole):,}.{decimals.ljust(2, '0')}"


def quantity(part: Mapping[str, Any]) -> str:
    """Write a part of a line that has a price: 1,200 input tokens at 2.50 per million."""
    per = " per million" if part["per"] == 1_000_000 else ""
    return f"{part['count']:,} {part['unit'].replace('_', ' ')} at {amount(part['usd'])}{per}"


def _count(number: int) -> str:
    return f"{number:,}"


def _is_number(text: str) -> bool:
    try:
        return Decimal(text).is_finite()
    except ArithmeticError:
        return False
