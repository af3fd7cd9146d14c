"""What customers cost beside what they paid: every call once, and nobody left out."""

from __future__ import annotations

from decimal import Decimal

import pytest

from limiter.ledger.booking import Booking
from limiter.ledger.database import Database
from limiter.ledger.invoicing.margin import Margins, RevenueInvalid, margins, read_revenue, span, within
from limiter.ledger.invoicing.months import Month
from limiter.ledger.invoicing.usages import Question, usages
from tests.ledger.rows import DAY, NOVEMBER, Ledger

USD = 1_000_000_000


def compared(database: Database, revenue: str) -> Margins:
    with database.read() as connection:
        found = usages(connection, Question(NOVEMBER, NOVEMBER + 30 * DAY))
        return margins(found, read_revenue(revenue), tag="customer")


def test_the_worst_margin_stands_first_and_the_total_counts_all_once(database: Database, booking: Booking) -> None:
    book = Ledger()
    for customer, cost in (("good", 10), ("bad", 50), ("bad", 1), ("free", 5)):
        book.row(cost=cost * USD, tags=[("customer", customer), ("feature", "x")])
    book.row(cost=3 * USD, tags=[("customer", "good"), ("customer", "bad")])
    book.row(cost=2 * USD, tags=[("feature", "x")])
    book.row(cost=99 * USD, tags=[("customer", "good")], at_ms=NOVEMBER + 30 * DAY)
    book.book(booking)
    made = compared(database, "customer,revenue\ngood,30\nbad,40\ngood,10.50\nnew,7\n")
    assert [(name, one.nanousd / USD, one.percent) for name, one in made.customers] == [
        ("bad", -11, Decimal("-27.50")),
        ("free", -5, None),
        ("new", 7, Decimal("100.00")),
        ("good", 30.5, Decimal("75.31")),
    ]
    assert (made.untagged.cost_nanousd, made.several.cost_nanousd) == (2 * USD, 3 * USD)
    assert (made.total.calls, made.total.cost_nanousd, made.total.revenue_nanousd) == (6, 71 * USD, 87_500_000_000)
    assert dict(made.customers)["free"].revenue_nanousd is None
    everybody = [one for _, one in made.customers] + [made.untagged, made.several]
    assert sum(one.nanousd for one in everybody) == made.total.nanousd


@pytest.mark.parametrize(
    "text",
    [
        "customer,revenue\nacme,1.5\n",
        "\ufeffRevenue;CUSTOMER;x\r\n1.5;acme;5\r\n\r\n",
        '\nCustomer\tRevenue\tCurrency\n"acme"\t1.50\tusd\n',
        "customer,revenue,month,currency\nacme,1.5,,\n",
    ],
)
def test_revenue_is_read_whatever_writes_csv_that_way(text: str) -> None:
    assert [(one.customer, one.nanousd) for one in read_revenue(text)] == [("acme", 1_500_000_000)]


def test_every_mistake_of_the_file_is_told_with_its_line() -> None:
    text = 'customer,revenue,month,currency\nacme,x,,\n,5,,\n"a\nb",5,2026-13,\nacme,1,,EUR\nacme\nacme,"1,5",,\n'
    with pytest.raises(RevenueInvalid) as caught:
        read_revenue(text, file="r.csv")
    assert str(caught.value).splitlines() == [
        "r.csv: line 2: revenue: 'x' is not valid; write a decimal number of USD, such as 12.50",
        "r.csv: line 3: customer: '' is not valid; write the value of the customer tag",
        "r.csv: line 5: month: '2026-13' is not valid; write a year and a month, such as 2026-11",
        "r.csv: line 6: currency: 'EUR' is not valid; the books are in USD: convert it",
        "r.csv: line 7: revenue: '' is not valid; write a decimal number of USD, such as 12.50",
        "r.csv: line 8: revenue: '1,5' is not valid; write a decimal number of USD, such as 12.50",
    ]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "line 1: the file is empty"),
        ("customer,amount\n", "line 1: no column revenue; the first line names the columns: customer,revenue"),
        ("customer,revenue,Customer\n", "line 1: two columns are called customer; keep one"),
        ('customer,revenue\nacme,"5\n', "line 2: not CSV"),
    ],
)
def test_what_is_no_table_of_revenue_is_refused(text: str, mistake: str) -> None:
    with pytest.raises(RevenueInvalid, match=mistake):
        read_revenue(text)


def test_only_whole_months_in_the_time_asked_for_count() -> None:
    lines = read_revenue("customer,revenue,month\na,1,2026-10\na,2,2026-11\na,4,2026-12\n")
    november = Month.parse("2026-11", "UTC")
    found = list(within(lines, november.since_ms, november.until_ms, "UTC"))
    assert [one.nanousd for one in found] == [2 * USD]
    with pytest.raises(RevenueInvalid, match="line 3: 2026-11 is only partly in the time asked for"):
        list(within(lines, november.since_ms, november.until_ms - 1, "UTC"))
    assert span(lines, "UTC") == (Month.parse("2026-10", "UTC").since_ms, Month.parse("2026-12", "UTC").until_ms)
    assert span(read_revenue("customer,revenue,month\na,1,2026-10\na,2,\n"), "UTC") is None
