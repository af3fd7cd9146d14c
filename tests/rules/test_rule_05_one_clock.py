"""Rule 5: one clock, the store's."""

from __future__ import annotations

import time

import pytest

from limiter.domain.errors import Unavailable
from limiter.domain.reservations import RowFlag, State
from limiter.domain.verdicts import DenialReason
from tests.rules.desk import Limiter, instant, usd
from tests.rules.stories import tell

POLICY = """
    version: 1
    organizations:
      acme:
        timezone: UTC
        limits: [{id: hour, spend: 1, per: hour}, {id: day, spend: 10, per: day}, {id: rpm, requests: 100, per: minute}]
        teams: {search: {keys: {bot: {}}}}
"""


async def test_every_time_in_an_answer_is_the_stores_not_the_sidecars(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    limiter.at("2031-05-05 10:20")
    granted = await limiter.grant(cost="0.10", ttl="5 minutes", all_limits=True)
    assert granted.expires_at_ms == instant("2031-05-05 10:25")
    resets = {status.limit.id: status.resets_at_ms for status in granted.limits}
    assert (resets["hour"], resets["day"]) == (instant("2031-05-05 11:00"), instant("2031-05-06 00:00"))


async def test_without_a_seam_the_time_is_the_servers_own(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    limiter.store._clock_ms = None
    granted = await limiter.grant(cost="0.10", ttl="5 minutes")
    assert abs(granted.expires_at_ms - 300_000 - time.time() * 1000) < 5_000


async def test_a_new_window_begins_without_any_job(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        at 2026-09-21 13:59:59.999 ->
        reserve a 1.00             -> granted
        settle  a 1.00             -> SETTLED 1.00 USAGE
        reserve b 0.01             -> SPEND_CEILING acme hour
        tick 1 ms                  ->
        reserve b 1.00             -> granted
        money acme hour            -> 0.00 settled, 1.00 held
        money acme day             -> 1.00 settled, 1.00 held
        """,
    )


async def test_a_sidecar_whose_plan_is_of_an_older_window_is_told_so_and_asks_again(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="0.10")
    limiter.tick("1 day")
    limiter.tick("1 day")
    await limiter.grant(cost="0.10")
    assert await limiter.count('limiter_stale_plans_total{what="window"}') == 1
    limiter.at("2028-02-29 12:00")
    await limiter.grant(cost="0.10")
    assert (await limiter.money("acme day")).held == "0.10"


async def test_the_next_window_needs_no_new_plan(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    limiter.at("2026-09-21 13:30")
    await limiter.grant(cost="0.60")
    limiter.at("2026-09-21 14:30")
    await limiter.grant(cost="0.60")
    assert await limiter.count('limiter_stale_plans_total{what="window"}') == 0


async def test_a_window_never_rolls_back(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        at 2026-09-21 14:00:00   ->
        reserve a 0.70           -> granted
        at 2026-09-21 13:59:30   ->
        reserve b 0.70           -> SPEND_HELD acme hour
        money acme hour          -> 0.00 settled, 0.70 held
        at 2026-09-21 14:00:01   ->
        money acme hour          -> 0.00 settled, 0.70 held
        """,
    )


async def test_a_clock_a_minute_behind_is_borne_and_a_millisecond_more_stops_reserve(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    limiter.at("2026-09-21 13:30:00")
    await limiter.grant(cost="0.10")
    limiter.at("2026-09-21 13:29:00")
    await limiter.grant(cost="0.10")
    limiter.clock.advance(-1)
    before = (await limiter.dump()).raw
    with pytest.raises(Unavailable, match="clock"):
        await limiter.reserve(cost="0.10")
    assert (await limiter.dump()).raw == before
    assert await limiter.count("limiter_clock_behind_total") == 1


async def test_a_clock_that_falls_back_over_a_windows_edge_stops_reserve_with_the_same_error(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    limiter.at("2026-09-21 14:00:30")
    await limiter.grant(cost="0.10")
    limiter.at("2026-09-21 13:58:00")
    with pytest.raises(Unavailable, match="clock"):
        await limiter.reserve(cost="0.10")


async def test_a_clock_that_falls_behind_never_stops_settle_release_extend_charge_or_headroom(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    holds = [await limiter.grant(cost="0.10") for _ in range(3)]
    limiter.clock.advance(-3_600_000)
    assert (await limiter.settle(holds[0], "0.05")).state is State.SETTLED
    assert (await limiter.release(holds[1])).state is State.RELEASED
    assert (await limiter.extend(holds[2], "30 minutes")).found
    assert (await limiter.charge(id="c", actual="0.01")).cost_nanousd == usd("0.01")
    assert (await limiter.money("acme day")).settled == "0.06"
    assert await limiter.service.sweep() == 0


async def test_a_clock_that_comes_back_lets_reserve_go_on(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="0.10")
    limiter.clock.advance(-3_600_000)
    with pytest.raises(Unavailable):
        await limiter.reserve(cost="0.10")
    limiter.clock.advance(3_600_000)
    await limiter.grant(cost="0.10")


async def test_a_hold_is_settled_in_the_window_that_it_was_reserved_in(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        at 2026-09-21 13:59:00 ->
        reserve a 1.00         -> granted
        at 2026-09-21 14:01:00 ->
        settle  a 0.40         -> SETTLED 0.40 USAGE closed
        money acme hour        -> 0.00 settled, 0.00 held
        money acme day         -> 0.40 settled, 0.00 held
        """,
    )
    (row,) = await limiter.rows()
    assert (row.amount, row.flags) == (usd("0.40"), RowFlag.WINDOW_CLOSED)


async def test_a_hold_of_a_closed_window_does_not_burden_the_new_one(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        at 2026-09-21 13:59:00 ->
        reserve a 1.00         -> granted
        at 2026-09-21 14:01:00 ->
        reserve b 1.00         -> granted
        settle  a 0.40         -> SETTLED 0.40 USAGE closed
        money acme hour        -> 0.00 settled, 1.00 held
        tick 10 minutes        ->
        sweep                  -> 1 ended
        money acme hour        -> 1.00 settled, 0.00 held
        money acme day         -> 1.40 settled, 0.00 held
        """,
    )


async def test_a_hold_across_midnight_expires_in_the_window_it_came_from(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        at 2026-09-21 23:59:00 ->
        reserve a 0.50 ttl 5   -> granted
        reserve b 0.25 ttl 5   -> granted
        at 2026-09-22 00:00:01 ->
        reserve c 0.10         -> granted
        at 2026-09-22 00:04:00 ->
        sweep                  -> 2 ended
        money acme day         -> 0.00 settled, 0.10 held
        settle a 0.30          -> SETTLED 0.30 USAGE late closed
        money acme day         -> 0.00 settled, 0.10 held
        """,
    )
    assert sum(row.amount for row in await limiter.rows()) == usd("0.55")


async def test_slots_of_calls_that_run_across_a_window_are_still_taken(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("per: minute}", "per: minute}, {id: slots, concurrency: 1}"))
    limiter.at("2026-09-21 23:59:00")
    hold = await limiter.grant(cost="0.50")
    limiter.at("2026-09-22 00:01:00")
    assert (await limiter.refusal(cost="0.50")).reason is DenialReason.CONCURRENCY
    await limiter.settle(hold, "0.50")
    await limiter.grant(cost="0.50")
