"""What the terms make of a month's usage: exact, in the order that is documented, rounded once."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.ledger.invoicing.lines import Bill, Tally, round_nanousd
from limiter.ledger.invoicing.plans import Terms, read_plans
from limiter.ledger.invoicing.usages import Usage
from limiter.ledger.schema import COUNTS
from tests.ledger.invoice_oracle import Call, total

USD = 1_000_000_000
CENT = USD // 100

MODELS = ("gpt-4o", "gpt-4o-mini", "painter")


def terms_of(**plan: Any) -> Terms:  # noqa: ANN401 - as a plans file has it
    common: dict[str, Any] = {name: plan.pop(name) for name in ("lines", "rounding", "show_cost") if name in plan}
    return read_plans({"version": 1, "terms": plan, **common}).for_customer("acme")


def usage(call: Call) -> Usage:
    counts = tuple({"calls": call.calls, **call.used}.get(name, 0) for name in COUNTS)
    units = {name: count for name, count in call.used.items() if name not in COUNTS}
    return Usage("openai", call.model, (("feature", call.feature),), counts, call.cost, units)


def billed(calls: list[Call], **plan: Any) -> Bill:  # noqa: ANN401 - as a plans file has it
    return bill(terms_of(**plan), calls)


def bill(terms: Terms, calls: list[Call]) -> Bill:
    tally = Tally(terms)
    for call in calls:
        tally.add(usage(call))
    return tally.bill()


def chat(cost: int, model: str = "gpt-4o", **used: int) -> Call:
    return Call(model, "search", used or {"input_tokens": 1_000, "output_tokens": 100}, cost)


def shown(made: Bill) -> list[tuple[str, int]]:
    return [(line.about, line.amount_nanousd // CENT) for line in made.lines]


def test_a_markup_is_on_top_of_the_cost_and_a_discount_below_it() -> None:
    assert billed([chat(10 * USD), chat(USD)], markup_percent=20).total_nanousd == 1320 * CENT
    assert billed([chat(10 * USD)], markup_percent=Decimal("-7.5")).total_nanousd == 925 * CENT
    assert billed([chat(10 * USD)]).total_nanousd == 1000 * CENT


def test_a_price_of_the_list_takes_the_place_of_cost_and_markup() -> None:
    calls = [
        chat(999 * USD, input_tokens=2_000_000, cache_read_tokens=500_000, output_tokens=1_000_000),
        chat(USD, "x"),
    ]
    prices = [
        {"match": "*4O", "input_per_million": "1"},
        {"match": "gpt-*", "input_per_million": 2, "cache_read_per_million": "0.50", "output_per_million": "10"},
    ]
    made = billed(calls, prices=prices, markup_percent=50)
    assert shown(made) == [("gpt-4o", 1325), ("x", 150)]
    assert [(part[0], part[1]) for part in made.lines[0].parts] == [
        ("input_tokens", 1_500_000), ("output_tokens", 1_000_000), ("cache_read_tokens", 500_000),
    ]  # fmt: skip


def test_kinds_of_tokens_need_no_price_of_their_own() -> None:
    calls = [chat(USD, input_tokens=2_000_000, cache_write_1h_tokens=5, input_audio_tokens=7, cache_read_tokens=9)]
    assert billed(calls, prices=[{"match": "*", "input_per_million": 1}]).unpriced == ()
    assert billed(calls, prices=[{"match": "*", "cache_read_per_million": 1}]).unpriced[0].units == {
        "input_tokens": 1_999_991
    }


def test_calls_and_units_can_have_a_price() -> None:
    calls = [Call("painter", "search", {"images": 3}, USD)] * 2
    assert billed(
        calls, prices=[{"match": "painter", "per_call": "0.01", "units": {"images": "0.04"}}]
    ).total_nanousd == (26 * CENT)


def test_included_usd_never_make_a_bill_negative() -> None:
    thirds = [Call(name, "search", {}, 3_330_000) for name in "abc"]
    made = billed(thirds, included={"usd": 5})
    assert made.total_nanousd == 0
    assert made.lines[-1].about == "Included: 5.00 USD"


def test_included_calls_and_tokens_are_free_in_proportion() -> None:
    calls = [chat(3 * USD, input_tokens=3_000), Call("painter", "search", {"images": 1}, USD)]
    assert shown(billed(calls, included={"calls": 1}))[-1] == ("Included: 1 of 2 calls", -200)
    assert shown(billed(calls, included={"tokens": 1_000}))[-1] == ("Included: 1,000 of 3,000 tokens", -100)
    assert billed(calls, included={"tokens": 10_000}).total_nanousd == 100 * CENT


def test_each_tier_changes_its_part_of_the_charges() -> None:
    tiers = [{"above": 10, "percent": -5}, {"above": 100, "percent": -10}]
    made = billed([chat(150 * USD)], tiers=tiers)
    assert shown(made)[1:] == [
        ("-5 % of charges above 10.00 to 100.00 USD", -450),
        ("-10 % of charges above 100.00 USD", -500),
    ]
    assert billed([chat(10 * USD)], tiers=tiers).total_nanousd == 1000 * CENT


def test_a_minimum_is_reached_whatever_was_used() -> None:
    assert shown(billed([chat(3 * USD)], minimum="49.90"))[-1] == ("Up to the minimum of 49.90 USD", 4690)
    assert billed([], minimum="49.90").total_nanousd == 4990 * CENT
    assert billed([chat(50 * USD)], minimum="49.90").total_nanousd == 5000 * CENT


def test_lines_can_be_the_values_of_a_tag() -> None:
    calls = [chat(USD), chat(2 * USD, "x"), Call("x", "chat", {}, 5 * USD)]
    made = billed(calls, lines="tag:feature")
    assert shown(made) == [("chat", 500), ("search", 300)]
    assert shown(bill(terms_of(lines="tag:other"), calls)) == [("untagged", 800)]


@pytest.mark.parametrize(
    ("rule", "exact", "rounded"),
    [
        ("half-even", 25_000_000, 20_000_000),
        ("half-even", 35_000_000, 40_000_000),
        ("half-even", 25_000_001, 30_000_000),
        ("half-up", 25_000_000, 30_000_000),
        ("half-up", -25_000_000, -30_000_000),
        ("half-even", -25_000_000, -20_000_000),
    ],
)
def test_amounts_are_rounded_by_the_stated_rule(rule: str, exact: int, rounded: int) -> None:
    assert round_nanousd(Fraction(exact), CENT, rule) == rounded


def test_the_total_can_be_rounded_instead_of_the_lines() -> None:
    calls = [Call(name, "search", {}, 4_000_000) for name in "abc"]
    assert billed(calls).total_nanousd == 0
    made = billed(calls, rounding={"rule": "half-even", "each": "total"})
    assert (made.total_nanousd, [line.amount_nanousd for line in made.lines]) == (CENT, [4_000_000] * 3)


_counts = st.integers(0, 3_000_000)
_calls = st.builds(
    lambda model, feature, cost, inputs, outputs, cached, images: Call(
        model,
        feature,
        {"images": images}
        if model == "painter"
        else {"input_tokens": inputs, "output_tokens": outputs, "cache_read_tokens": min(cached, inputs)},
        cost,
    ),
    st.sampled_from(MODELS),
    st.sampled_from("abc"),
    st.integers(0, 10**10),
    _counts,
    _counts,
    _counts,
    st.integers(0, 9),
)
_amounts = st.decimals(0, 50, places=4).map(str)
_prices = st.fixed_dictionaries(
    {
        "match": st.sampled_from(("gpt*", "gpt-4o", "*", "painter")),
        "input_per_million": _amounts,
        "output_per_million": _amounts,
    },
    optional={
        "cache_read_per_million": _amounts,
        "per_call": _amounts,
        "units": st.fixed_dictionaries({"images": _amounts}),
    },
)
_plans = st.fixed_dictionaries(
    {"lines": st.sampled_from(("model", "tag:feature"))},
    optional={
        "rounding": st.fixed_dictionaries(
            {"rule": st.sampled_from(("half-even", "half-up")), "each": st.sampled_from(("line", "total"))}
        ),
        "markup_percent": st.decimals(-100, 300, places=3).map(str),
        "prices": st.lists(_prices, max_size=3),
        "included": st.one_of(
            st.fixed_dictionaries({"usd": st.integers(0, 50)}),
            st.fixed_dictionaries({"calls": st.integers(1, 20)}),
            st.fixed_dictionaries({"tokens": st.integers(1, 20_000_000)}),
        ),
        "minimum": st.decimals(0, 100, places=2).map(str),
        "tiers": st.dictionaries(st.integers(0, 99), st.decimals(-50, 50, places=1).map(str), max_size=3).map(
            lambda tiers: [{"above": above, "percent": percent} for above, percent in sorted(tiers.items())]
        ),
    },
)  # fmt: skip


@given(st.lists(_calls, max_size=12), _plans)
def test_a_bill_is_what_an_oracle_reckons_call_by_call(calls: list[Call], plan: dict[str, Any]) -> None:
    made = billed(calls, **plan)
    if made.unpriced:
        return  # nothing is billed
    assert Decimal(made.total_nanousd).scaleb(-9) == total(plan, calls)
    if plan.get("rounding", {}).get("each", "line") == "line":
        assert sum(line.amount_nanousd for line in made.lines) == made.total_nanousd
        assert all(line.amount_nanousd % CENT == 0 for line in made.lines)
