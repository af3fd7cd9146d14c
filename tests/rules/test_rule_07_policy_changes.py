"""Rule 7: policy changes are immediate, on every sidecar."""

from __future__ import annotations

import asyncio

import pytest

from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason
from limiter.policy.document import parse_limits
from limiter.store.keys import organization_key
from limiter.store.port import StoredPolicy
from tests.rules.desk import BOT, Limiter, name_of, usd

KEY = Scope.parse_key(BOT)


def policy(amount: str, *, more: str = "", keys: str = "{bot: {}}", zone: str = "UTC") -> str:
    return f"""
    version: 1
    organizations:
      acme:
        timezone: {zone}
        limits: [{{id: day, spend: {amount}, per: day}}{more}]
        teams: {{search: {{keys: {keys}}}}}
    """


async def test_the_next_reserve_on_any_sidecar_sees_a_lowered_ceiling(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(policy("10"))
    await second.grant(cost="4")
    await limiter.apply(policy("5"))
    assert (await second.refusal(cost="4")).reason is DenialReason.SPEND_HELD
    assert await second.count('limiter_stale_plans_total{what="policy"}') == 1


async def test_the_next_reserve_on_any_sidecar_sees_a_raised_ceiling(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(policy("5"))
    await second.grant(cost="4")
    await second.refusal(cost="4")
    await limiter.apply(policy("10"))
    await second.grant(cost="4")


async def test_the_next_reserve_on_any_sidecar_sees_a_disabled_key(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(policy("10"))
    secret = await limiter.mint(BOT)
    await second.grant(secret, cost="1")
    await limiter.enable(BOT, enabled=False)
    assert (await second.refusal(secret, cost="1")).reason is DenialReason.KEY_DISABLED
    await limiter.enable(BOT, enabled=True)
    await second.grant(secret, cost="1")


@pytest.mark.parametrize("level", ["organization", "team", "key"])
async def test_the_file_can_disable_every_level(limiter: Limiter, second: Limiter, level: str) -> None:
    await limiter.apply(policy("10"))
    await second.grant(cost="1")
    off = {name: ("enabled: false, " if name == level else "") for name in ("organization", "team", "key")}
    await limiter.apply(f"""
        version: 1
        organizations:
          acme: {{{off["organization"]}limits: [{{id: day, spend: 10, per: day}}],
                 teams: {{search: {{{off["team"]}keys: {{bot: {{{off["key"].rstrip(", ")}}}}}}}}}}}
    """)
    assert (await second.refusal(cost="1")).reason is DenialReason.KEY_DISABLED


async def test_a_key_expires_in_the_millisecond_that_it_says(limiter: Limiter) -> None:
    await limiter.apply(policy("10"))
    secret = await limiter.mint(BOT, expires_ms=limiter.clock.now_ms + 60_000)
    limiter.clock.advance(59_999)
    await limiter.grant(secret, cost="1")
    limiter.clock.advance(1)
    assert (await limiter.refusal(secret, cost="1")).reason is DenialReason.KEY_EXPIRED


async def test_a_key_whose_expiry_is_set_or_lifted_later_is_so_at_once(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(policy("10"))
    secret = await limiter.mint(BOT)
    await second.grant(secret, cost="1")
    for expires_ms, expected in ((limiter.clock.now_ms, DenialReason.KEY_EXPIRED), (0, None)):
        await limiter.service.keyring.update(KEY, enabled=None, expires_ms=expires_ms, limits=None, clear_limits=False)
        verdict = await second.reserve(secret, cost="1")
        assert getattr(verdict, "reason", None) is expected


async def test_both_secrets_are_good_while_they_overlap_and_only_the_new_one_after(
    limiter: Limiter, second: Limiter
) -> None:
    await limiter.apply(policy("100"))
    old = await limiter.mint(BOT)
    await second.grant(old, cost="1")
    _, new = await limiter.service.keyring.rotate(KEY, overlap_ms=3_600_000)
    await second.grant(old, cost="1")
    await second.grant(new, cost="1")
    limiter.clock.advance(3_599_999)
    await second.grant(old, cost="1")
    limiter.clock.advance(1)
    assert (await second.refusal(old, cost="1")).reason is DenialReason.KEY_EXPIRED
    await second.grant(new, cost="1")


async def test_a_secret_rotated_away_without_overlap_is_refused_at_once_everywhere(
    limiter: Limiter, second: Limiter
) -> None:
    await limiter.apply(policy("100"))
    old = await limiter.mint(BOT)
    await second.grant(old, cost="1")
    await limiter.service.keyring.rotate(KEY, overlap_ms=0)
    assert (await second.refusal(old, cost="1")).reason in {DenialReason.KEY_UNKNOWN, DenialReason.KEY_EXPIRED}
    assert (await limiter.refusal(old, cost="1")).reason in {DenialReason.KEY_UNKNOWN, DenialReason.KEY_EXPIRED}


async def test_a_secret_whose_overlap_is_cut_short_by_a_second_rotation_is_refused_everywhere(
    limiter: Limiter, second: Limiter
) -> None:
    await limiter.apply(policy("100"))
    oldest = await limiter.mint(BOT)
    await limiter.service.keyring.rotate(KEY, overlap_ms=3_600_000)
    await second.grant(oldest, cost="1")
    await limiter.service.keyring.rotate(KEY, overlap_ms=60_000)
    limiter.tick("1 minute")
    assert (await second.refusal(oldest, cost="1")).reason is DenialReason.KEY_EXPIRED


async def test_a_key_minted_a_moment_ago_is_known_everywhere(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(policy("100"))
    await second.grant(cost="1")
    secret = await limiter.mint("acme/search/customer-1")
    await second.grant(secret, cost="1")


async def test_minting_keys_makes_nobody_read_the_policy_again(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(policy("100"))
    await second.grant(cost="1")
    for number in range(20):
        await limiter.mint(f"acme/search/customer-{number}")
    await second.grant(cost="1")
    for what in ("policy", "key"):
        assert await second.count(f'limiter_stale_plans_total{{what="{what}"}}') == 0


async def test_a_keys_own_limits_take_effect_at_once(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(policy("100"))
    key = Scope("acme", "search", "minted")
    secret = await limiter.mint(key.path)
    await second.grant(secret, cost="5")
    limits = parse_limits("[{id: mine, spend: 1, per: day}]")
    await limiter.service.keyring.update(key, enabled=None, expires_ms=None, limits=limits, clear_limits=False)
    assert (await second.refusal(secret, cost="5")).reason is DenialReason.SPEND_CEILING


async def test_a_declared_key_that_the_file_no_longer_names_is_disabled(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(policy("10"))
    secret = await limiter.mint(BOT)
    minted = await limiter.mint("acme/search/minted")
    await second.grant(secret, cost="1")
    await limiter.apply(policy("10", keys="{other: {}}"))
    assert (await second.refusal(secret, cost="1")).reason is DenialReason.KEY_DISABLED
    await second.grant(minted, cost="1")
    await limiter.apply(policy("10"))
    await second.grant(secret, cost="1")


async def test_a_declared_key_without_a_secret_is_unknown_when_the_file_no_longer_names_it(limiter: Limiter) -> None:
    await limiter.apply(policy("10"))
    await limiter.grant(cost="1")
    await limiter.apply(policy("10", keys="{other: {}}"))
    assert (await limiter.refusal(cost="1")).reason is DenialReason.KEY_UNKNOWN


async def test_apply_touches_no_key_that_was_minted(limiter: Limiter) -> None:
    await limiter.apply(policy("10"))
    await limiter.mint("acme/search/minted")
    before = await limiter.client.hget(organization_key("acme"), "key:search/minted")
    await limiter.apply(policy("20", keys="{bot: {}, other: {}}"))
    assert await limiter.client.hget(organization_key("acme"), "key:search/minted") == before


async def test_an_apply_that_changes_nothing_makes_no_new_version(limiter: Limiter) -> None:
    first = await limiter.apply(policy("10"))
    again = await limiter.apply(policy("10"))
    assert (again.changes, again.versions) == ((), first.versions)


async def test_a_dry_run_of_apply_tells_the_changes_and_makes_none(limiter: Limiter) -> None:
    await limiter.apply(policy("10"))
    before = (await limiter.dump()).raw
    would = await limiter.apply(policy("20"), dry_run=True)
    assert [(change.path, change.change) for _, change in would.changes] == [("limits.day", "changed")]
    assert (await limiter.dump()).raw == before


async def test_settle_release_extend_and_expiry_ask_for_no_version(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(policy("100"))
    holds = [await second.grant(cost="1", ttl="10 minutes") for _ in range(4)]
    await limiter.apply(policy("0", keys="{other: {}}"))
    await second.settle(holds[0], "0.5")
    await second.release(holds[1])
    await second.extend(holds[2], "30 minutes")
    limiter.tick("11 minutes")
    assert await second.service.sweep() == 1
    record = await second.record(holds[3])
    assert (record.state.name, record.cost) == ("EXPIRED", 1_000_000_000)


async def test_a_hold_touches_exactly_the_counters_that_it_took_from(limiter: Limiter) -> None:
    await limiter.apply(policy("100", more=", {id: first, spend: 50, per: day}"))
    hold = await limiter.grant(cost="1")
    await limiter.apply(policy("100", more=", {id: later, spend: 50, per: day}"))
    await limiter.grant(cost="0.25")
    await limiter.settle(hold, "0.75")
    assert {status.limit.id: (status.settled, status.held) for status in (await limiter.limits()).values()} == {
        "day": (750_000_000, 250_000_000),
        "later": (0, 250_000_000),
    }
    assert {taken.counter for taken in (await limiter.record(hold)).taken} == {"day:spend:day", "first:spend:day"}


async def test_changes_by_two_operators_at_once_are_both_whole(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(policy("10"))
    applied = await asyncio.gather(limiter.apply(policy("20")), second.apply(policy("30")))
    assert sorted(each.versions["acme"] for each in applied) == [2, 3]
    assert str(name_of(await limiter.grant(cost="15"))).startswith("organizations/acme/")


async def test_after_a_change_the_policy_is_read_once_however_many_keys_and_models_call(
    limiter: Limiter, second: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limiter.apply(policy("100", keys="{bot: {}, dog: {}}"))
    calls = [(key, model) for key in (BOT, "acme/search/dog") for model in ("m", "dear")]
    for key, model in calls:
        await second.grant(key, cost="1", model=model)
    await limiter.apply(policy("200", keys="{bot: {}, dog: {}}"))
    reads: list[str] = []
    read = second.store.policy

    async def count_reads(organization: str) -> StoredPolicy | None:
        reads.append(organization)
        return await read(organization)

    monkeypatch.setattr(second.store, "policy", count_reads)
    for key, model in calls:
        granted = await second.grant(key, cost="1", model=model)
        assert granted.limits[0].limit.amount == usd("200")
    await asyncio.gather(*(second.grant(key, cost="1", model=model) for key, model in calls))
    assert reads == ["acme"]
    await limiter.apply(policy("300"))
    await second.grant(cost="1")
    assert reads == ["acme", "acme"]


async def test_a_declared_key_that_was_disabled_first_can_be_minted_and_stays_disabled(limiter: Limiter) -> None:
    await limiter.apply(policy("10"))
    await limiter.enable(BOT, enabled=False)
    secret = await limiter.mint(BOT)
    assert (await limiter.refusal(secret, cost="1")).reason is DenialReason.KEY_DISABLED
    await limiter.enable(BOT, enabled=True)
    await limiter.grant(secret, cost="1")
