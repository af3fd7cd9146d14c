"""Real calls to providers: the sizes are bounds, and the usages are the provider's own numbers."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limiter.domain.calls import Outcome, ProviderRequest, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument
from limiter.pricing.book import PriceBook
from limiter.pricing.hosts import endpoint
from limiter.pricing.reading import CallReading, ResponseReading, read_request, read_response
from tests.pricing.usages import NOW_MS

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "data" / "llm_calls_sample.jsonl"
ALL = Path(os.environ.get("LIMITER_TEST_DATA", ROOT.parent / "shared" / "data")) / "llm_calls.jsonl.gz"

Call = dict[str, Any]


def understood(lines: Iterator[str]) -> Iterator[tuple[Call, CallReading, ResponseReading]]:
    """The calls whose interface is known, with what was read of them."""
    for line in lines:
        call: Call = json.loads(line)
        try:
            endpoint(call["host"], call["path"])
        except InvalidArgument:
            continue
        if call["request"].get("models"):
            continue  # fallbacks are refused
        # As compact as any client writes it: the tightest case for a bound by bytes.
        body = json.dumps(call["request"], separators=(",", ":"), ensure_ascii=False).encode()
        request = read_request(ProviderRequest(call["host"], call["path"], body))
        answer = call["response"] if isinstance(call["response"], str) else json.dumps(call["response"])
        response = ProviderResponse(call["status"], call["content_type"] or "", answer.encode())
        yield call, request, read_response(provider=request.provider, response=response)


@pytest.fixture(params=[SAMPLE, ALL], ids=["sample", "all"])
def calls(request: pytest.FixtureRequest) -> list[tuple[Call, CallReading, ResponseReading]]:
    path: Path = request.param
    if not path.exists():
        pytest.skip(f"{path.name} is not there; set LIMITER_TEST_DATA to the folder that has it")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    read = list(understood(iter(content.decode().split("\n")[:-1])))
    assert len(read) >= 10
    return read


def own_usage(call: Call) -> dict[str, Any] | None:
    """The usage as a reader of the provider's manual would take it from the answer."""
    answer = call["response"]
    if isinstance(answer, dict):
        return answer.get("usage")
    told: dict[str, Any] = {}
    for line in answer.splitlines():
        event = json.loads(line[5:]) if line.startswith("data:") and "[DONE]" not in line else {}
        for place in (event, event.get("message"), event.get("response")):
            told |= (place or {}).get("usage") or {}
    return told or None


def test_the_usage_read_is_the_providers_own(calls: list[tuple[Call, CallReading, ResponseReading]]) -> None:
    compared = 0
    for call, request, reading in calls:
        own = own_usage(call)
        if call["status"] != 200 or not own:
            continue
        compared += 1
        assert reading.usage is not None
        cached = own.get("prompt_tokens_details") or own.get("input_tokens_details") or {}
        read, written = own.get("cache_read_input_tokens") or 0, own.get("cache_creation_input_tokens") or 0
        assert reading.usage.input_tokens == own.get("prompt_tokens", own.get("input_tokens", 0)) + read + written
        assert reading.usage.output_tokens == own.get("completion_tokens", own.get("output_tokens", 0))
        assert reading.usage.cache_read_tokens == read + (cached.get("cached_tokens") or 0)
        assert reading.outcome is Outcome.COMPLETED
        assert reading.model
        assert reading.provider_request_id or request.max_output_tokens == 0  # embeddings have no id
    assert compared >= 9


def test_an_error_used_nothing(calls: list[tuple[Call, CallReading, ResponseReading]]) -> None:
    failed = [reading for call, _, reading in calls if call["status"] >= 400]
    assert failed
    for reading in failed:
        assert (reading.outcome, reading.usage) == (Outcome.FAILED, Usage())


def test_no_call_had_more_input_than_its_bound(calls: list[tuple[Call, CallReading, ResponseReading]]) -> None:
    for call, request, response in calls:
        if request.bounded and response.usage is not None:
            assert response.usage.input_tokens <= request.input_tokens, (call["host"], request)


def test_no_call_cost_more_than_its_hold(
    book: PriceBook, calls: list[tuple[Call, CallReading, ResponseReading]]
) -> None:
    compared = 0
    for call, request, response in calls:
        asked = book.find(provider=request.provider, model=request.model, at_ms=NOW_MS, context=request.context)
        served = book.find(provider=request.provider, model=response.model, at_ms=NOW_MS, context=response.context)
        bound = request.max_output_tokens
        if not request.bounded or bound is None or response.usage is None or asked is None or served is None:
            continue
        compared += 1
        assert response.usage.output_tokens <= bound * request.choices
        held = asked.hold_nanousd(
            input_tokens=request.input_tokens, max_output_tokens=bound * request.choices, units=request.units
        )
        assert served.charge_nanousd(response.usage) <= held, (call["host"], request, response)
    assert compared >= 4
