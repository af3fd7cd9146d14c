"""Of streams the log has the events that told the usage: they are read as the stream itself would be."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from limiter.domain.reservations import Basis, RowFlag
from limiter.domain.verdicts import Granted
from limiter.envoy.grants import EVENTS, EVENTS_NAMESPACE
from limiter.store.port import HoldRecord
from tests.envoy.access_logs import Log
from tests.envoy.exchanges import CHUNK, HELD, LAST, POLICY, USAGE, entry, sse, token_usage
from tests.fakes.plugin import OpenClient, StoreClock
from tests.rules.desk import Limiter

COST = 200 * 1_000 + 30 * 2_000
GONE = ["downstream_remote_reset"]
DONE = b"[DONE]"

#: What Envoy's own reader counted, which is not what the events say.
OTHER = token_usage(input_tokens=100, output_tokens=10, extraction_status=1)
OTHER_COST = 100 * 1_000 + 10 * 2_000

START: dict[str, Any] = {
    "type": "message_start",
    "message": {"id": "msg_1", "type": "message", "model": "m", "usage": {"input_tokens": 200, "output_tokens": 1}},
}
END: dict[str, Any] = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 30}}
STOP = {"type": "message_stop"}


@pytest.fixture
async def limiter(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[Limiter]:
    limiter = Limiter(open_client(), store_clock)
    await limiter.apply(POLICY)
    yield limiter
    await limiter.close()


async def held(limiter: Limiter) -> Granted:
    return await limiter.grant(tokens=(1_000, 1_000))


async def after(limiter: Limiter, *events: object, provider: str = "openai", **told: Any) -> HoldRecord:  # noqa: ANN401 - those of entry
    """The record of a call of whose stream Envoy has kept these events."""
    hold = await held(limiter)
    logged = entry(hold, stream=True, provider=provider, **told)
    logged.common_properties.metadata.filter_metadata[EVENTS_NAMESPACE].update({EVENTS: sse(*events).decode()})
    return await Log(limiter).ended(hold, logged)


@pytest.mark.parametrize("flags", [[], GONE])
@pytest.mark.parametrize(
    ("provider", "events"),
    [
        ("openai", [CHUNK, LAST, DONE]),
        ("openai", [CHUNK, LAST]),  # the usage of a chunk without choices is final
        ("openai", [CHUNK, CHUNK | {"usage": USAGE}, DONE]),
        ("anthropic", [START, END, STOP]),
        ("anthropic", [START, END]),
    ],
)
async def test_a_stream_is_settled_exactly_though_its_client_left_before_its_end(
    limiter: Limiter, provider: str, events: list[object], flags: list[str]
) -> None:
    record = await after(limiter, *events, provider=provider, flags=flags, body_bytes=9_000)
    assert (record.basis, record.cost, record.flags) == (Basis.USAGE, COST, RowFlag(0))


async def test_the_events_count_more_than_what_envoy_counted(limiter: Limiter) -> None:
    record = await after(limiter, CHUNK, LAST, DONE, usage=OTHER)
    assert (record.basis, record.cost) == (Basis.USAGE, COST)


@pytest.mark.parametrize("events", [[CHUNK], [CHUNK, CHUNK | {"usage": USAGE}], [CHUNK, DONE], [b"{", DONE], [START]])
async def test_events_without_a_final_usage_leave_it_to_what_envoy_counted(
    limiter: Limiter, events: list[object]
) -> None:
    record = await after(limiter, *events, usage=OTHER)
    assert (record.basis, record.cost) == (Basis.USAGE, OTHER_COST)


async def test_a_usage_that_was_not_final_counts_for_the_estimate(limiter: Limiter) -> None:
    record = await after(limiter, START, provider="anthropic", flags=GONE, body_bytes=2_000)
    assert (record.basis, record.cost) == (Basis.ESTIMATED, 200 * 1_000 + 100 * 2_000)


async def test_a_usage_that_cannot_be_read_is_an_estimate(limiter: Limiter) -> None:
    record = await after(limiter, CHUNK, LAST | {"usage": {"prompt_tokens": "many"}}, DONE, body_bytes=10**9)
    assert (record.basis, record.cost) == (Basis.ESTIMATED, HELD)
