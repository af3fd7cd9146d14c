"""Rule 8: unpriced is not free."""

from __future__ import annotations

import pytest

from limiter.domain.calls import Usage
from limiter.domain.errors import InvalidArgument
from limiter.domain.reservations import Basis, RowFlag
from limiter.domain.verdicts import DenialReason
from tests.rules.desk import Limiter, instant, usd

POLICY = """
    version: 1
    settings: {free: ["local-*"]}
    aliases: {mine: dear, local-alias: dear}
    organizations:
      acme:
        limits: [{id: day, spend: 1, per: day}, {id: tpm, tokens: 100000, per: minute}]
        teams:
          search:
            keys:
              bot: {}
              picky: {models: ["m", "local-*", "unheard-of*"]}
              spender: {settings: {free: []}}
"""


async def test_a_model_without_a_price_is_refused_and_nothing_moves(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    before = (await limiter.dump()).raw
    denied = await limiter.refusal(tokens=(1, 1), model="unheard-of")
    assert (denied.reason, denied.reason.http_status, denied.reason.retryable) == (
        DenialReason.MODEL_UNPRICED,
        403,
        False,
    )
    assert denied.message.startswith("the model unheard-of has no price; ")
    assert (await limiter.dump()).raw == before


async def test_a_model_that_the_policy_names_free_costs_nothing_and_counts_its_tokens(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(tokens=(10, 20), model="local-llama")
    assert hold.held_nanousd == 0
    settled = await limiter.settle(hold, Usage(5, 5))
    assert settled.cost_nanousd == 0
    assert await limiter.left("acme tpm") == 99_990


async def test_a_free_call_passes_even_when_the_budget_is_spent(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.charge(id="c", actual="2")
    assert (await limiter.refusal(tokens=(10, 10))).reason is DenialReason.SPEND_CEILING
    await limiter.grant(tokens=(10, 10), model="local-llama")


async def test_free_is_asked_of_the_model_that_an_alias_stands_for(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    assert (await limiter.grant(tokens=(1, 0), model="local-alias")).held_nanousd == 10_000
    assert (await limiter.grant(tokens=(1, 0), model="mine")).held_nanousd == 10_000


async def test_the_nearest_level_says_what_is_free(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    denied = await limiter.refusal("acme/search/spender", tokens=(1, 1), model="local-llama")
    assert denied.reason is DenialReason.MODEL_UNPRICED


async def test_a_caller_that_knows_its_cost_needs_no_price(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="0.10", model="unheard-of")
    assert (await limiter.settle(hold, "0.05")).cost_nanousd == usd("0.05")


async def test_usage_of_a_model_without_a_price_cannot_be_settled_as_nothing(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="0.10", model="unheard-of")
    with pytest.raises(InvalidArgument, match="no price"):
        await limiter.settle(hold, Usage(10, 10))
    assert (await limiter.money("acme day")).held == "0.10"


async def test_a_charge_of_a_model_without_a_price_is_refused_unless_it_names_its_cost(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    with pytest.raises(InvalidArgument, match="no price"):
        await limiter.charge(id="c", actual=Usage(10, 10), model="unheard-of")
    await limiter.charge(id="c", actual="0.10", model="unheard-of")


async def test_a_model_that_is_not_allowed_is_refused_before_its_price_is_asked_for(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    key = "acme/search/picky"
    dear = await limiter.refusal(key, tokens=(1, 1), model="dear")
    assert dear.reason is DenialReason.MODEL_NOT_ALLOWED
    assert dear.message == "the policy does not allow the model dear for this key"
    assert (await limiter.refusal(key, tokens=(1, 1), model="nobody")).reason is DenialReason.MODEL_NOT_ALLOWED
    assert (await limiter.refusal(key, tokens=(1, 1), model="unheard-of")).reason is DenialReason.MODEL_UNPRICED
    await limiter.grant(key, tokens=(1, 1), model="m")


async def test_a_unit_without_a_price_is_refused_and_one_with_a_price_is_held(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    with pytest.raises(InvalidArgument, match="images"):
        await limiter.reserve(tokens=(1, 1), model="m", units={"images": 1})
    hold = await limiter.grant(tokens=(0, 0), model="pictures", units={"images": 2})
    assert hold.held_nanousd == usd("0.08")


async def test_a_used_unit_without_a_price_is_said_and_the_hold_is_charged_at_least(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(tokens=(10, 10))
    settled = await limiter.settle(hold, Usage(10, 5, units={"images": 1}))
    assert (settled.cost_nanousd, settled.basis) == (hold.held_nanousd, Basis.ESTIMATED)
    assert RowFlag.SUSPECT in settled.flags
    assert [warning for warning in settled.warnings if "images" in warning]
    settled = await limiter.settle(await limiter.grant(tokens=(10, 10)), Usage(10, 15, units={"images": 1}))
    assert settled.cost_nanousd == 40_000


async def test_a_price_that_changes_soon_is_held_for_at_its_dearest_and_charged_as_of_the_reserve(
    limiter: Limiter,
) -> None:
    await limiter.apply(POLICY)
    limiter.at("2026-12-30 12:00")
    assert (await limiter.grant(tokens=(100, 0), model="soon")).held_nanousd == 100_000
    limiter.at("2026-12-31 12:00")
    await limiter.grant(cost="0")  # the sidecar's idea of the store's time does not leap by itself
    hold = await limiter.grant(tokens=(100, 0), model="soon")
    assert hold.held_nanousd == 200_000
    limiter.clock.now_ms = instant("2027-01-01 00:05")
    assert (await limiter.settle(hold, Usage(100))).cost_nanousd == 100_000
    await limiter.grant(cost="0")
    assert (
        await limiter.settle(await limiter.grant(tokens=(100, 0), model="soon"), Usage(100))
    ).cost_nanousd == 200_000
