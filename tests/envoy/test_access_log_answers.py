"""Of answers that are no streams the log has what Envoy has kept of them, or only their type, which settles them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from limiter.domain.reservations import Basis
from limiter.envoy.grants import ANSWER, EVENTS_NAMESPACE
from limiter.store.port import HoldRecord
from tests.envoy.access_logs import Log
from tests.envoy.exchanges import HELD, INPUT, POLICY, entry, token_usage
from tests.fakes.plugin import OpenClient, StoreClock
from tests.rules.desk import Limiter

COST = 200 * 1_000 + 30 * 2_000
GONE = ["downstream_remote_reset"]

GEMINI: dict[str, Any] = {
    "candidates": [{"content": {"parts": [{"text": ""}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 200, "candidatesTokenCount": 30, "totalTokenCount": 230},
}
CONVERSE = {"output": {}, "usage": {"inputTokens": 200, "outputTokens": 30, "totalTokens": 230}}

#: What Envoy's own reader counted, which is not what the answer says.
OTHER = token_usage(input_tokens=100, output_tokens=10, extraction_status=1)


@pytest.fixture
async def limiter(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[Limiter]:
    limiter = Limiter(open_client(), store_clock)
    await limiter.apply(POLICY)
    yield limiter
    await limiter.close()


async def after(
    limiter: Limiter,
    kept: object = "",
    *,
    content_type: str = "application/json",
    **told: Any,  # noqa: ANN401 - those of entry
) -> HoldRecord:
    """The record of a call of whose answer Envoy has kept this."""
    hold = await limiter.grant(tokens=(1_000, 1_000))
    logged = entry(hold, **told)
    text = kept if isinstance(kept, str) else json.dumps(kept)
    logged.common_properties.metadata.filter_metadata[EVENTS_NAMESPACE].update({ANSWER: text})
    logged.response.response_headers["content-type"] = content_type
    return await Log(limiter).ended(hold, logged)


@pytest.mark.parametrize(
    ("provider", "kept"),
    [("google", GEMINI), ("google", [GEMINI | {"candidates": []}, GEMINI]), ("aws", CONVERSE)],
)
@pytest.mark.parametrize("flags", [[], GONE])
async def test_what_was_kept_of_an_answer_settles_it_exactly(
    limiter: Limiter, provider: str, kept: object, flags: list[str]
) -> None:
    record = await after(limiter, kept, provider=provider, flags=flags, usage=OTHER)
    assert (record.basis, record.cost) == (Basis.USAGE, COST)


async def test_an_answer_that_was_not_kept_whole_is_an_estimate(limiter: Limiter) -> None:
    record = await after(limiter, json.dumps([GEMINI])[:-9], provider="google", flags=GONE, body_bytes=400)
    assert (record.basis, record.cost) == (Basis.ESTIMATED, INPUT + 100 * 2_000)


async def test_an_answer_without_usage_leaves_it_to_what_envoy_counted(limiter: Limiter) -> None:
    record = await after(limiter, {"choices": []}, usage=OTHER)
    assert (record.basis, record.cost) == (Basis.USAGE, 100 * 1_000 + 10 * 2_000)


@pytest.mark.parametrize("content_type", ["audio/mpeg", "application/octet-stream", "text/plain; charset=utf-8"])
async def test_an_answer_that_can_tell_nothing_is_charged_as_it_was_asked_for(
    limiter: Limiter, content_type: str
) -> None:
    record = await after(limiter, content_type=content_type, body_bytes=10)
    assert (record.basis, record.cost) == (Basis.ESTIMATED, HELD)
    left = await after(limiter, content_type=content_type, body_bytes=400, flags=GONE)
    assert (left.basis, left.cost) == (Basis.ESTIMATED, INPUT + 100 * 2_000)
