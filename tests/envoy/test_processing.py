"""ext_proc settles answers before the client gets them, and never stands in their way."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from limiter.domain.errors import Unavailable
from limiter.domain.money import format_usd
from limiter.domain.reservations import Basis, RowFlag, State
from limiter.domain.verdicts import Granted
from limiter.envoy.options import EnvoyOptions
from limiter.envoy.processing import READ, STREAMS_KEY, Processing
from limiter.envoy.settling import Settling
from limiter.envoy.v3 import ext_proc_pb2 as pb
from limiter.store.port import HoldRecord
from tests.envoy.exchanges import (
    ANSWER,
    CHUNK,
    COST,
    HELD,
    INPUT,
    LAST,
    POLICY,
    SSE,
    Envoy,
    sent,
    sse,
    token_usage,
)
from tests.fakes.plugin import OpenClient, StoreClock
from tests.rules.desk import Limiter, usd

Mode = pb.ProcessingMode
HEADER = "x-limiter-request-cost"


class Context:
    """What a handler asks of a call."""

    def __init__(self, *, reads: bool) -> None:
        self._reads = reads

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ((STREAMS_KEY, READ),) if self._reads else ()


class Filter:
    """The ext_proc side of a sidecar."""

    def __init__(self, limiter: Limiter, options: EnvoyOptions | None = None, *, cost_wait_s: float = 5.0) -> None:
        self.limiter = limiter
        self.settling = Settling(limiter.service, again_s=(0.0,))
        self.processing = Processing(self.settling, options or EnvoyOptions(), cost_wait_s=cost_wait_s)

    async def hold(self, policy: str = POLICY) -> Granted:
        await self.limiter.apply(policy)
        return await self.limiter.grant(tokens=(1_000, 1_000))

    async def pass_through(self, *messages: pb.ProcessingRequest, reads: bool = False) -> list[pb.ProcessingResponse]:
        """Send messages and close, as Envoy does when it has seen enough; everything is booked after it."""
        answers = [answer async for answer in self.processing.process(sent(messages), Context(reads=reads))]
        await self.booked()
        return answers

    async def booked(self) -> None:
        await self.settling.drain(seconds=30)

    async def record(self, hold: Granted) -> HoldRecord:
        return await self.limiter.record(hold)


@pytest.fixture
async def limiter(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[Limiter]:
    limiter = Limiter(open_client(), store_clock)
    yield limiter
    await limiter.dump()
    await limiter.close()


@pytest.fixture
def ext_proc(limiter: Limiter) -> Filter:
    return Filter(limiter)


def headers_set(answer: pb.ProcessingResponse) -> dict[str, str]:
    mutation = answer.response_body.response.header_mutation
    return {option.header.key: option.header.raw_value.decode() for option in mutation.set_headers}


# ---------------------------------------------------------------------------- JSON


async def test_a_json_answer_is_buffered_settled_and_tells_its_cost(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    first, second = await ext_proc.pass_through(envoy.headers(content_length="103"), envoy.body(ANSWER))
    assert first.mode_override.response_body_mode == Mode.BUFFERED
    assert headers_set(second) == {HEADER: COST}
    record = await ext_proc.record(hold)
    assert (record.state, record.basis, format_usd(record.cost)) == (State.SETTLED, Basis.USAGE, COST)


LIST = [
    {"candidates": [{"content": {"parts": [{"text": "Hello"}]}}], "usageMetadata": {"promptTokenCount": 200}},
    {"candidates": [{"finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 200, "candidatesTokenCount": 30}},
]


async def test_a_stream_that_is_written_as_a_json_list_is_not_held_back(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold, stream=True, provider="google")
    (first,) = await ext_proc.pass_through(envoy.headers())
    assert first.mode_override.response_body_mode == Mode.NONE
    assert (await ext_proc.record(hold)).state is State.HELD  # the access log settles it


@pytest.mark.parametrize("whole", [True, False])
async def test_a_stream_that_is_written_as_a_json_list_is_read_as_it_passes(ext_proc: Filter, whole: bool) -> None:  # noqa: FBT001 - a parameter
    hold = await ext_proc.hold()
    envoy = Envoy(hold, stream=True, provider="google")
    text = json.dumps(LIST).encode()
    parts = [envoy.body(text[:90], end=False), envoy.body(text[90:], end=True)]
    first, *rest = await ext_proc.pass_through(envoy.headers(), *parts[: 1 + whole], reads=True)
    assert first.mode_override.response_body_mode == Mode.STREAMED
    assert not any(headers_set(answer) for answer in rest)
    record = await ext_proc.record(hold)
    assert record.basis is (Basis.USAGE if whole else Basis.ESTIMATED)
    assert format_usd(record.cost) == COST if whole else INPUT < record.cost < HELD


async def test_a_stream_with_an_event_that_is_too_large_is_estimated_by_all_that_passed(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold, stream=True)
    image = b'data: {"b64_json": "' + b"A" * 5_000_000 + b'", "usage": {}}\n\n'
    await ext_proc.pass_through(envoy.headers(SSE), envoy.body(image), reads=True)
    record = await ext_proc.record(hold)
    assert (record.basis, record.cost) == (Basis.ESTIMATED, HELD)


@pytest.mark.parametrize("content_type", ["audio/mpeg", "text/plain"])
async def test_an_answer_that_can_tell_nothing_is_charged_as_it_was_asked_for(
    ext_proc: Filter, content_type: str
) -> None:
    hold = await ext_proc.hold()
    (first,) = await ext_proc.pass_through(Envoy(hold).headers(content_type), reads=True)
    assert first.mode_override.response_body_mode == Mode.NONE
    record = await ext_proc.record(hold)
    assert (record.basis, record.cost) == (Basis.ESTIMATED, HELD)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
async def test_a_compressed_answer_is_settled_and_passes_as_it_is(ext_proc: Filter, encoding: str) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    plain = json.dumps(ANSWER).encode()
    body = {"gzip": gzip.compress(plain), "deflate": zlib.compress(plain)}.get(encoding, plain)
    _, answer = await ext_proc.pass_through(envoy.headers(content_encoding=encoding), envoy.body(body))
    assert headers_set(answer) == {HEADER: COST}
    assert not answer.response_body.response.HasField("body_mutation")


async def test_the_cost_headers_name_is_the_operators(limiter: Limiter) -> None:
    ext_proc = Filter(limiter, EnvoyOptions(cost_header="x-nemo-request-cost"))
    envoy = Envoy(await ext_proc.hold())
    first, second = await ext_proc.pass_through(envoy.headers(), envoy.body(ANSWER))
    assert headers_set(second) == {"x-nemo-request-cost": COST}
    # A provider's own header of that name is none that Envoy would show.
    assert list(first.response_headers.response.header_mutation.remove_headers) == ["x-nemo-request-cost"]


async def test_a_call_without_a_grant_passes_untouched(ext_proc: Filter) -> None:
    envoy = Envoy(None)
    answers = await ext_proc.pass_through(envoy.headers(status=402), envoy.body({"error": {}}))
    assert not answers[0].HasField("mode_override")
    assert not any(headers_set(answer) for answer in answers)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503, 529])
async def test_an_error_of_the_provider_costs_nothing(ext_proc: Filter, status: int) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    answers = await ext_proc.pass_through(envoy.headers(status=status, x_envoy_upstream_service_time="9"))
    assert not answers[0].HasField("mode_override")
    record = await ext_proc.record(hold)
    assert (record.state, record.cost) == (State.RELEASED, 0)


@pytest.mark.parametrize(
    "body", [b"", b'{"usage": {"prompt', b"<html>", b"[]", {"usage": {"tokens": 5}}, {"id": "no usage"}, b"\x1f\x8b"]
)
async def test_an_answer_that_does_not_tell_what_was_used_is_settled_by_policy(ext_proc: Filter, body: object) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    answers = await ext_proc.pass_through(envoy.headers(), envoy.body(body))
    record = await ext_proc.record(hold)
    assert (record.state, record.basis) == (State.SETTLED, Basis.ESTIMATED)
    assert INPUT <= record.cost <= HELD
    assert headers_set(answers[1]) == {HEADER: format_usd(record.cost)}


async def test_an_answer_in_an_encoding_that_cannot_be_undone_is_settled_by_policy(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    await ext_proc.pass_through(envoy.headers(content_encoding="br"), envoy.body(b"\x00" * 40))
    record = await ext_proc.record(hold)
    assert (record.basis, record.cost) == (Basis.ESTIMATED, INPUT + 10 * 2_000)


@pytest.mark.parametrize("status", [200, 204])
async def test_an_empty_answer_is_settled_by_policy(ext_proc: Filter, status: int) -> None:
    hold = await ext_proc.hold()
    await ext_proc.pass_through(Envoy(hold).headers(status=status, end=True))
    record = await ext_proc.record(hold)
    assert (record.basis, record.cost) == (Basis.ESTIMATED, INPUT)


async def test_an_answer_too_large_to_be_read_is_not_buffered(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    answers = await ext_proc.pass_through(Envoy(hold, mode=Mode.BUFFERED).headers(content_length=str(2**23)))
    assert answers[0].mode_override.response_body_mode == Mode.NONE
    assert (await ext_proc.record(hold)).state is State.HELD  # the access log tells of it


@pytest.mark.parametrize("reads", [False, True])
async def test_an_answer_that_outgrows_envoys_buffer_goes_on_without_its_cost(ext_proc: Filter, *, reads: bool) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    first, second = await ext_proc.pass_through(envoy.headers(), envoy.body(b'{"choices": [', end=False), reads=reads)
    assert first.mode_override.response_body_mode == Mode.BUFFERED_PARTIAL
    assert headers_set(second) == ({HEADER: format_usd((await ext_proc.record(hold)).cost)} if reads else {})
    assert (await ext_proc.record(hold)).state is (State.SETTLED if reads else State.HELD)


async def test_a_buffered_answer_with_trailers_is_whole(ext_proc: Filter) -> None:
    envoy = Envoy(await ext_proc.hold())
    answers = await ext_proc.pass_through(envoy.headers(), envoy.body(ANSWER, end=False), envoy.trailers())
    assert headers_set(answers[1]) == {HEADER: COST}


# ---------------------------------------------------------------------------- trouble


async def test_with_the_store_away_the_answer_goes_out_without_its_cost_and_is_settled_later(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ext_proc = Filter(limiter, cost_wait_s=0.0)
    hold = await ext_proc.hold()
    settle, away = limiter.store.settle, True

    async def troubled(call: Any) -> Any:  # noqa: ANN401 - as the store's
        if away:
            raise Unavailable("the store is away")
        return await settle(call)

    monkeypatch.setattr(limiter.store, "settle", troubled)
    envoy = Envoy(hold)
    process = ext_proc.processing.process(sent([envoy.headers(), envoy.body(ANSWER)]), Context(reads=False))
    answers = [answer async for answer in process]
    assert headers_set(answers[1]) == {}
    assert (await ext_proc.record(hold)).state is State.HELD
    away = False
    await ext_proc.booked()
    assert format_usd((await ext_proc.record(hold)).cost) == COST


async def test_more_calls_than_may_wait_are_dropped_and_counted(limiter: Limiter) -> None:
    ext_proc = Filter(limiter)
    hold = await ext_proc.hold()
    ext_proc.settling = Settling(limiter.service, waiting_max=0)
    ext_proc.processing = Processing(ext_proc.settling, EnvoyOptions())
    envoy = Envoy(hold)
    answers = await ext_proc.pass_through(envoy.headers(), envoy.body(ANSWER))
    assert headers_set(answers[1]) == {}
    assert await limiter.count('limiter_envoy_settlements_total{result="dropped",way="ext_proc"}') == 1


async def test_a_reservation_that_nobody_knows_gets_no_cost(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    name = f"{hold.reservation[:-4]}0000"
    envoy = Envoy(hold._replace(reservation=name))
    answers = await ext_proc.pass_through(envoy.headers(), envoy.body(ANSWER))
    assert headers_set(answers[1]) == {}
    await ext_proc.limiter.release(hold)


# ---------------------------------------------------------------------------- streams


async def test_a_stream_passes_untouched_by_default(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    answers = await ext_proc.pass_through(Envoy(hold).headers(SSE))
    assert not answers[0].HasField("mode_override")
    assert (await ext_proc.record(hold)).state is State.HELD


async def test_a_stream_is_read_where_the_filter_asks_for_it(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    parts = [envoy.body(sse(event), end=False) for event in (CHUNK, CHUNK, LAST, b"[DONE]")]
    answers = await ext_proc.pass_through(envoy.headers(SSE), *parts, envoy.body(b"", end=True), reads=True)
    assert answers[0].mode_override.response_body_mode == Mode.STREAMED
    assert [answer.WhichOneof("response") for answer in answers[1:]] == ["response_body"] * 5
    assert not any(answer.response_body.HasField("response") for answer in answers[1:])
    record = await ext_proc.record(hold)
    assert (record.basis, format_usd(record.cost), record.flags) == (Basis.USAGE, COST, RowFlag(0))


async def test_a_client_that_leaves_after_the_last_event_is_settled_exactly(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    await ext_proc.pass_through(envoy.headers(SSE), envoy.body(sse(CHUNK, LAST), end=False), reads=True)
    record = await ext_proc.record(hold)
    assert (record.basis, format_usd(record.cost)) == (Basis.USAGE, COST)


async def test_the_answer_to_the_last_chunk_may_be_the_last_thing_envoy_waits_for(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    messages = [envoy.headers(SSE), envoy.body(sse(CHUNK, LAST, b"[DONE]"))]
    async with aclosing(ext_proc.processing.process(sent(messages), Context(reads=True))) as answers:
        await anext(answers)
        await anext(answers)
    await ext_proc.booked()
    assert (await ext_proc.record(hold)).basis is Basis.USAGE


async def test_a_stream_that_breaks_off_is_settled_by_what_passed(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    await ext_proc.pass_through(envoy.headers(SSE), envoy.body(sse(*[CHUNK] * 10), end=False), reads=True)
    record = await ext_proc.record(hold)
    assert (record.basis, record.flags) == (Basis.ESTIMATED, RowFlag.ABORTED)
    assert record.cost == INPUT + -(-10 * len("Hello you") // 4) * 2_000


async def test_what_anthropic_counted_before_a_break_is_charged(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold, provider="anthropic")
    start = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 92, "output_tokens": 3}}}
    await ext_proc.pass_through(envoy.headers(SSE), envoy.body(sse(start), end=False), reads=True)
    assert (await ext_proc.record(hold)).cost == 92 * 1_000 + 3 * 2_000


async def test_a_stream_that_ended_without_usage_is_settled_by_policy_and_no_abort(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    await ext_proc.pass_through(envoy.headers(SSE), envoy.body(sse(CHUNK, b"[DONE]")), reads=True)
    record = await ext_proc.record(hold)
    assert (record.basis, record.flags, record.cost) == (Basis.ESTIMATED, RowFlag(0), INPUT + 3 * 2_000)


async def test_an_answer_that_never_came_whole_is_the_access_logs_to_tell(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    await ext_proc.pass_through(Envoy(hold).headers())
    assert (await ext_proc.record(hold)).state is State.HELD


async def test_an_answer_that_never_came_may_have_been_written_all_the_same(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    await ext_proc.pass_through(Envoy(hold).headers(), reads=True)
    record = await ext_proc.record(hold)
    assert (record.basis, record.cost, record.flags) == (Basis.ESTIMATED, record.held, RowFlag.ABORTED)


async def test_whether_the_provider_was_reached_is_the_access_logs_to_say(ext_proc: Filter) -> None:
    for message in (Envoy.request_headers, lambda envoy: envoy.headers("text/plain", status=503)):
        hold = await ext_proc.hold()
        await ext_proc.pass_through(message(Envoy(hold)), reads=True)
        assert (await ext_proc.record(hold)).state is State.HELD


async def test_envoys_own_timeout_is_no_proof_that_nothing_was_spent(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    await ext_proc.pass_through(Envoy(hold).headers("text/plain", status=504), reads=True)
    record = await ext_proc.record(hold)
    assert (record.state, record.cost) == (State.SETTLED, record.held)
    hold = await ext_proc.hold()
    await ext_proc.pass_through(Envoy(hold).headers(status=504, x_envoy_upstream_service_time="9"), reads=True)
    assert (await ext_proc.record(hold)).state is State.RELEASED


async def test_usage_that_comes_with_trailers_is_taken(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    answers = await ext_proc.pass_through(
        envoy.headers(SSE),
        envoy.trailers(token_usage(input_tokens=200, output_tokens=30, extraction_status=1)),
        reads=True,
    )
    assert answers[1].WhichOneof("response") == "response_trailers"
    record = await ext_proc.record(hold)
    assert (record.basis, format_usd(record.cost)) == (Basis.USAGE, COST)


# ---------------------------------------------------------------------------- requests


async def test_the_body_is_asked_for_only_where_something_must_be_written_into_it(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    (answer,) = await ext_proc.pass_through(Envoy(hold).request_headers())
    assert not answer.HasField("mode_override")
    envoy = Envoy(hold, mode=Mode.STREAMED, max_output_field="max_completion_tokens", max_output_tokens=77)
    first, second = await ext_proc.pass_through(envoy.request_headers(), envoy.request_body({"model": "m"}))
    assert first.mode_override == Mode(
        request_body_mode=Mode.BUFFERED, response_body_mode=Mode.STREAMED, response_header_mode=Mode.SEND
    )
    assert json.loads(second.request_body.response.body_mutation.body) == {"model": "m", "max_completion_tokens": 77}
    await ext_proc.limiter.release(hold)


async def test_requests_are_changed_only_as_the_operator_allows(limiter: Limiter) -> None:
    options = EnvoyOptions.model_validate({"request_changes": {"include_usage": False, "max_output_tokens": False}})
    ext_proc = Filter(limiter, options)
    envoy = Envoy(
        await ext_proc.hold(), max_output_field="max_completion_tokens", max_output_tokens=77, include_usage=True
    )
    first, second = await ext_proc.pass_through(envoy.request_headers(), envoy.request_body({"stream": True}))
    assert not first.HasField("mode_override")
    assert not second.request_body.HasField("response")


async def test_every_cost_that_was_told_is_the_ledgers(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold)
    _, answer = await ext_proc.pass_through(envoy.headers(), envoy.body(ANSWER))
    rows = await ext_proc.limiter.rows()
    assert usd(headers_set(answer)[HEADER]) == rows[-1].amount


async def test_a_body_before_trailers_is_completed_too(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold, max_output_field="max_completion_tokens", max_output_tokens=100)
    body = envoy.request_body({"model": "m"})
    body.request_body.end_of_stream = False
    answers = await ext_proc.pass_through(envoy.request_headers(), body)
    written = json.loads(answers[1].request_body.response.body_mutation.body)
    assert written == {"model": "m", "max_completion_tokens": 100}


async def test_a_request_that_cannot_be_bounded_is_not_sent(ext_proc: Filter) -> None:
    hold = await ext_proc.hold()
    envoy = Envoy(hold, max_output_field="max_completion_tokens", max_output_tokens=100)
    body = envoy.request_body({})
    body.request_body.body = b"{no JSON"
    answers = await ext_proc.pass_through(envoy.request_headers(), body)
    assert answers[1].immediate_response.status.code == 400
    assert json.loads(answers[1].immediate_response.body)["error"]["type"] == "invalid_request_error"
    assert (await ext_proc.record(hold)).state is State.RELEASED
