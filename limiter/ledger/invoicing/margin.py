"""What customers cost, what they paid, and what is left: from the books and a file of revenue."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, NamedTuple

from limiter.domain.errors import InvalidArgument, LimiterError
from limiter.domain.money import parse_usd
from limiter.ledger.invoicing.months import Month
from limiter.ledger.invoicing.usages import Usage
from limiter.ledger.schema import COUNTS

_COLUMNS: Final = ("customer", "revenue", "month", "currency")
_CALLS: Final = COUNTS.index("calls")
#: So many mistakes of a file are told.
_MISTAKES_MAX: Final = 50


class RevenueInvalid(InvalidArgument):
    """A file of revenue that cannot be used. `mistakes` are all of them, each with its line."""

    def __init__(self, mistakes: Iterable[str], *, file: str = "") -> None:
        self.field, self.remedy = "revenue", "correct the mistakes listed"
        self.mistakes = tuple(mistakes)
        LimiterError.__init__(self, "\n".join(f"{file}: {one}" if file else one for one in self.mistakes))


class Revenue(NamedTuple):
    """A line of the file; `month` "": it names none."""

    customer: str
    nanousd: int
    month: str
    line: int


@dataclass(slots=True)
class Margin:
    """What somebody cost and paid, in nano-USD. `revenue_nanousd` None: no revenue is known."""

    calls: int = 0
    cost_nanousd: int = 0
    revenue_nanousd: int | None = None

    @property
    def nanousd(self) -> int:
        """What is left."""
        return (self.revenue_nanousd or 0) - self.cost_nanousd

    @property
    def percent(self) -> Decimal | None:
        """What is left in percent of the revenue, to two decimals; None: there is no revenue."""
        if not self.revenue_nanousd or self.revenue_nanousd < 0:
            return None
        return (Decimal(self.nanousd) * 100 / self.revenue_nanousd).quantize(Decimal("0.01"), ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class Margins:
    """Customers, the worst margin first; what calls cost that name no customer, or several; and all of it."""

    customers: tuple[tuple[str, Margin], ...]
    untagged: Margin
    several: Margin
    total: Margin


def margins(usages: Iterable[Usage], revenues: Iterable[Revenue], *, tag: str) -> Margins:
    """Bring cost and revenue together. Every call is counted once."""
    found: dict[str, Margin] = {}
    untagged, several, total = Margin(), Margin(), Margin()
    for usage in usages:
        names = set(usage.values_of(tag))
        place = several if len(names) > 1 else found.setdefault(names.pop(), Margin()) if names else untagged
        for one in (place, total):
            one.calls += usage.counts[_CALLS]
            one.cost_nanousd += usage.cost_nanousd
    for revenue in revenues:
        for one in (found.setdefault(revenue.customer, Margin()), total):
            one.revenue_nanousd = (one.revenue_nanousd or 0) + revenue.nanousd
    ordered = sorted(found.items(), key=lambda pair: (pair[1].nanousd, pair[0]))
    return Margins(tuple(ordered), untagged, several, total)


def read_revenue(text: str, *, file: str = "") -> list[Revenue]:
    """Read CSV with the columns customer and revenue (USD), and month and currency if they are there.

    Further columns are passed over. Raises RevenueInvalid with every mistake, by line.
    """
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    rows = csv.reader(io.StringIO("".join(lines), newline=""), delimiter=delimiter, strict=True)
    mistakes: list[str] = []
    found: list[Revenue] = []
    try:
        places: dict[str, int] = {}
        for row in rows:
            if not any(cell.strip() for cell in row):
                continue
            if not places:
                places = _places(row, file)
                continue
            cells = {name: row[i].strip() if i < len(row) else "" for name, i in places.items()}
            try:
                found.append(_revenue(cells, rows.line_num))
            except InvalidArgument as error:
                mistakes.append(f"line {rows.line_num}: {error}")
    except csv.Error as error:
        mistakes.append(f"line {rows.line_num}: not CSV: {error}")
    if not mistakes and not places:
        mistakes.append("line 1: the file is empty; its first line names the columns: customer,revenue")
    if mistakes:
        more = ["further mistakes are not listed: correct these first"] if len(mistakes) > _MISTAKES_MAX else []
        raise RevenueInvalid([*mistakes[:_MISTAKES_MAX], *more], file=file)
    return found


def within(revenues: Iterable[Revenue], since_ms: int, until_ms: int, timezone: str) -> Iterator[Revenue]:
    """Of what names a month, only months in that time; what names none counts.

    Raises RevenueInvalid for a month that is in it with a part only.
    """
    cut: list[str] = []
    for one in revenues:
        if one.month:
            month = Month.parse(one.month, timezone)
            if month.until_ms <= since_ms or month.since_ms >= until_ms:
                continue
            if month.since_ms < since_ms or month.until_ms > until_ms:
                cut.append(f"line {one.line}: {one.month} is only partly in the time asked for; ask for whole months")
        yield one
    if cut:
        raise RevenueInvalid(cut[:_MISTAKES_MAX])


def span(revenues: Iterable[Revenue], timezone: str) -> tuple[int, int] | None:
    """From the first to the last month, where every line names one; else None."""
    months = [one.month for one in revenues]
    if not months or not all(months):
        return None
    return Month.parse(min(months), timezone).since_ms, Month.parse(max(months), timezone).until_ms


def _places(header: list[str], file: str) -> dict[str, int]:
    names = [cell.strip().casefold() for cell in header]
    mistakes = [
        f"line 1: no column {name}; the first line names the columns: customer,revenue"
        for name in _COLUMNS[:2]
        if name not in names
    ]
    mistakes += [f"line 1: two columns are called {name}; keep one" for name in _COLUMNS if names.count(name) > 1]
    if mistakes:
        raise RevenueInvalid(mistakes, file=file)
    return {name: names.index(name) for name in _COLUMNS if name in names}


def _revenue(cells: Mapping[str, str], line: int) -> Revenue:
    if not cells["customer"]:
        raise InvalidArgument("customer", "", "write the value of the customer tag")
    if cells.get("currency", "").upper() not in ("", "USD"):
        raise InvalidArgument("currency", cells["currency"], "the books are in USD: convert it")
    if cells.get("month"):
        Month.parse(cells["month"], "UTC")
    return Revenue(cells["customer"], parse_usd(cells["revenue"], field="revenue"), cells.get("month", ""), line)
