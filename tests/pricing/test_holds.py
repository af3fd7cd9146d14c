"""A hold is never below the charge of anything within its estimate."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
)
from genai_prices.types import ModelPrice as QuotedPrices
from hypothesis import given, settings
from hypothesis import strategies as st

from limiter.domain.calls import Usage
from limiter.domain.errors import InvalidArgument
from limiter.pricing.book import ModelPrice, PriceBook
from tests.pricing.usages import NOW_MS, random_usage

HOUR_MS = 3_600_000

#: Tiers at 200k and 272k, hourly caches, images, audio, video, reasoning, citations, fees, pages.
MODELS = [
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-haiku-5-5"),
    ("openai", "gpt-5.4"),
    ("openai", "gpt-4o"),
    ("openai", "gpt-image-1"),
    ("openai", "gpt-realtime"),
    ("google", "gemini-2.5-pro"),
    ("google", "gemini-2.5-flash"),
    ("google", "gemini-3-pro-image-preview"),
    ("perplexity", "sonar-deep-research"),
    ("perplexity", "sonar"),
    ("deepseek", "deepseek-chat"),
    ("groq", "whisper-large-v3"),
    ("mistral", "mistral-ocr-2505"),
]


def found(book: PriceBook, provider: str, model: str, at_ms: int = NOW_MS, **context: str) -> ModelPrice:
    price = book.find(provider=provider, model=model, at_ms=at_ms, context=context)
    assert price is not None
    return price


def hold(price: ModelPrice, usage: Usage) -> int:
    """The hold for an estimate that `usage` exhausts."""
    output_side = {name for name in usage.units if name.startswith("output_")}
    units = {name: count for name, count in usage.units.items() if name not in output_side}
    return price.hold_nanousd(input_tokens=usage.input_tokens, max_output_tokens=usage.output_tokens, units=units)


@st.composite
def estimates_and_usages(draw: st.DrawFn) -> tuple[dict[str, Any], Usage]:
    size = draw(st.one_of(st.integers(0, 5_000), st.integers(190_000, 290_000), st.sampled_from([200_001, 272_001])))
    most = random_usage(Random(draw(st.integers(0, 2**32))), input_tokens=size)
    spare_input, spare_output = draw(st.integers(0, 300_000)), draw(st.integers(0, 5_000))
    output_side = {name for name in most.units if name.startswith("output_")}
    estimate = {
        "input_tokens": most.input_tokens + spare_input,
        "max_output_tokens": most.output_tokens + spare_output,
        # What the answer consists of need not be announced.
        "units": {name: count for name, count in most.units.items() if name not in output_side},
    }
    return estimate, most


@settings(max_examples=400, deadline=None)
@given(case=estimates_and_usages(), model=st.sampled_from(MODELS))
def test_no_usage_within_the_estimate_is_charged_more_than_was_held(
    book: PriceBook, case: tuple[dict[str, Any], Usage], model: tuple[str, str]
) -> None:
    estimate, usage = case
    price = found(book, *model)
    assert price.charge_nanousd(usage) <= price.hold_nanousd(**estimate)


@given(
    input_tokens=st.integers(0, 400_000),
    output_tokens=st.integers(0, 50_000),
    share_read=st.floats(0, 1),
    share_written=st.floats(0, 1),
    model=st.sampled_from(MODELS),
)
def test_caches_need_not_be_announced(
    *,
    book: PriceBook,
    input_tokens: int,
    output_tokens: int,
    share_read: float,
    share_written: float,
    model: tuple[str, str],
) -> None:
    price = found(book, *model)
    read = int(input_tokens * share_read)
    usage = Usage(input_tokens, output_tokens, read, int((input_tokens - read) * share_written))
    most = price.hold_nanousd(input_tokens=input_tokens, max_output_tokens=output_tokens, units={})
    assert price.charge_nanousd(usage) <= most


def test_every_model_is_held_at_least_at_its_charge(book: PriceBook) -> None:
    random = Random(7)
    for provider in providers:
        for model in provider.models:
            price = book.find(provider=provider.id, model=model.id, at_ms=NOW_MS)
            if price is not None:
                usage = random_usage(random, input_tokens=random.choice((900, 200_001, 272_001, 600_000)))
                assert price.charge_nanousd(usage) <= hold(price, usage), (provider.id, model.id, usage)


def test_input_is_held_at_the_cache_write_price_and_output_at_its_own(book: PriceBook) -> None:
    price = found(book, "anthropic", "claude-sonnet-4-5")
    held = price.hold_nanousd(input_tokens=1_000, max_output_tokens=100, units={})
    assert held == 1_000 * 3_750 + 100 * 15_000
    hourly = price.hold_nanousd(input_tokens=1_000, max_output_tokens=0, units={"cache_write_1h_tokens": 400})
    assert hourly == 600 * 3_750 + 400 * 6_000


@pytest.mark.parametrize(("input_tokens", "per_token"), [(272_000, 2_500), (272_001, 5_000)])
def test_a_hold_takes_the_tier_that_the_input_can_reach(book: PriceBook, input_tokens: int, per_token: int) -> None:
    price = found(book, "openai", "gpt-5.4")
    assert price.hold_nanousd(input_tokens=input_tokens, max_output_tokens=0, units={}) == input_tokens * per_token


def book_of(*prices: ConditionalPrice) -> PriceBook:
    model = ModelInfo(id="m", match=ClauseEquals("m"), prices=list(prices))
    provider = Provider(id="p", name="P", api_pattern="https://p", models=[model])
    return PriceBook([provider], version="test")


def test_a_tier_that_is_cheaper_higher_up_does_not_lower_the_hold() -> None:
    tiered = TieredPrices(base=Decimal(10), tiers=[Tier(start=1_000, price=Decimal(2))])
    price = found(book_of(ConditionalPrice(prices=QuotedPrices(input_mtok=tiered))), "p", "m")
    assert price.charge_nanousd(Usage(1_000)) == 10_000_000
    assert price.charge_nanousd(Usage(1_001)) == 2_002_000
    assert price.hold_nanousd(input_tokens=1_001, max_output_tokens=0, units={}) == 10_010_000


def test_a_hold_covers_a_price_that_rises_within_a_day() -> None:
    book = book_of(
        ConditionalPrice(prices=QuotedPrices(input_mtok=Decimal(1))),
        ConditionalPrice(StartDateConstraint(date(2026, 11, 20)), prices=QuotedPrices(input_mtok=Decimal(5))),
    )
    rise_ms = 1_795_132_800_000
    estimate: dict[str, Any] = {"input_tokens": 10, "max_output_tokens": 0, "units": {}}
    before = found(book, "p", "m", rise_ms - 30 * HOUR_MS)
    assert before.hold_nanousd(**estimate) == 10_000
    assert before.valid_until_ms == rise_ms - 24 * HOUR_MS
    eve = found(book, "p", "m", rise_ms - 1)
    assert (eve.hold_nanousd(**estimate), eve.charge_nanousd(Usage(10))) == (50_000, 10_000)
    assert eve.valid_until_ms == rise_ms
    after = found(book, "p", "m", rise_ms)
    assert after.charge_nanousd(Usage(10)) == 50_000


def test_a_hold_taken_off_peak_covers_a_call_that_ends_in_peak_hours(book: PriceBook) -> None:
    usage = Usage(1_000, 1_000)
    for model in ("deepseek-chat", "deepseek-reasoner", "deepseek-flash"):
        charges = {found(book, "deepseek", model, NOW_MS + h * HOUR_MS).charge_nanousd(usage) for h in range(24)}
        assert len(charges) == 2
        holds = {hold(found(book, "deepseek", model, NOW_MS + h * HOUR_MS), usage) for h in range(24)}
        assert min(holds) >= max(charges)


def test_a_cheaper_tier_of_service_is_not_relied_on_for_holds(book: PriceBook) -> None:
    usage = Usage(1_000, 1_000)
    standard = found(book, "openai", "gpt-5.4")
    flex = found(book, "openai", "gpt-5.4", service_tier="flex")
    priority = found(book, "openai", "gpt-5.4", service_tier="priority")
    assert flex.charge_nanousd(usage) < standard.charge_nanousd(usage) < priority.charge_nanousd(usage)
    assert hold(flex, usage) == hold(standard, usage) < hold(priority, usage)


@pytest.mark.parametrize(
    ("estimate", "message"),
    [
        ({"input_tokens": -1}, "estimate.input_tokens: -1"),
        ({"max_output_tokens": -1}, "estimate.max_output_tokens: -1"),
        ({"units": {"web_searches": -1}}, "estimate.units.web_searches: -1"),
        ({"units": {"input_audio_tokens": 11}}, "estimate.units.input_audio_tokens: 11"),
    ],
)
def test_an_estimate_that_would_lower_a_hold_is_refused(
    book: PriceBook, estimate: dict[str, Any], message: str
) -> None:
    whole: dict[str, Any] = {"input_tokens": 10, "max_output_tokens": 10, "units": {}} | estimate
    with pytest.raises(InvalidArgument, match=message):
        found(book, "openai", "gpt-4o").hold_nanousd(**whole)
