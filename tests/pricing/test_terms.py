"""A call's terms choose its price; what it leaves open is held at the dearest, and charged at the base."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

from limiter.domain.calls import Usage
from limiter.pricing import built_in
from limiter.pricing.book import ModelPrice, PriceBook
from limiter.pricing.overrides import read_overrides
from tests.pricing.usages import NOW_MS

PICTURES = """\
    version: 1
    models:
      - {provider: acme, match: painter, units: {images: "0.04"}}
      - {provider: acme, match: painter, units: {images: "0.08"}, when: {quality: hd}}
      - {provider: acme, match: painter, units: {images: "0.12"}, when: {quality: hd, size: 1792x1024}}
      - {provider: acme, match: sized, units: {images: "0.02"}, when: {size: small}}
      - {provider: acme, match: sized, units: {images: "0.05"}, when: {size: large}}
      - {provider: acme, match: tiered, input_per_million: "2"}
      - {provider: acme, match: tiered, input_per_million: "1", when: {service_tier: flex}}
      - {provider: acme, match: tiered, input_per_million: "4", when: {service_tier: priority}}
      - {provider: openai, match: gpt-4o, held_units: {images: "0.25"}}
      - {provider: openai, match: gpt-4o, input_per_million: "1", when: {processing: batch}}
    """


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    file = tmp_path_factory.mktemp("prices") / "prices.yaml"
    file.write_text(dedent(PICTURES))
    return PriceBook.load(file)


def found(book: PriceBook, provider: str, model: str, **context: str) -> ModelPrice:
    price = book.find(provider=provider, model=model, at_ms=NOW_MS, context=context)
    assert price is not None
    return price


def held(price: ModelPrice, **units: int) -> int:
    return price.hold_nanousd(input_tokens=0, max_output_tokens=0, units=units)


def charged(price: ModelPrice, **units: int) -> int:
    return price.charge_nanousd(Usage(units=units))


CENT = 10_000_000


@pytest.mark.parametrize(
    ("context", "charge", "hold"),
    [
        ({"quality": "hd", "size": "1792x1024"}, 12, 12),
        ({"quality": "HD", "size": "1024x1024"}, 8, 8),
        ({"quality": "standard"}, 4, 4),
        ({"quality": "hd"}, 8, 12),
        ({"quality": "hd", "size": "auto"}, 8, 12),
        ({"size": "1024x1024"}, 4, 8),
        ({"quality": "auto"}, 4, 12),
        ({}, 4, 12),
    ],
)
def test_two_images_cost_what_their_terms_say(own: PriceBook, context: dict[str, str], charge: int, hold: int) -> None:
    price = found(own, "acme", "painter", **context)
    assert charged(price, images=2) == 2 * charge * CENT
    assert held(price, images=2) == 2 * hold * CENT
    assert price.unpriced_units({"images": 2}) == []


def test_without_a_base_an_open_term_is_charged_at_the_dearest_and_another_value_has_no_price(own: PriceBook) -> None:
    price = found(own, "acme", "sized")
    assert (charged(price, images=1), held(price, images=1)) == (5 * CENT, 5 * CENT)
    assert price.for_ledger() == {"units": {"images": "0.05"}, "match": "sized", "dearest_of": ["size"]}
    assert found(own, "acme", "sized", size="small").for_ledger()["when"] == {"size": "small"}
    assert own.find(provider="acme", model="sized", at_ms=NOW_MS, context={"size": "huge"}) is None


def test_a_call_that_asks_for_no_tier_of_service_is_a_standard_one(own: PriceBook) -> None:
    def both(**context: str) -> tuple[int, int]:
        price = found(own, "acme", "tiered", **context)
        hold = price.hold_nanousd(input_tokens=1_000, max_output_tokens=0, units={})
        return price.charge_nanousd(Usage(1_000)) // 1_000_000, hold // 1_000_000

    assert both() == (2, 2)
    assert both(service_tier="priority") == (4, 4)
    assert both(service_tier="flex") == (1, 2)  # it may be served as a standard call
    assert both(service_tier="auto") == (2, 4)


def test_what_only_holds_take_is_added_to_a_price_from_elsewhere(own: PriceBook) -> None:
    price = found(own, "openai", "gpt-4o")
    plain = found(PriceBook.load(), "openai", "gpt-4o")
    assert held(price, images=2) == 50 * CENT
    assert price.unpriced_units({"images": 2}) == []
    assert plain.unpriced_units({"images": 2}) == ["images"]
    usage = Usage(1_000, 100, units={"images": 2})
    assert price.charge_nanousd(usage) == plain.charge_nanousd(Usage(1_000, 100))
    batch = found(own, "openai", "gpt-4o", processing="batch")
    assert batch.charge_nanousd(Usage(1_000)) == 1_000_000
    assert batch.hold_nanousd(input_tokens=1_000, max_output_tokens=0, units={}) == plain.hold_nanousd(
        input_tokens=1_000, max_output_tokens=0, units={}
    )


@pytest.mark.parametrize(
    ("name", "context", "unit", "usd"),
    [
        ("openai:dall-e-3", {"quality": "hd", "size": "1024x1792"}, "images", 0.12),
        ("openai:dall-e-2", {"size": "256x256"}, "images", 0.016),
        ("google:imagen-4.0-generate-001", {}, "images", 0.04),
        ("google:publishers/google/models/veo-3.1-generate-001", {"resolution": "720p"}, "video_seconds", 0.4),
        ("google:veo-3.1-generate-001", {"resolution": "4k"}, "video_seconds", 0.6),
        ("openai:sora-2", {}, "video_seconds", 0.1),
        ("openai:sora-2-pro", {"size": "1792x1024"}, "video_seconds", 0.5),
        (":sora-2", {}, "video_seconds", 0.1),
        ("azure:whisper", {}, "audio_seconds", 0.0001),
        ("cohere:rerank-v3.5", {}, "rerank_searches", 0.002),
        ("mistral:voxtral-mini-tts-latest", {}, "input_characters", 0.000016),
        ("azure:mistral-ocr-2505", {}, "input_document_pages", 0.001),
    ],
)
def test_what_genai_prices_does_not_price_comes_with_this_package(
    book: PriceBook, name: str, context: dict[str, str], unit: str, usd: float
) -> None:
    provider, _, model = name.partition(":")
    price = found(book, provider, model, **context)
    assert charged(price, **{unit: 1_000}) == round(usd * 10**12)
    assert held(price, **{unit: 1_000}) == round(usd * 10**12)
    assert "read 20" in str(price.for_ledger()["source"])


def test_a_call_that_does_not_say_its_resolution_is_held_at_the_highest(book: PriceBook) -> None:
    price = found(book, "google", "veo-3.1-generate-001")
    assert (charged(price, video_seconds=8), held(price, video_seconds=8)) == (320 * CENT, 480 * CENT)


def test_pictures_that_are_billed_by_tokens_are_held_by_the_picture(book: PriceBook) -> None:
    price = found(book, "openai", "gpt-image-1", quality="medium", size="1024x1024")
    assert held(price, images=2) == 84_000_000
    assert price.charge_nanousd(Usage(10, 1_056, units={"images": 1})) == 10 * 5_000 + 1_056 * 40_000


def test_genai_prices_wins_over_what_comes_with_this_package_and_a_file_over_both(tmp_path: Path) -> None:
    shipped = {entry.match for entry in built_in.BuiltInPrices().all() if entry.provider == "openai" and entry.prices}
    quoted = PriceBook.quoted()
    for model in shipped:
        assert quoted.find(provider="openai", model=model, at_ms=NOW_MS) is None
    file = tmp_path / "prices.yaml"
    file.write_text('version: 1\nmodels: [{match: sora-2, units: {video_seconds: "0.01"}}]')
    assert charged(found(PriceBook.load(file), "openai", "sora-2"), video_seconds=1) == CENT


def test_the_shipped_file_is_a_valid_price_file_with_a_source_for_each_entry() -> None:
    entries, _ = read_overrides(built_in.DATA)
    assert len(entries) > 300
    assert all(entry.source and entry.provider for entry in entries)
    head = json.loads(built_in.DATA.read_text())
    assert head["date"] == built_in.BuiltInPrices().date
    assert head["licence"]
