"""`invoices …`: the issued ones."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.progress import track

from limiter.cli.books import with_books
from limiter.cli.failures import ExitCode
from limiter.cli.invoice import Form, FormOption, Target, hand_over
from limiter.cli.lazy import example
from limiter.cli.options import Output
from limiter.cli.output import Format, table, write, write_json
from limiter.ledger.database import Database
from limiter.ledger.invoicing.checks import Check, check, missing_numbers, numbers
from limiter.ledger.invoicing.invoices import Invoices
from limiter.ledger.invoicing.pages import amount

_Number: TypeAlias = Annotated[
    str, typer.Argument(metavar="NUMBER", help="Such as INV-2026-000001.", show_default=False)
]


@example("limiter invoices list", "limiter invoices list --customer acme --format json")
@with_books
def list_(
    *,
    customer: Annotated[str | None, typer.Option(metavar="NAME", help="Only this customer's.")] = None,
    organization: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those of this organization alone.")
    ] = None,
    month: Annotated[str | None, typer.Option(metavar="MONTH", help="Only of this month.")] = None,
    output: Output = Format.TABLE,
    books: Database,
) -> None:
    """List the issued invoices."""
    found = [one.paper for one in Invoices(books).all(customer=customer, organization=organization, month=month)]
    names = ("number", "issued_on", "customer", "organization", "month", "total_nanousd", "total_usd")
    if output is Format.JSON:
        write_json([{name: paper[name] for name in names} for paper in found])
    elif found:
        rows = [[*(paper[name] or "all" for name in names[:5]), amount(paper["total_usd"])] for paper in found]
        write(table(("number", "issued", "customer", "organization", "month", "total USD>"), rows))
    else:
        write("no invoice was issued")


@example("limiter invoices show INV-2026-000001", "limiter invoices show INV-2026-000001 --format html -o acme.html")
@with_books
def show(*, number: _Number, output: FormOption = Form.TABLE, target: Target = None, books: Database) -> None:
    """Show an issued invoice."""
    hand_over(Invoices(books).find(number).paper, output, target)


@example("limiter invoices verify", "limiter invoices verify INV-2026-000001 --format json")
@with_books
def verify(
    *,
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="NUMBER", help="None: all of them.", show_default=False)
    ] = None,
    output: Output = Format.TABLE,
    books: Database,
) -> None:
    """Make issued invoices anew from the rows, and compare.

    Each is made from the rows up to those that it rested on, by the plan stored with it, and must be the same to the
    byte; no number may be missing. Ends with exit code 1 if anything is wrong.
    """
    found = numbers(books, wanted)
    console = Console(stderr=True)
    watched = partial(track, description="months", console=console, transient=True) if console.is_terminal else iter

    checks = check(books, found, watched=watched)
    missing = [] if wanted else list(missing_numbers(found))
    wrong = [one for one in checks if one.trouble]
    if output is Format.JSON:
        write_json({"valid": not wrong and not missing, "invoices": list(map(_plain, checks)), "missing": missing})
    else:
        if wrong:
            write(table(("number", "customer", "month", "what is wrong"), wrong))
        for number in missing:
            write(f"{number} is missing: numbers have no gaps")
        write(f"{len(checks) - len(wrong)} of {len(checks)} invoices are as their rows say")
    if wrong or missing:
        raise typer.Exit(ExitCode.FAILED)


def _plain(one: Check) -> dict[str, Any]:
    return one._asdict() | {"trouble": one.trouble or None}
