"""Rate limits: a hold takes requests and tokens at once; buckets refill exactly and hold no grudge."""

from __future__ import annotations

import pytest

from limiter.domain.calls import Usage
from limiter.domain.limits import RATE_PERIODS
from limiter.domain.reservations import RowFlag
from limiter.domain.verdicts import DenialReason
from tests.rules.desk import Limiter


def policy(*limits: str, settings: str = "{}") -> str:
    return f"""
    version: 1
    organizations:
      acme: {{settings: {settings}, limits: [{", ".join(limits)}], teams: {{search: {{keys: {{bot: {{}}}}}}}}}}
    """


TPM = "{id: tpm, tokens: 600, per: minute}"
RPM = "{id: rpm, requests: 6, per: minute}"


async def test_a_hold_takes_one_request_and_all_its_tokens_at_once(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM, RPM))
    await limiter.grant(tokens=(100, 150))
    assert (await limiter.left("acme tpm"), await limiter.left("acme rpm")) == (350, 5)
    assert (await limiter.refusal(tokens=(100, 251))).reason is DenialReason.TOKEN_RATE
    await limiter.grant(tokens=(100, 250))


async def test_a_bucket_refills_exactly(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM))
    await limiter.grant(tokens=(600, 0))
    for elapsed_ms, left in ((99, 0), (1, 1), (100, 2), (999, 11), (1, 12), (58_799, 599), (1, 600), (500_000, 600)):
        limiter.clock.advance(elapsed_ms)
        assert await limiter.left("acme tpm") == left


@pytest.mark.parametrize("per", RATE_PERIODS)
async def test_rates_that_do_not_divide_their_period_lose_nothing(limiter: Limiter, per: str) -> None:
    """Seven tokens per period, taken as soon as each is there, for two periods."""
    await limiter.apply(policy(f"{{id: tpm, tokens: 7, per: {per}, burst: 7}}"))
    await limiter.grant(tokens=(7, 0))
    begin, taken = limiter.clock.now_ms, 0
    tick_ms = RATE_PERIODS[per][1]
    period_ms = RATE_PERIODS[per][0] * tick_ms
    while limiter.clock.now_ms < begin + 2 * period_ms:
        denied = await limiter.refusal(tokens=(1, 0))
        assert denied.retry_after_ms is not None
        limiter.clock.advance(denied.retry_after_ms - 1)
        await limiter.refusal(tokens=(1, 0))
        limiter.clock.advance(1)
        await limiter.grant(tokens=(1, 0))
        taken += 1
    assert taken == 14
    assert begin + 2 * period_ms <= limiter.clock.now_ms + tick_ms <= begin + 2 * period_ms + 2 * tick_ms


async def test_retry_after_is_when_the_call_is_granted(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM, RPM))
    await limiter.grant(tokens=(500, 0))
    denied = await limiter.refusal(tokens=(350, 0))
    assert denied.retry_after_ms == 25_000
    limiter.clock.advance(24_999)
    await limiter.refusal(tokens=(350, 0))
    limiter.clock.advance(1)
    await limiter.grant(tokens=(350, 0))


async def test_a_call_larger_than_the_burst_never_fits_and_is_not_to_be_retried(limiter: Limiter) -> None:
    await limiter.apply(policy("{id: tpm, tokens: 600, per: minute, burst: 100}"))
    denied = await limiter.refusal(tokens=(101, 0))
    assert (denied.reason, denied.reason.http_status, denied.retry_after_ms) == (DenialReason.NEVER_FITS, 400, None)
    await limiter.grant(tokens=(100, 0))
    assert (await limiter.refusal(tokens=(100, 0))).reason is DenialReason.TOKEN_RATE


async def test_a_rate_of_nothing_refuses_every_call_that_needs_something(limiter: Limiter) -> None:
    await limiter.apply(policy("{id: tpm, tokens: 0, per: minute}"))
    assert (await limiter.refusal(tokens=(1, 0))).reason is DenialReason.NEVER_FITS
    await limiter.grant(cost="1")


async def test_settle_gives_unused_tokens_back_and_the_request_stays_counted(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM, RPM))
    hold = await limiter.grant(tokens=(100, 400))
    await limiter.settle(hold, Usage(100, 50))
    assert (await limiter.left("acme tpm"), await limiter.left("acme rpm")) == (450, 5)


async def test_settle_takes_the_tokens_that_were_used_beyond_the_hold(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM))
    hold = await limiter.grant(tokens=(100, 100))
    settled = await limiter.settle(hold, Usage(100, 450))
    assert settled.flags == RowFlag.OVERAGE
    assert await limiter.left("acme tpm") == 50
    hold = await limiter.grant(tokens=(10, 10))
    await limiter.settle(hold, Usage(10, 110))
    assert (await limiter.refusal(tokens=(1, 0))).retry_after_ms == 7_100


async def test_a_settlement_that_names_only_its_cost_leaves_the_tokens_as_held(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM))
    await limiter.settle(await limiter.grant(tokens=(100, 100)), "0.1")
    assert await limiter.left("acme tpm") == 400


async def test_release_gives_all_back_the_request_too(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM, RPM, "{id: slots, concurrency: 2}"))
    await limiter.release(await limiter.grant(tokens=(100, 100)))
    assert [await limiter.left(f"acme {name}") for name in ("tpm", "rpm", "slots")] == [600, 6, 2]


async def test_a_refund_never_lifts_a_bucket_above_its_burst(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM))
    hold = await limiter.grant(tokens=(500, 0))
    limiter.tick("40 seconds")
    assert await limiter.left("acme tpm") == 500
    await limiter.release(hold)
    assert await limiter.left("acme tpm") == 600


async def test_a_refund_is_nil_once_the_bucket_would_have_refilled_anyway(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM))
    hold = await limiter.grant(tokens=(500, 0))
    limiter.clock.advance(60_000)
    await limiter.grant(tokens=(600, 0))
    await limiter.release(hold)
    assert await limiter.left("acme tpm") == 0


async def test_a_refund_a_moment_earlier_counts(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM))
    hold = await limiter.grant(tokens=(500, 0))
    limiter.clock.advance(59_999)
    await limiter.grant(tokens=(599, 0))
    await limiter.release(hold)
    assert await limiter.left("acme tpm") == 501


async def test_debt_stops_at_one_burst_and_the_excess_is_flagged(limiter: Limiter) -> None:
    await limiter.apply(policy("{id: tpm, tokens: 600, per: minute, burst: 100}"))
    hold = await limiter.grant(tokens=(10, 0))
    settled = await limiter.settle(hold, Usage(1_000_000_000_000, 0))
    assert RowFlag.TOKEN_EXCESS in settled.flags
    assert [RowFlag.TOKEN_EXCESS in row.flags for row in await limiter.rows()] == [True]
    denied = await limiter.refusal(tokens=(1, 0))
    assert denied.retry_after_ms == 10_100
    limiter.tick("20 seconds")
    assert await limiter.left("acme tpm") == 100


async def test_debt_within_one_burst_is_not_flagged(limiter: Limiter) -> None:
    await limiter.apply(policy("{id: tpm, tokens: 600, per: minute, burst: 100}"))
    settled = await limiter.settle(await limiter.grant(tokens=(100, 0)), Usage(200, 0))
    assert RowFlag.TOKEN_EXCESS not in settled.flags


@pytest.mark.parametrize("on_expiry", ["charge", "release"])
async def test_expiry_moves_money_and_slots_only(limiter: Limiter, on_expiry: str) -> None:
    slow = ("{id: tpd, tokens: 600, per: day}", "{id: rpd, requests: 6, per: day}", "{id: slots, concurrency: 2}")
    await limiter.apply(policy(*slow, settings=f"{{on_expiry: {on_expiry}}}"))
    await limiter.grant(tokens=(500, 0), ttl="1 minute")
    limiter.tick("1 minute")
    await limiter.service.sweep()
    assert [await limiter.left(f"acme {name}") for name in ("tpd", "rpd", "slots")] == [100, 5, 2]


async def test_corrections_move_money_only(limiter: Limiter) -> None:
    slow = ("{id: tpd, tokens: 600, per: day}", "{id: rpd, requests: 6, per: day}", "{id: all, spend: 9, per: total}")
    await limiter.apply(policy(*slow))
    hold = await limiter.grant(tokens=(500, 0))
    await limiter.settle(hold, Usage(300, 0), estimated=True)
    await limiter.settle(hold, Usage(50, 0))
    assert [await limiter.left(f"acme {name}") for name in ("tpd", "rpd")] == [300, 5]
    assert (await limiter.limits())["acme all"].settled == 50_000


async def test_concurrency_counts_open_holds(limiter: Limiter) -> None:
    await limiter.apply(policy("{id: slots, concurrency: 2}"))
    holds = [await limiter.grant(cost="0") for _ in range(2)]
    denied = await limiter.refusal(cost="0")
    assert (denied.reason, denied.reason.http_status, denied.retry_after_ms) == (DenialReason.CONCURRENCY, 429, 1_000)
    await limiter.settle(holds[0], "0")
    await limiter.grant(cost="0")


async def test_consume_takes_requests_and_tokens_and_money_and_no_slot(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM, RPM, "{id: slots, concurrency: 1}", "{id: all, spend: 9, per: total}"))
    for _ in range(2):
        granted = await limiter.grant(tokens=(100, 0), consume=True)
    assert granted.held_nanousd == 100_000
    assert [await limiter.left(f"acme {name}") for name in ("tpm", "rpm", "slots")] == [400, 4, 1]
    assert (await limiter.limits())["acme all"].settled == 200_000
    record = await limiter.record(granted)
    assert (record.state.name, record.flags, record.cost) == ("SETTLED", RowFlag.CONSUMED, 100_000)
    assert await limiter.service.sweep() == 0


async def test_consume_without_a_model_is_for_rates_alone(limiter: Limiter) -> None:
    await limiter.apply(policy(RPM, '{id: big, requests: 1, per: minute, models: ["dear"]}'))
    for _ in range(6):
        await limiter.grant(model="", consume=True)
    assert (await limiter.refusal(model="", consume=True)).reason is DenialReason.REQUEST_RATE
    assert all(row.cost == 0 for row in await limiter.rows())


@pytest.mark.parametrize("options", [{"cost": "1"}, {"tokens": (10, 10)}, {"cost": "0", "consume": True}])
async def test_a_dry_run_says_what_would_be_decided_has_no_effect_and_is_marked(
    limiter: Limiter, options: dict[str, object]
) -> None:
    await limiter.apply(policy(TPM, RPM, "{id: all, spend: 2, per: total, warn_at: [0.1]}"))
    await limiter.grant(cost="0.5")
    before = (await limiter.dump()).raw
    granted = await limiter.grant(dry_run=True, id="r", **options)
    assert (granted.dry_run, granted.reservation) == (True, "")
    denied = await limiter.refusal(dry_run=True, id="r", cost="1.6")
    assert (denied.dry_run, denied.reason) == (True, DenialReason.SPEND_HELD)
    await limiter.service.flush_refusals()
    assert (await limiter.dump()).raw == before
    assert not (await limiter.grant(id="r", cost="0.1")).repeated_call


async def test_a_bucket_whose_burst_shrinks_holds_no_more_than_it(limiter: Limiter) -> None:
    await limiter.apply(policy(TPM))
    await limiter.grant(tokens=(100, 0))
    await limiter.apply(policy("{id: tpm, tokens: 60, per: minute}"))
    assert await limiter.left("acme tpm") == 60
    await limiter.grant(cost="0")
    await limiter.apply(policy(TPM))
    assert await limiter.left("acme tpm") == 60
