"""Whether a customer is the one that is meant: a name may be misspelt, or be another organization's."""

from __future__ import annotations

import difflib
import json

from sqlalchemy import Connection, select

from limiter.domain.errors import FailedPrecondition, NotFound
from limiter.ledger.invoicing.plans import Terms
from limiter.ledger.invoicing.usages import tagged
from limiter.ledger.schema import invoices, texts
from limiter.ledger.texts import canonical


def refuse_overlap(connection: Connection, terms: Terms) -> None:
    """Raise FailedPrecondition if this customer has invoices of all organizations and this is of one, or the reverse.

    Both would bill the same calls.
    """
    overlaps = invoices.c.organization != "" if terms.organization is None else invoices.c.organization == ""
    found = select(invoices.c.number, invoices.c.organization).where(invoices.c.customer == terms.customer, overlaps)
    if (row := connection.execute(found.order_by(invoices.c.number)).first()) is None:
        return
    if terms.organization is None:
        then, remedy = f"of organization {row.organization} alone", "name one: --organization, or in the plan"
    else:
        then, remedy = "of all organizations", "leave it out, as then"
    raise FailedPrecondition(
        f"organization: {row.number} bills the calls to {terms.customer} {then}, and nothing is billed twice; {remedy}"
    )


def refuse_stranger(connection: Connection, terms: Terms) -> None:
    """Raise NotFound if no call names this customer, or none is of its organization: it may be misspelt."""
    tag, place = terms.customer_tag, canonical([terms.organization])[:-1] + ","
    if (
        terms.organization is not None
        and not connection.execute(
            select(texts.c.id).where(texts.c.text.startswith(place, autoescape=True)).limit(1)
        ).first()
    ):
        raise NotFound(f"organization: no call in the books is of organization {terms.organization}")
    if _names(connection, tag, terms.customer):
        return
    near = difflib.get_close_matches(terms.customer, sorted(_names(connection, tag, None)), n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise NotFound(f"customer: no call in the books has the tag {tag}:{terms.customer}{hint}")


def _names(connection: Connection, tag: str, value: str | None) -> set[str]:
    """The values of a tag that there are, of those looked for (None: all)."""
    like = texts.c.text.contains(f'["{tag}",', autoescape=True) if value is None else tagged(tag, value)
    found: set[str] = set()
    for (text,) in connection.execute(select(texts.c.text).where(like).execution_options(yield_per=1_000)):
        try:
            found |= {pair[1] for pair in json.loads(text) if pair[0] == tag and value in (None, pair[1])}
        except (ValueError, TypeError, IndexError, KeyError):
            continue  # not the text of tags
    return found
