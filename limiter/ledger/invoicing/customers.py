"""Whether a customer is the one that is meant: a name may be misspelt, or be another organization's."""

from __future__ import annotations

import difflib
import json

from sqlalchemy import Connection, select

from limiter.domain.errors import FailedPrecondition, NotFound
from limiter.ledger.invoicing.plans import Terms
from limiter.ledger.invoicing.usages import tagged
from limiter.ledger.schema import texts


def refuse_namesake(number: str, then: Terms, now: Terms) -> None:
    """Raise FailedPrecondition if another organization's customer of this name has an invoice already."""
    if None not in (then.organization, now.organization) and then.organization != now.organization:
        raise FailedPrecondition(
            f"customer: {number} was issued to {now.customer} of organization {then.organization}; customers with"
            " invoices from the same books need names of their own"
        )


def refuse_stranger(connection: Connection, terms: Terms) -> None:
    """Raise NotFound if no call in the books names this customer: its name may be misspelt."""
    tag = terms.customer_tag
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
