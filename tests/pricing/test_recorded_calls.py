"""Real calls to providers: the sizes are bounds, and the usages are the provider's own numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from limiter.domain.calls import Outcome, ProviderRequest, Usage
from limiter.domain.errors import InvalidArgument
from limiter.pricing.book import PriceBook
from limiter.pricing.reading import CallReading, read_request
from limiter.pricing.suspicion import beyond
from tests.pricing.recordings import ALL, SAMPLE, Counts, Recorded, recorded_calls
from tests.pricing.usages import NOW_MS

#: What contradicts itself in truth: the total has reasoning that no count has.
GEMINI_AS_OPENAI = "generativelanguage.googleapis.com/v1beta/openai/chat/completions"


@pytest.fixture(params=[SAMPLE, ALL], ids=["sample", "all"], scope="module")
def calls(request: pytest.FixtureRequest) -> list[Recorded]:
    path: Path = request.param
    if not path.exists():
        pytest.skip(f"{path.name} is not there; set LIMITER_TEST_DATA to the folder that has it")
    return recorded_calls(path)


@pytest.fixture
def answered(calls: list[Recorded]) -> list[Recorded]:
    return [call for call in calls if call.status == 200]


def test_every_usage_is_read_and_is_the_providers_own(answered: list[Recorded]) -> None:
    by_provider: Counter[str] = Counter()
    for call in answered:
        own = call.own_counts()
        if own is None:
            continue
        by_provider[call.provider] += 1
        reading = call.read()
        usage = reading.usage
        assert usage is not None, call.where
        read = Counts(
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
        )
        assert read == own, call.where
        assert reading.outcome is Outcome.COMPLETED, call.where
    assert by_provider.total() >= 9
    assert len(answered) < 100 or len(by_provider) >= 14, by_provider


def test_no_answer_has_a_usage_that_its_provider_did_not_tell(answered: list[Recorded]) -> None:
    for call in answered:
        if call.own_counts() is None:
            assert call.read().usage is None, call.where


def test_only_what_contradicts_itself_is_suspect(answered: list[Recorded]) -> None:
    for call in answered:
        reading = call.read()
        if GEMINI_AS_OPENAI not in call.where:
            assert reading.suspect == (), call.where
            continue
        assert call.parsed is not None
        assert reading.suspect
        assert reading.larger is not None
        assert reading.larger.total_tokens == call.parsed["usage"]["total_tokens"]


def test_every_usage_can_be_charged_and_none_is_beyond_its_model(book: PriceBook, answered: list[Recorded]) -> None:
    charged = 0
    for call in answered:
        reading = call.read()
        if reading.usage is None:
            continue
        price = book.find(provider=call.provider, model=reading.model, at_ms=NOW_MS, context=reading.context)
        if price is None:
            continue
        charged += 1
        assert price.charge_nanousd(reading.usage) >= 0
        for used_of, usage in reading.others:
            beside = book.find(provider=call.provider, model=used_of or reading.model, at_ms=NOW_MS)
            assert beside is not None, used_of
            assert beside.charge_nanousd(usage) > 0
        window, longest = price.context_window, price.max_output_tokens
        assert beyond(reading.usage, context_window=window, max_output_tokens=longest, runs=1) == (), call.where
    assert charged >= 9


def test_answers_are_named_by_their_providers(answered: list[Recorded]) -> None:
    for call in answered:
        if call.provider in ("openai", "anthropic") and call.own_counts() is not None:
            reading = call.read()
            assert reading.model, call.where
            assert reading.provider_request_id or "embeddings" in call.where, call.where


def test_an_error_used_nothing(calls: list[Recorded]) -> None:
    failed = [call.read() for call in calls if call.status >= 400]
    assert failed
    for reading in failed:
        assert (reading.outcome, reading.usage) == (Outcome.FAILED, Usage())


# ---------------------------------------------------------------------------- holds


def asked(call: Recorded) -> CallReading | None:
    """What the request says; None for what is refused."""
    # As compact as any client writes it: the tightest case for a bound by bytes.
    body = json.dumps(call.call["request"], separators=(",", ":"), ensure_ascii=False).encode()
    try:
        return read_request(ProviderRequest(call.call["host"], call.call["path"], body))
    except InvalidArgument:
        return None


def test_no_call_had_more_input_than_its_bound(answered: list[Recorded]) -> None:
    for call in answered:
        usage, request = call.read().usage, asked(call)
        if usage is not None and request is not None and request.size.growth is None:
            assert usage.input_tokens <= request.size.strict.input_tokens, (call.where, request)


def test_no_call_cost_more_than_its_hold(book: PriceBook, answered: list[Recorded]) -> None:
    compared = 0
    for call in answered:
        request, response = asked(call), call.read()
        if request is None or request.size.growth is not None or request.max_output_tokens is None:
            continue
        price = book.find(provider=request.provider, model=request.model, at_ms=NOW_MS, context=request.context)
        served = book.find(provider=request.provider, model=response.model, at_ms=NOW_MS, context=response.context)
        if response.usage is None or price is None or served is None:
            continue
        compared += 1
        longest = request.max_output_tokens * request.choices
        assert response.usage.output_tokens <= longest, call.where
        held = price.hold_nanousd(
            input_tokens=request.size.strict.input_tokens, max_output_tokens=longest, units=request.size.strict.units
        )
        assert served.charge_nanousd(response.usage) <= held, (call.where, request, response)
    assert compared >= 4
