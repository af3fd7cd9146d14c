"""Bodies and paths that nobody should get anything for, and those that cost nothing."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import pytest

from limiter.domain.calls import BODY_MAX_BYTES
from limiter.domain.reservations import State
from tests.envoy.checks import CHAT, CHAT_PATH, GOOGLE, MESSAGES_PATH, OPENAI, POLICY, Front

GOOD = b'{"model": "gpt-4o", "messages": []}'
BOUND = b'{"model": "gpt-4o", "messages": [], "max_completion_tokens": 9}'
RATED = POLICY.replace("limits: []", "limits: [{id: rpm, requests: 2, per: minute}, {id: d, spend: 1, per: day}]")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"null",
        b"[]",
        b'{"model": "gpt-4o", "model": "gpt-4o-mini", "messages": []}',
        b'{"model": "gpt-4o", "max_tokens": NaN}',
        b'{"model": "gpt-4o", "messages": "\xff"}',
        b'\xef\xbb\xbf{"model": "gpt-4o"}',
        b'{"model": "gpt\\u0000", "messages": []}',
        b'{"model": 4}',
        b"{}",
        b'{"model": "gpt-4o", "max_completion_tokens": -1}',
        b"[" * 100_000,
        gzip.compress(GOOD),
    ],
    ids=range(14),
)
async def test_a_body_that_cannot_be_read_is_400_and_takes_nothing(front: Front, body: bytes) -> None:
    await front.start()
    answer = await front.check(body, secret=await front.key())

    assert (answer.kind, answer.status, answer.headers["x-should-retry"]) == ("denied", 400, "false")
    assert answer.body["error"]["type"] == "invalid_request_error"
    assert (await front.limiter.rows(), answer.metadata) == ([], {})


@pytest.mark.each_engine
async def test_a_body_of_the_largest_size_is_read(front: Front) -> None:
    await front.start()
    body = GOOD[:-1] + b" " * (BODY_MAX_BYTES - len(GOOD)) + b"}"

    answer = await front.check(body, secret=await front.key(POLICY.replace("limits: []", "settings: {}")))

    assert len(body) == BODY_MAX_BYTES
    assert answer.kind == "ok"


async def test_a_refused_request_says_which_field_is_wrong(front: Front) -> None:
    await front.start()
    answer = await front.check({**CHAT, "max_completion_tokens": "many"}, secret=await front.key())

    assert answer.body["error"]["param"] == "max_completion_tokens"
    assert answer.body["error"]["message"].startswith("body.max_completion_tokens: 'many' is not valid; write")


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        (GOOD, "br", 415),
        (GOOD, "gzip, gzip", 415),
        (GOOD, "gzip", 400),
        (gzip.compress(GOOD)[:-6], "gzip", 400),
        (gzip.compress(GOOD) + gzip.compress(b"{}"), "gzip", 400),
        (gzip.compress(GOOD) + b"junk", "gzip", 400),
        (gzip.compress(b" " * (BODY_MAX_BYTES + 1)), "gzip", 413),
        (gzip.compress(b" " * 30_000_000), "gzip", 413),
        (gzip.compress(BOUND), "gzip", 200),
        (zlib.compress(BOUND), "Deflate", 200),
        (gzip.compress(GOOD), "gzip", 415),  # it names no maximum, and nobody could write one in
        (GOOD, "identity", 200),
    ],
    ids=range(12),
)
async def test_an_encoded_body_is_opened_within_bounds_or_refused(
    front: Front, body: bytes, encoding: str, status: int
) -> None:
    await front.start()
    answer = await front.check(body, secret=await front.key(), headers={"content-encoding": encoding})

    assert answer.status == status


CUT = [
    pytest.param({"headers": {"x-envoy-auth-partial-body": "true"}}, id="Envoy says so"),
    pytest.param({"size": 10**6}, id="there was more"),
    pytest.param({"headers": {"content-length": "1000000"}}, id="more was announced"),
]


@pytest.mark.parametrize("told", CUT)
async def test_a_body_that_was_cut_short_is_413(front: Front, told: dict[str, Any]) -> None:
    await front.start()
    answer = await front.check(secret=await front.key(), **told)

    assert (answer.kind, answer.status, answer.body["limiter"]["reason"]) == ("denied", 413, "BODY_INCOMPLETE")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("told", CUT)
async def test_a_body_that_was_cut_short_takes_the_hold_that_is_configured(front: Front, told: dict[str, Any]) -> None:
    await front.start("{partial_body: {hold_usd: 5.00}}")
    answer = await front.check(b'{"model": "gpt', secret=await front.key(), **told)

    assert (answer.kind, answer.metadata["provider"]) == ("ok", "openai")
    assert (await front.limiter.record(answer.reservation)).held == 5_000_000_000


async def test_a_cut_body_meets_the_ceiling_like_any_other(front: Front) -> None:
    await front.start("{partial_body: {hold_usd: 5.00}}")
    answer = await front.check(secret=await front.key(RATED), size=10**6)

    assert (answer.status, answer.body["limiter"]["reason"]) == (402, "SPEND_CEILING")


async def test_a_client_cannot_say_that_its_body_is_whole(front: Front) -> None:
    """Envoy sets the header where it hands bodies over; where it does not, there is no body to read."""
    await front.start()
    answer = await front.check(b"", secret=await front.key(), headers={"x-envoy-auth-partial-body": "false"})

    assert (answer.kind, answer.status) == ("denied", 400)


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
async def test_a_request_that_only_reads_counts_by_rates_and_takes_no_hold(front: Front, method: str) -> None:
    await front.start("{other_requests: rate_limits}")
    secret = await front.key(RATED)

    answers = [await front.check(b"", method=method, path="/v1/files/1", secret=secret) for _ in range(3)]

    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[0].metadata == {}
    assert (await front.limiter.record(answers[0].reservation)).state is State.SETTLED
    assert await front.limiter.rows() != []
    assert (await front.limiter.money("acme/search/bot d")).settled == "0.00"


async def test_a_request_that_only_reads_needs_a_key_too(front: Front) -> None:
    await front.start()
    await front.key()

    assert (await front.check(b"", method="GET", path="/v1/models")).status == 401


async def test_requests_that_only_read_can_be_refused(front: Front) -> None:
    await front.start("{other_requests: refuse}")
    answer = await front.check(b"", method="GET", path="/v1/models", secret=await front.key())

    assert (answer.kind, answer.status, answer.body["limiter"]["reason"]) == ("denied", 403, "REQUEST_NOT_OFFERED")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/v1/models/gpt-4o", 200),
        ("GET", "/v1/modelsandmore", 403),
        ("GET", "/v1/models/..%2Ffiles", 403),  # some servers take it for a slash
        ("GET", "/v1/models/..%5cfiles", 403),
        ("DELETE", "/v1/models/ft:mine", 403),
        ("GET", "/v1/files/of-another", 403),
        ("GET", "/v1/responses/of-another", 403),
        ("DELETE", "/v1/files/of-another", 403),
    ],
)
async def test_by_default_nobody_looks_into_the_companys_account(
    front: Front, method: str, path: str, status: int
) -> None:
    await front.start()
    assert (await front.check(b"", method=method, path=path, secret=await front.key())).status == status


async def test_a_key_of_limiters_never_goes_to_a_provider_that_has_no_key_of_its_own(front: Front) -> None:
    await front.start("{forward_client_keys: false}")
    answer = await front.check(secret=await front.key())

    assert (answer.kind, answer.status) == ("error", 503)
    assert "no key for api.openai.com" in answer.body["error"]["message"]
    assert await front.limiter.rows() == []


async def test_the_body_of_a_stranger_is_not_read(front: Front) -> None:
    await front.start()
    await front.key()

    assert (await front.check(b"no JSON at all", secret="lk-of-nobody")).status == 401


async def test_a_call_in_the_background_is_refused(front: Front) -> None:
    await front.start()
    body = {"model": "gpt-4o", "input": "hi", "max_output_tokens": 5, "background": True}
    answer = await front.check(body, path="/v1/responses", secret=await front.key())

    assert (answer.kind, answer.status, answer.body["error"]["param"]) == ("denied", 400, "background")


async def test_a_body_of_very_many_parts_is_refused(front: Front) -> None:
    await front.start()
    body = b'{"model": "gpt-4o", "messages": [' + b"[]," * 300_000 + b"[]]}"
    answer = await front.check(body, secret=await front.key())

    assert (answer.kind, answer.status) == ("denied", 400)
    assert "objects and lists" in answer.body["error"]["message"]


@pytest.mark.parametrize(
    ("told", "shape"),
    [
        ({"path": "/v1/files"}, "openai"),
        ({"path": "/v1/chat/completions/"}, "openai"),
        ({"path": "//v1/chat/completions"}, "openai"),
        ({"path": "/v1/chat/%63ompletions"}, "openai"),
        ({"path": ""}, "openai"),
        ({"host": "api.openai.com.evil.example", "path": "/v1/files"}, "openai"),
        ({"host": ""}, "openai"),
        ({"method": "PUT", "path": "/v1/files"}, "openai"),
        ({"method": "CONNECT", "path": ""}, "openai"),
        ({"method": "GET", "path": "/v1/realtime", "headers": {"upgrade": "websocket"}}, "openai"),
        ({"path": MESSAGES_PATH, "host": OPENAI}, "anthropic"),
        ({"path": "/v1beta/models/x:embedText", "host": GOOGLE}, "gemini"),
        ({"path": "/v1beta/models/x:batchGenerateContent", "host": GOOGLE}, "gemini"),
    ],
)
async def test_what_cannot_be_priced_is_refused_in_the_words_of_its_path(
    front: Front, told: dict[str, Any], shape: str
) -> None:
    await front.start("{partial_body: {hold_usd: 0.01}}")
    answer = await front.check(secret=await front.key(), **told)

    assert (answer.kind, answer.status, answer.headers["x-should-retry"]) == ("denied", 403, "false")
    assert answer.body["limiter"]["reason"] == "PATH_UNPRICED"
    error = answer.body["error"]
    found = {"openai": error.get("code"), "anthropic": answer.body.get("type"), "gemini": error.get("status")}
    assert (
        found[shape] == {"openai": "unsupported_endpoint", "anthropic": "error", "gemini": "PERMISSION_DENIED"}[shape]
    )


async def test_a_path_that_is_named_free_is_counted_by_rates_only(front: Front) -> None:
    await front.start("{free_paths: [/v1/files]}")
    secret = await front.key(RATED)

    assert (await front.check(b"anything", path="/v1/files?purpose=batch", secret=secret)).kind == "ok"
    assert (await front.check(path=CHAT_PATH, secret=secret)).metadata["reservation"]
