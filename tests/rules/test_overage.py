"""Rule 2, told: what a spend limit was charged above its holds can be read beside what it was charged."""

from __future__ import annotations

import asyncio
import json

import pytest

from limiter.domain.calls import ProviderRequest
from limiter.domain.money import format_usd
from limiter.domain.reservations import RowFlag
from limiter.domain.scopes import Scope
from tests.rules.conftest import OpenLimiter
from tests.rules.desk import Limiter, usd
from tests.rules.stories import tell

POLICY = """
    version: 1
    organizations:
      acme:
        limits: [{id: month, spend: 100, per: month}, {id: inflight, concurrency: 100}]
        teams:
          search:
            limits: [{id: day, spend: 20, per: day}, {id: watched, spend: 1, per: day, mode: shadow}]
            keys: {bot: {}, dog: {}}
          ads: {keys: {bot: {}}}
"""
DAY, MONTH = "acme/search day", "acme month"


async def overage_fields(limiter: Limiter) -> list[str]:
    """The fields of the organization that hold an overage."""
    found = await limiter.dump()
    (fields,) = [value for key, value in found.raw.items() if key.endswith("}:org:acme")]
    return sorted(name.decode() for name in fields if name.startswith(b"overage:"))


async def test_what_calls_cost_above_their_holds_is_summed_at_every_limit_on_their_path(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        reserve a 0.50                  -> granted
        settle  a 3.00                  -> SETTLED 3.00 USAGE overage 2.50
        reserve b 0.10 by acme/ads/bot  -> granted
        settle  b 0.11                  -> SETTLED 0.11 USAGE overage 0.01
        overage acme/search day         -> 2.50
        overage acme month              -> 2.51
        """,
    )
    limits = await limiter.limits()
    assert limits["acme inflight"].overage == 0
    assert limits["acme/search watched"].overage == usd("2.50")
    assert await overage_fields(limiter) == [
        "overage::month:spend:month", "overage:search:day:spend:day", "overage:search:watched:spend:day",
    ]  # fmt: skip


async def test_an_operator_reads_the_overage_of_every_scope(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.settle(await limiter.grant(cost="0.50"), "0.75")
    views = await limiter.service.administration.scopes(Scope("acme"))
    read = {f"{view.scope.path} {status.limit.id}": status.overage for view in views for status in view.limits}
    assert read == {MONTH: usd("0.25"), "acme inflight": 0, DAY: usd("0.25"), "acme/search watched": usd("0.25")}


async def test_calls_within_their_holds_write_no_overage(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        reserve a 0.50           -> granted
        settle  a 0.50           -> SETTLED 0.50 USAGE
        reserve b 0.50           -> granted
        release b                -> RELEASED 0.00 RELEASED
        reserve c 0.50 ttl 5     -> granted
        tick 6 minutes           ->
        sweep                    -> 1 ended
        settle  c 0.25           -> SETTLED 0.25 USAGE late
        overage acme/search day  -> 0.00
        """,
    )
    assert await overage_fields(limiter) == []


async def test_spend_that_had_no_hold_is_no_overage(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.charge(id="told-later", actual="3.00")
    await limiter.grant(cost="1.00", consume=True)
    assert (await limiter.money(DAY)).settled == "4.00"
    assert await overage_fields(limiter) == []


async def test_a_correction_takes_the_place_of_the_overage_before(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        reserve a 0.50            -> granted
        settle  a 2.00 estimated  -> SETTLED 2.00 ESTIMATED overage 1.50
        reserve b 0.50            -> granted
        settle  b 0.60 estimated  -> SETTLED 0.60 ESTIMATED overage 0.10
        overage acme/search day   -> 1.60
        settle  a 0.70            -> SETTLED 0.70 USAGE overage 0.20
        overage acme/search day   -> 0.30
        settle  a 0.90            -> SETTLED 0.70 USAGE overage 0.20 unchanged
        settle  b 0.10            -> SETTLED 0.10 USAGE
        overage acme/search day   -> 0.20
        reserve c 0.50 ttl 5      -> granted
        tick 6 minutes            ->
        sweep                     -> 1 ended
        settle  c 0.80            -> SETTLED 0.80 USAGE overage 0.30 late
        overage acme/search day   -> 0.50
        overage acme month        -> 0.50
        """,
    )


async def test_a_new_window_begins_without_overage_and_owes_nothing_to_the_one_before(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await tell(
        limiter,
        """
        at 2026-09-20 23:50:00    ->
        reserve a 0.50            -> granted
        settle  a 2.00 estimated  -> SETTLED 2.00 ESTIMATED overage 1.50
        reserve c 0.50            -> granted
        settle  c 0.40 estimated  -> SETTLED 0.40 ESTIMATED
        overage acme/search day   -> 1.50
        at 2026-09-21 00:00:00    ->
        overage acme/search day   -> 0.00
        overage acme month        -> 1.50
        settle  a 1.00            -> SETTLED 1.00 USAGE overage 0.50 closed
        overage acme/search day   -> 0.00
        overage acme month        -> 0.50
        reserve b 0.50            -> granted
        settle  b 0.51            -> SETTLED 0.51 USAGE overage 0.01
        settle  c 0.90            -> SETTLED 0.90 USAGE overage 0.40 closed
        overage acme/search day   -> 0.01
        overage acme month        -> 0.91
        """,
    )
    assert len(await overage_fields(limiter)) == 3


async def test_a_limit_that_was_away_starts_without_overage(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.settle(await limiter.grant(cost="0.50"), "2.00")
    await limiter.apply(POLICY.replace("{id: day, spend: 20, per: day}, ", ""))
    await limiter.settle(await limiter.grant(cost="0.50"), "0.50")
    await limiter.apply(POLICY)
    assert await limiter.overage(DAY) == "0.00"
    await limiter.apply(POLICY.replace("spend: 20,", "spend: 30,"))
    assert await limiter.overage(MONTH) == "1.50"


async def test_settlements_of_one_batch_add_up(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    holds = [await limiter.grant(key, cost="0.10") for key in ("acme/search/bot", "acme/search/dog", "acme/ads/bot")]
    ends = [limiter.settle(hold, "0.10000001") for hold in holds]
    again = limiter.settle(holds[0], "0.30", estimated=True)
    await asyncio.gather(*ends, again, limiter.settle(await limiter.grant(cost="0.10"), "0.05"))
    assert (await limiter.overage(DAY), await limiter.overage(MONTH)) == ("0.00000002", "0.00000003")


async def test_an_estimate_and_its_correction_in_one_batch_leave_the_correction(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="0.10")
    await asyncio.gather(limiter.settle(hold, "0.30", estimated=True), limiter.settle(hold, "0.15"))
    assert await limiter.overage(DAY) == "0.05"


async def test_overages_are_exact_where_doubles_are_not(limiter: Limiter) -> None:
    await limiter.apply(POLICY.replace("spend: 100,", "spend: 9000000000,"))
    for cost in ("9007199.254740991", "9007199.254740991", "0.000000002"):
        await limiter.settle(await limiter.grant("acme/ads/bot", cost="0.000000001"), cost)
    assert await limiter.overage(MONTH, key="acme/ads/bot") == "18014398.509481981"


@pytest.mark.parametrize("above", [1, 1_000])
async def test_each_limit_counts_what_was_charged_above_its_own_hold(limiter: Limiter, above: int) -> None:
    safe = "{id: day, spend: 20, per: day, estimate: safe}"
    await limiter.apply(POLICY.replace("per: month}", "per: month, estimate: strict}").replace(
        "{id: day, spend: 20, per: day}", safe
    ))  # fmt: skip
    body = {"model": "gpt-4o", "max_completion_tokens": 10, "messages": [{"role": "user", "content": "word " * 1_000}]}
    request = ProviderRequest("api.openai.com", "/v1/chat/completions", json.dumps(body).encode())
    for calls in (1, 2):
        granted = await limiter.grant(request=request, model="")
        held = (await limiter.limits())[DAY].held
        assert held + 1_000 < granted.held_nanousd
        await limiter.settle(granted, format_usd(held + above))
        assert (await limiter.limits())[DAY].overage == calls * above
        assert (await limiter.limits())[MONTH].overage == 0
    assert all(RowFlag.OVERAGE not in row.flags for row in await limiter.rows())  # that is: above all that was held


async def test_every_sidecar_reads_the_same_overage(open_limiter: OpenLimiter) -> None:
    first, second = open_limiter(), open_limiter()
    await first.apply(POLICY)
    await first.settle(await first.grant(cost="0.50"), "0.75")
    await second.settle(await second.grant(cost="0.50"), "0.75")
    assert await first.overage(DAY) == await second.overage(DAY) == "0.50"


async def test_a_hold_that_expires_costs_a_limit_that_held_less_of_it_an_overage(limiter: Limiter) -> None:
    await limiter.apply(
        POLICY.replace("per: month}", "per: month, estimate: strict}").replace("per: day}", "per: day, estimate: safe}")
    )
    body = {"model": "gpt-4o", "max_completion_tokens": 10, "messages": [{"role": "user", "content": "word " * 1_000}]}
    request = ProviderRequest("api.openai.com", "/v1/chat/completions", json.dumps(body).encode())
    granted = await limiter.grant(request=request, model="", ttl="5 minutes")
    held = (await limiter.limits())[DAY].held
    limiter.tick("5 minutes")
    await limiter.service.sweep()
    limits = await limiter.limits()
    assert limits[DAY].settled == limits[MONTH].settled == granted.held_nanousd
    assert (limits[DAY].overage, limits[MONTH].overage) == (granted.held_nanousd - held, 0)
    await limiter.release(granted)
    assert (await limiter.limits())[DAY].overage == 0
