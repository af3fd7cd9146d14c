"""Counters belong to scope + limit id + window kind; what a policy does to them, and to its costs."""

from __future__ import annotations

import json

import pytest

from limiter.domain.calls import Usage
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason
from limiter.policy.document import parse_limits
from tests.rules.desk import BOT, Limiter, usd


def policy(*limits: str, more: str = "") -> str:
    return f"""
    version: 1
    organizations:
      acme: {{limits: [{", ".join(limits)}], teams: {{search: {{keys: {{bot: {{}}, dog: {{}}}}{more}}}}}}}
    """


DAY = "{id: day, spend: 10, per: day}"


async def test_changing_an_amount_keeps_the_counter_with_its_holds(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY, "{id: slots, concurrency: 5}", "{id: tpd, tokens: 1000, per: day}"))
    hold = await limiter.grant(tokens=(100, 0))
    await limiter.settle(await limiter.grant(cost="3"), "3")
    await limiter.apply(
        policy("{id: day, spend: 4, per: day}", "{id: slots, concurrency: 1}", "{id: tpd, tokens: 900, per: day}")
    )
    limits = await limiter.limits()
    assert (limits["acme day"].settled, limits["acme day"].held) == (usd("3"), 100_000)
    assert limits["acme slots"].held == 1
    assert limits["acme tpd"].remaining == 900
    await limiter.settle(hold, "0.00005")
    assert (await limiter.money("acme day")).settled == "3.00005"


async def test_another_order_of_limits_keeps_their_counters(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY, "{id: all, spend: 100, per: total}"))
    hold = await limiter.grant(cost="1")
    await limiter.apply(policy("{id: slots, concurrency: 5}", "{id: all, spend: 100, per: total}", DAY))
    await limiter.grant(cost="0.5")
    await limiter.settle(hold, "0.75")
    for where in ("acme day", "acme all"):
        money = await limiter.money(where)
        assert (money.settled, money.held) == ("0.75", "0.50")
    assert (await limiter.limits())["acme slots"].held == 1


@pytest.mark.parametrize(
    "new", ["{id: daily, spend: 10, per: day}", "{id: day, spend: 10, per: month}", "{id: day, tokens: 10, per: day}"]
)
async def test_another_id_window_or_kind_is_another_counter(limiter: Limiter, new: str) -> None:
    await limiter.apply(policy(DAY))
    hold = await limiter.grant(cost="1")
    await limiter.apply(policy(new))
    (status,) = (await limiter.limits()).values()
    assert (status.settled, status.held) == (0, 0)
    await limiter.settle(hold, "1")
    (status,) = (await limiter.limits()).values()
    assert (status.settled, status.held) == (0, 0)


async def test_a_limit_removed_and_added_again_starts_at_nothing_and_never_goes_below(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY, "{id: slots, concurrency: 5}"))
    holds = [await limiter.grant(cost="1") for _ in range(3)]
    await limiter.apply(policy("{id: other, spend: 10, per: day}"))
    await limiter.grant(cost="0")
    limiter.tick("1 second")
    await limiter.apply(policy(DAY, "{id: slots, concurrency: 5}"))
    fresh = await limiter.grant(cost="0.25")
    await limiter.settle(holds[0], "1")
    await limiter.release(holds[1])
    limiter.tick("10 minutes")
    await limiter.service.sweep()
    await limiter.settle(fresh, "0.25")
    limits = await limiter.limits()
    assert (limits["acme day"].settled, limits["acme day"].held, limits["acme slots"].held) == (usd("0.25"), 0, 0)


async def test_the_same_within_one_millisecond(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY, "{id: slots, concurrency: 5}"))
    hold = await limiter.grant(cost="1")
    await limiter.apply(policy("{id: other, spend: 10, per: day}"))
    await limiter.grant(cost="0")
    await limiter.apply(policy(DAY, "{id: slots, concurrency: 5}"))
    await limiter.grant(cost="0.25")
    await limiter.settle(hold, "1")
    limits = await limiter.limits()
    assert (limits["acme day"].settled, limits["acme day"].held, limits["acme slots"].held) == (0, usd("0.25"), 1)


async def test_apply_says_where_a_new_spend_limit_starts_at_nothing(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY))
    changed = await limiter.apply(policy("{id: day, spend: 20, per: day}"))
    assert changed.notes == ()
    added = await limiter.apply(policy(DAY, "{id: all, spend: 100, per: total}", "{id: rpm, requests: 5, per: minute}"))
    assert [note for note in added.notes if "limits.all" in note and "starts at 0" in note]
    assert len(added.notes) == 1
    await limiter.apply(policy(DAY))
    assert (await limiter.apply(policy(DAY, "{id: all, spend: 100, per: total}"))).notes == added.notes


async def test_keys_minted_without_limits_have_their_teams_defaults_and_others_their_own(limiter: Limiter) -> None:
    await limiter.apply(policy(more=", key_defaults: {limits: [{id: mine, spend: 1, per: day}]}"))
    plain, own = Scope("acme", "search", "plain"), Scope("acme", "search", "own")
    secrets = {}
    for key, limits in ((plain, None), (own, parse_limits("[{id: mine, spend: 3, per: day}]"))):
        _, secrets[key] = await limiter.service.keyring.create(key, limits=limits, expires_ms=0)
    assert (await limiter.refusal(secrets[plain], cost="2")).reason is DenialReason.SPEND_CEILING
    await limiter.grant(secrets[own], cost="2")
    assert (await limiter.refusal(secrets[own], cost="2")).reason is DenialReason.SPEND_HELD
    await limiter.grant(secrets[plain], cost="1")


async def test_the_nearest_level_wins_setting_by_setting(limiter: Limiter) -> None:
    await limiter.apply("""
        version: 1
        settings: {default_max_output_tokens: 10, ttl: 1m}
        organizations:
          acme:
            settings: {ttl: 2m}
            teams:
              search:
                settings: {default_max_output_tokens: 30}
                keys: {bot: {settings: {default_max_output_tokens: 40}}, dog: {}}
              plain: {keys: {cat: {}}}
    """)
    now = limiter.clock.now_ms
    for key, output, minutes in ((BOT, 40, 2), ("acme/search/dog", 30, 2), ("acme/plain/cat", 10, 2)):
        granted = await limiter.grant(key, tokens=(0, None))
        assert (granted.max_output_tokens, granted.expires_at_ms) == (output, now + minutes * 60_000)


async def test_an_output_that_nobody_names_is_held_at_the_models_most_if_that_is_less(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY))
    assert (await limiter.grant(tokens=(0, None))).max_output_tokens == 4096
    assert (await limiter.grant(tokens=(0, None), model="short")).max_output_tokens == 100


@pytest.mark.parametrize(
    ("usage", "cost"),
    [(Usage(2), 1), (Usage(3), 2), (Usage(5), 2), (Usage(7), 4), (Usage(4, 3), 4)],
)
async def test_charges_are_rounded_half_to_even_once_and_holds_up(limiter: Limiter, usage: Usage, cost: int) -> None:
    """A token costs half a nano-dollar."""
    await limiter.apply(policy(DAY))
    hold = await limiter.grant(tokens=(usage.input_tokens, usage.output_tokens), model="half")
    assert hold.held_nanousd == -(-usage.total_tokens // 2)
    assert (await limiter.settle(hold, usage)).cost_nanousd == cost


async def test_a_call_is_priced_by_the_model_as_served(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY))
    hold = await limiter.grant(tokens=(100, 0), model="dear")
    settled = await limiter.settle(hold, Usage(100, 0), model="dear-2")
    assert (settled.cost_nanousd, settled.model, settled.overage_nanousd) == (2_000_000, "dear-2", 1_000_000)
    hold = await limiter.grant(tokens=(100, 0), model="dear")
    settled = await limiter.settle(hold, Usage(100, 0), model="dear-of-tomorrow")
    assert settled.cost_nanousd == 1_000_000
    assert "dear-of-tomorrow" in settled.warnings[0]


async def test_another_sidecar_prices_usage_as_the_one_that_granted(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(
        "version: 1\naliases: {mine: dear}\n"
        + policy(DAY).split("version: 1\n")[1].replace("    organizations", "organizations")
    )
    for model in ("dear", "mine"):
        hold = await limiter.grant(tokens=(100, 100), model=model)
        settled = await second.settle(hold, Usage(100, 100, cache_read_tokens=40))
        assert settled.cost_nanousd == 60 * 10_000 + 40 * 1_000 + 100 * 30_000
        assert settled.price_version


async def test_tags_are_for_the_books_and_those_of_the_key_win(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY).replace("bot: {}", "bot: {tags: {customer: fixed}}"))
    await limiter.settle(await limiter.grant(cost="1", tags={"customer": "said", "feature": "chat"}), "1")
    (row,) = await limiter.rows()
    assert dict(json.loads(row.call)["tags"]) == {"customer": "fixed", "feature": "chat"}


async def test_refusals_are_summed_by_the_customer_that_the_books_would_name(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY).replace("bot: {}", "bot: {tags: {customer: fixed}}"))
    await limiter.refusal(BOT, cost="11", tags={"customer": "said"})
    await limiter.refusal("acme/search/dog", cost="11", tags={"customer": "said"})
    await limiter.service.flush_refusals()
    (row,) = await limiter.rows()
    assert sorted(entry["customer"] for entry in json.loads(row.call)["refusals"]) == ["fixed", "said"]


async def test_force_release_ends_anybodys_hold_and_says_so_in_the_ledger(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY))
    hold = await limiter.grant(cost="1")
    record = await limiter.record(hold)
    settled = await limiter.service.administration.force_release(record.name, reason="the gateway is gone")
    assert settled.cost_nanousd == 0
    (row,) = await limiter.rows()
    assert row.flags.name == "FORCED"
    assert b"the gateway is gone" in row.ending


async def test_scopes_shows_every_declared_and_minted_key_with_its_counters(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY, more=", key_defaults: {limits: [{id: mine, spend: 1, per: day}]}"))
    await limiter.mint("acme/search/minted")
    await limiter.grant("acme/search/minted", cost="0.5")
    shown = await limiter.service.administration.scopes(Scope("acme"))
    held = {view.scope.path: [status.held for status in view.limits] for view in shown}
    assert held == {
        "acme": [usd("0.5")],
        "acme/search": [],
        "acme/search/bot": [0],
        "acme/search/dog": [0],
        "acme/search/minted": [usd("0.5")],
    }


async def test_the_policy_that_is_read_back_is_the_one_that_was_applied(limiter: Limiter) -> None:
    await limiter.apply(policy(DAY))
    text, versions = await limiter.service.administration.policy("acme")
    assert versions == {"acme": 1}
    assert (await limiter.apply(text)).changes == ()
