"""Entries that add: tools have a price beside that of the model, whichever list it is from."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.domain.calls import Usage
from limiter.pricing.book import ModelPrice, PriceBook
from limiter.pricing.explaining import explain
from limiter.pricing.growth import growth_of
from limiter.pricing.overrides import PricesInvalid
from tests.pricing.usages import NOW_MS

CENT = 10_000_000


def find(
    tmp_path: Path, *entries: str, model: str = "gpt-4o", provider: str = "openai", **context: str
) -> ModelPrice | None:
    file = tmp_path / "prices.yaml"
    file.write_text("version: 1\nmodels:\n" + "".join(f"  - {{{entry}}}\n" for entry in entries))
    return PriceBook.load(file).find(provider=provider, model=model, at_ms=NOW_MS, context=context)


def prices(price: ModelPrice | None, unit: str) -> tuple[int, int]:
    """What one of a unit is charged and held."""
    assert price is not None
    assert not price.unpriced_units({unit: 1})
    held = price.hold_nanousd(input_tokens=0, max_output_tokens=0, units={unit: 1})
    return price.charge_nanousd(Usage(0, 0, units={unit: 1})), held


@pytest.mark.parametrize(
    ("provider", "model", "unit", "nanousd"),
    [
        ("openai", "gpt-5", "code_executions", 30_000_000),
        ("openai", "gpt-5", "storage_searches", 2_500_000),
        ("openai", "gpt-4o-search-preview", "web_searches", 25_000_000),
        ("openai", "o3-mini", "web_searches", 10_000_000),
        ("azure", "gpt-5", "code_executions", 33_000_000),
        ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "web_searches", 10_000_000),
        ("google", "gemini-3-pro-preview", "web_searches", 14_000_000),
        ("x-ai", "grok-4", "social_searches", 5_000_000),
        ("x-ai", "grok-4", "code_executions", 5_000_000),
        ("perplexity", "sonar-pro", "web_searches", 0),
    ],
)
def test_tools_on_the_providers_side_have_a_price(
    book: PriceBook, provider: str, model: str, unit: str, nanousd: int
) -> None:
    price = book.find(provider=provider, model=model, at_ms=NOW_MS)
    fee = price.charge_nanousd(Usage(0, 0)) if price else 0
    assert prices(price, unit) == (fee + nanousd, fee + nanousd)


@pytest.mark.parametrize(
    ("provider", "model", "request_"),
    [
        ("openai", "gpt-5", {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}),
        ("openai", "gpt-5-mini", {"tools": [{"type": "web_search"}, {"type": "file_search"}]}),
        ("azure", "gpt-5", {"tools": [{"type": "web_search"}, {"type": "code_interpreter", "container": "c"}]}),
        ("x-ai", "grok-4", {"tools": [{"type": "x_search"}, {"type": "code_interpreter"}, {"type": "file_search"}]}),
        ("perplexity", "sonar", {}),
        ("openai", "gpt-4o-search-preview", {"web_search_options": {}}),
    ],
)
def test_a_bounded_use_of_tools_is_priced_as_a_whole(
    book: PriceBook, provider: str, model: str, request_: dict[str, object]
) -> None:
    grown = growth_of({"input": "", "max_tool_calls": 3} | request_, model)
    price = book.find(provider=provider, model=model, at_ms=NOW_MS)
    assert grown is not None
    assert price is not None
    assert grown.fees
    assert not price.unpriced_units(grown.fees)


def test_what_is_added_is_told(book: PriceBook) -> None:
    found = explain(book, provider="openai", model="gpt-5", at_ms=NOW_MS, context={})
    assert found is not None
    assert found.prices["units"]["code_executions"] == "0.03"
    assert {*found.added} == {"code_executions"}
    assert found.added["code_executions"]["match"] == "*gpt-*"
    price = book.find(provider="openai", model="gpt-5", at_ms=NOW_MS)
    assert price is not None
    assert price.for_ledger()["added"] == ["code_executions"]


def test_a_file_adds_to_the_prices_of_other_lists_and_wins(tmp_path: Path) -> None:
    entry = 'provider: openai, match: "gpt-*", adds: true, units: {web_searches: "0.02", sketches: "0.03"}'
    price = find(tmp_path, entry)
    assert prices(price, "web_searches") == (2 * CENT, 2 * CENT)
    assert prices(price, "sketches") == (3 * CENT, 3 * CENT)
    assert prices(price, "storage_searches") == (CENT // 4, CENT // 4)
    assert price is not None
    assert price.charge_nanousd(Usage(1_000)) == 2_500_000
    drawn = find(tmp_path, 'match: dall-e-3, adds: true, units: {sketches: "0.03"}', model="dall-e-3")
    assert prices(drawn, "sketches") == (3 * CENT, 3 * CENT)


def test_an_entry_that_adds_prices_no_model(tmp_path: Path) -> None:
    assert find(tmp_path, 'match: "*", adds: true, units: {web_searches: "0.02"}', model="no-such-model") is None


def test_an_entry_that_prices_the_model_keeps_its_own_prices(tmp_path: Path) -> None:
    whole = 'match: gpt-4o, input_per_million: "1", units: {web_searches: "0.05"}'
    price = find(tmp_path, whole)
    assert price is not None
    assert price.unpriced_units({"code_executions": 1}) == ["code_executions"]
    more = 'match: "*", adds: true, units: {web_searches: "0.02", code_executions: "0.02"}'
    price = find(tmp_path, whole, more)
    assert prices(price, "web_searches") == (5 * CENT, 5 * CENT)
    assert prices(price, "code_executions") == (2 * CENT, 2 * CENT)


def test_what_is_added_depends_on_the_terms_as_other_prices_do(tmp_path: Path) -> None:
    entries = (
        'match: gpt-4o, adds: true, units: {web_searches: "0.02"}',
        'match: gpt-4o, adds: true, units: {web_searches: "0.05"}, when: {search_context_size: high}',
        'match: "gpt-*", adds: true, units: {sketches: "0.01"}',
    )
    assert prices(find(tmp_path, *entries, search_context_size="low"), "web_searches") == (2 * CENT, 2 * CENT)
    assert prices(find(tmp_path, *entries, search_context_size="high"), "web_searches") == (5 * CENT, 5 * CENT)
    assert prices(find(tmp_path, *entries), "web_searches") == (2 * CENT, 5 * CENT)


def test_a_tier_does_not_change_what_is_added(book: PriceBook) -> None:
    price = book.find(provider="google", model="claude-sonnet-4-5", at_ms=NOW_MS)
    assert price is not None
    for tokens in (1_000, 300_000):
        without, with_search = (price.charge_nanousd(Usage(tokens, units={"web_searches": n})) for n in (0, 1))
        assert with_search - without == CENT


@pytest.mark.parametrize(
    ("entry", "mistake"),
    [
        ('adds: true, input_per_million: "1"', "it adds units to the price of a model: give it units, and no others"),
        ('adds: true, units: {a: "1"}, held_units: {b: "1"}', "it adds units to the price of a model"),
        ('adds: "yes", units: {a: "1"}', "'yes' is not valid; write true or false"),
        ("adds: true", "no price is given; write 0 for what is free"),
    ],
)
def test_an_entry_that_adds_has_units_and_nothing_else(tmp_path: Path, entry: str, mistake: str) -> None:
    with pytest.raises(PricesInvalid, match=mistake):
        find(tmp_path, f"match: m, {entry}")
