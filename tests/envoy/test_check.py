"""What Envoy is told of a request: allowed with a hold, denied, or trouble."""

from __future__ import annotations

import asyncio
import gzip

import grpc
import pytest

from limiter.domain.errors import Overloaded, Unavailable
from limiter.domain.reservations import State
from limiter.domain.verdicts import Verdict
from limiter.service.calls import ReserveCall
from tests.envoy.checks import (
    ANTHROPIC,
    CHAT,
    CHAT_PATH,
    MESSAGES,
    MESSAGES_PATH,
    OPENAI,
    POLICY,
    Front,
    check_request,
    read_answer,
)
from tests.rules.desk import Gate

KEYS = """
    version: 1
    organizations:
      acme:
        limits:
          - {id: rpm, requests: 10, per: minute}
          - {id: tpm, tokens: 100000, per: minute}
          - {id: daily, spend: 1, per: day}
        teams: {search: {keys: {bot: {limits: []}}}}
"""


@pytest.mark.each_engine
async def test_a_request_that_fits_goes_on_with_a_hold_that_metadata_and_header_name(front: Front) -> None:
    await front.start()
    secret = await front.key()

    answer = await front.check(secret=secret)

    assert (answer.kind, answer.body) == ("ok", None)
    record = await front.limiter.record(answer.reservation)
    assert record.state is State.HELD
    assert answer.metadata == {
        "reservation": answer.reservation,
        "provider": "openai",
        "max_output_tokens": 100.0,
    }


@pytest.mark.each_engine
async def test_a_spend_ceiling_is_402_with_every_violation_and_no_retry(front: Front) -> None:
    await front.start()
    secret = await front.key(KEYS.replace("spend: 1,", "spend: 0.0001,"))

    answer = await front.check(secret=secret)

    assert (answer.kind, answer.status) == ("denied", 402)
    assert answer.body["error"]["type"] == "insufficient_quota"
    assert "limit daily (0.0001 USD per day) of acme" in answer.body["error"]["message"]
    assert answer.body["limiter"]["reason"] == "SPEND_CEILING"
    assert answer.body["limiter"]["retryable"] is False
    (violation,) = answer.body["limiter"]["violations"]
    assert {name: violation[name] for name in ("scope", "limit", "kind", "unit", "window", "limit_value")} == {
        "scope": "organizations/acme",
        "limit": "daily",
        "kind": "SPEND",
        "unit": "nanousd",
        "window": "day",
        "limit_value": 100_000,
    }
    assert violation["resets_at"] == "2026-09-22T00:00:00.000+00:00"
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["content-type"] == "application/json"
    assert "retry-after" not in answer.headers
    assert "reservation" not in answer.metadata


async def test_a_rate_is_429_with_whole_seconds_to_wait_rounded_up(front: Front) -> None:
    await front.start()
    secret = await front.key(KEYS.replace("requests: 10, per: minute", "requests: 1, per: minute"))
    await front.check(secret=secret)
    front.limiter.tick("500 ms")

    answer = await front.check(secret=secret)

    assert (answer.kind, answer.status) == ("denied", 429)
    assert answer.headers["retry-after"] == "60"
    assert answer.body["limiter"]["retry_after_ms"] == 59_500
    assert answer.body["error"]["code"] == "rate_limit_exceeded"
    assert "x-should-retry" not in answer.headers


@pytest.mark.each_engine
async def test_what_is_left_of_the_rates_stands_in_openais_headers(front: Front) -> None:
    await front.start()
    secret = await front.key(KEYS)

    answer = await front.check(secret=secret)

    told = {name.removeprefix("x-ratelimit-"): value for name, value in answer.headers.items() if "ratelimit" in name}
    assert told.pop("reset-tokens").endswith("ms")
    left = int(told.pop("remaining-tokens"))
    assert 99_000 < left < 100_000
    assert told == {
        "limit-requests": "10",
        "remaining-requests": "9",
        "reset-requests": "6s",
        "limit-tokens": "100000",
    }


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        ("{enabled: false}", 401, "KEY_DISABLED"),
        ("{models: [gpt-5]}", 403, "MODEL_NOT_ALLOWED"),
        ("{limits: [{id: tiny, tokens: 5, per: minute}]}", 400, "NEVER_FITS"),
        ("{limits: [{id: one, concurrency: 0}]}", 429, "CONCURRENCY"),
    ],
)
async def test_each_refusal_has_the_status_of_its_reason(front: Front, change: str, status: int, reason: str) -> None:
    await front.start()
    secret = await front.key(KEYS.replace("bot: {limits: []}", f"bot: {change}"))

    answer = await front.check(secret=secret)

    assert (answer.kind, answer.status, answer.body["limiter"]["reason"]) == ("denied", status, reason)
    assert answer.headers.get("x-should-retry") == (None if status == 429 else "false")


async def test_a_model_without_a_price_is_403(front: Front) -> None:
    await front.start()
    answer = await front.check({**CHAT, "model": "nobody-knows"}, secret=await front.key())

    assert (answer.status, answer.body["limiter"]["reason"]) == (403, "MODEL_UNPRICED")


async def test_messages_of_anthropic_are_refused_in_its_own_words(front: Front) -> None:
    await front.start()
    secret = await front.key(KEYS.replace("spend: 1,", "spend: 0.0001,"))

    answer = await front.check(MESSAGES, path=MESSAGES_PATH, host=ANTHROPIC, headers={"x-api-key": secret})

    assert answer.status == 402
    assert {name: answer.body[name] for name in ("type", "error")} == {
        "type": "error",
        "error": {"type": "billing_error", "message": answer.body["error"]["message"]},
    }


async def test_the_limiters_own_trouble_is_an_error_that_may_be_tried_again_never_a_denial(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    await front.start()
    secret = await front.key()
    for trouble in (Unavailable("the store cannot be reached"), Overloaded("too much"), ZeroDivisionError("secret")):

        def fail(_call: object, trouble: Exception = trouble) -> None:
            raise trouble

        monkeypatch.setattr(front.limiter.service, "reserve", fail)

        answer = await front.check(secret=secret)

        assert (answer.kind, answer.status, answer.headers["retry-after"]) == ("error", 503, "1")
        assert answer.body["limiter"] == {
            "reason": "UNAVAILABLE",
            "retryable": True,
            "retry_after_ms": 1000,
            "violations": [],
        }
        assert "x-should-retry" not in answer.headers
        assert "secret" not in answer.body["error"]["message"]
    assert await front.limiter.count('limiter_call_seconds_count{code="UNAVAILABLE",method="Check"}') == 1
    assert await front.limiter.count('limiter_call_seconds_count{code="INTERNAL",method="Check"}') == 1


async def test_a_grant_that_cannot_be_told_is_given_back(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    await front.start()
    secret = await front.key()
    monkeypatch.setattr("limiter.envoy.answers.note_grant", lambda *_a, **_b: 1 / 0)

    answer = await front.check(secret=secret)

    await front.limiter.service.give_backs.drain()
    assert answer.kind == "error"
    (row,) = await front.limiter.rows()
    assert (row.state, row.amount) == (State.RELEASED, 0)


@pytest.mark.each_engine
async def test_the_hold_of_a_check_that_envoy_gave_up_on_is_released(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    await front.start()
    secret = await front.key()
    gate, left, reserve = Gate(front.limiter), asyncio.Event(), front.limiter.service.reserve

    async def note_leaving(call: ReserveCall) -> Verdict:
        try:
            return await reserve(call)
        finally:
            left.set()

    monkeypatch.setattr(front.limiter.service, "reserve", note_leaving)
    call = front.send(check_request(secret=secret), timeout_s=0.2)
    await gate.decided.wait()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    await left.wait()
    gate.open()

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        while not (rows := await front.limiter.rows()):  # noqa: ASYNC110 - nobody tells when it is released
            await asyncio.sleep(0.01)
    assert (rows[0].state, rows[0].amount) == (State.RELEASED, 0)


async def test_every_check_takes_a_hold_of_its_own_whatever_id_the_client_sends(front: Front) -> None:
    await front.start()
    secret = await front.key()
    forged = {"x-request-id": "1", "idempotency-key": "1", "x-limiter-reservation": "organizations/acme/reservations/1"}

    first = await front.check(secret=secret, headers=forged)
    second = await front.check(secret=secret, headers=forged)

    assert first.reservation != second.reservation
    assert await front.limiter.count('limiter_decisions_total{decision="GRANTED",reason="NONE"}') == 2


async def test_the_clients_copies_of_our_headers_never_reach_the_provider(front: Front) -> None:
    await front.start("{cost_header: x-acme-cost, tags_header: x-acme-tags}")
    secret = await front.key()
    forged = ("x-limiter-reservation", "x-limiter-anything", "x-acme-cost", "x-acme-tags")

    answer = await front.check(secret=secret, headers=dict.fromkeys(forged, "customer:x"))

    assert set(forged) <= answer.removed
    assert "content-type" not in answer.removed


async def test_metadata_that_a_client_could_have_forged_says_nothing(front: Front) -> None:
    await front.start()
    secret = await front.key()
    forged = {"envoy.filters.http.ext_authz": {"reservation": "organizations/acme/reservations/1", "key": "acme/a/b"}}

    answer = await front.check(secret=secret, metadata=forged)

    assert answer.metadata["reservation"] == answer.reservation != forged["envoy.filters.http.ext_authz"]["reservation"]


async def test_the_provider_is_asked_for_plain_answers_so_that_their_usage_can_be_read(front: Front) -> None:
    await front.start()
    answer = await front.check(secret=await front.key(), headers={"accept-encoding": "gzip"})

    assert "accept-encoding" in answer.removed


async def test_a_route_names_the_provider_where_the_host_is_ours(front: Front) -> None:
    await front.start()
    route = {"host": OPENAI, "path_prefix": "/openai/"}

    answer = await front.check(
        secret=await front.key(), host="gateway:8080", path=f"/openai{CHAT_PATH}?a=b", route=route
    )

    assert (answer.kind, answer.metadata["provider"]) == ("ok", "openai")


@pytest.mark.parametrize(
    ("body", "field", "include"),
    [
        ({"stream": True}, None, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, None, True),
        ({"stream": True, "stream_options": {"include_usage": True}}, None, None),
        ({"max_completion_tokens": None}, "max_completion_tokens", None),
    ],
)
async def test_what_the_request_lacks_is_told_to_whoever_may_add_it(
    front: Front, body: dict[str, object], field: str | None, include: object
) -> None:
    await front.start()
    answer = await front.check({**CHAT, **body}, secret=await front.key())

    assert (answer.metadata.get("max_output_field"), answer.metadata.get("include_usage")) == (field, include)
    assert answer.metadata["max_output_tokens"] == (4096 if field else 100)


@pytest.mark.parametrize(("writes", "output"), [(True, 4096), (False, 16_384)])
async def test_a_strict_hold_relies_on_the_default_output_only_where_it_is_written_into_the_request(
    front: Front,
    writes: bool,  # noqa: FBT001 - whether ext_proc writes
    output: int,
) -> None:
    await front.start(f"{{request_changes: {{max_output_tokens: {str(writes).lower()}}}}}")
    secret = await front.key(POLICY.replace("acme:\n", "acme:\n        settings: {estimate: strict}\n"))
    answer = await front.check({**CHAT, "max_completion_tokens": None}, secret=secret)

    assert answer.metadata["max_output_tokens"] == output


async def test_a_compressed_body_is_read_but_not_to_be_changed(front: Front) -> None:
    await front.start("{request_changes: {include_usage: false, max_output_tokens: false}}")
    packed = gzip.compress(b'{"model": "gpt-4o", "stream": true, "messages": []}')

    answer = await front.check(packed, secret=await front.key(), headers={"content-encoding": "gzip"})

    assert (answer.kind, answer.metadata["stream"]) == ("ok", True)
    assert answer.metadata.keys().isdisjoint({"include_usage", "max_output_field"})


async def test_raw_headers_are_read_as_well(front: Front) -> None:
    await front.start()
    secret = await front.key()
    request = check_request()
    http = request.attributes.request.http
    http.headers.clear()
    http.header_map.headers.add(key="authorization", raw_value=f"Bearer {secret}".encode())
    http.header_map.headers.add(key="x-limiter-tags", raw_value=b"customer:caf\xc3\xa9")
    http.header_map.headers.add(key="x-strange", raw_value=b"\xff\x00")

    answer = read_answer(await front.send(request))

    assert answer.kind == "ok"
    assert '"customer", "caf\\u00e9"' in (await front.limiter.record(answer.reservation)).call.decode()
