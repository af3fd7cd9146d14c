"""Checks books as a whole: that no row is missing, none was changed, and every sum is what the rows say.

It reads one state of the books, in one transaction, and keeps a bounded part of them in memory. Whoever can write to
the books can change rows, checksums and sums alike; then exported heads (.heads) tell, and the store.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, func, select

from limiter.ledger.database import Database
from limiter.ledger.invoicing.invoices import Invoice
from limiter.ledger.progress import Progress, advancing
from limiter.ledger.schema import books, invoices, ledger
from limiter.ledger.verifying.calls import check_calls
from limiter.ledger.verifying.compared import check_heads
from limiter.ledger.verifying.counters import Counted, check_counters
from limiter.ledger.verifying.findings import SHOWN, Findings
from limiter.ledger.verifying.heads import DayHeads, Head
from limiter.ledger.verifying.rows import check_rows
from limiter.ledger.verifying.sums import check_charges, check_hours, check_months, check_refusals
from limiter.ledger.verifying.texts import check_texts


def verify(
    database: Database,
    *,
    heads: Sequence[Head] | None = None,
    counted: Sequence[Counted] | None = None,
    now_ms: int,
    shown: int = SHOWN,
    progress: Progress | None = None,
) -> Findings:
    """Check the books; with `heads`, the days against them, with `counted`, the store's counters against the rows.

    Raises InvalidArgument for heads of other books, Unavailable if the books cannot be read.
    """
    findings = Findings(shown=shown)
    with database.read() as connection:
        identity = _check_identity(connection, findings)
        rows = int(connection.execute(select(func.count()).select_from(ledger)).scalar_one())
        days = None if heads is None else DayHeads()
        check_rows(connection, findings, heads=days, progress=advancing(progress, "rows", rows))
        if heads is not None and days is not None:
            check_heads(heads, days.heads(connection, now_ms=now_ms), findings, books=identity)
        check_calls(connection, findings)
        check_hours(connection, findings, advancing(progress, "sums", rows))
        check_months(connection, findings)
        check_charges(connection, findings)
        check_refusals(connection, findings)
        check_texts(connection, findings)
        _check_invoices(connection, findings)
        if counted is not None:
            check_counters(connection, findings, counted)
    return findings


def _check_identity(connection: Connection, findings: Findings) -> str:
    found = connection.execute(select(books.c.id)).scalars().all()
    if len(found) != 1:
        findings.fault("books", "the table `books`", "one row", f"{len(found)} rows")
    findings.look("books", len(found))
    return str(found[0]) if found else ""


def _check_invoices(connection: Connection, findings: Findings) -> None:
    findings.look("invoice")
    for row in connection.execute(select(invoices).order_by(invoices.c.number)):
        invoice = Invoice.of(row)
        expected = invoice.expected_checksum()
        if expected != invoice.checksum:
            findings.fault("invoice", f"invoice {invoice.number}", f"checksum {invoice.checksum.hex()}", expected.hex())
        findings.look("invoice", 1)
