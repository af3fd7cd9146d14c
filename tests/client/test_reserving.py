"""Reserve: what is sent, what a grant holds, what a refusal raises."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from limiter.client import (
    AsyncClient,
    CallFailed,
    Client,
    DenialReason,
    InvalidRequest,
    KeyRefused,
    LimiterClientError,
    LimitKind,
    ModelRefused,
    NeverFits,
    ProviderRequest,
    RateLimited,
    Refused,
    SpendCeilingReached,
)
from limiter.v1 import limiter_pb2 as pb
from tests.client.faces import result
from tests.client.fake_limiter import HELD_NANOUSD, RESERVATION, FakeLimiter, daily, denied, granted, milliseconds

Either = AsyncClient | Client


async def test_a_grant_says_what_is_held_and_how_much_output_it_pays_for(client: Either) -> None:
    hold = await result(client.reserve(model="gpt-4o", input_tokens=900, max_output_tokens=500))
    assert hold.reservation == RESERVATION
    assert (hold.held_nanousd, hold.held_usd) == (HELD_NANOUSD, Decimal("0.005"))
    assert hold.expires_at == datetime.fromtimestamp(1_800_000_000, UTC)
    assert hold.max_output_tokens == 500
    assert not hold.dry_run
    assert not hold.repeated_call
    [limit] = hold.limits
    assert (limit.limit.id, limit.limit.kind, limit.scope.path) == ("daily", LimitKind.SPEND, "acme/search/bot")
    assert (limit.remaining, limit.resets_at_ms) == (500_000_000, 1_900_000_000_000)


async def test_every_argument_reaches_the_limiter(client: Either, limiter: FakeLimiter) -> None:
    await result(
        client.reserve(
            model="gpt-4o",
            provider="openai",
            input_tokens=900,
            max_output_tokens=0,
            units={"images": 2},
            tags={"customer": "acme", "feature": ["search", "beta"]},
            ttl=timedelta(minutes=3),
            request_id="r-1",
            dry_run=True,
            all_limits=True,
            caps_output=True,
        )
    )
    [request] = limiter.requests("Reserve")
    expected = pb.ReserveRequest(
        request_id="r-1",
        api_key="secret-key",
        model="gpt-4o",
        provider="openai",
        estimate=pb.Estimate(input_tokens=900, max_output_tokens=0, units={"images": 2}),
        tags=[
            pb.Tag(name="customer", value="acme"),
            pb.Tag(name="feature", value="search"),
            pb.Tag(name="feature", value="beta"),
        ],
        dry_run=True,
        all_limits=True,
        caps_output=True,
    )
    expected.ttl.FromSeconds(180)
    assert request == expected


@pytest.mark.parametrize(
    ("arguments", "field", "expected"),
    [
        ({"cost_nanousd": 12}, "cost_nanousd", 12),
        ({"cost_usd": Decimal("0.000000012")}, "cost_nanousd", 12),
        ({"cost_usd": "1.5"}, "cost_nanousd", 1_500_000_000),
        ({"provider_request": ("h", "/p", {"a": 1})}, "provider_request", ("h", "/p", b'{"a": 1}')),
        ({"provider_request": ("h", "/p", b"raw")}, "provider_request", ("h", "/p", b"raw")),
        ({"provider_request": ProviderRequest("h", "/p", b"raw")}, "provider_request", ("h", "/p", b"raw")),
    ],
)
async def test_a_size_is_a_cost_or_the_request_of_the_provider(
    client: Either, limiter: FakeLimiter, arguments: dict[str, Any], field: str, expected: object
) -> None:
    await result(client.reserve(model="m", **arguments))
    sent = getattr(limiter.requests("Reserve")[0], field)
    assert (sent if field == "cost_nanousd" else (sent.host, sent.path, sent.body)) == expected


@pytest.mark.parametrize(
    ("field", "request_body", "capped"),
    [
        ("max_completion_tokens", {"model": "m"}, {"model": "m", "max_completion_tokens": 500}),
        ("max_tokens", {"max_tokens": 7}, {"max_tokens": 7}),
        ("max_tokens", {"max_tokens": None}, {"max_tokens": 500}),
        (
            "generationConfig.maxOutputTokens",
            {"contents": [], "generationConfig": {"topK": 1}},
            {"contents": [], "generationConfig": {"topK": 1, "maxOutputTokens": 500}},
        ),
        ("inferenceConfig.maxTokens", {}, {"inferenceConfig": {"maxTokens": 500}}),
        ("", {"model": "m", "max_tokens": 7}, {"model": "m", "max_tokens": 7}),
    ],
)
async def test_a_request_that_names_no_maximum_can_be_capped_at_what_the_hold_pays_for(
    client: Either, limiter: FakeLimiter, field: str, request_body: dict[str, Any], capped: dict[str, Any]
) -> None:
    answer = granted()
    answer.output_field = field
    limiter.script["Reserve"].append(answer)
    before = repr(request_body)
    hold = await result(client.reserve(provider_request=("h", "/p", request_body), caps_output=True))
    assert hold.output_field == field
    assert hold.capped(request_body) == capped
    assert repr(request_body) == before


async def test_the_field_of_the_maximum_can_be_named_where_the_hold_was_reserved_by_counts(client: Either) -> None:
    hold = await result(client.reserve(model="m", max_output_tokens=500))
    assert hold.capped({"model": "m"}, field="max_tokens") == {"model": "m", "max_tokens": 500}


async def test_each_reserve_gets_a_request_id_of_its_own(client: Either, limiter: FakeLimiter) -> None:
    for _ in range(2):
        await result(client.reserve(model="m"))
    first, second = (UUID(request.request_id) for request in limiter.requests("Reserve"))
    assert first != second


async def test_a_key_given_with_the_call_stands_before_that_of_the_client(client: Either, limiter: FakeLimiter) -> None:
    await result(client.reserve(model="m", api_key="other"))
    await result(client.reserve(model="m", key_id="acme/search/bot"))
    first, second = limiter.requests("Reserve")
    assert first.api_key == "other"
    assert (second.WhichOneof("principal"), second.key_id) == ("key_id", "acme/search/bot")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cost_usd": 0.1}, "cost_usd"),
        ({"cost_usd": "1", "cost_nanousd": 1}, "exclude each other"),
        ({"cost_usd": "1", "input_tokens": 1}, "exclude each other"),
        ({"input_tokens": "many"}, "Estimate"),
        ({"cost_nanousd": 2**63}, "ReserveRequest"),
        ({"ttl": "soon"}, "ttl"),
        ({"tags": ["customer"]}, "tags"),
        ({"tags": {"customer": 5}}, "tags"),
        ({"provider_request": "body"}, "provider_request"),
        ({"api_key": "a", "key_id": "b"}, "exclude each other"),
    ],
)
async def test_an_argument_that_cannot_be_sent_is_named_before_anything_is_sent(
    client: Either, limiter: FakeLimiter, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        await result(client.reserve(model="m", **arguments))
    assert limiter.asked == []


async def test_a_misspelt_argument_is_a_type_error(client: Either) -> None:
    with pytest.raises(TypeError, match="max_tokens"):
        await result(client.reserve(model="m", max_tokens=5))  # type: ignore[call-arg]


async def test_without_a_key_nothing_is_asked(limiter: FakeLimiter, connect: Callable[..., Either]) -> None:
    with pytest.raises(InvalidRequest, match="LIMITER_API_KEY"):
        await result(connect(limiter.address).reserve(model="m"))


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (DenialReason.KEY_UNKNOWN, KeyRefused),
        (DenialReason.KEY_DISABLED, KeyRefused),
        (DenialReason.KEY_EXPIRED, KeyRefused),
        (DenialReason.MODEL_NOT_ALLOWED, ModelRefused),
        (DenialReason.MODEL_UNPRICED, ModelRefused),
        (DenialReason.NEVER_FITS, NeverFits),
        (DenialReason.SPEND_CEILING, SpendCeilingReached),
        (DenialReason.SPEND_HELD, RateLimited),
        (DenialReason.REQUEST_RATE, RateLimited),
        (DenialReason.TOKEN_RATE, RateLimited),
        (DenialReason.CONCURRENCY, RateLimited),
    ],
)
async def test_a_refusal_is_raised_by_its_kind(
    client: Either, limiter: FakeLimiter, reason: DenialReason, error: type[Refused]
) -> None:
    limiter.answers("Reserve", denied(reason, reason.http_status))
    with pytest.raises(error, match="daily of acme/search/bot is reached") as caught:
        await result(client.reserve(model="m"))
    refused = caught.value
    assert (refused.reason, refused.http_status) == (reason, reason.http_status)
    assert [violation.limit.id for violation in refused.violations] == ["daily"]
    assert isinstance(refused, LimiterClientError)
    assert limiter.methods() == ["Reserve"]


def test_every_denial_reason_has_an_error() -> None:
    assert {reason.http_status for reason in DenialReason} == {400, 401, 402, 403, 429}


async def test_a_rate_limit_says_when_to_try_again_and_never_too_early(client: Either, limiter: FakeLimiter) -> None:
    duration = milliseconds(1500)
    duration.nanos += 1
    limiter.answers("Reserve", denied(DenialReason.TOKEN_RATE, 429, retry_after=duration))
    with pytest.raises(RateLimited) as caught:
        await result(client.reserve(model="m"))
    assert caught.value.retry_after == timedelta(milliseconds=1501)


async def test_a_ceiling_says_what_would_still_fit(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers("Reserve", denied(DenialReason.SPEND_CEILING, 402, fits_max_output_tokens=40))
    with pytest.raises(SpendCeilingReached) as caught:
        await result(client.reserve(model="m", max_output_tokens=500))
    assert caught.value.fits_max_output_tokens == 40


async def test_a_refusal_survives_pickling(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers("Reserve", denied(DenialReason.SPEND_CEILING, 402))
    with pytest.raises(SpendCeilingReached) as caught:
        await result(client.reserve(model="m"))
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301  # our own bytes
    assert copy.denial == caught.value.denial
    failed = pickle.loads(pickle.dumps(CallFailed("sentence", "INTERNAL", 3)))  # noqa: S301  # our own bytes
    assert (str(failed), failed.code, failed.attempts) == ("sentence (3 attempts)", "INTERNAL", 3)


async def test_waiting_for_a_rate_asks_again_with_the_same_request_id(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers("Reserve", denied(DenialReason.REQUEST_RATE, 429, retry_after=milliseconds(1)))
    hold = await result(client.reserve(model="m", wait_for_rate=1))
    assert hold.reservation == RESERVATION
    first, second = limiter.requests("Reserve")
    assert first == second


async def test_waiting_for_a_rate_ends_when_the_waits_would_be_longer_than_allowed(
    client: Either, limiter: FakeLimiter
) -> None:
    refusal = denied(DenialReason.REQUEST_RATE, 429, retry_after=milliseconds(2))
    limiter.answers("Reserve", *[refusal] * 9)
    with pytest.raises(RateLimited):
        await result(client.reserve(model="m", wait_for_rate=timedelta(milliseconds=5)))
    assert len(limiter.asked) == 3


async def test_a_spent_ceiling_is_never_waited_for(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers("Reserve", denied(DenialReason.SPEND_CEILING, 402))
    with pytest.raises(SpendCeilingReached):
        await result(client.reserve(model="m", wait_for_rate=60))
    assert len(limiter.asked) == 1


async def test_limits_of_a_newer_limiter_do_not_cost_the_grant(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers("Reserve", granted(limits=[daily(kind=99), daily(scope="galaxies/x/y/z"), daily()]))
    assert len((await result(client.reserve(model="m"))).limits) == 1


async def test_a_refusal_of_a_newer_limiter_is_no_grant(client: Either, limiter: FakeLimiter) -> None:
    limiter.answers("Reserve", denied(99, 418))
    with pytest.raises(CallFailed, match="reason 99"):
        await result(client.reserve(model="m"))


async def test_headroom_reads_what_is_left(client: Either, limiter: FakeLimiter) -> None:
    [limit] = await result(client.headroom("gpt-4o", provider="openai"))
    assert (limit.limit.id, limit.remaining) == ("daily", 500_000_000)
    assert limiter.requests("GetHeadroom") == [
        pb.GetHeadroomRequest(api_key="secret-key", model="gpt-4o", provider="openai")
    ]
