"""Invoices: from the rows, numbered without gaps, frozen, and corrected on the next one only."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, delete, text, update

from limiter.domain.errors import FailedPrecondition, NotFound
from limiter.domain.reservations import Basis, State
from limiter.domain.rows import RowKind
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database
from limiter.ledger.invoicing.checks import check, missing_numbers, numbers
from limiter.ledger.invoicing.invoices import Invoices, Issued
from limiter.ledger.invoicing.months import Month
from limiter.ledger.invoicing.plans import Terms, read_plans
from limiter.ledger.invoicing.prices import UsageUnpriced
from limiter.ledger.invoicing.usages import Question, Usage, usages
from limiter.ledger.schema import invoices, ledger
from tests.ledger.invoice_oracle import Call, total
from tests.ledger.rows import DAY, HOUR, NOVEMBER, Ledger

USD = 1_000_000_000
DECEMBER = NOVEMBER + 30 * DAY
JANUARY = DECEMBER + 31 * DAY
SOME = "0123456789abcdef0123456789abcdef"


def terms_of(customer: str = "globex", **plan: Any) -> Terms:  # noqa: ANN401 - as a plans file has it
    return read_plans({"version": 1, **plan}).for_customer(customer)


def month_of(name: str, timezone: str = "UTC") -> Month:
    return Month.parse(name, timezone)


class Desk:
    """Issues invoices of the books of a test; time is after all of it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.invoices = Invoices(database)

    def issue(self, terms: Terms, month: str = "2026-11", *, now_ms: int = JANUARY + 31 * DAY) -> Issued:
        return self.invoices.issue(terms, month_of(month, terms.timezone), now_ms=now_ms)

    def preview(self, terms: Terms, month: str = "2026-11") -> dict[str, Any]:
        return self.invoices.preview(terms, month_of(month, terms.timezone)).paper

    def troubles(self) -> list[str]:
        return [one.trouble for one in check(self.database, numbers(self.database)) if one.trouble]


@pytest.fixture
def desk(database: Database) -> Desk:
    return Desk(database)


@pytest.fixture
def book() -> Ledger:
    return Ledger()


def lines(paper: dict[str, Any], kind: str = "usage") -> list[tuple[str, str]]:
    return [(line["about"], line["amount_usd"]) for line in paper["lines"] if line["kind"] == kind]


def test_an_invoice_is_cost_plus_markup_by_model(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row(cost=10 * USD)
    book.row(cost=5 * USD, model="o3", at_ms=DECEMBER - 1)
    book.row(cost=7 * USD, at_ms=DECEMBER)
    book.row(cost=7 * USD, at_ms=NOVEMBER - 1)
    book.row(cost=7 * USD, tags=[("customer", "Globex")])
    book.row(cost=7 * USD, tags=())
    book.book(booking)
    paper = desk.issue(terms_of(terms={"markup_percent": 10})).invoice.paper
    assert lines(paper) == [("gpt-4o", "11.00"), ("o3", "5.50")]
    assert (paper["number"], paper["total_usd"], paper["issued_on"]) == ("INV-2027-000001", "16.50", "2027-02-01")
    assert paper["lines"][0]["calls"] == 1
    assert "Taxes are not included" in paper["taxes"]
    assert "cost" not in desk.invoices.find("INV-2027-000001").document


def test_issuing_again_gives_the_same_bytes_whatever_has_changed(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row(cost=10 * USD)
    book.book(booking)
    first = desk.issue(terms_of())
    book.row(cost=USD)
    book.book(booking)
    again = desk.issue(terms_of(), now_ms=JANUARY + 300 * DAY)
    dearer = desk.issue(terms_of(terms={"markup_percent": 50}))
    assert again.invoice == dearer.invoice == first.invoice
    assert (first.draft is not None, again.draft is not None, again.same_terms, dearer.same_terms) == (
        True,
        False,
        True,
        False,
    )
    assert not desk.troubles()


@pytest.mark.parametrize(("then", "now"), [("UTC", "Europe/Berlin"), ("Europe/Berlin", "UTC")])
def test_a_plan_whose_time_zone_changes_bills_no_hour_between_two_months_twice_or_never(
    desk: Desk, book: Ledger, booking: Booking, then: str, now: str
) -> None:
    for at_ms in (NOVEMBER, DECEMBER - HOUR, DECEMBER):
        book.row(at_ms=at_ms, cost=USD)
    book.book(booking)
    desk.issue(terms_of(timezone=then), "2026-11")
    with pytest.raises(FailedPrecondition, match=f"twice|never.* Issue 2026-12 in {then}, too"):
        desk.issue(terms_of(timezone=now), "2026-12")
    desk.issue(terms_of(timezone=then), "2026-12")
    assert sum(desk.invoices.find(number).paper["lines"][0]["calls"] for number in numbers(desk.database)) == 3


def test_numbers_count_by_prefix_and_year_of_issue(desk: Desk, book: Ledger, booking: Booking) -> None:
    for at_ms in (NOVEMBER, DECEMBER, JANUARY):
        book.row(at_ms=at_ms, cost=USD)
    book.book(booking)
    made = [
        desk.issue(terms_of(), "2026-11", now_ms=DECEMBER),
        desk.issue(terms_of(), "2026-12", now_ms=JANUARY),
        desk.issue(terms_of(number_prefix="INV-2027"), "2027-01"),
    ]
    other = Ledger(shard=8)
    other.row(tags=[("customer", "hooli")], cost=USD)
    other.book(booking)
    made.append(desk.issue(terms_of("hooli"), now_ms=JANUARY))
    assert [one.invoice.number for one in made] == [
        "INV-2026-000001", "INV-2027-000001", "INV-2027-2027-000001", "INV-2027-000002",
    ]  # fmt: skip
    assert not list(missing_numbers(numbers(desk.database)))
    assert list(missing_numbers(["A-2026-000003", "A-2026-000001", "B-2026-000001"])) == ["A-2026-000002"]


def test_a_month_that_is_not_over_has_a_preview_only(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row(cost=10 * USD)
    book.book(booking)
    with pytest.raises(FailedPrecondition, match=r"2026-11 is not over before 2026-12-01 \(UTC\); use --preview"):
        desk.issue(terms_of(), now_ms=DECEMBER - 1)
    assert (desk.preview(terms_of())["number"], desk.preview(terms_of())["total_usd"]) == (None, "10.00")
    assert not list(desk.invoices.all())


def test_what_came_after_the_invoice_is_on_the_next_one_once(desk: Desk, book: Ledger, booking: Booking) -> None:
    terms = terms_of(terms={"markup_percent": 10})
    book.row(cost=10 * USD, reservation=SOME)
    book.book(booking)
    desk.issue(terms)
    late = {"kind": RowKind.CORRECTION, "reservation": SOME}
    book.row(**late, cost=4 * USD, amount=-6 * USD)  # type: ignore[arg-type]
    book.row(cost=20 * USD, at_ms=DECEMBER)
    book.book(booking)
    december = desk.issue(terms, "2026-12").invoice
    assert lines(december.paper, "correction") == [
        ("Credit for 2026-11, invoice INV-2027-000001: corrected after it was issued", "-6.60")
    ]
    assert (december.paper["month_total_usd"], december.paper["total_usd"]) == ("22.00", "15.40")
    book.row(cost=USD, at_ms=JANUARY)
    book.row(cost=USD, at_ms=DECEMBER)
    book.book(booking)
    january = desk.issue(terms, "2027-01").invoice.paper
    assert lines(january, "correction") == [
        ("Further charge for 2026-12, invoice INV-2027-000002: corrected after it was issued", "1.10")
    ]
    assert not desk.troubles()


def test_corrections_go_by_the_terms_of_their_month(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row(cost=10 * USD)
    book.book(booking)
    desk.issue(terms_of(terms={"markup_percent": 10, "minimum": 100}))
    book.row(cost=10 * USD)
    book.row(cost=10 * USD, at_ms=DECEMBER)
    book.book(booking)
    assert lines(desk.preview(terms_of(), "2026-12"), "correction") == []  # still below the minimum
    book.row(cost=80 * USD)
    book.book(booking)
    assert [usd for _, usd in lines(desk.preview(terms_of(), "2026-12"), "correction")] == ["10.00"]


def test_a_call_that_names_two_customers_is_billed_once_or_not_at_all(
    desk: Desk, book: Ledger, booking: Booking
) -> None:
    book.row(cost=3 * USD, tags=[("customer", "hooli"), ("customer", "globex")])
    book.row(cost=USD, tags=[("customer", "globex"), ("customer", "globex")])
    book.row(cost=USD, tags=[("customer", "hooli")])
    book.book(booking)
    for customer in ("globex", "hooli"):
        with pytest.raises(
            FailedPrecondition, match=r"1 calls of 2026-11 \(3.00 USD\) name several customers: globex, h"
        ):
            desk.issue(terms_of(customer))
    totals = [desk.issue(terms_of(name, several_customers="first")).invoice.paper for name in ("globex", "hooli")]
    assert [paper["total_usd"] for paper in totals] == ["4.00", "1.00"]
    assert not desk.troubles()


def test_months_begin_at_the_midnight_of_their_zone(desk: Desk, book: Ledger, booking: Booking) -> None:
    kolkata = terms_of(timezone="Asia/Kolkata")  # half an hour beside the hours of UTC
    midnight = NOVEMBER - 5 * HOUR - HOUR // 2
    for at_ms, cost in ((midnight - 1, 1), (midnight, 2), (NOVEMBER, 4), (midnight + 30 * DAY - 1, 8)):
        book.row(at_ms=at_ms, cost=cost * USD)
    book.row(at_ms=midnight + 30 * DAY, cost=16 * USD)
    book.book(booking)
    assert desk.issue(kolkata).invoice.paper["total_usd"] == "14.00"
    assert not desk.troubles()


def test_customers_of_two_organizations_may_have_one_name(desk: Desk, book: Ledger, booking: Booking) -> None:
    other = Ledger(shard=9)
    for at_ms in (NOVEMBER, DECEMBER):
        book.row(at_ms=at_ms, cost=3 * USD)
        other.row(at_ms=at_ms, cost=USD, key="umbrella/t/k")
    book.book(booking)
    other.book(booking)
    names = ("acme", "umbrella")
    november = [desk.issue(terms_of(organization=name)).invoice for name in names]
    book.row(cost=5 * USD)
    book.book(booking)
    december = [desk.issue(terms_of(organization=name), "2026-12").invoice for name in reversed(names)]
    assert [one.paper["total_usd"] for one in november] == ["3.00", "1.00"]
    assert [lines(one.paper, "correction")[:1] for one in december] == [
        [],
        [("Further charge for 2026-11, invoice INV-2027-000001: corrected after it was issued", "5.00")],
    ]
    assert numbers(desk.database) == [f"INV-2027-00000{count}" for count in range(1, 5)]
    assert desk.issue(terms_of(organization="umbrella")).invoice == november[1]
    assert [one.number for one in desk.invoices.all(organization="acme")] == ["INV-2027-000001", "INV-2027-000004"]
    assert not desk.troubles()


def test_one_organization_and_all_of_them_never_bill_the_same_calls(desk: Desk, book: Ledger, booking: Booking) -> None:
    for customer in ("globex", "hooli"):
        book.row(cost=3 * USD, tags=[("customer", customer)])
    book.book(booking)
    desk.issue(terms_of(organization="acme"))
    with pytest.raises(FailedPrecondition, match=r"1 bills the calls to globex of organization acme alone.*name one"):
        desk.issue(terms_of())
    desk.issue(terms_of("hooli"))
    with pytest.raises(FailedPrecondition, match=r"2 bills the calls to hooli of all organizations.*leave it out"):
        desk.preview(terms_of("hooli", organization="acme"))


def test_an_organization_that_no_call_is_of_is_not_found(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row()
    book.book(booking)
    with pytest.raises(NotFound, match="no call in the books is of organization acne"):
        desk.preview(terms_of(organization="acne", terms={"minimum": 5}))


PRICES: dict[str, Any] = {"match": "gpt-*", "input_per_million": 100_000}


def test_usage_without_a_price_is_not_billed_as_free_but_named(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row(cost=USD)
    book.row(cost=USD, usage={"input_tokens": 10, "cache_read_tokens": 4, "input_audio_tokens": 3, "searches": 2})
    book.row(cost=USD, model="o3")
    book.row(cost=USD, model="o3", tags=[("customer", "hooli")])
    book.row(cost=USD, model="o3", tags=[("customer", "globex"), ("feature", "x")])
    book.row(cost=0, model="idle", state=State.RELEASED, usage={"input_tokens": 0})
    book.book(booking)
    terms = terms_of(terms={"prices": [PRICES]}, lines="tag:feature")
    for refuse in (desk.issue, desk.preview):
        with pytest.raises(UsageUnpriced) as caught:
            refuse(terms)
    (found,) = caught.value.unpriced.values()
    assert [(one.model, one.calls, dict(one.units), one.whole) for one in found] == [
        ("gpt-4o", 2, {"output_tokens": 5, "searches": 2}, False),
        ("o3", 2, {"input_tokens": 20, "output_tokens": 10}, True),
    ]
    message = str(caught.value)
    assert "2026-11: gpt-4o (openai) has no price for 5 output tokens, 2 searches (2 calls to the model)" in message
    assert "2026-11: no price matches o3 (openai): 2 calls, 20 input tokens, 10 output tokens" in message
    assert "Price it in the plan; 0 makes it free" in message
    assert not list(desk.invoices.all())


@pytest.mark.parametrize(
    ("rest", "price", "total"),
    [
        ({"match": "o3", "per_call": 0}, {"output_per_million": 0, "units": {"searches": 0}}, "2.00"),
        ({"match": "o*", "per_call": 7}, {"output_per_million": 0, "units": {"searches": "0.5"}}, "10.00"),
        (None, {"output_per_million": 200_000, "units": {"searches": 1}}, "6.50"),
    ],
)
def test_what_the_plan_names_free_flat_or_by_markup_has_a_price(
    database: Database, booking: Booking, rest: dict[str, Any] | None, price: dict[str, Any], total: str
) -> None:
    desk, book = Desk(database), Ledger()
    book.row(cost=USD)
    book.row(cost=USD, usage={"input_tokens": 10, "searches": 2})
    book.row(cost=USD, model="o3")
    book.book(booking)
    prices = [PRICES | price, *([] if rest is None else [rest])]
    terms = terms_of(terms={"prices": prices, **({"markup_percent": 50} if rest is None else {})})
    assert desk.issue(terms).invoice.paper["total_usd"] == total
    assert not desk.troubles()


def test_what_a_frozen_plan_leaves_without_a_price_is_priced_by_the_next_one_for_good(
    desk: Desk, book: Ledger, booking: Booking
) -> None:
    full = {**PRICES, "output_per_million": 0}
    for at_ms in (NOVEMBER, DECEMBER, JANUARY):
        book.row(at_ms=at_ms, cost=USD, usage={"input_tokens": 10})
    book.book(booking)
    desk.issue(terms_of(terms={"prices": [PRICES]}))
    book.row(cost=USD, usage={"input_tokens": 10, "output_tokens": 10, "searches": 1})
    book.row(cost=USD, model="o3")
    book.book(booking)
    with pytest.raises(UsageUnpriced, match="2026-11: no price matches o3"):
        desk.issue(terms_of(terms={"prices": [full]}), "2026-12")
    prices = [{**full, "input_per_million": 5, "units": {"searches": 3}}, {"match": "o3", "per_call": 4}]
    december = desk.issue(terms_of(terms={"prices": prices}), "2026-12").invoice.paper
    assert [usd for _, usd in lines(december, "correction")] == ["8.00"]
    dearer = [{**full, "units": {"searches": 30}}, {"match": "o3", "per_call": 40}]
    assert lines(desk.issue(terms_of(terms={"prices": dearer}), "2027-01").invoice.paper, "correction") == []
    assert not desk.troubles()


def test_verify_reads_the_rows_of_a_month_once_for_all_its_invoices(
    desk: Desk, book: Ledger, booking: Booking, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"customer-{i}" for i in range(6)]
    free = {"input_per_million": 0, "output_per_million": 0}
    terms = {"prices": [{"match": "*", "per_call": 1, **free, "units": {"images": 2}}]}
    for month, at_ms in (("2026-11", NOVEMBER), ("2026-12", DECEMBER)):
        for name in names:
            for other in names:  # between two invoices rows come in, for both months
                book.row(at_ms=at_ms, cost=USD, tags=[("customer", other)], usage={"images": 1})
                book.row(at_ms=NOVEMBER, cost=USD, tags=[("customer", other)])
            book.book(booking)
            desk.issue(terms_of(name, terms=terms if name > names[2] else {}), month)
    read: list[Question] = []

    def counting(connection: Connection, question: Question) -> Iterator[Usage]:
        read.append(question)
        return usages(connection, question)

    monkeypatch.setattr("limiter.ledger.invoicing.checks.usages", counting)
    found = check(desk.database, numbers(desk.database))
    assert [one.trouble for one in found] == [""] * 12
    assert [question.since_ms for question in read] == [NOVEMBER, DECEMBER]


def test_a_customer_that_no_call_names_is_not_found(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row()
    book.book(booking)
    with pytest.raises(NotFound, match="no call in the books has the tag customer:globx; did you mean globex"):
        desk.preview(terms_of("globx", terms={"minimum": 5}))
    with pytest.raises(NotFound):
        desk.invoices.find("INV-2026-000001")


def test_a_month_without_calls_is_billed_its_minimum_or_not_at_all(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row(cost=USD)
    book.book(booking)
    with pytest.raises(FailedPrecondition, match="nothing to bill to globex for 2026-12"):
        desk.issue(terms_of(), "2026-12")
    assert desk.issue(terms_of(terms={"minimum": 5}), "2026-12").invoice.paper["total_usd"] == "5.00"


def test_units_of_rows_are_billed_as_corrected(desk: Desk, book: Ledger, booking: Booking) -> None:
    terms = terms_of(terms={"prices": [{"match": "painter", "units": {"images": "0.25"}}], "markup_percent": 0})
    book.row(model="painter", usage={"images": 2}, reservation=SOME)
    book.row(model="painter", usage={"images": 1})
    book.book(booking)
    first = desk.issue(terms).invoice.paper
    assert (first["lines"][0]["units"], first["total_usd"]) == ({"images": 3}, "0.75")
    late = {"kind": RowKind.CORRECTION, "reservation": SOME, "model": "painter"}
    book.row(**late, usage={"images": 6})  # type: ignore[arg-type]
    book.row(**late, usage={"images": 5})  # type: ignore[arg-type]
    book.row(at_ms=DECEMBER)
    book.book(booking)
    assert [usd for _, usd in lines(desk.issue(terms, "2026-12").invoice.paper, "correction")] == ["0.75"]
    assert not desk.troubles()


def test_tags_cannot_pass_for_other_tags(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row(cost=USD, tags=[("customer", "a%b_c")])
    book.row(cost=2 * USD, tags=[("customer", "axb-c")])
    book.row(cost=4 * USD, tags=[("note", '["customer","a%b_c"]')])
    book.book(booking)
    assert desk.issue(terms_of("a%b_c")).invoice.paper["total_usd"] == "1.00"


def test_a_changed_row_invoice_or_number_is_found(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row(cost=10 * USD)
    book.row(cost=10 * USD, at_ms=DECEMBER)
    book.book(booking)
    desk.issue(terms_of())
    desk.issue(terms_of(), "2026-12")
    assert not desk.troubles()
    with desk.database.write() as connection:
        connection.execute(update(ledger).where(ledger.c.seq == 1).values(amount_nanousd=11 * USD))
    assert [one.trouble[:16] for one in check(desk.database, numbers(desk.database))] == ["", "made anew from i"]
    with desk.database.write() as connection:
        connection.execute(update(invoices).where(invoices.c.number.like("%1")).values(customer="x"))
    assert "its checksum is not" in check(desk.database, ["INV-2027-000001"])[0].trouble
    with desk.database.write() as connection:
        connection.execute(delete(invoices).where(invoices.c.number.like("%1")))
    assert check(desk.database, ["INV-2027-000002"])[0].trouble == "it follows INV-2027-000001, which is not there"
    assert list(missing_numbers(numbers(desk.database))) == ["INV-2027-000001"]


@pytest.mark.parametrize("seed", range(3))
def test_random_months_come_to_what_an_oracle_reckons(desk: Desk, book: Ledger, booking: Booking, seed: int) -> None:
    dice = random.Random(seed)
    calls: list[Call] = []
    for _ in range(60):
        calls += _some_call(dice, book)
        if dice.random() < 0.2:
            book.book(booking)
    book.book(booking)
    plan: dict[str, Any] = {
        "markup_percent": str(dice.randrange(-2_000, 9_000) / Decimal(100)),
        "tiers": [{"above": dice.randrange(5, 50), "percent": "-7.5"}],
    }
    plan |= (
        {"prices": [{"match": "gpt-4o", "input_per_million": "2.5", "output_per_million": "10"}]} if seed % 2 else {}
    )
    common: dict[str, Any] = {
        "rounding": {"rule": dice.choice(("half-even", "half-up")), "each": dice.choice(("line", "total"))}
    }
    made = desk.issue(terms_of(terms=plan, lines="tag:feature", **common)).invoice
    assert Decimal(made.paper["total_usd"]) == total(plan | common | {"lines": "tag:feature"}, calls)
    assert not desk.troubles()


def _some_call(dice: random.Random, book: Ledger) -> Iterator[Call]:
    """A call of any customer, perhaps corrected; those of globex are told."""
    feature, model = dice.choice("abc"), dice.choice(("gpt-4o", "o3", "haiku"))
    customer, name = dice.choice(("globex", "globex", "hooli")), f"{dice.getrandbits(128):032x}"
    what: dict[str, Any] = {"model": model, "reservation": name, "at_ms": NOVEMBER + dice.randrange(30 * DAY)}
    what["tags"] = [("customer", customer), ("feature", feature)]
    cost, used = dice.randrange(3 * USD), {"input_tokens": dice.randrange(9_000), "output_tokens": dice.randrange(900)}
    if dice.random() < 0.3:
        book.row(**what, cost=9 * USD, state=State.EXPIRED, basis=Basis.EXPIRED)
        book.row(**what, cost=cost, amount=cost - 9 * USD, usage=used, kind=RowKind.CORRECTION)
    else:
        book.row(**what, cost=cost, usage=used)
    if customer == "globex":
        yield Call(model, feature, used, cost)


def _at_once(work: Callable[[int], Issued], count: int) -> list[Issued]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def test_issued_by_many_at_once_numbers_have_no_gap_and_a_month_one_invoice(
    database: Database, book: Ledger, booking: Booking, books_url: str
) -> None:
    names = [f"customer-{i}" for i in range(6)]
    for name in names:
        book.row(cost=USD, tags=[("customer", name)])
    book.book(booking)

    def issue(i: int) -> Issued:
        own = Database(books_url)
        try:
            return [Desk(own).issue(terms_of(names[(i + step) % 6])) for step in range(6)][-1]
        finally:
            own.close()

    _at_once(issue, 4)
    assert numbers(database) == [f"INV-2027-{count:06d}" for count in range(1, 7)]
    assert {one.customer for one in Invoices(database).all()} == set(names)


def test_a_correction_is_on_one_invoice_though_two_months_are_issued_at_once(
    database: Database, book: Ledger, booking: Booking, books_url: str
) -> None:
    book.row(cost=USD)
    book.book(booking)
    Desk(database).issue(terms_of())
    for at_ms in (NOVEMBER, DECEMBER, JANUARY):
        book.row(cost=USD, at_ms=at_ms)
    book.book(booking)

    def issue(i: int) -> Issued:
        own = Database(books_url)
        try:
            return Desk(own).issue(terms_of(), ("2026-12", "2027-01")[i % 2])
        finally:
            own.close()

    made = {one.invoice.number: one.invoice.paper for one in _at_once(issue, 4)}
    assert sorted(len(lines(paper, "correction")) for paper in made.values()) == [0, 1]
    assert not Desk(database).troubles()


def test_an_invoice_sees_one_state_of_the_books_while_a_drain_writes(
    desk: Desk, book: Ledger, booking: Booking
) -> None:
    for _ in range(50):
        book.row(cost=USD)
    book.book(booking)

    def drain(_: int) -> None:
        for _ in range(20):
            book.row(cost=USD)
            book.book(booking)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(drain, 0)
        desk.issue(terms_of())
        writing.result()
    assert not desk.troubles()


def test_an_issued_month_is_unique_in_the_database_itself(desk: Desk, book: Ledger, booking: Booking) -> None:
    book.row(cost=USD)
    book.book(booking)
    desk.issue(terms_of())
    rest = "organization, customer, month, issued_ms, positions, plan, document, checksum FROM invoices"
    copy = f"INSERT INTO invoices SELECT 'X', {rest}"
    with pytest.raises(Exception, match=r"(?i)unique"), desk.database.write() as connection:
        connection.execute(text(copy))
