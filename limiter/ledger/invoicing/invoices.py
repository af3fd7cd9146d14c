"""Invoices: what a customer's calls of a month cost by its terms, numbered without gaps and frozen once issued.

An invoice rests on the rows up to the positions that are stored with it, on its terms, and on the invoices of the
customer before it, to the last of which it points (`follows`): from these it can be made anew. What came into the books
for a month after its invoice stands as a correction on the customer's next one, once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select, text

from limiter.domain.errors import FailedPrecondition, NotFound, Unavailable
from limiter.domain.money import format_usd
from limiter.domain.rows import Position
from limiter.ledger.booking import read_positions
from limiter.ledger.database import Database
from limiter.ledger.invoicing.customers import refuse_namesake, refuse_stranger
from limiter.ledger.invoicing.lines import Bill, bill
from limiter.ledger.invoicing.months import Month, day_of, refuse_seam
from limiter.ledger.invoicing.papers import Correction, Head, paper
from limiter.ledger.invoicing.plans import Terms
from limiter.ledger.invoicing.usages import Question, Usage, usages
from limiter.ledger.schema import COUNTS, cursors, invoices
from limiter.ledger.texts import canonical

Positions = Mapping[int, Position]

#: One number at a time on a server: a number of ours for its advisory lock.
_LOCK: Final = 0x696E766F69636573
#: So often an invoice is made anew because another one of the same customer was issued meanwhile.
_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Invoice:
    """An issued invoice as the books keep it."""

    number: str
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
        parts = [self.number, self.customer, self.month, self.issued_ms, self.positions, self.plan, self.document]
        return blake2b(json.dumps(parts, ensure_ascii=False, separators=(",", ":")).encode(), digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class Draft:
    """What an invoice would say; `newest_ms` is when the newest row in the books was written, 0: there is none."""

    paper: dict[str, Any]
    positions: Positions
    newest_ms: int


@dataclass(frozen=True, slots=True)
class Issued:
    """An issued invoice: whether it was issued now, and whether the given terms are those that it was made by."""

    invoice: Invoice
    is_new: bool
    same_terms: bool
    newest_ms: int


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
        customers stand in the way; NotFound for a customer that no call names.
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
                if _last(of_customer(connection, terms.customer)) != draft.paper["follows"]:
                    continue  # another month of this customer was issued meanwhile, perhaps with these corrections
                made = _written(connection, terms, draft, now_ms)
            return Issued(made, is_new=True, same_terms=True, newest_ms=draft.newest_ms)
        raise Unavailable("invoice: others issue invoices to this customer at the same time; try again")

    def find(self, number: str) -> Invoice:
        """The invoice of a number; raises NotFound."""
        with self._database.read() as connection:
            row = connection.execute(select(invoices).where(invoices.c.number == number)).first()
        if row is None:
            raise NotFound(f"invoice: there is no {number}; `limiter invoices list` lists them")
        return Invoice.of(row)

    def all(self, *, customer: str | None = None, month: str | None = None) -> Iterator[Invoice]:
        """The issued invoices, in the order in which they were issued."""
        chosen = select(invoices).order_by(invoices.c.issued_ms, invoices.c.number)
        if customer is not None:
            chosen = chosen.where(invoices.c.customer == customer)
        if month is not None:
            chosen = chosen.where(invoices.c.month == month)
        with self._database.read() as connection:
            for row in connection.execute(chosen.execution_options(yield_per=100)):
                yield Invoice.of(row)


def of_customer(connection: Connection, customer: str) -> list[Invoice]:
    """All invoices of a customer, each after the one that it follows."""
    found = [Invoice.of(row) for row in connection.execute(select(invoices).where(invoices.c.customer == customer))]
    following = {invoice.paper["follows"]: invoice for invoice in found}
    chain: list[Invoice] = []
    while (invoice := following.pop(chain[-1].number if chain else None, None)) is not None:
        chain.append(invoice)
    return chain


def document(
    connection: Connection,
    terms: Terms,
    month: Month,
    before: Sequence[Invoice],
    *,
    positions: Positions | None,
    head: Head,
) -> str:
    """The document of an invoice, from rows up to `positions` (None: all) and the customer's invoices before it."""
    month_bill = _bill(connection, terms, month, positions)
    corrections = list(_corrections(connection, terms, before, positions))
    return canonical(paper(terms, month, month_bill, corrections, head=head))


def _draft(connection: Connection, terms: Terms, month: Month) -> Draft:
    before = of_customer(connection, terms.customer)
    for invoice in before:
        refuse_namesake(invoice.number, invoice.terms, terms)
        refuse_seam(invoice.number, Month.parse(invoice.month, invoice.terms.timezone), month)
    text_ = document(connection, terms, month, before, positions=None, head=Head(follows=_last(before)))
    found: dict[str, Any] = json.loads(text_)
    if not before and not any(line["kind"] == "usage" for line in found["lines"]):
        refuse_stranger(connection, terms)
    newest_ms = connection.execute(select(func.max(cursors.c.at_ms))).scalar_one() or 0
    return Draft(found, read_positions(connection), newest_ms)


def _written(connection: Connection, terms: Terms, draft: Draft, now_ms: int) -> Invoice:
    head = Head(number=_next_number(connection, terms, now_ms), issued_ms=now_ms, follows=draft.paper["follows"])
    positions = {str(shard): list(position) for shard, position in draft.positions.items()}
    unsigned = Invoice(
        number=head.number or "",
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


def _bill(connection: Connection, terms: Terms, month: Month, positions: Positions | None) -> Bill:
    question = Question(
        since_ms=month.since_ms,
        until_ms=month.until_ms,
        tag=(terms.customer_tag, terms.customer),
        organization=terms.organization,
        units=terms.priced_units,
        positions=positions,
    )
    return bill(terms, _own(terms, month, usages(connection, question)))


def _own(terms: Terms, month: Month, found: Iterator[Usage]) -> Iterator[Usage]:
    """Leave out what is billed to others: a call is billed once, whatever customers it names."""
    calls, cost, names = 0, 0, set[str]()
    for usage in found:
        customers = sorted(set(usage.values_of(terms.customer_tag)))
        if len(customers) > 1 and terms.several_customers == "refuse":
            calls, cost = calls + usage.counts[COUNTS.index("calls")], cost + usage.cost_nanousd
            names.update(customers)
        elif customers[0] == terms.customer:
            yield usage
    if names:
        shown = ", ".join(sorted(names)[:10])
        raise FailedPrecondition(
            f"invoice: {calls} calls of {month.name} ({format_usd(cost)} USD) name several customers: {shown}; nobody"
            " is billed twice. With several_customers: first in the plan, such a call is billed to the first of them in"
            " alphabetical order"
        )


def _corrections(
    connection: Connection, terms: Terms, before: Sequence[Invoice], positions: Positions | None
) -> Iterator[Correction]:
    """What the months invoiced so far come to now, by the terms of then, less what was invoiced for them."""
    billed: dict[str, int] = {}
    for invoice in before:
        made = invoice.paper
        billed[invoice.month] = billed.get(invoice.month, 0) + made["month_total_nanousd"]
        for line in made["lines"]:
            if line["kind"] == "correction":
                billed[line["month"]] = billed.get(line["month"], 0) + line["amount_nanousd"]
    for invoice in sorted(before, key=lambda one: one.month):
        then = invoice.terms.model_copy(update={"several_customers": terms.several_customers})
        now = _bill(connection, then, Month.parse(invoice.month, then.timezone), positions).total_nanousd
        if now != billed[invoice.month]:
            yield Correction(invoice.month, invoice.number, billed[invoice.month], now)


def _issued(connection: Connection, terms: Terms, month: Month) -> Invoice | None:
    same = invoices.c.customer == terms.customer, invoices.c.month == month.name
    row = connection.execute(select(invoices).where(*same)).first()
    return None if row is None else Invoice.of(row)


def _again(invoice: Invoice, terms: Terms) -> Issued:
    refuse_namesake(invoice.number, invoice.terms, terms)
    return Issued(invoice, is_new=False, same_terms=invoice.terms == terms, newest_ms=invoice.issued_ms)


def _last(chain: Sequence[Invoice]) -> str | None:
    return chain[-1].number if chain else None
