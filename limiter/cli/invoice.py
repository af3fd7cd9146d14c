"""`invoice`: issue a customer's invoice of a month, or see what it would say."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from limiter.cli.arguments import read_file
from limiter.cli.books import with_books
from limiter.cli.failures import say
from limiter.cli.lazy import example
from limiter.cli.output import facts, table, write
from limiter.domain.errors import InvalidArgument
from limiter.ledger.database import Database
from limiter.ledger.invoicing.invoices import Draft, Invoices
from limiter.ledger.invoicing.months import Month
from limiter.ledger.invoicing.pages import amount, lines_of_csv, page
from limiter.ledger.invoicing.plans import Plans, read_plans
from limiter.policy.mistakes import PolicyInvalid
from limiter.policy.yaml_text import read_yaml


class Form(StrEnum):
    """How an invoice is written."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    HTML = "html"


FormOption: TypeAlias = Annotated[
    Form, typer.Option("--format", metavar="table|json|csv|html", help="For people, for programs, or to print.")
]
Target: TypeAlias = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write it.", show_default="the standard output"),
]


@example(
    "limiter invoice --customer acme --month 2026-11 --plan plans.yaml --preview",
    "limiter invoice --customer acme --month 2026-11 --plan plans.yaml --format html --output acme.html",
)
@with_books
def invoice(
    *,
    customer: Annotated[
        str, typer.Option(metavar="NAME", help="As the calls' tag names the customer.", show_default=False)
    ],
    month: Annotated[str, typer.Option(metavar="MONTH", help="Such as 2026-11.", show_default=False)],
    plan: Annotated[
        Path, typer.Option(metavar="FILE", help="The plans in YAML; - is the standard input.", show_default=False)
    ],
    organization: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose customer it is; only its calls count.", show_default="as in the plan"),
    ] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what the invoice would say now; nothing is issued.")
    ] = False,
    output: FormOption = Form.TABLE,
    target: Target = None,
    books: Database,
) -> None:
    """Issue a customer's invoice of a month, once and for ever.

    Issued again, it is the same document to the byte, whatever has changed since: rows that came later, and
    corrections, are lines of the customer's next invoice. A month that is not over has a preview only.
    """
    terms = plans(plan).for_customer(customer, organization)
    asked = Month.parse(month, terms.timezone, field="--month")
    if preview:
        draft = Invoices(books).preview(terms, asked)
        _warn(draft, asked)
        hand_over(draft.paper, output, target)
        return
    issued = Invoices(books).issue(terms, asked, now_ms=int(time.time() * 1000))
    if issued.draft is not None:
        _warn(issued.draft, asked)
        say(f"issued {issued.invoice.number}")
    elif issued.same_terms:
        say(f"{issued.invoice.number} was issued before; this is the same document")
    else:
        say(
            f"{issued.invoice.number} was issued before, by another plan than the one given now: it is frozen, and this"
            " is the document as it was issued"
        )
    hand_over(issued.invoice.paper, output, target)


def plans(file: Path) -> Plans:
    """Read a plans file; raises PlansInvalid with every mistake."""
    try:
        tree, mistakes = read_yaml(read_file(file, option="--plan"))
    except PolicyInvalid as error:
        tree, mistakes = {"version": 1}, list(error.mistakes)
    return read_plans(tree, file=str(file), mistakes=[str(mistake) for mistake in mistakes])


def hand_over(document: Mapping[str, Any], form: Form, target: Path | None) -> None:
    """Write a document in a form, to a file or to the standard output. The same document gives the same bytes."""
    if target is not None:
        _save(document, form, target)
    elif form is Form.TABLE:
        show(document)
    else:
        sys.stdout.write(_text(document, form))


def show(document: Mapping[str, Any]) -> None:
    """Print a document for people."""
    parties = [("from", document["seller"]), ("to", document["buyer"] or document["customer"])]
    write(
        facts(
            [
                ("invoice", document["number"] or "draft: it has no number, and may still change"),
                ("issued", document["issued_on"] or ""),
                *([("organization", document["organization"])] if document["organization"] else []),
                ("month", f"{document['month']} ({document['timezone']})"),
                *((name, ", ".join(text.splitlines())) for name, text in parties),
            ]
        ),
        "",
        table(_titles(document), [_cells(line, document) for line in document["lines"]]),
        "",
        f"Total {amount(document['total_usd'])} {document['currency']}. {document['taxes']}",
        document["rounding"],
        *([document["note"]] if document["note"] else []),
    )


def _titles(document: Mapping[str, Any]) -> list[str]:
    by = document["lines_by"].removeprefix("tag:")
    cost = ["cost USD>"] if "markup_percent" in document else []
    return [by, "calls>", "input tokens>", "output tokens>", *cost, "amount USD>"]


def _cells(line: Mapping[str, Any], document: Mapping[str, Any]) -> list[str]:
    counts = [f"{line[name]:,}" if name in line else "" for name in ("calls", "input_tokens", "output_tokens")]
    cost = [amount(line["cost_usd"]) if "cost_usd" in line else ""] if "markup_percent" in document else []
    return [line["about"], *counts, *cost, amount(line["amount_usd"])]


def _text(document: Mapping[str, Any], form: Form) -> str:
    if form is Form.JSON:
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    return lines_of_csv(document) if form is Form.CSV else page(document)


def _save(document: Mapping[str, Any], form: Form, target: Path) -> None:
    if form is Form.TABLE:
        raise InvalidArgument("--output", str(target), "it takes a document: add --format html, csv or json")
    try:
        target.write_text(_text(document, form), encoding="utf-8", newline="")
    except OSError as error:
        raise InvalidArgument("--output", str(target), f"name a file that can be written ({error.strerror})") from None


def _warn(draft: Draft, month: Month) -> None:
    """Say so where rows of the month may not be in the books yet, and where customers may be two of one name."""
    if len(draft.organizations) > 1:
        say(
            f"the calls of organizations {', '.join(draft.organizations)} are billed together; if"
            f" {draft.paper['customer']} is another customer in each, name one with --organization"
        )
    if not draft.newest_ms:
        say("the books have no rows yet; rows may still be coming")
    elif draft.newest_ms < month.until_ms:
        newest = datetime.fromtimestamp(draft.newest_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        say(f"the newest row in the books is of {newest}, before the month's end: rows may still be coming")
