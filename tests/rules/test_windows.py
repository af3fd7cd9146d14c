"""Windows of spend limits are calendar windows in the limit's zone."""

from __future__ import annotations

import pytest

from limiter.domain.verdicts import DenialReason
from tests.rules.desk import Limiter, instant

NEW_YORK, TOKYO = "America/New_York", "Asia/Tokyo"


def policy(per: str, zone: str) -> str:
    return f"""
    version: 1
    organizations:
      acme: {{timezone: {zone}, limits: [{{id: x, spend: 1, per: {per}}}], teams: {{search: {{keys: {{bot: {{}}}}}}}}}}
    """


#: Window, zone, its last millisecond and its first one, both by the wall clock of the zone.
EDGES = [
    ("hour", "UTC", "2026-09-21 13:00", "2026-09-21 14:00"),
    ("hour", "Asia/Kathmandu", "2026-09-21 13:00", "2026-09-21 14:00"),
    ("day", "UTC", "2026-09-21 00:00", "2026-09-22 00:00"),
    ("day", TOKYO, "2026-09-21 00:00", "2026-09-22 00:00"),
    ("day", NEW_YORK, "2026-03-08 00:00", "2026-03-09 00:00"),
    ("day", NEW_YORK, "2026-11-01 00:00", "2026-11-02 00:00"),
    ("week", NEW_YORK, "2026-11-02 00:00", "2026-11-09 00:00"),
    ("week", NEW_YORK, "2026-10-26 00:00", "2026-11-02 00:00"),
    ("month", TOKYO, "2026-09-01 00:00", "2026-10-01 00:00"),
    ("month", TOKYO, "2027-01-01 00:00", "2027-02-01 00:00"),
    ("month", "UTC", "2028-02-01 00:00", "2028-03-01 00:00"),
    ("month", NEW_YORK, "2026-03-01 00:00", "2026-04-01 00:00"),
    ("quarter", "UTC", "2027-01-01 00:00", "2027-04-01 00:00"),
    ("quarter", NEW_YORK, "2026-10-01 00:00", "2027-01-01 00:00"),
    ("year", TOKYO, "2028-01-01 00:00", "2029-01-01 00:00"),
    ("day", "America/Sao_Paulo", "2018-11-04 01:00", "2018-11-05 00:00"),
    ("day", "UTC", "2028-02-29 00:00", "2028-03-01 00:00"),
]  # fmt: skip


@pytest.mark.parametrize(("per", "zone", "begin", "end"), EDGES)
async def test_a_window_ends_in_the_millisecond_in_which_the_next_begins(
    limiter: Limiter, per: str, zone: str, begin: str, end: str
) -> None:
    await limiter.apply(policy(per, zone))
    limiter.at(begin, zone)
    await limiter.grant(cost="0.60")
    limiter.clock.now_ms = instant(end, zone) - 1
    denied = await limiter.refusal(cost="0.60")
    assert denied.reason in {DenialReason.SPEND_HELD, DenialReason.SPEND_CEILING}
    assert denied.violations[0].resets_at_ms == instant(end, zone)
    limiter.clock.now_ms += 1
    await limiter.grant(cost="0.60")


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-08", 23), ("2026-03-09", 24), ("2026-11-01", 25), ("2026-11-02", 24)]
)
async def test_a_day_has_as_many_hours_as_the_clocks_give_it(limiter: Limiter, day: str, hours: int) -> None:
    await limiter.apply(policy("day", NEW_YORK))
    limiter.at(f"{day} 00:00", NEW_YORK)
    granted = await limiter.grant(cost="0.60")
    assert granted.limits[0].resets_at_ms - limiter.clock.now_ms == hours * 3_600_000


async def test_the_hour_that_comes_twice_is_two_windows(limiter: Limiter) -> None:
    await limiter.apply(policy("hour", NEW_YORK))
    limiter.at("2026-11-01 01:30", NEW_YORK, fold=0)
    await limiter.grant(cost="0.60")
    limiter.at("2026-11-01 01:30", NEW_YORK, fold=1)
    await limiter.grant(cost="0.60")
    assert (await limiter.money("acme x")).held == "0.60"


async def test_the_hour_after_the_skipped_one_is_a_window_of_its_own(limiter: Limiter) -> None:
    await limiter.apply(policy("hour", NEW_YORK))
    limiter.at("2026-03-08 01:59:59", NEW_YORK)
    await limiter.grant(cost="0.60")
    limiter.tick("1 second")
    assert limiter.clock.now_ms == instant("2026-03-08 03:00", NEW_YORK)
    await limiter.grant(cost="0.60")


async def test_a_total_never_ends(limiter: Limiter) -> None:
    await limiter.apply(policy("total", TOKYO))
    await limiter.settle(await limiter.grant(cost="0.60"), "0.60")
    limiter.at("2199-12-31 23:59")
    denied = await limiter.refusal(cost="0.60")
    assert (denied.reason, denied.violations[0].resets_at_ms) == (DenialReason.SPEND_CEILING, 0)


async def test_a_new_time_zone_holds_from_the_next_window_on(limiter: Limiter) -> None:
    await limiter.apply(policy("day", "UTC"))
    limiter.at("2026-09-21 12:00")
    await limiter.grant(cost="0.60", ttl="24 hours")
    await limiter.apply(policy("day", TOKYO))
    limiter.at("2026-09-21 15:00")  # midnight in Tokyo
    assert (await limiter.refusal(cost="0.60")).reason is DenialReason.SPEND_HELD
    limiter.at("2026-09-22 00:00")  # the old window's end
    granted = await limiter.grant(cost="0.60")
    assert granted.limits[0].resets_at_ms == instant("2026-09-23 00:00", TOKYO)
    limiter.at("2026-09-22 15:00")
    await limiter.grant(cost="0.60")


async def test_a_new_time_zone_whose_window_ends_later_takes_over_without_a_gap(limiter: Limiter) -> None:
    await limiter.apply(policy("month", TOKYO))
    limiter.at("2026-09-30 14:59:59")
    await limiter.grant(cost="0.60")
    await limiter.apply(policy("month", NEW_YORK))
    limiter.at("2026-09-30 15:00:00")  # Tokyo's October, New York's September
    granted = await limiter.grant(cost="0.60")
    assert granted.limits[0].resets_at_ms == instant("2026-10-01 00:00", NEW_YORK)
    limiter.at("2026-10-01 00:00", NEW_YORK)
    await limiter.grant(cost="0.60")


async def test_a_hold_survives_a_change_of_time_zone(limiter: Limiter) -> None:
    await limiter.apply(policy("day", "UTC"))
    limiter.at("2026-09-21 12:00")
    hold = await limiter.grant(cost="0.60")
    await limiter.apply(policy("day", TOKYO))
    await limiter.settle(hold, "0.50")
    money = await limiter.money("acme x")
    assert (money.settled, money.held) == ("0.50", "0.00")


@pytest.mark.parametrize("per", ["hour", "day", "week", "month", "quarter", "year"])
async def test_after_years_of_silence_a_limit_is_fresh(limiter: Limiter, per: str) -> None:
    await limiter.apply(policy(per, NEW_YORK))
    await limiter.settle(await limiter.grant(cost="1"), "1")
    limiter.at("2031-07-04 09:00", NEW_YORK)
    assert (await limiter.money("acme x")).settled == "0.00"
    await limiter.grant(cost="1")
