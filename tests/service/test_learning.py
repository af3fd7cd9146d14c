"""Learned holds from end to end: rows become samples, one sidecar learns, all of them hold by what it published."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest

from limiter.domain.calls import Outcome, Usage
from limiter.domain.reservations import NO_FLAG, Basis, RowFlag, State
from limiter.domain.rows import Row, RowKind
from limiter.domain.scopes import Scope
from limiter.observability.metrics import Metrics
from limiter.pricing.learning import SAMPLES_MIN, Factor, Sample, learned_cost
from limiter.service import learner as subject
from limiter.service.learner import sample_of
from limiter.service.learning import Kind, Published, decode, encode
from limiter.store import keys
from tests.fakes.plugin import OpenClient, StoreClock
from tests.rules.desk import Limiter, usd

POLICY = """
    version: 1
    settings: {estimate: learned}
    aliases: {my-deployment: m}
    organizations:
      acme:
        limits: [{id: day, spend: 100000, per: day}]
        teams:
          search: {keys: {bot: {}, other: {}}}
          shop: {keys: {bot: {}}}
"""
SHARD = keys.shard_of("acme")

#: `m` costs 1 USD per million tokens in, 2 out.
INPUT, OUTPUT = 1_000, 4_096
SAFE = usd("0.009192")


async def settled(
    limiter: Limiter,
    count: int,
    *,
    key: str = "acme/search/bot",
    model: str = "m",
    made: Callable[[int], int] = lambda number: 100 + number % 100,
) -> None:
    """Calls that reserve the most and settle what they made."""

    async def one(number: int) -> None:
        hold = await limiter.grant(key, tokens=(INPUT, OUTPUT), model=model)
        await limiter.settle(hold, Usage(INPUT, made(number)))

    for start in range(0, count, 100):
        await asyncio.gather(*(one(number) for number in range(start, min(count, start + 100))))


async def held(limiter: Limiter, key: str = "acme/search/bot", *, model: str = "m") -> int:
    """What is held for one more call."""
    hold = await limiter.grant(key, tokens=(INPUT, OUTPUT), model=model)
    await limiter.release(hold)
    return hold.held_nanousd


async def refresh(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let time pass until what others have published is read."""
    monkeypatch.setattr(subject, "REFRESH_EVERY_S", 0)
    limiter.service._desk.learned.take_unread()
    await limiter.service.learner.keep_up()


@pytest.fixture
async def another(open_client: OpenClient, store_clock: StoreClock) -> AsyncIterator[Limiter]:
    """A second sidecar on the same store."""
    limiter = Limiter(open_client(), store_clock, metrics=Metrics())
    yield limiter
    await limiter.close()


# ------------------------------------------------------------------ from calls to holds


async def test_after_600_settled_calls_holds_are_what_such_calls_cost(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await settled(limiter, 600)
    assert await held(limiter) == SAFE
    await limiter.service.learner.look()
    learned = await held(limiter)
    assert INPUT * 1_000 + 199 * 2_000 <= learned < SAFE / 5
    assert await held(limiter, "acme/search/other") == learned
    for key in (keys.learner_key(SHARD), keys.learned_key("acme")):
        assert await limiter.client.pttl(key) > 0
    await limiter.dump()


async def test_the_output_that_a_learned_hold_is_for_stays_what_was_asked_for(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await settled(limiter, 600)
    await limiter.service.learner.look()
    hold = await limiter.grant(tokens=(INPUT, OUTPUT))
    assert (hold.held_nanousd < SAFE, hold.max_output_tokens) == (True, OUTPUT)


async def test_nothing_is_learned_from_fewer_than_500_calls(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await settled(limiter, SAMPLES_MIN - 1)
    await limiter.service.learner.look()
    assert await held(limiter) == SAFE
    await settled(limiter, 1)
    await limiter.service.learner.look()
    assert await held(limiter) < SAFE


async def test_other_teams_and_models_have_holds_of_their_own(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await settled(limiter, 600)
    await limiter.service.learner.look()
    assert await held(limiter, "acme/shop/bot") == SAFE
    assert (
        await held(limiter, model="short") == (await limiter.grant(tokens=(INPUT, OUTPUT), model="short")).held_nanousd
    )


async def test_a_model_is_the_same_by_its_alias(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await settled(limiter, 300)
    await settled(limiter, 300, model="my-deployment")
    await limiter.service.learner.look()
    assert await held(limiter) == await held(limiter, model="my-deployment") < SAFE


async def test_holds_are_by_the_quantile_of_the_policy(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("{bot: {}, other: {}}", "{bot: {}, other: {settings: {learned_quantile: 0.9}}}"))
    await settled(limiter, 600, made=lambda number: 10 if number % 20 else 1_000)
    await limiter.service.learner.look()
    assert await held(limiter, "acme/search/bot") >= INPUT * 1_000 + 1_000 * 2_000
    assert await held(limiter, "acme/search/other") < INPUT * 1_000 + 100 * 2_000


async def test_holds_are_wider_at_the_next_look_after_calls_have_become_dearer(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await settled(limiter, 1_000)
    await limiter.service.learner.look()
    before = await held(limiter)
    await settled(limiter, 10, made=lambda _: 400)
    await limiter.service.learner.look()
    assert before < INPUT * 1_000 + 400 * 2_000 <= await held(limiter) < SAFE
    assert await limiter.count('limiter_learned_published_total{width="wide"}') == 1


async def test_a_policy_that_does_not_learn_costs_the_store_nothing(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("learned", "safe"))
    await settled(limiter, 1)
    await limiter.service.learner.look()
    assert b'"safe"' not in (await limiter.rows())[-1].call
    assert not await limiter.client.exists(keys.learner_key(SHARD))


# ------------------------------------------------------------------ several sidecars


async def test_one_sidecar_learns_and_the_others_hold_by_it(
    limiter: Limiter, another: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limiter.apply(POLICY)
    await settled(limiter, 300)
    await settled(another, 300)
    await limiter.service.learner.look()
    await another.service.learner.look()
    assert await limiter.count("limiter_learned_samples_total") == 600
    assert await another.count("limiter_learned_samples_total") == 0
    assert await held(another) == SAFE
    await refresh(another, monkeypatch)
    assert await held(another) == await held(limiter) < SAFE


async def test_another_sidecar_takes_over_from_one_that_is_gone(limiter: Limiter, another: Limiter) -> None:
    await limiter.apply(POLICY)
    await settled(another, 600)
    await held(limiter)
    await limiter.service.learner.look()
    assert 0 < await limiter.client.pttl(keys.learner_key(SHARD)) <= subject.LEASE_MS
    await limiter.client.delete(keys.learner_key(SHARD))  # as after that time
    await another.service.learner.look()
    await limiter.service.learner.look()
    assert await another.count("limiter_learned_samples_total") == 600
    assert limiter.service.learner._shards == {}


async def test_a_restart_keeps_what_was_learned(
    limiter: Limiter, another: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limiter.apply(POLICY)
    await settled(limiter, 600)
    await limiter.service.learner.look()
    learned = await held(limiter)
    await limiter.client.delete(keys.learner_key(SHARD), keys.shard_keys(SHARD)[1])  # even if no row is left
    assert await held(another) == SAFE
    await another.service.learner.keep_up()  # at once, as an organization was asked for that is not known
    await another.service.learner.look()
    await refresh(another, monkeypatch)
    assert await held(another) == learned


async def test_what_was_published_of_other_calls_stays(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    now_ms = limiter.clock.now_ms
    before = {
        Kind("shop", "m"): Published(Factor(1_000_000, 50_000, 0, 900), now_ms),
        Kind("old", "m"): Published(Factor(1_000_000, 50_000, 0, 900), now_ms - subject.PUBLISHED_FOR_MS),
    }
    await limiter.store.publish_learned("acme", encode(before), ttl_ms=60_000)
    await settled(limiter, 600)
    await limiter.service.learner.look()
    assert set(decode(await limiter.store.learned("acme"))) == {Kind("shop", "m"), Kind("search", "m")}
    assert await held(limiter, "acme/shop/bot") < SAFE


async def test_what_a_later_release_published_is_left_alone() -> None:
    assert decode(b"\x02[]") == {}
    assert decode(None) == {}


# ------------------------------------------------------------------ bounds


async def test_a_shard_that_goes_too_fast_is_not_followed_row_by_row(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "ROWS_PER_LOOK", 200)
    monkeypatch.setattr(subject, "ROWS_BEHIND_MAX", 300)
    await limiter.apply(POLICY)
    await settled(limiter, 1_000)
    for _ in range(5):
        await limiter.service.learner.look()
    assert await limiter.count("limiter_learned_samples_total") == 300
    await settled(limiter, 1_000)
    await limiter.service.learner.look()
    assert await limiter.count("limiter_learned_samples_total") == 500
    await limiter.service.learner.look()
    await limiter.service.learner.look()
    assert await limiter.count("limiter_learned_samples_total") == 800


async def test_no_more_kinds_of_calls_are_learned_about_than_there_is_room_for(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "KINDS_MAX", 1)
    await limiter.apply(POLICY)
    await settled(limiter, 500)
    await settled(limiter, 500, key="acme/shop/bot")
    await limiter.service.learner.look()
    assert set(decode(await limiter.store.learned("acme"))) == {Kind("search", "m")}
    limiter.tick("1 hour")
    await settled(limiter, 500, key="acme/shop/bot")
    await limiter.service.learner.look()
    assert set(decode(await limiter.store.learned("acme"))) == {Kind("search", "m"), Kind("shop", "m")}


async def test_upkeep_learns_by_itself(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limiter.service.service.LOOK_EVERY_S", 0.01)
    await limiter.apply(POLICY)
    limiter.service.start_upkeep()
    await settled(limiter, 600)
    async with asyncio.timeout(20):
        while await held(limiter) == SAFE:  # noqa: ASYNC110 - what is waited for is the work of a task
            await asyncio.sleep(0.01)


# ------------------------------------------------------------------ what is a sample


def row(
    *,
    kind: RowKind = RowKind.SETTLEMENT,
    basis: Basis = Basis.USAGE,
    flags: RowFlag = NO_FLAG,
    cost: int = 700,
    call: dict[str, object] | None = None,
) -> Row:
    """A row of a call that is a sample, but for what is said."""
    told = (
        call if call is not None else {"key": "acme/search/bot", "model": "gpt", "alias_of": "m", "safe": [500, 4_000]}
    )
    return Row(
        shard=SHARD,
        epoch=1,
        seq=1,
        kind=kind,
        member="acme/" + 32 * "0",
        state=State.SETTLED,
        basis=basis,
        flags=flags,
        amount=cost,
        held=4_500,
        cost=cost,
        tokens=10,
        reserved_ms=1,
        expires_ms=2,
        at_ms=1,
        taken=(),
        call=json.dumps(told).encode(),
        ending=b"",
    )


@pytest.mark.parametrize(
    "found",
    [
        row(),
        row(kind=RowKind.CORRECTION),
        row(flags=RowFlag.OVERAGE | RowFlag.LATE | RowFlag.ABORTED | RowFlag.SHADOWED | RowFlag.WINDOW_CLOSED),
    ],
)
def test_a_call_whose_usage_is_known_is_a_sample(found: Row) -> None:
    assert sample_of(found) == (Scope("acme", "search", "bot"), "m", Sample(500, 4_000, 700))


@pytest.mark.parametrize(
    "found",
    [
        *(row(basis=basis) for basis in Basis if basis is not Basis.USAGE),
        *(row(kind=kind) for kind in RowKind if kind not in (RowKind.SETTLEMENT, RowKind.CORRECTION)),
        *(
            row(flags=flag)
            for flag in (
                RowFlag.FAILED,
                RowFlag.UNCLAIMED,
                RowFlag.FORCED,
                RowFlag.CONSUMED,
                RowFlag.ZERO_COST,
                RowFlag.SUSPECT,
            )
        ),
        row(cost=0),
        row(call={"key": "acme/search/bot", "model": "m"}),
        row(call={"key": "acme/search/bot", "model": "m", "tags": [["safe", "safe"]]}),
    ],
)
def test_a_call_whose_cost_is_doubtful_or_not_learned_from_is_no_sample(found: Row) -> None:
    assert sample_of(found) is None


async def test_failed_and_consumed_calls_and_estimates_are_no_samples(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    failed = await limiter.grant(tokens=(INPUT, OUTPUT))
    await limiter.settle(failed, Usage(INPUT, 5), outcome=Outcome.FAILED)
    guessed = await limiter.grant(tokens=(INPUT, OUTPUT))
    await limiter.settle(guessed, Usage(INPUT, 5), estimated=True)
    await limiter.grant(tokens=(INPUT, OUTPUT), consume=True)
    await limiter.release(await limiter.grant(tokens=(INPUT, OUTPUT)))
    await limiter.service.learner.look()
    assert await limiter.count("limiter_learned_samples_total") == 0
    await limiter.settle(guessed, Usage(INPUT, 6))
    await limiter.service.learner.look()
    assert await limiter.count("limiter_learned_samples_total") == 1


def test_factors_are_published_as_they_are() -> None:
    factors = {Kind("search", "a:b/c", 990_000): Published(Factor(1_100_000, 0, 12_345, 500, wide=True), 17)}
    assert decode(encode(factors)) == factors
    assert learned_cost(1_000, 1_000_000, decode(encode(factors))[Kind("search", "a:b/c", 990_000)].factor) == 13_445
