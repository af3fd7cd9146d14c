"""Counts that contradict each other are read as the larger of what they can mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.domain.calls import COUNT_MAX, Usage
from limiter.pricing.book import PriceBook
from limiter.pricing.suspicion import beyond, settled_reading
from tests.pricing.usages import NOW_MS


def test_a_usage_that_makes_sense_is_left_alone() -> None:
    usage = Usage(100, 50, cache_read_tokens=60, cache_write_tokens=40, reasoning_tokens=50, units={"images": 3})
    assert settled_reading(usage) == (usage, ())


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (Usage(10, 5, cache_read_tokens=11), Usage(21, 5, cache_read_tokens=11)),
        (Usage(10, 5, cache_read_tokens=6, cache_write_tokens=6), Usage(22, 5, 6, 6)),
        (Usage(10, 5, reasoning_tokens=6), Usage(10, 11, reasoning_tokens=6)),
        (
            Usage(10, 5, units={"cache_write_5m_tokens": 3}),
            Usage(10, 5, cache_write_tokens=3, units={"cache_write_5m_tokens": 3}),
        ),
        (
            Usage(10, 5, units={"input_audio_tokens": 8, "input_image_tokens": 8}),
            Usage(16, 5, units={"input_audio_tokens": 8, "input_image_tokens": 8}),
        ),
    ],
)
def test_a_whole_that_is_smaller_than_its_parts_is_raised(usage: Usage, expected: Usage) -> None:
    reading, reasons = settled_reading(usage)
    assert reading == expected
    assert len(reasons) == 1


@pytest.mark.parametrize(("provider", "model"), [("google", "gemini-2.5-flash"), ("openai", "gpt-image-1")])
def test_what_is_cached_and_an_image_or_sound_at_once_can_be_charged(
    book: PriceBook, provider: str, model: str
) -> None:
    price = book.find(provider=provider, model=model, at_ms=NOW_MS)
    assert price is not None
    usage = Usage(100, 5, cache_read_tokens=90, units={"input_audio_tokens": 20, "input_image_tokens": 30})
    reading, reasons = settled_reading(usage)
    assert reasons == ()
    assert reading.units["cache_image_read_tokens"] + reading.units.get("cache_audio_read_tokens", 0) == 40
    assert price.charge_nanousd(reading) > 0


def test_the_reason_names_the_counts() -> None:
    _, reasons = settled_reading(Usage(10, 5, cache_read_tokens=11))
    assert reasons == ("cache_read_tokens (11) exceed input_tokens (10)",)


def test_negative_counts_are_not_for_here() -> None:
    usage = Usage(-1, 5, cache_read_tokens=3)
    assert settled_reading(usage) == (usage, ())


counts = st.integers(0, 50) | st.sampled_from([COUNT_MAX - 1, COUNT_MAX])
names = st.sampled_from(
    [
        "cache_write_5m_tokens",
        "cache_write_1h_tokens",
        "input_text_tokens",
        "input_audio_tokens",
        "input_tool_tokens",
        "input_image_tool_tokens",
        "cache_image_read_tokens",
        "cache_audio_read_tokens",
        "input_image_tokens",
        "output_image_tokens",
        "web_searches",
        "input_audio_seconds",
        "images",
    ]
)


@given(usage=st.builds(Usage, counts, counts, counts, counts, counts, st.dictionaries(names, counts)))
def test_whatever_is_read_is_consistent_and_never_less(usage: Usage) -> None:
    reading, reasons = settled_reading(usage)
    assert settled_reading(reading) == (reading, ())
    assert usage.input_tokens <= reading.input_tokens <= COUNT_MAX
    assert usage.output_tokens <= reading.output_tokens <= COUNT_MAX
    assert reasons or (reading.input_tokens, reading.output_tokens) == (usage.input_tokens, usage.output_tokens)


@given(usage=st.builds(Usage, *[st.integers(0, 50)] * 5))
def test_the_larger_reading_costs_no_less_than_the_counts_that_can_be_believed(book: PriceBook, usage: Usage) -> None:
    price = book.find(provider="anthropic", model="claude-sonnet-4-5", at_ms=NOW_MS)
    assert price is not None
    reading, reasons = settled_reading(usage)
    if reasons:
        cached = usage.cache_read_tokens, usage.cache_write_tokens
        believed = cached if sum(cached) <= usage.input_tokens else (0, 0)
        plain = Usage(usage.input_tokens, usage.output_tokens, *believed)
        assert price.charge_nanousd(reading) >= price.charge_nanousd(plain)


# ---------------------------------------------------------------------------- absurd sizes


def test_what_a_model_cannot_do_is_beyond_it() -> None:
    limits = {"context_window": 200_000, "max_output_tokens": 8_192}
    assert beyond(Usage(200_001, 9_000), **limits, runs=1) == ()
    (reason,) = beyond(Usage(400_001, 1), **limits, runs=1)
    assert reason == "input_tokens (400001) are beyond the context window (200000)"
    assert len(beyond(Usage(10**9, 10**9), **limits)) == 2


def test_several_answers_and_rounds_may_be_larger() -> None:
    limits = {"context_window": 1_000, "max_output_tokens": 100}
    assert beyond(Usage(5_000, 1_000), **limits, choices=5, runs=3) == ()
    assert beyond(Usage(300_000, 10), **limits) == ()


def test_the_window_bounds_the_output_of_a_model_whose_longest_is_not_known() -> None:
    assert beyond(Usage(1, 2_001), context_window=1_000, max_output_tokens=None, runs=1)
    assert not beyond(Usage(10**9, 10**9), context_window=None, max_output_tokens=None)
