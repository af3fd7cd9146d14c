"""Context windows and longest outputs are known however a model is spelled; of several answers the largest counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limiter.pricing.book import PriceBook
from limiter.pricing.limits import DATA, Limits, LimitsTable, with_families
from limiter.pricing.spellings import bare, undated
from tests.pricing.usages import NOW_MS


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o", "gpt-4o"),
        ("GPT-4.1", "gpt-4-1"),
        ("openai/gpt-4.1-mini", "gpt-4-1-mini"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc123", "gpt-4o-mini-2024-07-18"),
        ("anthropic/claude-sonnet-4.5:free", "claude-sonnet-4-5"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5-20250929"),
        (
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/eu.amazon.nova-lite-v1:0",
            "nova-lite",
        ),
        ("claude-3-5-sonnet@20240620", "claude-3-5-sonnet-20240620"),
        ("publishers/google/models/gemini-2.5-pro", "gemini-2-5-pro"),
        ("accounts/fireworks/models/deepseek-v3", "deepseek-v3"),
    ],
)
def test_all_spellings_of_a_model_have_one_name(model: str, name: str) -> None:
    assert bare(model) == name


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("gpt-4-1-2025-04-14", "gpt-4-1"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("gemini-2-5-flash-preview-05-20", "gemini-2-5-flash"),
        ("gpt-4-0613", "gpt-4"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("gpt-4o", ""),
        ("gpt-4o-mini", ""),
    ],
)
def test_a_date_is_told_from_a_name(name: str, family: str) -> None:
    assert undated(name) == family


TABLE = LimitsTable(
    {
        "openai": {
            name: tuple(limits)
            for name, limits in with_families(
                {
                    "gpt-9": Limits(100, 10),
                    "gpt-9-2026-01-01": Limits(100, 4),
                    "gpt-9-2026-02-02": Limits(200, 8),
                    "half": Limits(50, None),
                }
            ).items()
        },
        "lender": {"half": (40, 7), "gpt-9": (90, 1), "own": (30, 3)},
    },
    source="test",
)


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("openai", "gpt-9", (100, 10)),
        ("openai", "gpt-9-2026-01-01", (100, 4)),
        ("openai", "gpt-9-2027-12-31", (200, 10)),  # a date that nobody knows yet: the largest of all
        ("openai", "gpt-9-turbo", (None, None)),  # another model, for all we know
        ("openai", "half", (50, 7)),
        ("nobody", "half", (50, 7)),
        ("lender", "gpt-9", (100, 10)),  # as its maker says
        ("lender", "own", (30, 3)),
        ("openai", "", (None, None)),
    ],
)
def test_limits_are_the_providers_else_the_largest_that_anyone_has(
    provider: str, model: str, expected: tuple[int | None, int | None]
) -> None:
    assert TABLE.find(provider=provider, model=model) == expected


@pytest.mark.parametrize(
    ("provider", "model", "window", "longest"),
    [
        ("openai", "gpt-4o", 128_000, 16_384),
        ("openai", "gpt-4.1-2025-04-14", 1_047_576, 32_768),
        ("azure", "gpt-4.1", 1_047_576, 32_768),
        ("anthropic", "claude-sonnet-4-5-20250929", 200_000, 64_000),
        ("aws", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", 200_000, 64_000),
        ("aws", "global.anthropic.claude-sonnet-4-5-20250929-v1:0", 200_000, 64_000),
        ("google", "gemini-2.5-pro", 1_048_576, 65_535),
        ("openrouter", "openai/gpt-4o", 128_000, 16_384),
        ("groq", "llama-3.3-70b-versatile", 128_000, 32_768),
    ],
)
def test_a_priced_model_has_its_limits(book: PriceBook, provider: str, model: str, window: int, longest: int) -> None:
    price = book.find(provider=provider, model=model, at_ms=NOW_MS)
    assert price is not None
    assert price.context_window is not None
    assert price.context_window >= window
    assert price.max_output_tokens is not None
    assert price.max_output_tokens >= longest


def test_a_file_of_ones_own_wins_even_with_a_smaller_limit(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text('version: 1\nmodels: [{match: gpt-4o, per_request: "1", context_window: 8000}]')
    price = PriceBook.load(file).find(provider="openai", model="gpt-4o", at_ms=NOW_MS)
    assert price is not None
    assert (price.context_window, price.max_output_tokens) == (8_000, 16_384)


def test_the_data_says_where_it_is_from() -> None:
    head = json.loads(DATA.read_text())
    assert {"date", "source", "licence"} <= head.keys()
    assert sum(map(len, head["models"].values())) > 3_000
