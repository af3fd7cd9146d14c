"""The document of an invoice: JSON values that say all that is printed. What the calls cost the seller is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from limiter.domain.money import format_usd
from limiter.ledger.invoicing.lines import Bill, Line, rounding_text
from limiter.ledger.invoicing.months import Month, day_of, instant
from limiter.ledger.invoicing.plans import Terms
from limiter.ledger.schema import COUNTS

TAXES: Final = "Taxes are not included; they are added where they are due."
_TOKENS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


class Correction(NamedTuple):
    """What a month comes to by now, and what was invoiced for it; `number` is the month's own invoice."""

    month: str
    number: str
    billed_nanousd: int
    now_nanousd: int


@dataclass(frozen=True, slots=True)
class Head:
    """What an invoice gets when it is issued. `follows` is the customer's invoice before it."""

    number: str | None = None
    issued_ms: int | None = None
    follows: str | None = None

    def facts(self, terms: Terms) -> dict[str, Any]:
        """As fields of the document."""
        return {
            "number": self.number,
            "follows": self.follows,
            "issued_at": None if self.issued_ms is None else instant(self.issued_ms),
            "issued_on": None if self.issued_ms is None else day_of(self.issued_ms, terms.timezone),
        }


def paper(terms: Terms, month: Month, bill: Bill, corrections: Sequence[Correction], *, head: Head) -> dict[str, Any]:
    """The document as JSON values."""
    lines = [_line(line, terms) for line in bill.lines] + [_correction(one) for one in corrections]
    total = bill.total_nanousd + sum(one.now_nanousd - one.billed_nanousd for one in corrections)
    return {
        "version": 1,
        **head.facts(terms),
        "customer": terms.customer,
        "customer_tag": terms.customer_tag,
        "organization": terms.organization,
        "month": month.name,
        "timezone": month.timezone,
        "from": instant(month.since_ms, month.timezone),
        "to": instant(month.until_ms, month.timezone),
        "seller": terms.seller,
        "buyer": terms.buyer,
        "currency": "USD",
        "lines_by": terms.lines,
        "lines": lines,
        **_amount("month_total", bill.total_nanousd),
        **_amount("total", total),
        "rounding": rounding_text(terms.rounding),
        "taxes": TAXES,
        "note": terms.note,
        **({"markup_percent": f"{terms.markup_percent or 0:f}"} if terms.show_cost else {}),
    }


def _line(line: Line, terms: Terms) -> dict[str, Any]:
    made: dict[str, Any] = {"kind": line.kind, "about": line.about}
    if line.counts:
        made |= {name: line.counts[COUNTS.index(name)] for name in ("calls", *_TOKENS)}
        made["units"] = {unit: count for unit, count in sorted(line.units.items()) if count}
        made["prices"] = [
            {"unit": unit, "count": count, "usd": f"{usd:f}", "per": per} for unit, count, usd, per in line.parts
        ]
        if terms.show_cost:
            made |= _amount("cost", line.cost_nanousd)
    return made | _amount("amount", line.amount_nanousd)


def _correction(one: Correction) -> dict[str, Any]:
    amount = one.now_nanousd - one.billed_nanousd
    word = "Credit" if amount < 0 else "Further charge"
    return {
        "kind": "correction",
        "about": f"{word} for {one.month}, invoice {one.number}: corrected after it was issued",
        "month": one.month,
        "invoice": one.number,
        **_amount("billed", one.billed_nanousd),
        **_amount("now", one.now_nanousd),
        **_amount("amount", amount),
    }


def _amount(name: str, nanousd: int) -> dict[str, Any]:
    return {f"{name}_nanousd": nanousd, f"{name}_usd": format_usd(nanousd)}
