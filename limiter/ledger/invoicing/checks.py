"""Holds issued invoices to the rows that they rest on: each is made anew and compared, byte for byte.

The rows of a month are read once, whatever number of invoices counts them: its own, and those that correct it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlalchemy import Connection, select

from limiter.domain.errors import FailedPrecondition, NotFound
from limiter.ledger.database import Database
from limiter.ledger.invoicing.accounts import Account, common
from limiter.ledger.invoicing.invoices import Invoice, accounts, chain, document
from limiter.ledger.invoicing.months import Month
from limiter.ledger.invoicing.papers import Head
from limiter.ledger.invoicing.usages import Question, usages
from limiter.ledger.schema import invoices

_NUMBER = re.compile(r"(?P<series>.+-\d{4}-)(?P<count>\d+)", re.ASCII)


class Check(NamedTuple):
    """What was found of an invoice; `trouble` "": it is as the rows say."""

    number: str
    customer: str
    month: str
    trouble: str


@dataclass(slots=True)
class _Anew:
    """An invoice that is made anew; without `counted` it cannot be, and `trouble` says why."""

    invoice: Invoice
    before: Sequence[Invoice] = ()
    counted: Sequence[Account] = field(default_factory=list)
    trouble: str = ""

    def check(self) -> Check:
        """Compare."""
        invoice, trouble = self.invoice, self.trouble
        if not trouble:
            head = Head(invoice.number, invoice.issued_ms, self.before[-1].number if self.before else None)
            try:
                if document(self.counted, self.before, head=head) != invoice.document:
                    trouble = "made anew from its rows, it says something else: rows or invoices before it were changed"
            except FailedPrecondition as error:
                trouble = str(error)
        return Check(invoice.number, invoice.customer, invoice.month, trouble)


#: A stretch of time and the tag that names customers: what is read in one go.
_Pass = tuple[int, int, str]


def check(
    database: Database,
    wanted: Iterable[str],
    *,
    watched: Callable[[Sequence[_Pass]], Iterable[_Pass]] = iter,
) -> list[Check]:
    """Make invoices anew from the rows up to their positions, their terms and those before them, and compare.

    `watched` is given the months to read and goes through them.
    """
    with database.read() as connection:
        found = _found(connection, frozenset(wanted))
    passes: defaultdict[_Pass, list[Account]] = defaultdict(list)
    for one in found:
        for account in one.counted:
            passes[account.month.since_ms, account.month.until_ms, account.terms.customer_tag].append(account)
    for key in watched(sorted(passes)):
        with database.read() as connection:
            _count(connection, key, passes.pop(key))
    return [one.check() for one in found]


def numbers(database: Database, wanted: list[str] | None = None) -> list[str]:
    """The numbers of the invoices to check, in their order: of those wanted, or of all. Raises NotFound."""
    with database.read() as connection:
        found = [number for (number,) in connection.execute(select(invoices.c.number))]
    for number in wanted or ():
        if number not in found:
            raise NotFound(f"invoice: there is no {number}; `limiter invoices list` lists them")
    return sorted(wanted or found)


def missing_numbers(found: list[str]) -> Iterator[str]:
    """Numbers that are not there though later ones of their series are: none is ever left out."""
    series: defaultdict[str, set[int]] = defaultdict(set)
    for number in found:
        if parts := _NUMBER.fullmatch(number):
            series[parts["series"]].add(int(parts["count"]))
    for name, counts in sorted(series.items()):
        yield from (f"{name}{count:06d}" for count in range(1, max(counts)) if count not in counts)


def _found(connection: Connection, wanted: frozenset[str]) -> list[_Anew]:
    """The invoices of these numbers, in the order of their numbers."""
    by_customer: defaultdict[tuple[str, str], list[Invoice]] = defaultdict(list)
    of = select(invoices.c.number, invoices.c.customer, invoices.c.organization)
    owners = {(customer, name) for number, customer, name in connection.execute(of) if number in wanted}
    for row in connection.execute(select(invoices).execution_options(yield_per=100)):
        if (row.customer, row.organization) in owners:
            by_customer[row.customer, row.organization].append(Invoice.of(row))
    found = [one for its in by_customer.values() for one in _anew(its, wanted)]
    return sorted(found, key=lambda one: one.invoice.number)


def _anew(its: Sequence[Invoice], wanted: frozenset[str]) -> Iterator[_Anew]:
    """Of the invoices of one customer those that are wanted."""
    chained = chain(its)
    places = {invoice.number: place for place, invoice in enumerate(chained)}
    for invoice in its:
        if invoice.number not in wanted:
            continue
        place = places.get(invoice.number)
        if invoice.expected_checksum() != invoice.checksum:
            yield _Anew(invoice, trouble="its checksum is not that of what stands in the books: it was changed")
        elif place is None:
            yield _Anew(invoice, trouble=f"it follows {invoice.paper['follows']}, which is not there")
        else:
            before, terms = chained[:place], invoice.terms
            month = Month.parse(invoice.month, terms.timezone)
            yield _Anew(invoice, before, accounts(terms, month, before, invoice.rests_on))


def _count(connection: Connection, key: _Pass, counted: Sequence[Account]) -> None:
    """Read the rows of a month for all accounts of it."""
    since_ms, until_ms, tag = key
    by_customer: defaultdict[str, list[Account]] = defaultdict(list)
    for account in counted:
        by_customer[account.terms.customer].append(account)
    only = (tag, next(iter(by_customer))) if len(by_customer) == 1 else None
    units = any(account.terms.prices for account in counted)
    for usage in usages(connection, Question(since_ms, until_ms, only, units=units, positions=common(counted))):
        for customer in set(usage.values_of(tag)) & by_customer.keys():
            for account in by_customer[customer]:
                account.add(usage)
