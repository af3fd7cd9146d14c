"""Rule 3: request_id is the caller's idempotency key within its API key."""

from __future__ import annotations

import asyncio

import pytest

from limiter.domain.calls import ProviderRequest
from limiter.domain.errors import AlreadyExists, FailedPrecondition
from limiter.domain.reservations import State
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason, Granted
from limiter.v1 import limiter_pb2 as pb
from tests.rules.desk import BOT, Limiter
from tests.rules.stories import tell

POLICY = """
    version: 1
    organizations:
      acme:
        limits: [{id: day, spend: 10, per: day}, {id: rpm, requests: 5, per: day}, {id: slots, concurrency: 3}]
        teams: {search: {keys: {bot: {}, dog: {}}}}
"""


async def test_the_same_reserve_while_its_hold_is_open_returns_the_same_grant_and_has_one_effect(
    limiter: Limiter, second: Limiter
) -> None:
    await limiter.apply(POLICY)
    first = await limiter.grant(tokens=(10, 20), id="r")
    limiter.tick("1 minute")
    for sidecar in (limiter, second):
        again = await sidecar.grant(tokens=(10, 20), id="r")
        assert again.repeated_call
        assert (again.reservation, again.held_nanousd, again.expires_at_ms, again.max_output_tokens) == (
            first.reservation, first.held_nanousd, first.expires_at_ms, first.max_output_tokens,
        )  # fmt: skip
    assert await limiter.left("acme rpm") == 4
    assert await limiter.left("acme slots") == 2
    assert len((await limiter.dump()).open_holds) == 1


async def test_a_story_of_one_id(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        reserve a 1.00                    -> granted
        reserve a 1.00                    -> granted again
        reserve a 1.01                    -> AlreadyExists
        reserve a 1.00 model dear         -> AlreadyExists
        reserve a 1.00 by acme/search/dog -> granted
        reserve a 1.00                    -> granted again
        money acme day                    -> 0.00 settled, 2.00 held
        """,
    )


@pytest.mark.parametrize(
    ("end", "state"),
    [("settle", "SETTLED"), ("release", "RELEASED"), ("sweep", "EXPIRED"), ("tick", "EXPIRED"), ("consume", "SETTLED")],
)
async def test_no_call_rides_on_a_grant_that_has_ended(limiter: Limiter, end: str, state: str) -> None:
    await limiter.apply(POLICY)
    consume = end == "consume"
    hold = await limiter.grant(cost="1", id="r", ttl="5 minutes", consume=consume)
    if end == "settle":
        await limiter.settle(hold, "1")
    elif end == "release":
        await limiter.release(hold)
    elif not consume:
        limiter.tick("5 minutes")
        if end == "sweep":
            await limiter.service.sweep()
    before = (await limiter.dump()).raw
    with pytest.raises(FailedPrecondition, match=f"is {state}"):
        await limiter.reserve(cost="1", id="r", ttl="5 minutes", consume=consume)
    with pytest.raises(AlreadyExists):
        await limiter.reserve(cost="2", id="r", ttl="5 minutes")
    assert (await limiter.dump()).raw == before


@pytest.mark.parametrize(
    "change",
    [
        {"cost": "1.000000001"},
        {"model": "dear"},
        {"provider": "openai"},
        {"tags": {"customer": "b"}},
        {"tags": {}},
        {"ttl": "6 minutes"},
        {"consume": True},
        {"all_limits": True},
    ],
    ids=str,
)
async def test_other_content_under_the_same_id_is_refused_as_taken(limiter: Limiter, change: dict[str, object]) -> None:
    await limiter.apply(POLICY)
    content: dict[str, object] = {"cost": "1", "model": "m", "tags": {"customer": "a"}, "ttl": "5 minutes"}
    await limiter.grant(id="r", **content)
    with pytest.raises(AlreadyExists, match="request_id"):
        await limiter.reserve(id="r", **(content | change))  # type: ignore[arg-type]  # the options of reserve
    assert (await limiter.money("acme day")).held == "1.00"


async def test_the_fingerprint_is_of_the_request_as_sent_not_of_what_it_was_read_to_mean(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    body = b'{"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": "x"}]}'
    options = {"id": "r", "model": ""}
    await limiter.grant(request=ProviderRequest("api.openai.com", "/v1/chat/completions", body), **options)
    again = await limiter.grant(request=ProviderRequest("api.openai.com", "/v1/chat/completions", body), **options)
    assert again.repeated_call
    other = body.replace(b"x", b"y")
    with pytest.raises(AlreadyExists):
        await limiter.reserve(request=ProviderRequest("api.openai.com", "/v1/chat/completions", other), **options)  # type: ignore[arg-type]  # the options of reserve


async def test_a_change_of_policy_or_price_in_between_does_not_change_the_grant(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    first = await limiter.grant(tokens=(10, None), id="r")
    await limiter.apply(
        POLICY.replace("acme:\n", "acme:\n        settings: {default_max_output_tokens: 7, ttl: 1m}\n", 1)
    )
    again = await limiter.grant(tokens=(10, None), id="r")
    assert (again.held_nanousd, again.max_output_tokens, again.expires_at_ms) == (
        first.held_nanousd, first.max_output_tokens, first.expires_at_ms,
    )  # fmt: skip


async def test_a_rotated_key_may_repeat_its_call(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    old = await limiter.mint(BOT)
    hold = await limiter.grant(old, cost="1", id="r")
    _, new = await limiter.service.keyring.rotate(Scope.parse_key(BOT), overlap_ms=60_000)
    again = await limiter.grant(new, cost="1", id="r")
    assert (again.reservation, again.repeated_call) == (hold.reservation, True)


async def test_a_refusal_is_not_remembered_so_that_the_same_id_may_try_again(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="9", id="a")
    assert (await limiter.refusal(cost="2", id="b")).reason is DenialReason.SPEND_HELD
    assert (await limiter.refusal(cost="3", id="b")).reason is DenialReason.SPEND_HELD
    await limiter.release(hold)
    granted = await limiter.grant(cost="2", id="b")
    assert not granted.repeated_call


async def test_fifty_callers_with_one_id_get_one_hold(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(POLICY)
    sidecars = (limiter, second)
    verdicts = await asyncio.gather(*(sidecars[i % 2].reserve(cost="1", id="r") for i in range(50)))
    granted = [verdict for verdict in verdicts if isinstance(verdict, Granted)]
    assert len(granted) == 50
    assert len({verdict.reservation for verdict in granted}) == 1
    assert sum(not verdict.repeated_call for verdict in granted) == 1
    assert (await limiter.money("acme day")).held == "1.00"
    assert await limiter.left("acme rpm") == 4


async def test_fifty_callers_with_one_id_and_two_contents_get_one_hold(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    calls = (limiter.reserve(cost="1" if i % 2 else "2", id="r") for i in range(50))
    verdicts = await asyncio.gather(*calls, return_exceptions=True)
    assert sorted({type(verdict).__name__ for verdict in verdicts}) == ["AlreadyExists", "Granted"]
    assert sum(isinstance(verdict, Granted) for verdict in verdicts) == 25
    assert len((await limiter.dump()).open_holds) == 1


async def test_calls_without_an_id_are_all_different(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    names = {(await limiter.grant(cost="1")).reservation for _ in range(3)}
    assert len(names) == 3


async def test_settle_release_and_extend_are_idempotent(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        reserve a 1.00       -> granted
        extend a 20 minutes  -> 20 minutes left
        extend a 20 minutes  -> 20 minutes left again
        extend a 5 minutes   -> 20 minutes left again
        settle a 0.50        -> SETTLED 0.50 USAGE
        settle a 0.50        -> SETTLED 0.50 USAGE unchanged
        release a            -> SETTLED 0.50 USAGE unchanged
        extend a 20 minutes  -> FailedPrecondition SETTLED
        reserve b 1.00       -> granted
        release b            -> RELEASED 0.00 RELEASED
        release b            -> RELEASED 0.00 RELEASED unchanged
        extend b 20 minutes  -> FailedPrecondition RELEASED
        money acme day       -> 0.50 settled, 0.00 held
        """,
    )
    assert len(await limiter.rows()) == 2


async def test_a_hold_past_its_expiry_cannot_be_extended_although_nobody_has_swept_it_yet(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        reserve a 1.00 ttl 5 -> granted
        tick 5 minutes       ->
        extend a 20 minutes  -> FailedPrecondition EXPIRED
        sweep                -> 1 ended
        extend a 20 minutes  -> FailedPrecondition EXPIRED
        """,
    )


async def test_a_repeated_call_is_refused_once_its_key_is_disabled(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    secret = await limiter.mint(BOT)
    await limiter.grant(secret, cost="1", id="r")
    await limiter.enable(BOT, enabled=False)
    assert (await limiter.refusal(secret, cost="1", id="r")).reason is DenialReason.KEY_DISABLED


async def test_the_order_of_a_maps_entries_does_not_make_it_other_content(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    units = ["images", "audio_seconds"]
    for repeated in (False, True):
        message = pb.ReserveRequest(request_id="r", key_id=BOT, model="pictures")
        message.estimate.input_tokens = 1
        for unit in reversed(units) if repeated else units:
            message.estimate.units[unit] = 0
        verdict = await limiter.send(message)
        assert isinstance(verdict, Granted)
        assert verdict.repeated_call is repeated
        assert (await limiter.record(verdict)).state is State.HELD
