"""The plans file: what it says for each customer, and what is told of its mistakes."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from limiter.domain.errors import InvalidArgument
from limiter.ledger.invoicing.plans import PlansInvalid, Terms, read_plans
from limiter.policy.yaml_text import read_yaml

EXAMPLE = Path(__file__).parents[2] / "deploy" / "plans.example.yaml"


def mistakes(**plan: Any) -> tuple[str, ...]:  # noqa: ANN401 - as a plans file has it
    with pytest.raises(PlansInvalid) as caught:
        read_plans({"version": 1, **plan})
    return caught.value.mistakes


def test_the_example_is_a_valid_plan() -> None:
    tree, found = read_yaml(EXAMPLE.read_text())
    assert not found
    terms = read_plans(tree).for_customer("initech")
    assert (terms.markup_percent, terms.tiers, len(terms.prices or ())) == (Decimal(20), None, 3)


def test_a_customer_has_the_terms_of_all_but_for_its_own() -> None:
    plans = read_plans(
        {
            "version": 1,
            "seller": "We",
            "terms": {"markup_percent": 20, "minimum": 10, "included": {"calls": 5}},
            "customers": {"acme": {"buyer": "They", "minimum": "12.50", "included": None}},
        }
    )
    acme, other = plans.for_customer("acme"), plans.for_customer("other")
    assert acme.markup_percent == Decimal(20)
    assert (acme.minimum, acme.included, acme.buyer) == (12_500_000_000, None, "They")
    assert (other.minimum, other.seller, other.buyer) == (10_000_000_000, "We", "")
    assert other.included is not None


def test_terms_come_back_from_the_books_as_they_were() -> None:
    tree, _ = read_yaml(EXAMPLE.read_text())
    for name in ("globex", "initech", "other"):
        terms = read_plans(tree).for_customer(name)
        assert Terms.from_json(terms.to_json()) == terms
        assert Terms.from_json(terms.to_json()).to_json() == terms.to_json()


def test_terms_of_one_customer_say_nothing_of_the_others() -> None:
    tree, _ = read_yaml(EXAMPLE.read_text())
    assert "globex" not in read_plans(tree).for_customer("initech").to_json()


@pytest.mark.parametrize(
    ("plan", "mistake"),
    [
        ({"terms": {"markup_percent": 1.5}}, "terms.markup_percent: 1.5 is not valid; write a decimal number"),
        ({"terms": {"markup_percent": -101}}, "terms.markup_percent: -101 is not valid"),
        ({"terms": {"markup": 20}}, "terms.markup: unknown field; did you mean markup_percent?"),
        ({"customers": {"a b": {"minimum": "1.001"}}}, 'customers["a b"].minimum: \'1.001\' is not valid; write'),
        ({"terms": {"minimum": -1}}, "terms.minimum: -1 is not valid"),
        ({"terms": {"included": {"usd": 1, "calls": 1}}}, "terms.included: write one of usd, tokens, calls"),
        ({"terms": {"included": {"tokens": True}}}, "terms.included.tokens: true is not valid; write a whole number"),
        ({"terms": {"included": 5}}, "terms.included: 5 is not valid; write a mapping of names to values"),
        ({"terms": {"prices": [{"match": "x"}]}}, "terms.prices[0]: no price is given; write 0 for what is free"),
        ({"terms": {"prices": [{"per_call": "-1"}]}}, "terms.prices[0].match: missing; this field"),
        (
            {"terms": {"prices": [{"match": "x", "units": {"calls": 1}}]}},
            "terms.prices[0].units.calls: 'calls' is not valid; it has a field of its own",
        ),
        (
            {"terms": {"tiers": [{"above": 5, "percent": 1}, {"above": 5, "percent": 2}]}},
            "terms: tiers: each must begin above the one before",
        ),
        ({"terms": {"tiers": {"above": 5}}}, "terms.tiers: a mapping is not valid; write a list"),
        ({"rounding": {"rule": "up"}}, "rounding.rule: 'up' is not valid; write half-even or half-up"),
        ({"currency": "EUR"}, "currency: 'EUR' is not valid; write USD"),
        ({"timezone": "Berlin"}, "timezone: 'Berlin' is not valid; use an IANA name"),
        ({"lines": "feature"}, "lines: 'feature' is not valid; write model, or tag:NAME"),
        ({"number_prefix": "-"}, "number_prefix: '-' is not valid; use 1 to 16 of"),
        ({"seller": 5}, "seller: 5 is not valid; write a text"),
        ({"several_customers": "all"}, "several_customers: 'all' is not valid; write refuse or first"),
        ({"version": 2}, "version: 2 is not valid; this release reads version: 1"),
    ],
)  # fmt: skip
def test_every_mistake_has_its_place_the_value_and_what_to_write(plan: dict[str, Any], mistake: str) -> None:
    assert any(found.startswith(mistake) for found in mistakes(**plan)), mistakes(**plan)


def test_all_mistakes_are_told_at_once() -> None:
    assert len(mistakes(currency="EUR", timezone="X", terms={"minimum": "x"}, customers={"acme": {"terms": 1}})) == 4


def test_what_is_no_mapping_is_refused() -> None:
    with pytest.raises(PlansInvalid, match=r"plans\.yaml: write a mapping"):
        read_plans([1], file="plans.yaml")


def test_a_name_that_no_tag_can_have_is_no_customer() -> None:
    with pytest.raises(InvalidArgument, match="customer: '' is not valid"):
        read_plans({"version": 1}).for_customer("")
    with pytest.raises(InvalidArgument, match="organization: '' is not valid"):
        read_plans({"version": 1}).for_customer("acme", "")
