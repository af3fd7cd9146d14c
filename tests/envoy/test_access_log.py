"""The access log tells how each call ended; each is settled once, whatever happens to the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from limiter.domain.errors import Unavailable
from limiter.domain.reservations import Basis, ReservationName, RowFlag, State
from limiter.domain.rows import RowKind
from limiter.envoy.access_log import AccessLog
from limiter.envoy.grants import TOKEN_USAGE, read_token_count
from limiter.envoy.v3 import access_log_pb2 as pb
from limiter.envoy.v3 import ai_pb2, base_pb2
from tests.envoy.access_logs import Log
from tests.envoy.exchanges import HELD, INPUT, entry, sent, token_usage
from tests.fakes.plugin import OpenClient, StoreClock
from tests.rules.desk import Limiter, name_of

COUNTED = token_usage(input_tokens=200, output_tokens=30, extraction_status=1)
COST = 200 * 1_000 + 30 * 2_000
GONE = "downstream_connection_termination"

NO_ANSWER = "upstream_reset_before_response_started{connection_termination}"
REFUSED_STREAM = "upstream_reset_before_response_started{remote_refused_stream_reset}"
OVERFLOW = "upstream_reset_before_response_started{overflow}"
GARBAGE = "upstream_reset_before_response_started{protocol_error}"


@pytest.fixture
async def limiter(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[Limiter]:
    limiter = Limiter(open_client(), store_clock)
    yield limiter
    await limiter.dump()
    await limiter.close()


@pytest.fixture
def log(limiter: Limiter) -> Log:
    return Log(limiter)


async def test_a_finished_call_is_settled_by_the_usage_that_envoy_read(log: Log) -> None:
    record = await log.after(await log.hold(), usage=COUNTED, stream=True, body_bytes=9_000)
    assert (record.state, record.basis, record.cost, record.flags) == (State.SETTLED, Basis.USAGE, COST, RowFlag(0))


async def test_usage_in_untyped_metadata_is_read_too(log: Log) -> None:
    hold = await log.hold()
    told = entry(hold)
    fields: dict[str, Any] = {"model": "m", "input_tokens": "200", "output_tokens": 30, "extraction_status": "COMPLETE"}
    told.common_properties.metadata.filter_metadata[TOKEN_USAGE].update(fields)
    await log.tell(told)
    assert (await log.limiter.record(hold)).cost == COST


@pytest.mark.parametrize(
    "told",
    [
        {"status": 0, "attempts": 0, "sent_bytes": 0, "flags": [GONE]},
        {"status": 0, "attempts": 1, "sent_bytes": 0, "flags": [GONE]},
        {"status": 503, "attempts": 0, "sent_bytes": 0, "flags": ["no_healthy_upstream"]},
        {"status": 503, "attempts": 3, "sent_bytes": 0, "flags": ["upstream_connection_failure"]},
        {"status": 504, "attempts": 1, "sent_bytes": 0, "flags": ["upstream_request_timeout"]},
        {"status": 400},
        {"status": 429},
        {"status": 529, "body_bytes": 100, "received_bytes": 200, "details": "via_upstream"},
        {"status": 503, "received_bytes": 90, "details": "x", "flags": ["upstream_connection_failure"]},
        {"status": 503, "attempts": 3, "sent_bytes": 0, "details": OVERFLOW, "flags": ["upstream_overflow"]},
        {"status": 503, "details": REFUSED_STREAM, "flags": ["upstream_remote_reset"]},
        {"status": 503, "received_bytes": 200, "details": "via_upstream", "flags": ["upstream_retry_limit_exceeded"]},
        {"status": 429, "received_bytes": 200, "details": "downstream_remote_disconnect", "flags": [GONE]},
        {"status": 429, "received_bytes": 200, "details": "via_upstream", "flags": ["upstream_connection_termination"]},
    ],
)
async def test_a_call_that_the_provider_did_not_serve_is_released(log: Log, told: dict[str, Any]) -> None:
    record = await log.after(await log.hold(), **told)
    assert (record.state, record.cost) == (State.RELEASED, 0)


@pytest.mark.parametrize(
    ("told", "cost"),
    [
        ({"flags": [GONE], "body_bytes": 4}, INPUT + 2_000),
        ({"flags": [GONE], "body_bytes": 2_000, "stream": True}, INPUT + 100 * 2_000),
        ({"flags": ["downstream_remote_reset"], "body_bytes": 400}, INPUT + 100 * 2_000),
        ({"flags": ["upstream_remote_reset"], "body_bytes": 10**9}, HELD),
        ({"flags": ["stream_idle_timeout"], "usage": token_usage(input_tokens=200, extraction_status=2)}, 200_000),
    ],
)
async def test_a_call_that_broke_off_is_settled_by_policy(log: Log, told: dict[str, Any], cost: int) -> None:
    record = await log.after(await log.hold(), **told)
    assert (record.basis, record.cost, record.flags) == (Basis.ESTIMATED, cost, RowFlag.ABORTED)


@pytest.mark.parametrize(
    "told",
    [
        {"status": 0, "flags": [GONE]},
        {"flags": [GONE], "body_bytes": 0},
        {"flags": ["upstream_connection_termination"]},
        {"status": 504, "flags": ["upstream_request_timeout"]},
        {"status": 500, "received_bytes": 9_000, "details": "response_payload_too_large"},
        {"status": 503, "details": NO_ANSWER, "flags": ["upstream_connection_termination"]},
        {"status": 503, "details": NO_ANSWER, "flags": ["upstream_remote_reset"]},
        {"status": 503, "flags": ["upstream_remote_reset"]},
        {"status": 502, "received_bytes": 40, "details": GARBAGE, "flags": ["upstream_protocol_error"]},
        {"status": 503, "attempts": 2, "details": NO_ANSWER, "flags": ["upstream_connection_failure"]},
        {"status": 500, "details": "ext_proc_error_gRPC_error_14"},
    ],
)
async def test_an_answer_that_nobody_saw_may_have_been_the_longest_that_was_held_for(
    log: Log, told: dict[str, Any]
) -> None:
    record = await log.after(await log.hold(), **told)
    assert (record.basis, record.cost, record.flags) == (Basis.ESTIMATED, HELD, RowFlag.ABORTED)


async def test_an_answer_that_told_no_usage_is_settled_by_policy_but_is_no_abort(log: Log) -> None:
    record = await log.after(await log.hold(), body_bytes=40, usage=token_usage(extraction_status=3))
    assert (record.basis, record.cost, record.flags) == (Basis.ESTIMATED, INPUT + 10 * 2_000, RowFlag(0))


async def test_what_ext_proc_has_settled_stays_as_it_is(log: Log) -> None:
    hold = await log.hold()
    await log.limiter.settle(hold, "0.10")
    for usage in (None, COUNTED):
        record = await log.after(hold, usage=usage)
        assert (record.basis, record.cost) == (Basis.USAGE, 100_000_000)
    assert [row.kind for row in await log.limiter.rows()].count(RowKind.SETTLEMENT) == 1


async def test_usage_corrects_an_estimate_by_one_row(log: Log) -> None:
    hold = await log.hold()
    await log.after(hold, flags=[GONE])
    record = await log.after(hold, usage=COUNTED)
    assert (record.basis, record.cost) == (Basis.USAGE, COST)
    assert [row.kind for row in await log.limiter.rows()].count(RowKind.CORRECTION) == 1


async def test_only_the_end_of_a_granted_call_counts(log: Log) -> None:
    hold = await log.hold()
    periodic, start, intermediate = entry(hold, usage=COUNTED), entry(hold, status=503), entry(hold, usage=COUNTED)
    periodic.common_properties.access_log_type = pb.DownstreamPeriodic
    start.common_properties.access_log_type = pb.DownstreamStart
    intermediate.common_properties.intermediate_log_entry = True
    await log.tell(periodic, start, intermediate, entry(None, status=402, attempts=0))
    assert (await log.limiter.record(hold)).state is State.HELD


async def test_a_client_cannot_name_a_reservation(log: Log) -> None:
    hold = await log.hold()
    told = entry(None, usage=COUNTED)
    told.request.request_headers["x-limiter-reservation"] = hold.reservation
    told.common_properties.metadata.filter_metadata["other.filter"].update({"reservation": hold.reservation})
    await log.tell(told)
    assert (await log.limiter.record(hold)).state is State.HELD


async def test_one_entrys_trouble_never_loses_the_others(log: Log) -> None:
    first, second = await log.hold(), await log.limiter.grant(tokens=(10, 10))
    unknown = second._replace(reservation=str(ReservationName("acme", "0" * 32)))
    absurd = entry(first, usage=token_usage(input_tokens=2**60, output_tokens=2**60, extraction_status=1))
    broken = entry(first)
    broken.common_properties.metadata.typed_filter_metadata[TOKEN_USAGE].value = b"\xff\xff"
    await log.tell(broken, entry(unknown, usage=COUNTED), absurd, entry(second, usage=COUNTED))
    assert (await log.limiter.record(second)).cost == COST
    assert await log.limiter.count('limiter_envoy_settlements_total{result="unknown",way="access_log"}') == 1


async def test_while_the_store_is_away_settlements_wait_for_it(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(limiter)
    holds = [await log.hold() for _ in range(200)]
    settle, failures = limiter.store.settle, 300

    async def troubled(call: Any) -> Any:  # noqa: ANN401 - as the store's
        nonlocal failures
        failures -= 1
        if failures > 0:
            raise Unavailable("the store is away")
        return await settle(call)

    monkeypatch.setattr(limiter.store, "settle", troubled)
    await log.tell(*(entry(hold, usage=COUNTED) for hold in holds))
    assert {(await limiter.record(hold)).cost for hold in holds} == {COST}
    assert await limiter.count('limiter_envoy_settlements_total{result="settled",way="access_log"}') == 200


async def test_more_than_may_wait_is_dropped_and_counted(limiter: Limiter) -> None:
    log = Log(limiter, waiting_max=3)
    holds = [await log.hold() for _ in range(5)]
    await log.tell(*(entry(hold, usage=COUNTED) for hold in holds))
    assert await limiter.count('limiter_envoy_settlements_total{result="dropped",way="access_log"}') == 2
    states = [(await limiter.record(hold)).state for hold in holds]
    assert states == [State.SETTLED] * 3 + [State.HELD] * 2


async def test_what_waits_at_the_end_is_left_to_expiry(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(limiter)
    hold = await log.hold()

    async def away(_: object) -> None:
        raise Unavailable("the store is away")

    monkeypatch.setattr(limiter.store, "settle", away)
    message = pb.StreamAccessLogsMessage()
    message.http_logs.log_entry.append(entry(hold, usage=COUNTED))
    await AccessLog(log.settling).stream_access_logs(sent([message]), None)
    await log.settling.drain(seconds=0)
    assert (await limiter.store.open_holds("acme", after="", count=9))[0][0].name == name_of(hold)


async def test_a_log_that_has_no_end_ends_when_the_server_does_and_what_it_told_is_booked(limiter: Limiter) -> None:
    log = Log(limiter)
    hold = await log.hold()
    draining = asyncio.Event()

    async def endless() -> AsyncIterator[pb.StreamAccessLogsMessage]:
        message = pb.StreamAccessLogsMessage()
        message.http_logs.log_entry.append(entry(hold, usage=COUNTED))
        yield message
        draining.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(30):
        await AccessLog(log.settling, draining=draining).stream_access_logs(endless(), None)
    await log.settling.drain(seconds=30)
    assert (await limiter.record(hold)).state is State.SETTLED


def test_counts_include_their_parts() -> None:
    def read(**fields: int) -> object:
        metadata = base_pb2.Metadata()
        metadata.typed_filter_metadata[TOKEN_USAGE].Pack(token_usage(**fields))
        return read_token_count(metadata)

    details = {"input_token_details__cached_tokens": 80, "input_token_details__cache_creation_tokens": 10}
    whole = read(input_tokens=100, output_tokens=50, output_token_details__reasoning_tokens=20, **details)
    assert "input_tokens=100, output_tokens=50, cache_read_tokens=80, cache_write_tokens=10" in str(whole)
    assert "reasoning_tokens=20" in str(whole)
    beside = read(input_tokens=7, output_tokens=50, **details)
    assert "input_tokens=97" in str(beside)
    assert "usage=None" in str(read(extraction_status=ai_pb2.TokenUsage.FAILED))
