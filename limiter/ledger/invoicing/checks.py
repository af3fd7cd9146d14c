"""Holds issued invoices to the rows that they rest on: each is made anew and compared, byte for byte."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from sqlalchemy import select

from limiter.domain.errors import FailedPrecondition, NotFound
from limiter.ledger.database import Database
from limiter.ledger.invoicing.invoices import Invoice, document, of_customer
from limiter.ledger.invoicing.months import Month
from limiter.ledger.invoicing.papers import Head
from limiter.ledger.schema import invoices

_NUMBER = re.compile(r"(?P<series>.+-\d{4}-)(?P<count>\d+)", re.ASCII)


class Check(NamedTuple):
    """What was found of an invoice; `trouble` "": it is as the rows say."""

    number: str
    customer: str
    month: str
    trouble: str


def numbers(database: Database, wanted: list[str] | None = None) -> list[str]:
    """The numbers of the invoices to check, in their order: of those wanted, or of all. Raises NotFound."""
    with database.read() as connection:
        found = [number for (number,) in connection.execute(select(invoices.c.number))]
    for number in wanted or ():
        if number not in found:
            raise NotFound(f"invoice: there is no {number}; `limiter invoices list` lists them")
    return sorted(wanted or found)


def check(database: Database, number: str) -> Check:
    """Make an invoice anew from the rows up to its positions, its terms and those before it, and compare."""
    with database.read() as connection:
        row = connection.execute(select(invoices).where(invoices.c.number == number)).one()
        invoice = Invoice.of(row)
        trouble = ""
        if invoice.expected_checksum() != invoice.checksum:
            trouble = "its checksum is not that of what stands in the books: it was changed"
        else:
            chain = of_customer(connection, invoice.customer)
            place = next((i for i, one in enumerate(chain) if one.number == number), None)
            if place is None:
                trouble = f"it follows {invoice.paper['follows']}, which is not there"
            else:
                terms = invoice.terms
                head = Head(invoice.number, invoice.issued_ms, chain[place - 1].number if place else None)
                month = Month.parse(invoice.month, terms.timezone)
                try:
                    made = document(connection, terms, month, chain[:place], positions=invoice.rests_on, head=head)
                except FailedPrecondition as error:
                    made, trouble = "", str(error)
                if made and made != invoice.document:
                    trouble = "made anew from its rows, it says something else: rows or invoices before it were changed"
    return Check(invoice.number, invoice.customer, invoice.month, trouble)


def missing_numbers(found: list[str]) -> Iterator[str]:
    """Numbers that are not there though later ones of their series are: none is ever left out."""
    series: defaultdict[str, set[int]] = defaultdict(set)
    for number in found:
        if parts := _NUMBER.fullmatch(number):
            series[parts["series"]].add(int(parts["count"]))
    for name, counts in sorted(series.items()):
        yield from (f"{name}{count:06d}" for count in range(1, max(counts)) if count not in counts)
