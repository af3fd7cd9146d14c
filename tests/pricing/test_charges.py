"""Charges are those of genai-prices, to the last digit, rounded once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from pathlib import Path
from random import Random

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import Usage as QuotedUsage

from limiter.domain.calls import Usage
from limiter.domain.errors import InvalidArgument
from limiter.pricing.book import ModelPrice, PriceBook
from limiter.pricing.units import FIELDS, REGISTRY, REQUESTS
from tests.pricing.usages import NOW_MS, random_usage

MODELS = [(provider.id, model.id) for provider in providers for model in provider.models]


def quoted_nanousd(
    *, provider: str, model: str, usage: Usage, at_ms: int, context: dict[str, str] | None = None
) -> int:
    """The price that genai-prices calculates, with more digits than it takes by default."""
    counts = {unit: 0 for unit in REGISTRY.units if unit != REQUESTS} | usage.units
    counts |= {unit: getattr(usage, name) for unit, name in FIELDS.items()}
    if "input_audio_seconds" not in usage.units and provider == "groq":
        del counts["input_audio_seconds"]
    with localcontext(prec=80):
        price = genai_prices.calc_price(
            QuotedUsage(**counts),
            model,
            provider_id=provider,
            genai_request_timestamp=datetime.fromtimestamp(at_ms / 1000, UTC),
            price_context=context,
        )
        return int((price.total_price * 10**9).to_integral_value(ROUND_HALF_EVEN))


def without_added(usage: Usage, price: ModelPrice) -> Usage:
    """The usage without what another list than genai-prices has a price for."""
    added = price.for_ledger().get("added", ())
    assert isinstance(added, Iterable)
    return replace(usage, units={unit: count for unit, count in usage.units.items() if unit not in {*added}})


@pytest.mark.parametrize("at_ms", [NOW_MS, NOW_MS - 2 * 365 * 86_400_000], ids=["now", "two years ago"])
def test_every_model_is_charged_what_genai_prices_calculates(book: PriceBook, at_ms: int) -> None:
    random = Random(at_ms)
    priced = 0
    for provider, model in MODELS:
        price = book.find(provider=provider, model=model, at_ms=at_ms)
        if price is None:
            # Some ids in its data are not names that it finds; some models have no price.
            with contextlib.suppress(LookupError):
                assert quoted_nanousd(provider=provider, model=model, usage=Usage(10**6, 10**6), at_ms=at_ms) == 0
            continue
        if "match" in price.for_ledger():
            continue  # from the list that fills its gaps
        priced += 1
        for size in (random.randint(0, 3_000), random.choice((128_001, 200_000, 200_001, 272_000, 272_001))):
            usage = random_usage(random, input_tokens=size)
            expected = quoted_nanousd(provider=provider, model=model, usage=usage, at_ms=at_ms)
            assert price.charge_nanousd(without_added(usage, price)) == expected, (provider, model, usage)
    assert priced > 2000


def test_terms_of_a_call_change_the_price_as_genai_prices_says(book: PriceBook) -> None:
    random = Random(3)
    compared = 0
    for provider in providers:
        for model in provider.models:
            for variant in model.price_variants or ():
                usage = random_usage(random, input_tokens=300_000)
                names = {"provider": provider.id, "model": model.id}
                price = book.find(**names, at_ms=NOW_MS, context=variant.when)
                if price is None:
                    continue
                expected = quoted_nanousd(**names, usage=usage, at_ms=NOW_MS, context=variant.when)
                assert price.charge_nanousd(without_added(usage, price)) == expected
                compared += 1
    assert compared > 200


@pytest.mark.parametrize(
    ("input_tokens", "nanousd"),
    [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3), (7, 4)],
)
def test_a_charge_is_rounded_half_to_even_once(tmp_path: Path, input_tokens: int, nanousd: int) -> None:
    # Half a nano-dollar per token.
    file = tmp_path / "prices.yaml"
    file.write_text('version: 1\nmodels: [{match: half, input_per_million: "0.0005"}]')
    price = PriceBook.load(file).find(provider="", model="half", at_ms=NOW_MS)
    assert price is not None
    assert price.charge_nanousd(Usage(input_tokens)) == nanousd
    assert price.hold_nanousd(input_tokens=input_tokens, max_output_tokens=0, units={}) == (input_tokens + 1) // 2


def test_crossing_a_tier_reprices_the_whole_call(book: PriceBook) -> None:
    price = book.find(provider="anthropic", model="claude-sonnet-4-5", at_ms=NOW_MS)
    assert price is not None
    assert price.charge_nanousd(Usage(200_000, 1_000)) == 200_000 * 3_000 + 1_000 * 15_000
    assert price.charge_nanousd(Usage(200_001, 1_000)) == 200_001 * 6_000 + 1_000 * 22_500


def test_cached_tokens_are_a_part_of_the_input(book: PriceBook) -> None:
    price = book.find(provider="anthropic", model="claude-sonnet-4-5", at_ms=NOW_MS)
    assert price is not None
    usage = Usage(1_000, 0, cache_read_tokens=600, cache_write_tokens=300)
    assert price.charge_nanousd(usage) == 100 * 3_000 + 600 * 300 + 300 * 3_750
    hourly = Usage(1_000, 0, cache_read_tokens=600, cache_write_tokens=300, units={"cache_write_1h_tokens": 300})
    assert price.charge_nanousd(hourly) == 100 * 3_000 + 600 * 300 + 300 * 6_000


@pytest.mark.parametrize(
    ("usage", "message"),
    [
        (Usage(10, 0, cache_read_tokens=11), "usage.input_tokens: 10 is not valid; it must include its parts"),
        (Usage(10, 0, cache_read_tokens=6, cache_write_tokens=5), r"\(cache_read_tokens 6, cache_write_tokens 5\)"),
        (Usage(-1), "usage.input_tokens: -1 is not valid; counts are 0 or more"),
        (Usage(0, -1), "usage.output_tokens: -1 is not valid"),
        (Usage(units={"web_searches": -1}), "usage.units.web_searches: -1 is not valid"),
        (Usage(9, units={"input_audio_tokens": 10}), r"a part of input_tokens \(9\), which must include them"),
        (Usage(9, units={"cache_write_1h_tokens": 1}), r"a part of cache_write_tokens \(0\)"),
        (Usage(9, units={"input_tokens": 5}), "state it by the field for it, not as a unit"),
        (Usage(9, units={"requests": 5}), "state it by the field for it, not as a unit"),
    ],
)
def test_contradictory_counts_are_refused_instead_of_charged_too_little(
    book: PriceBook, usage: Usage, message: str
) -> None:
    price = book.find(provider="anthropic", model="claude-sonnet-4-5", at_ms=NOW_MS)
    assert price is not None
    with pytest.raises(InvalidArgument, match=message):
        price.charge_nanousd(usage)


def test_a_part_without_its_whole_is_charged_as_the_whole(book: PriceBook) -> None:
    price = book.find(provider="openai", model="gpt-realtime-whisper", at_ms=NOW_MS)
    assert price is not None
    whole = price.charge_nanousd(Usage(units={"audio_seconds": 60}))
    assert price.charge_nanousd(Usage(units={"input_audio_seconds": 60})) == whole > 0


def test_groq_bills_at_least_ten_seconds_of_a_transcription(book: PriceBook) -> None:
    price = book.find(provider="groq", model="whisper-large-v3", at_ms=NOW_MS)
    assert price is not None
    ten = int((Decimal("0.111") / 3600 * 10 * 10**9).to_integral_value(ROUND_HALF_EVEN))
    assert price.charge_nanousd(Usage(units={"audio_seconds": 1})) == ten
    assert price.charge_nanousd(Usage(units={"audio_seconds": 0})) == 0
    assert price.hold_nanousd(input_tokens=0, max_output_tokens=0, units={"audio_seconds": 1}) >= ten


def test_a_unit_without_a_price_is_named_rather_than_free(book: PriceBook) -> None:
    price = book.find(provider="openai", model="gpt-4o", at_ms=NOW_MS)
    assert price is not None
    units = {"web_searches": 1, "images": 2, "input_audio_tokens": 3, "audio_seconds": 4, "code_executions": 0}
    assert price.unpriced_units(units) == ["images", "audio_seconds"]
    embedding = book.find(provider="openai", model="text-embedding-3-small", at_ms=NOW_MS)
    assert embedding is not None
    assert embedding.unpriced_units({"input_tokens": 1, "output_tokens": 1}) == ["output_tokens"]
