"""Nothing is charged silently for a model that is not free, and counts without sense are charged the larger reading."""

from __future__ import annotations

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from limiter.domain.calls import Outcome, ProviderResponse, Usage
from limiter.domain.errors import InvalidArgument
from limiter.domain.reservations import Basis, RowFlag
from limiter.domain.verdicts import Granted
from limiter.pricing.bounds import Bound, Size
from limiter.pricing.reading import CallReading, ResponseReading
from limiter.service.calls import BrokenOff, SettleCall, Settled
from tests.rules.desk import Limiter, name_of, usd
from tests.service.readings import Sized
from tests.service.test_ways_of_sizing import hold as hold_for

POLICY = """
    version: 1
    organizations:
      acme:
        settings: {free: ["local-*"], floors: FLOORS}
        limits: [{id: cap, spend: 100, per: total}, {id: tpm, tokens: 1000000, per: minute}]
        teams: {search: {keys: {bot: {}}}}
"""
INPUT, OUTPUT = 1_000, 2_000  # nano-USD per token of m in prices.yaml
ZERO = "limiter_zero_cost_total"
SUSPECT = "limiter_suspect_total"


def policy(floors: str = "[]", **more: str) -> str:
    settings = "".join(f", {name}: {value}" for name, value in more.items())
    return POLICY.replace("FLOORS", floors + settings)


def answer(usage: dict[str, Any]) -> ProviderResponse:
    body = {"id": "1", "object": "chat.completion", "model": "gpt-4o", "choices": [], "usage": usage}
    return ProviderResponse(200, "application/json", json.dumps(body).encode())


async def settle_reading(limiter: Limiter, granted: Granted, reading: ResponseReading) -> Settled:
    return await limiter.service.settle(
        SettleCall(name_of(granted), reading, Outcome.COMPLETED, estimated=False, model="", provider_request_id="")
    )


async def flags(limiter: Limiter) -> RowFlag:
    """Of the last ledger row."""
    return (await limiter.rows())[-1].flags


# ---------------------------------------------------------------------- nothing


@pytest.mark.parametrize("here", [True, False])
async def test_usage_that_comes_to_nothing_is_charged_the_hold_flagged_counted_and_logged(
    limiter: Limiter,
    here: bool,  # noqa: FBT001 - whether it was granted by this sidecar
) -> None:
    await limiter.apply(policy())
    granted = await limiter.grant(tokens=(10, 10))
    if not here:
        limiter.service._desk.granted.clear()
    with capture_logs() as logged:
        settled = await limiter.settle(granted, Usage())
    assert (settled.cost_nanousd, settled.basis) == (granted.held_nanousd, Basis.ESTIMATED)
    assert await flags(limiter) == RowFlag.ZERO_COST
    assert "comes to nothing" in settled.warnings[0]
    assert await limiter.count(ZERO) == 1
    assert [entry["event"] for entry in logged] == ["settlement.zero_cost"]
    await limiter.dump()


async def test_the_same_again_changes_nothing_and_real_usage_corrects_it_and_its_flag(limiter: Limiter) -> None:
    await limiter.apply(policy())
    granted = await limiter.grant(tokens=(10, 10))
    await limiter.settle(granted, Usage())
    assert (await limiter.settle(granted, Usage())).repeated_call
    assert await limiter.count(ZERO) == 1
    corrected = await limiter.settle(granted, Usage(5, 5))
    assert (corrected.cost_nanousd, corrected.flags) == (5 * INPUT + 5 * OUTPUT, RowFlag(0))
    await limiter.dump()


async def test_a_floor_is_what_nothing_and_too_little_are_charged(limiter: Limiter) -> None:
    await limiter.apply(policy('[{models: ["m"], cost: 0.001}, {models: ["*"], cost: 0.0001}]'))
    granted = await limiter.grant(tokens=(10, 10))
    assert granted.held_nanousd == usd("0.001")
    settled = await limiter.settle(granted, Usage())
    assert (settled.cost_nanousd, settled.basis, settled.flags) == (usd("0.001"), Basis.USAGE, RowFlag.ZERO_COST)
    little = await limiter.settle(await limiter.grant(tokens=(10, 10)), Usage(10, 10))
    assert (little.cost_nanousd, little.flags) == (usd("0.001"), RowFlag(0))
    assert "floor" in little.warnings[0]
    much = await limiter.settle(await limiter.grant(tokens=(10**5, 10**4)), Usage(10**5, 10**4))
    assert (much.cost_nanousd, much.warnings) == (usd("0.12"), ())
    limiter.service._desk.granted.clear()
    elsewhere = await limiter.grant(tokens=(10, 10))
    limiter.service._desk.granted.clear()
    assert (await limiter.settle(elsewhere, Usage(1, 1))).cost_nanousd == usd("0.001")


async def test_a_floor_of_an_operation_is_under_its_calls_only(limiter: Limiter) -> None:
    await limiter.apply(policy("[{operations: [images], cost: 0.02}]"))
    size = Size(Bound(10), Bound(10))
    for operation, held in (("images", usd("0.02")), ("chat", 25_000)):
        reading = CallReading("openai", "gpt-4o", False, 0, Sized(size), operation)  # noqa: FBT003 - no stream
        assert (await hold_for(limiter, reading)).held_nanousd == held
    assert (await limiter.grant(tokens=(10, 0))).held_nanousd == 10_000


@pytest.mark.parametrize("actual", ["0", Usage()])
async def test_what_costs_nothing_for_a_reason_is_not_flagged(limiter: Limiter, actual: str | Usage) -> None:
    await limiter.apply(policy())
    free = await limiter.settle(await limiter.grant(tokens=(10, 10), model="local-llama"), actual)
    failed = await limiter.settle(await limiter.grant(tokens=(10, 10)), actual, outcome=Outcome.FAILED)
    for settled, flag in ((free, RowFlag(0)), (failed, RowFlag.FAILED)):
        assert (settled.cost_nanousd, settled.flags) == (0, flag)
    assert await limiter.count(ZERO) == 0


async def test_a_call_that_failed_and_cost_something_costs_its_floor(limiter: Limiter) -> None:
    await limiter.apply(policy('[{models: ["m"], cost: 0.001}]'))
    settled = await limiter.settle(await limiter.grant(tokens=(10, 10)), Usage(1, 1), outcome=Outcome.FAILED)
    assert (settled.cost_nanousd, settled.flags) == (usd("0.001"), RowFlag.FAILED)


async def test_a_charge_for_an_answer_that_failed_says_so(limiter: Limiter) -> None:
    await limiter.apply(policy())
    booked = await limiter.charge(id="c", actual=ProviderResponse(500, "application/json", b"{}"))
    assert (booked.cost_nanousd, booked.flags) == (0, RowFlag.FAILED)
    assert await flags(limiter) == RowFlag.FAILED


async def test_a_caller_who_says_that_it_cost_nothing_is_believed_but_not_silently(limiter: Limiter) -> None:
    await limiter.apply(policy())
    with capture_logs() as logged:
        settled = await limiter.settle(await limiter.grant(tokens=(10, 10)), "0")
    assert (settled.cost_nanousd, settled.flags) == (0, RowFlag.ZERO_COST)
    assert settled.warnings
    assert logged
    nothing_held = await limiter.settle(await limiter.grant(cost="0"), "0")
    assert (nothing_held.cost_nanousd, nothing_held.flags) == (0, RowFlag(0))
    assert await limiter.count(ZERO) == 1


async def test_a_charge_of_nothing_is_flagged_too(limiter: Limiter) -> None:
    await limiter.apply(policy())
    actuals: tuple[str | Usage, ...] = ("0", Usage())
    for number, actual in enumerate(actuals):
        booked = await limiter.charge(id=f"c{number}", actual=actual)
        assert (booked.cost_nanousd, await flags(limiter)) == (0, RowFlag.ZERO_COST)
    repeated = await limiter.charge(id="c0", actual="0")
    assert repeated.repeated_call
    assert await limiter.count(ZERO) == 2
    await limiter.apply(policy('[{models: ["*"], cost: 0.01}]'))
    assert (await limiter.charge(id="c9", actual=Usage())).cost_nanousd == usd("0.01")


async def test_a_consumed_call_that_comes_to_nothing_is_flagged_and_one_of_rates_only_is_not(
    limiter: Limiter,
) -> None:
    await limiter.apply(policy())
    await limiter.grant(tokens=(0, 0), consume=True)
    assert await flags(limiter) == RowFlag.CONSUMED | RowFlag.ZERO_COST
    await limiter.grant(model="", consume=True)
    await limiter.grant(tokens=(5, 5), model="local-llama", consume=True)
    assert await flags(limiter) == RowFlag.CONSUMED
    assert await limiter.count(ZERO) == 1


async def test_a_call_that_broke_off_is_not_free_either(limiter: Limiter) -> None:
    await limiter.apply(policy(on_abort="usage_seen"))
    granted = await limiter.grant(tokens=(0, 10))
    settled = await limiter.service.settle_broken_off(BrokenOff(name_of(granted)))
    assert (settled.cost_nanousd, settled.flags) == (granted.held_nanousd, RowFlag.ABORTED | RowFlag.ZERO_COST)


# ---------------------------------------------------------------------- counts without sense


async def test_more_cached_than_input_is_charged_the_larger_reading(limiter: Limiter) -> None:
    await limiter.apply(policy())
    granted = await limiter.grant(tokens=(100, 100), model="dear")
    with capture_logs() as logged:
        settled = await limiter.settle(granted, Usage(10, 0, cache_read_tokens=11))
    assert (settled.cost_nanousd, settled.flags) == (10 * 10_000 + 11 * 1_000, RowFlag.SUSPECT)
    assert settled.usage == Usage(10, 0, cache_read_tokens=11)
    assert "cache_read_tokens" in settled.warnings[0]
    assert await limiter.count(SUSPECT) == 1
    assert [entry["event"] for entry in logged] == ["settlement.suspect"]
    end = json.loads((await limiter.rows())[-1].ending)
    assert end["usage"] == {"input_tokens": 21, "cache_read_tokens": 11}
    assert end["usage_said"] == {"input_tokens": 10, "cache_read_tokens": 11}
    assert "cache_read_tokens" in end["warnings"][0]


async def test_negative_counts_are_refused_and_the_hold_stays(limiter: Limiter) -> None:
    await limiter.apply(policy())
    granted = await limiter.grant(tokens=(100, 100))
    with pytest.raises(InvalidArgument, match="0"):
        await limiter.service.settle(
            SettleCall(
                name_of(granted), Usage(-1, 0), Outcome.COMPLETED, estimated=False, model="", provider_request_id=""
            )
        )
    assert (await limiter.money("acme cap")).held == "0.0003"


@pytest.mark.parametrize(("most", "cost"), [(None, 3 * 10**5), ("0.5", usd("0.5")), ("0.0003", 3 * 10**5)])
async def test_an_absurd_count_cannot_lock_a_budget(limiter: Limiter, most: str | None, cost: int) -> None:
    await limiter.apply(policy(**({} if most is None else {"max_cost_per_call": most})))
    for here in (True, False):
        granted = await limiter.grant(tokens=(100, 100))
        if not here:
            limiter.service._desk.granted.clear()
        settled = await limiter.settle(granted, Usage(0, 10**12))
        assert (settled.cost_nanousd, settled.basis) == (cost, Basis.ESTIMATED)
        assert RowFlag.SUSPECT in settled.flags
        limiter.tick("3 minutes")  # the bucket of tokens is in debt


async def test_an_absurd_charge_is_refused_or_bounded_by_the_policy(limiter: Limiter) -> None:
    await limiter.apply(policy())
    with pytest.raises(InvalidArgument, match="no single call"):
        await limiter.charge(id="c", actual=Usage(0, 10**12), model="dear-2")
    await limiter.apply(policy(max_cost_per_call="2"))
    booked = await limiter.charge(id="c", actual=Usage(0, 10**12), model="dear-2")
    assert (booked.cost_nanousd, booked.flags) == (usd("2"), RowFlag.SUSPECT)


async def test_what_an_answer_is_suspected_of_is_told(limiter: Limiter) -> None:
    await limiter.apply(policy())
    granted = await limiter.grant(tokens=(100, 100))
    reading = ResponseReading("m", Usage(30, 5), "id-1", suspect=("the total of 9 tokens is less",))
    settled = await settle_reading(limiter, granted, reading)
    assert (settled.cost_nanousd, settled.flags) == (40_000, RowFlag.SUSPECT)
    assert "the total of 9 tokens is less" in settled.warnings[0]


async def test_what_other_models_did_is_charged_too_and_one_without_a_price_makes_it_the_hold(
    limiter: Limiter,
) -> None:
    await limiter.apply(policy())
    reading = ResponseReading("m", Usage(10, 5), "", others=(("dear", Usage(1, 0)),))
    settled = await settle_reading(limiter, await limiter.grant(tokens=(100, 100)), reading)
    assert (settled.cost_nanousd, settled.flags) == (30_000, RowFlag(0))
    reading = ResponseReading("m", Usage(10, 5), "", others=(("unheard-of", Usage(1, 0)),))
    settled = await settle_reading(limiter, await limiter.grant(tokens=(100, 100)), reading)
    assert (settled.cost_nanousd, settled.flags) == (300_000, RowFlag.SUSPECT)


# ---------------------------------------------------------------------- answers that never tell


@pytest.mark.parametrize("here", [True, False])
async def test_an_answer_that_never_tells_is_charged_as_asked_for(
    limiter: Limiter,
    here: bool,  # noqa: FBT001 - whether it was granted by this sidecar
) -> None:
    await limiter.apply(policy())
    size = Size(Bound(0, {"input_characters": 90}), Bound(0, {"input_characters": 80}))
    granted = await hold_for(limiter, CallReading("", "speaker", False, 0, Sized(size), "speech"))  # noqa: FBT003 - no stream
    if not here:
        limiter.service._desk.granted.clear()
    settled = await settle_reading(limiter, granted, ResponseReading("", None, "", as_asked=True))
    assert (settled.cost_nanousd, settled.basis) == (usd("0.0024"), Basis.ESTIMATED)
    assert settled.usage == Usage(units={"input_characters": 80})


async def test_where_it_is_not_known_what_was_asked_for_the_hold_is_charged(limiter: Limiter) -> None:
    await limiter.apply(policy())
    granted = await limiter.grant(tokens=(10, 10))
    settled = await settle_reading(limiter, granted, ResponseReading("", None, "", as_asked=True))
    assert (settled.cost_nanousd, settled.basis) == (granted.held_nanousd, Basis.ESTIMATED)
