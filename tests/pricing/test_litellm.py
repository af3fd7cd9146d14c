"""LiteLLM's list of models becomes a price file, digit by digit; what cannot be said there is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limiter.domain.calls import Usage
from limiter.domain.errors import LimiterError
from limiter.pricing.book import ModelPrice, PriceBook
from limiter.pricing.litellm import Imported, import_limits, import_prices, read_list
from limiter.pricing.litellm_names import subject
from limiter.pricing.overrides import PricesInvalid
from limiter.pricing.price_file import write_json, write_yaml
from tests.pricing.usages import NOW_MS

CHAT = {
    "litellm_provider": "openai",
    "mode": "chat",
    "input_cost_per_token": 1.25e-06,
    "output_cost_per_token": 1e-05,
    "cache_read_input_token_cost": 1.25e-07,
    "cache_creation_input_token_cost": 1.5e-06,
    "cache_creation_input_token_cost_above_1hr": 2.5e-06,
    "input_cost_per_audio_token": 3.333e-05,
    "output_cost_per_reasoning_token": 2e-05,
    "input_cost_per_token_above_200k_tokens": 2.5e-06,
    "output_cost_per_token_above_200k_tokens": 1.5e-05,
    "input_cost_per_token_batches": 6.25e-07,
    "output_cost_per_token_batches": 5e-06,
    "input_cost_per_token_above_200k_tokens_batches": 1.25e-06,
    "input_cost_per_token_priority": 2.25e-06,
    "search_context_cost_per_query": {
        "search_context_size_low": 0.01,
        "search_context_size_medium": 0.01,
        "search_context_size_high": 0.01,
    },
    "max_input_tokens": 272000,
    "max_output_tokens": 128000,
    "source": "https://example.com/pricing",
    "regional_processing_uplift_multiplier_eu": 1.1,
    "supports_vision": True,
}


def imported(tmp_path: Path, models: dict[str, Any]) -> Imported:
    file = tmp_path / "litellm.json"
    file.write_text(json.dumps(models))
    return import_prices(read_list(file, origin="LiteLLM 1"))


def book_of(tmp_path: Path, models: dict[str, Any], *, suffix: str = ".yaml") -> PriceBook:
    made = imported(tmp_path, models)
    file = tmp_path / f"prices{suffix}"
    written = write_json(made.entries, head={}) if suffix == ".json" else write_yaml(made.entries, head={}, notes=["n"])
    file.write_text(written)
    return PriceBook.load(file)


def found(book: PriceBook, provider: str, model: str, **context: str) -> ModelPrice:
    price = book.find(provider=provider, model=model, at_ms=NOW_MS, context=context)
    assert price is not None
    return price


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_prices_of_tokens_keep_every_digit_with_tiers_and_terms(tmp_path: Path, suffix: str) -> None:
    book = book_of(tmp_path, {"new-model": CHAT}, suffix=suffix)
    price = found(book, "openai", "new-model")
    assert price.for_ledger() == {
        "input_per_million": "1.25",
        "output_per_million": "10",
        "cache_read_per_million": "0.125",
        "cache_write_per_million": "1.5",
        "reasoning_per_million": "20",
        "units": {"cache_write_1h_tokens": "0.0000025", "input_audio_tokens": "0.00003333", "web_searches": "0.01"},
        "above_200000": {
            "input_per_million": "2.5",
            "output_per_million": "15",
            "cache_read_per_million": "0.125",
            "cache_write_per_million": "1.5",
            "reasoning_per_million": "20",
            "units": {"cache_write_1h_tokens": "0.0000025", "input_audio_tokens": "0.00003333", "web_searches": "0.01"},
        },
        "match": "new-model",
        "source": "https://example.com/pricing (LiteLLM 1)",
    }
    assert (price.context_window, price.max_output_tokens) == (272_000, 128_000)
    batch = found(book, "openai", "new-model", processing="batch")
    assert batch.charge_nanousd(Usage(1_000, 1_000)) == 625_000 + 5_000_000
    assert batch.charge_nanousd(Usage(200_001)) == 200_001 * 1_250
    priority = found(book, "openai", "new-model", service_tier="priority")
    assert priority.charge_nanousd(Usage(1_000, 1_000)) == 2_250_000 + 10_000_000
    # The standard price of a long call, where none is told for this term.
    assert priority.charge_nanousd(Usage(200_001)) == 200_001 * 2_500


def test_what_cannot_be_said_is_told(tmp_path: Path) -> None:
    made = imported(
        tmp_path,
        {
            "new-model": CHAT,
            "bedrock/us-east-1/some-model": {"litellm_provider": "bedrock", "mode": "chat", "input_cost_per_token": 1},
            "nothing": {"litellm_provider": "openai", "mode": "chat", "input_cost_per_token": 0.0},
            "machine": {"litellm_provider": "sagemaker", "mode": "chat", "input_cost_per_second": 0.00042},
            "unpriced": {"litellm_provider": "openai", "mode": "chat"},
        },
    )
    assert made.left_out == [
        'new-model: regional_processing_uplift_multiplier_eu: "1.1"',
        "bedrock/us-east-1/some-model: the price of one region",
        "nothing: every price is 0; name the model free, or write its price",
        "machine: input_seconds 0.00042: a unit that calls do not tell",
    ]
    assert {entry["match"] for entry in made.entries} == {"new-model"}
    text = write_yaml(made.entries, head={"source": "x"}, notes=made.left_out)
    assert text.endswith("# - machine: input_seconds 0.00042: a unit that calls do not tell\n")


def test_tables_of_tiers_are_read(tmp_path: Path) -> None:
    tiers = [
        {"range": [0, 256000.0], "input_cost_per_token": 5e-08, "output_cost_per_token": 4e-07},
        {"range": [256000.0, 1000000.0], "input_cost_per_token": 2.5e-07, "output_cost_per_token": 2e-06},
    ]
    model = {"litellm_provider": "dashscope", "mode": "chat", "tiered_pricing": tiers}
    price = found(book_of(tmp_path, {"dashscope/qwen-x": model}), "alibaba", "qwen-x")
    assert price.charge_nanousd(Usage(256_000, 1_000)) == 256_000 * 50 + 1_000 * 400
    assert price.charge_nanousd(Usage(256_001, 1_000)) == 256_001 * 250 + 1_000 * 2_000


def test_pictures_have_a_price_by_size_and_quality(tmp_path: Path) -> None:
    def drawn(per_pixel: float) -> dict[str, Any]:
        return {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_pixel": per_pixel}

    book = book_of(
        tmp_path,
        {
            "standard/1024-x-1024/painter": drawn(3.81469e-08),
            "hd/1024-x-1024/painter": drawn(7.629e-08),
            "hd/1024-x-1792/painter": drawn(6.539e-08),
            "256-x-256/sketcher": drawn(2.4414e-07),
        },
    )

    def usd(model: str, **context: str) -> object:
        return found(book, "openai", model, **context).for_ledger()["units"]

    # LiteLLM's prices per pixel are cut off; the picture's own price is what they were made of.
    assert usd("painter") == {"images": "0.04"}
    assert usd("painter", size="1024x1024", quality="hd") == {"images": "0.08"}
    assert usd("painter", size="1024x1792", quality="hd") == {"images": "0.12"}
    assert usd("sketcher", size="256x256") == {"images": "0.016"}
    assert found(book, "openai", "painter").hold_nanousd(input_tokens=0, max_output_tokens=0, units={"images": 2}) == (
        240_000_000
    )


def test_the_same_price_is_not_charged_twice_by_tokens_and_by_the_picture(tmp_path: Path) -> None:
    base = {
        "litellm_provider": "openai",
        "mode": "image_generation",
        "input_cost_per_token": 5e-06,
        "output_cost_per_image_token": 3.2e-05,
    }
    sized = {"litellm_provider": "openai", "mode": "image_generation", "input_cost_per_image": 0.133}
    book = book_of(tmp_path, {"painter-2": base, "high/1024-x-1024/painter-2": sized})
    price = found(book, "openai", "painter-2", quality="high", size="1024x1024")
    usage = Usage(10, 4_160, units={"images": 1, "output_image_tokens": 4_160})
    assert price.charge_nanousd(usage) == 10 * 5_000 + 4_160 * 32_000
    assert price.hold_nanousd(input_tokens=0, max_output_tokens=0, units={"images": 1}) == 133_000_000


@pytest.mark.parametrize(
    ("name", "entry", "unit", "usd"),
    [
        ("tts", {"mode": "audio_speech", "input_cost_per_character": 1.5e-05}, "input_characters", "0.000015"),
        (
            "whisper",
            {"mode": "audio_transcription", "input_cost_per_second": 0.0001, "output_cost_per_second": 0.0001},
            "audio_seconds",
            "0.0001",
        ),
        ("film", {"mode": "video_generation", "output_cost_per_second": 0.4}, "video_seconds", "0.4"),
        ("film", {"mode": "video_generation", "output_cost_per_video_per_second": 0.1}, "video_seconds", "0.1"),
        ("pages", {"mode": "ocr", "ocr_cost_per_page": 0.004}, "input_document_pages", "0.004"),
        ("rank", {"mode": "rerank", "input_cost_per_query": 0.002}, "rerank_searches", "0.002"),
        ("draw", {"mode": "image_generation", "output_cost_per_image": 0.04}, "images", "0.04"),
    ],
)
def test_each_kind_of_thing_has_its_unit(tmp_path: Path, name: str, entry: dict[str, Any], unit: str, usd: str) -> None:
    price = found(book_of(tmp_path, {name: {"litellm_provider": "acme", **entry}}), "acme", name)
    assert price.for_ledger()["units"] == {unit: usd}


def test_a_search_is_a_call(tmp_path: Path) -> None:
    model = {"litellm_provider": "acme", "mode": "search", "input_cost_per_query": 0.008}
    assert found(book_of(tmp_path, {"acme/search": model}), "acme", "search").charge_nanousd(Usage()) == 8_000_000


def test_a_film_has_a_price_by_resolution(tmp_path: Path) -> None:
    model = {
        "litellm_provider": "gemini",
        "mode": "video_generation",
        "output_cost_per_second": 0.1,
        "output_cost_per_second_4k": 0.3,
    }
    book = book_of(tmp_path, {"gemini/film": model})
    assert found(book, "google", "film", resolution="4K").charge_nanousd(Usage(units={"video_seconds": 8})) == (
        2_400_000_000
    )
    assert found(book, "google", "film").charge_nanousd(Usage(units={"video_seconds": 8})) == 800_000_000


@pytest.mark.parametrize(
    ("name", "litellm_provider", "expected"),
    [
        ("gemini/gemini-2.5-pro", "gemini", ("google", "gemini-2.5-pro", {})),
        ("vertex_ai/claude-x@20251001", "vertex_ai-anthropic_models", ("google", "claude-x@20251001", {})),
        ("groq/openai/gpt-oss-20b", "groq", ("groq", "openai/gpt-oss-20b", {})),
        ("azure/hd/1024-x-1792/dall-e-3", "azure", ("azure", "dall-e-3", {"quality": "hd", "size": "1024x1792"})),
        ("us.amazon.nova-lite-v1:0", "bedrock_converse", ("aws", "us.amazon.nova-lite-v1:0", {})),
        ("xai/grok-4", "xai", ("x-ai", "grok-4", {})),
    ],
)  # fmt: skip
def test_names_are_told_apart_from_who_serves_them(
    name: str, litellm_provider: str, expected: tuple[str, str, dict[str, str]]
) -> None:
    assert subject(name, litellm_provider)[:3] == expected


def test_limits_are_the_larger_of_two_spellings_and_of_all_dates(tmp_path: Path) -> None:
    def limited(window: int, longest: float, mode: str = "chat") -> dict[str, Any]:
        return {
            "litellm_provider": "gemini",
            "mode": mode,
            "max_input_tokens": window,
            "max_output_tokens": longest,
        }

    file = tmp_path / "litellm.json"
    models = {
        "gemini/thinker-3.1": limited(1000, 8191.0),
        "thinker-3-1-2026-01-01": limited(2000, 100),
        "vertex_ai/thinker-3.1": limited(500, 9000) | {"litellm_provider": "vertex_ai"},
        "gemini/embedder": limited(2048, 3072, "embedding"),
        "sample_spec": {"max_input_tokens": "max input tokens"},
    }
    file.write_text(json.dumps(models))
    assert import_limits(read_list(file, origin="x")) == {
        "google": {
            "embedder": [2048, None],
            "thinker-3-1": [1000, 9000],
            "thinker-3-1-*": [2000, 9000],
            "thinker-3-1-2026-01-01": [2000, 100],
        }
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "give LiteLLM's list of models: a JSON object with an object for each model"),
        ("{}", "it lists no model: give LiteLLM's model_prices_and_context_window.json"),
        ('{"m": 1}', "m: write an object with litellm_provider, a text"),
        ('{"m": {"litellm_provider": 7}}', "m: write an object with litellm_provider, a text"),
        ('{"a\\nb": {"litellm_provider": "p"}}', "write names of at most 256 characters, without control characters"),
        ('{"m": {}, "m": {}}', "'m' is given twice"),
        ('{"m": {"litellm_provider": "p", "input_cost_per_token": NaN}}', "NaN is no number"),
        (
            '{"m": {"litellm_provider": "p", "input_cost_per_token": "free"}}',
            'm.input_cost_per_token: "free" is not valid; write a number of USD, 0 or more',
        ),
        (
            '{"m": {"litellm_provider": "p", "input_cost_per_token": -1e-06}}',
            'm.input_cost_per_token: "-1e-06" is not valid; write a number of USD, 0 or more',
        ),
        (
            '{"m": {"litellm_provider": "p", "input_cost_per_token": 1e-999999999}}',
            'm.input_cost_per_token: "1e-999999999" is not valid; write a number of USD, 0 or more',
        ),
        (
            '{"m": {"litellm_provider": "p", "input_cost_per_token": true}}',
            "m.input_cost_per_token: true is not valid; write a number of USD, 0 or more",
        ),
        (
            '{"m": {"litellm_provider": "p", "tiered_pricing": [{"range": 5}]}}',
            "m.tiered_pricing[0].range: write the least and the most tokens of the tier",
        ),
        (
            '{"m": {"litellm_provider": "p", "search_context_cost_per_query": {"search_context_size_low": "x"}}}',
            'm.search_context_cost_per_query.search_context_size_low: "x" is not valid; write a number of USD',
        ),
        ("[" * 100_000, ""),
    ],
)  # fmt: skip
def test_a_mistake_in_the_list_is_named_with_its_path(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "litellm.json"
    file.write_text(content)
    with pytest.raises(PricesInvalid) as caught:
        read_list(file, origin="x")
    assert isinstance(caught.value, LimiterError)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


def test_a_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PricesInvalid, match="No such file"):
        read_list(tmp_path / "none.json", origin="x")
