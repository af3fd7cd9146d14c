"""Shadow limits count what they would have refused; warn_at tells of thresholds."""

from __future__ import annotations

import json
from datetime import UTC

import pytest

from limiter.domain.calls import Usage
from limiter.domain.reservations import RowFlag
from limiter.domain.rows import RowKind
from limiter.domain.verdicts import DenialReason
from limiter.domain.windows import window_bounds
from tests.rules.desk import Limiter, places, usd

SHADOWS = """
    version: 1
    organizations:
      acme:
        limits: [{id: all, spend: 100, per: total}]
        teams:
          search:
            limits:
              - {id: day, spend: 1, per: day, mode: shadow}
              - {id: rpm, requests: 2, per: minute, mode: shadow}
              - {id: tpm, tokens: 100, per: minute, mode: shadow}
              - {id: slots, concurrency: 1, mode: shadow}
            keys: {bot: {}}
"""
WARNS = """
    version: 1
    organizations:
      acme:
        limits: [{id: day, spend: 10, per: day, warn_at: [0.5, 0.8, 1.0]}]
        teams: {search: {keys: {bot: {limits: [{id: day, spend: SPEND, per: day, warn_at: [0.5], mode: MODE}]}}}}
"""


async def events(limiter: Limiter) -> list[tuple[str, float]]:
    """The thresholds that event rows report: where, and which."""
    found = []
    for row in await limiter.rows():
        if row.kind is RowKind.EVENT:
            event = json.loads(row.call)
            assert (event["event"], row.amount, row.taken) == ("threshold", 0, ())
            found.append((f"{event['scope']} {event['limit']}", event["threshold"]))
    return found


async def test_a_shadow_limit_never_refuses_and_says_what_it_would_have_refused(limiter: Limiter) -> None:
    await limiter.apply(SHADOWS)
    assert (await limiter.grant(tokens=(50, 20))).warnings == ()
    granted = await limiter.grant(tokens=(1000, 700_000))
    assert places(granted.warnings) == ["acme/search day", "acme/search tpm", "acme/search slots"]
    assert all(status.limit.shadow for status in granted.warnings)
    granted = await limiter.grant(cost="2")
    assert places(granted.warnings) == ["acme/search day", "acme/search rpm", "acme/search slots"]


async def test_what_a_shadow_limit_would_have_refused_takes_nothing_from_it(limiter: Limiter) -> None:
    await limiter.apply(SHADOWS)
    await limiter.grant(cost="0.60")
    before = await limiter.limits()
    hold = await limiter.grant(cost="0.60")
    after = await limiter.limits()
    assert after["acme/search day"] == before["acme/search day"]
    assert after["acme/search slots"] == before["acme/search slots"]
    assert after["acme/search rpm"].remaining == before["acme/search rpm"].remaining - 1
    assert after["acme all"].held == usd("1.20")
    await limiter.settle(hold, "5")
    assert (await limiter.money("acme/search day")).settled == "0.00"
    assert (await limiter.money("acme all")).settled == "5.00"


async def test_what_a_shadow_limit_had_room_for_is_counted_like_anything_else(limiter: Limiter) -> None:
    await limiter.apply(SHADOWS)
    await limiter.settle(await limiter.grant(cost="0.60"), "0.70")
    assert (await limiter.money("acme/search day")).settled == "0.70"
    assert places((await limiter.grant(cost="0.40")).warnings) == ["acme/search day"]


async def test_shadow_refusals_are_in_the_ledger_and_the_metrics(limiter: Limiter) -> None:
    await limiter.apply(SHADOWS)
    first = await limiter.grant(cost="0.60")
    second = await limiter.grant(cost="0.60")
    await limiter.settle(first, "0.60")
    await limiter.settle(second, "0.60")
    assert [row.flags for row in await limiter.rows()] == [RowFlag(0), RowFlag.SHADOWED]
    metrics = limiter.metrics.render()[0].decode()
    counted = [line for line in metrics.splitlines() if line.startswith("limiter_shadow_refusals_total{")]
    assert len(counted) == 2
    assert all(line.endswith(" 1.0") for line in counted)


async def test_a_refusal_tells_what_shadow_limits_would_have_refused_beside_its_violations(limiter: Limiter) -> None:
    await limiter.apply(SHADOWS)
    denied = await limiter.refusal(cost="101")
    assert (denied.reason, places(denied.violations)) == (DenialReason.SPEND_CEILING, ["acme all"])
    assert places(denied.warnings) == ["acme/search day"]


async def test_a_shadow_limit_that_is_enforced_keeps_what_it_counted(limiter: Limiter) -> None:
    await limiter.apply(SHADOWS)
    await limiter.settle(await limiter.grant(cost="0.60"), "0.60")
    await limiter.apply(SHADOWS.replace("{id: day, spend: 1, per: day, mode: shadow}", "{id: day, spend: 1, per: day}"))
    assert (await limiter.refusal(cost="0.60")).reason is DenialReason.SPEND_CEILING


async def test_a_grant_above_a_threshold_carries_a_warning_and_one_below_none(limiter: Limiter) -> None:
    await limiter.apply(WARNS.replace("SPEND", "100").replace("MODE", "enforce"))
    assert (await limiter.grant(cost="4.999999999")).warnings == ()
    assert places((await limiter.grant(cost="0.000000001")).warnings) == ["acme day"]
    assert places((await limiter.grant(cost="0")).warnings) == ["acme day"]


async def test_each_threshold_is_reported_once_per_window_by_an_event_row(limiter: Limiter) -> None:
    await limiter.apply(WARNS.replace("SPEND", "100").replace("MODE", "enforce"))
    for _ in range(3):
        await limiter.settle(await limiter.grant(cost="2"), "2")
    assert await events(limiter) == [("acme day", 0.5)]
    hold = await limiter.grant(cost="4")
    assert await events(limiter) == [("acme day", 0.5), ("acme day", 0.8), ("acme day", 1.0)]
    await limiter.release(hold)
    await limiter.grant(cost="4")
    assert len(await events(limiter)) == 3


async def test_the_event_of_a_threshold_says_when_its_window_begins_and_ends(limiter: Limiter) -> None:
    await limiter.apply(WARNS.replace("SPEND", "100").replace("MODE", "enforce"))
    for _ in range(2):
        await limiter.grant(cost="5")
        limiter.tick("1 day")
    found = [(row.at_ms, json.loads(row.call)) for row in await limiter.rows() if row.kind is RowKind.EVENT]
    windows = [window_bounds("day", at_ms, UTC)[:2] for at_ms, _ in found]
    assert [(event["window_start_ms"], event["resets_at_ms"]) for _, event in found] == windows
    assert len(set(windows)) == 2


async def test_thresholds_are_reported_anew_in_the_next_window(limiter: Limiter) -> None:
    await limiter.apply(WARNS.replace("SPEND", "100").replace("MODE", "enforce"))
    await limiter.grant(cost="5")
    limiter.tick("1 day")
    await limiter.grant(cost="5")
    assert await events(limiter) == [("acme day", 0.5)] * 2


async def test_every_scope_reports_its_own_thresholds(limiter: Limiter) -> None:
    await limiter.apply(WARNS.replace("SPEND", "8").replace("MODE", "enforce"))
    await limiter.grant(cost="5")
    assert await events(limiter) == [("acme day", 0.5), ("acme/search/bot day", 0.5)]


async def test_a_charge_reports_thresholds_too(limiter: Limiter) -> None:
    await limiter.apply(WARNS.replace("SPEND", "100").replace("MODE", "enforce"))
    await limiter.charge(id="c", actual="9")
    assert await events(limiter) == [("acme day", 0.5), ("acme day", 0.8)]


async def test_a_threshold_that_an_overage_passed_is_told_by_the_next_grant(limiter: Limiter) -> None:
    await limiter.apply(WARNS.replace("SPEND", "100").replace("MODE", "enforce"))
    await limiter.settle(await limiter.grant(cost="1"), "6")
    await limiter.grant(cost="0")
    assert await events(limiter) == [("acme day", 0.5)]


@pytest.mark.parametrize("raised", ["20", "10"])
async def test_raising_a_ceiling_reports_no_threshold_twice(limiter: Limiter, raised: str) -> None:
    text = WARNS.replace("SPEND", "100").replace("MODE", "enforce")
    await limiter.apply(text)
    await limiter.grant(cost="6")
    await limiter.apply(text.replace("spend: 10,", f"spend: {raised},"))
    await limiter.grant(cost="1")
    assert await events(limiter) == [("acme day", 0.5)]


async def test_estimates_are_warned_of_like_anything_held(limiter: Limiter) -> None:
    await limiter.apply(WARNS.replace("SPEND", "100").replace("MODE", "enforce"))
    hold = await limiter.grant(tokens=(0, 2_500_000))
    assert places(hold.warnings) == ["acme day"]
    await limiter.settle(hold, Usage(0, 10))
    assert (await limiter.grant(tokens=(0, 10))).warnings == ()
