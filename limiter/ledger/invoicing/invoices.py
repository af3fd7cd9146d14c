"""Invoices: what a customer's calls of a month cost by its terms, numbered without gaps and frozen once issued.

An invoice rests on the rows up to the positions that are stored with it, on its terms, and on the invoices of the
customer before it, to the last of which it points (`follows`): from these it can be made anew. What came into the books
for a month after its invoice stands as a correction on the customer's next one, once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select, text

from limiter.domain.errors import FailedPrecondition, NotFound, Unavailable
from limiter.domain.rows import Position
from limiter.ledger.booking import read_positions
from limiter.ledger.database import Database
from limiter.ledger.invoicing.accounts import Account, Positions
from limiter.ledger.invoicing.customers import refuse_overlap, refuse_stranger
from limiter.ledger.invoicing.months import Month, day_of, refuse_seam
from limiter.ledger.invoicing.papers import Correction, Head, paper
from limiter.ledger.invoicing.plans import Terms
from limiter.ledger.invoicing.prices import Unpriced, UsageUnpriced
from limiter.ledger.invoicing.usages import Question, usages
from limiter.ledger.schema import cursors, invoices
from limiter.ledger.texts import canonical

#: One number at a time on a server: a number of ours for its advisory lock.
_LOCK: Final = 0x696E766F69636573
#: So often an invoice is made anew because another one of the same customer was issued meanwhile.
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Invoice:
    """An issued invoice as the books keep it. `organization` "": it counts the calls of all."""

    number: str
    organization: str
    customer: str
    month: str
    issued_ms: int
    positions: str
    plan: str
    document: str
    checksum: bytes

    @classmethod
    def of(cls, row: Row[Any]) -> Invoice:
        """From a row of `invoices`."""
        return cls(**dict(row._mapping) | {"checksum": bytes(row.checksum)})  # noqa: SLF001 - a public name, by its docs

    @property
    def paper(self) -> dict[str, Any]:
        """The document."""
        found: dict[str, Any] = json.loads(self.document)
        return found

    @property
    def terms(self) -> Terms:
        """The terms that it was made by."""
        return Terms.from_json(self.plan)

    @property
    def rests_on(self) -> dict[int, Position]:
        """The last row of each shard that it counts."""
        return {int(shard): Position(*position) for shard, position in json.loads(self.positions).items()}

    def expected_checksum(self) -> bytes:
        """BLAKE2b, 16 bytes, of all before `checksum` as one compact JSON array."""
        facts = (self.number, self.organization, self.customer, self.month, self.issued_ms)
        parts = [*facts, self.positions, self.plan, self.document]
        return blake2b(json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Draft:
    """What an invoice would say; `newest_ms` is when the newest row in the books was written, 0: there is none.

    `organizations` are those whose calls are billed.
    """

    paper: dict[str, Any]
    positions: Positions
    newest_ms: int
    organizations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Issued:
    """An issued invoice: whether the given terms are those that it was made by, and its draft if it is new."""

    invoice: Invoice
    same_terms: bool
    draft: Draft | None


class Invoices:
    """The invoices in one set of books."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def preview(self, terms: Terms, month: Month) -> Draft:
        """What the invoice would say if it were issued now. Raises FailedPrecondition, and NotFound for a stranger."""
        with self._database.read() as connection:
            return _draft(connection, terms, month)

    def issue(self, terms: Terms, month: Month, *, now_ms: int) -> Issued:
        """Issue the invoice of a month, or return the one that was issued before, whatever the terms are now.

        Raises FailedPrecondition for a month that is not over, where nothing is to be billed, or where calls of several
        customers stand in the way; UsageUnpriced where the plan leaves usage without a price; NotFound for a
        customer that no call names.
        """
        for _ in range(_TRIES):
            with self._database.read() as connection:
                if (found := _issued(connection, terms, month)) is not None:
                    return _again(found, terms)
                if now_ms < month.until_ms:
                    ends = day_of(month.until_ms, month.timezone)
                    raise FailedPrecondition(
                        f"month: {month.name} is not over before {ends} ({month.timezone});"
                        " use --preview to see what the invoice would say"
                    )
                draft = _draft(connection, terms, month)
            if not draft.paper["lines"]:
                raise FailedPrecondition(f"invoice: there is nothing to bill to {terms.customer} for {month.name}")
            with self._database.write() as connection:
                if not self._database.is_sqlite:
                    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
                if (found := _issued(connection, terms, month)) is not None:
                    return _again(found, terms)
                refuse_overlap(connection, terms)
                if _last(of_customer(connection, terms.customer, terms.organization)) != draft.paper["follows"]:
                    continue  # another month of this customer was issued meanwhile, perhaps with these corrections
                made = _written(connection, terms, draft, now_ms)
            return Issued(made, same_terms=True, draft=draft)
        raise Unavailable("invoice: others issue invoices to this customer at the same time; try again")

    def find(self, number: str) -> Invoice:
        """The invoice of a number; raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(select(invoices).where(invoices.c.number == number)).first()
        if row is None:
            raise NotFound(f"invoice: there is no {number}; `limiter invoices list` lists them")
        return Invoice.of(row)

    def all(
        self, *, customer: str | None = None, organization: str | None = None, month: str | None = None
    ) -> Iterator[Invoice]:
        """The issued invoices, in the order in which they were issued."""
        wanted = {"customer": customer, "organization": organization, "month": month}
        chosen = select(invoices).order_by(invoices.c.issued_ms, invoices.c.number)
        chosen = chosen.where(*(invoices.c[name] == value for name, value in wanted.items() if value is not None))
        with self._database.read() as connection:
            for row in connection.execute(chosen.execution_options(yield_per=100)):
                yield Invoice.of(row)


def of_customer(connection: Connection, customer: str, organization: str | None) -> list[Invoice]:
    """All invoices of an organization's customer, each after the one that it follows."""
    same = invoices.c.customer == customer, invoices.c.organization == (organization or "")
    return chain(Invoice.of(row) for row in connection.execute(select(invoices).where(*same)))


def chain(found: Iterable[Invoice]) -> list[Invoice]:
    """Invoices of one customer, each after the one that it follows; without those that follow none of these."""
    following = {invoice.paper["follows"]: invoice for invoice in found}
    ordered: list[Invoice] = []
    while (invoice := following.pop(_last(ordered), None)) is not None:
        ordered.append(invoice)
    return ordered


def accounts(
    terms: Terms, month: Month, before: Sequence[Invoice], positions: Positions | None = None
) -> list[Account]:
    """What is to be counted for an invoice: each month invoiced before, by its terms; and, as the last, its own."""
    found = []
    for invoice in before:
        then = invoice.terms.model_copy(update={"several_customers": terms.several_customers})
        found.append(Account(then, Month.parse(invoice.month, then.timezone), positions))
    return [*found, Account(terms, month, positions)]


def document(counted: Sequence[Account], before: Sequence[Invoice], *, head: Head) -> str:
    """The document of an invoice, from what its accounts have counted and the customer's invoices before it."""
    bills = [one.bill(later.terms for later in counted[i + 1 :]) for i, one in enumerate(counted)]
    own = counted[-1]
    unpriced: dict[str, Sequence[Unpriced]] = {
        account.month.name: found.unpriced for account, found in zip(counted, bills, strict=True) if found.unpriced
    }
    if unpriced:
        raise UsageUnpriced(own.terms.customer, unpriced)
    corrections = list(_corrections(before, [found.total_nanousd for found in bills[:-1]]))
    return canonical(paper(own.terms, own.month, bills[-1], corrections, head=head))


def _draft(connection: Connection, terms: Terms, month: Month) -> Draft:
    refuse_overlap(connection, terms)
    before = of_customer(connection, terms.customer, terms.organization)
    for invoice in before:
        refuse_seam(invoice.number, Month.parse(invoice.month, invoice.terms.timezone), month)
    counted = accounts(terms, month, before)
    for account in counted:
        _count(connection, account)
    found: dict[str, Any] = json.loads(document(counted, before, head=Head(follows=_last(before))))
    if not before and not any(line["kind"] == "usage" for line in found["lines"]):
        refuse_stranger(connection, terms)
    newest_ms = connection.execute(select(func.max(cursors.c.at_ms))).scalar_one() or 0
    return Draft(found, read_positions(connection), newest_ms, tuple(sorted(counted[-1].organizations)))


def _written(connection: Connection, terms: Terms, draft: Draft, now_ms: int) -> Invoice:
    head = Head(number=_next_number(connection, terms, now_ms), issued_ms=now_ms, follows=draft.paper["follows"])
    positions = {str(shard): list(position) for shard, position in draft.positions.items()}
    unsigned = Invoice(
        number=head.number or "",
        organization=terms.organization or "",
        customer=terms.customer,
        month=draft.paper["month"],
        issued_ms=now_ms,
        positions=canonical(positions),
        plan=terms.to_json(),
        document=canonical(draft.paper | head.facts(terms)),
        checksum=b"",
    )
    names = [column.name for column in invoices.columns]
    values = {name: getattr(unsigned, name) for name in names} | {"checksum": unsigned.expected_checksum()}
    connection.execute(invoices.insert().values(values))
    return Invoice(**values)


def _next_number(connection: Connection, terms: Terms, now_ms: int) -> str:
    series = f"{terms.number_prefix}-{day_of(now_ms, terms.timezone)[:4]}-"
    rest = func.substr(invoices.c.number, len(series) + 1)
    last = connection.execute(
        select(rest)
        .where(func.substr(invoices.c.number, 1, len(series)) == series, ~rest.contains("-"))
        .order_by(func.length(rest).desc(), rest.desc())
        .limit(1)
    ).scalar_one_or_none()
    return f"{series}{int(last or 0) + 1:06d}"


def _count(connection: Connection, account: Account) -> None:
    terms, month = account.terms, account.month
    tag = (terms.customer_tag, terms.customer)
    for usage in usages(connection, Question(month.since_ms, month.until_ms, tag, units=bool(terms.prices))):
        account.add(usage)


def _corrections(before: Sequence[Invoice], now: Sequence[int]) -> Iterator[Correction]:
    """What the months invoiced so far come to now, by the terms of then, less what was invoiced for them."""
    billed: dict[str, int] = {}
    for invoice in before:
        made = invoice.paper
        billed[invoice.month] = billed.get(invoice.month, 0) + made["month_total_nanousd"]
        for line in made["lines"]:
            if line["kind"] == "correction":
                billed[line["month"]] = billed.get(line["month"], 0) + line["amount_nanousd"]
    for invoice, total in sorted(zip(before, now, strict=True), key=lambda pair: pair[0].month):
        if total != billed[invoice.month]:
            yield Correction(invoice.month, invoice.number, billed[invoice.month], total)


def _issued(connection: Connection, terms: Terms, month: Month) -> Invoice | None:
    own = invoices.c.customer == terms.customer, invoices.c.organization == (terms.organization or "")
    row = connection.execute(select(invoices).where(*own, invoices.c.month == month.name)).first()
    return None if row is None else Invoice.of(row)


def _again(invoice: Invoice, terms: Terms) -> Issued:
    return Issued(invoice, same_terms=invoice.terms == terms, draft=None)


def _last(ordered: Sequence[Invoice]) -> str | None:
    return ordered[-1].number if ordered else None
