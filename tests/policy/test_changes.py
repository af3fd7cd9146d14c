"""What an operator reads before a policy is applied."""

import pytest

from limiter.policy.changes import Change, changes, describe, notes
from limiter.policy.document import OrganizationPolicy, parse_limits, parse_policy


def acme(body: str) -> OrganizationPolicy:
    return parse_policy(f"version: 1\norganizations:\n  acme: {body}\n").organizations["acme"]


BEFORE = acme(
    """{timezone: UTC, models: ["gpt-*"], aliases: {old: gpt-4o}, settings: {ttl: 5m, free: [x]},
    limits: [{id: monthly, spend: 100, per: month}, {id: rpm, requests: 60, per: minute}],
    teams: {
      search: {keys: {bot: {limits: [{id: daily, spend: 1, per: day}], tags: {a: b}, allowed_tags: [x, y]}, web: {}}},
      sales: {}}}"""
)
AFTER = acme(
    """{timezone: Asia/Tokyo, aliases: {new: gpt-4o}, settings: {ttl: 5m, free: [], max_cost_per_call: 0.000000001},
    limits: [{id: rpm, requests: 60, per: minute, burst: 10}, {id: monthly, spend: 100.00, per: month}],
    teams: {
      search: {enabled: false, key_defaults: {limits: [{id: d, spend: 1, per: day}], allowed_tags: [z]},
        keys: {bot: {limits: [{id: daily, spend: 1, per: week}], tags: {a: c}, allowed_tags: []}, web: {limits: []}}},
      ops: {}}}"""
)


def test_equal_policies_have_no_changes() -> None:
    assert changes(BEFORE, BEFORE) == []
    assert notes(BEFORE, BEFORE) == []


def test_every_difference_is_named_once() -> None:
    assert changes(BEFORE, AFTER) == [
        Change("timezone", "changed", "UTC", "Asia/Tokyo"),
        Change("aliases.old", "removed", "gpt-4o", ""),
        Change("settings.free", "changed", "x", "none"),
        Change("models", "removed", "gpt-*", ""),
        Change("limits.rpm", "changed", "60 requests per minute, burst 60", "60 requests per minute, burst 10"),
        Change("teams.search", "changed", "enabled", "disabled"),
        Change("teams.search.keys.bot.allowed_tags", "changed", "x, y", "none"),
        Change("teams.search.keys.bot.limits.daily", "changed", "1.00 USD per day", "1.00 USD per week"),
        Change("teams.search.keys.bot.tags.a", "changed", "b", "c"),
        Change("teams.sales", "removed", "enabled", ""),
        Change("aliases.new", "added", "", "gpt-4o"),
        Change("settings.max_cost_per_call", "added", "", "0.000000001 USD"),
        Change("teams.search.key_defaults.allowed_tags", "added", "", "z"),
        Change("teams.search.key_defaults.limits.d", "added", "", "1.00 USD per day"),
        Change("teams.search.keys.web.limits", "added", "", "none"),
        Change("teams.ops", "added", "", "enabled"),
    ]


def test_a_new_and_a_removed_organization_are_named_in_full() -> None:
    added = changes(None, AFTER)
    removed = changes(AFTER, None)
    assert added[0] == Change("organization", "added", "", "enabled")
    assert {change.change for change in added} == {"added"}
    assert [(change.path, change.after) for change in added] == [(change.path, change.before) for change in removed]
    assert changes(None, None) == []


def test_new_spend_counters_start_at_nothing_without_a_ledger() -> None:
    found = notes(BEFORE, AFTER)
    assert found == [
        "teams.search.key_defaults.limits.d: starts at 0: no SQL ledger to open it from",
        "teams.search.keys.bot.limits.daily: starts at 0: no SQL ledger to open it from",
        "teams.sales: keys minted under it are now under the limits of the organization",
    ]
    assert notes(BEFORE, AFTER, opened_from_ledger=True) == found[-1:]
    assert len(notes(None, AFTER)) == 3
    assert notes(AFTER, None) == []


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ("{id: a, spend: 20, per: day}", "20.00 USD per day"),
        ("{id: a, spend: 0.000000001, per: total}", "0.000000001 USD in total"),
        (
            "{id: a, spend: 2, per: hour, models: [gpt-5*, o3], mode: shadow, warn_at: [0.5, 0.125, 1]}",
            "2.00 USD per hour, only gpt-5*, o3, warns at 12.5 %, 50 %, 100 %, shadow",
        ),
        ("{id: a, tokens: 2000000, per: minute}", "2000000 tokens per minute, burst 2000000"),
        ("{id: a, concurrency: 200}", "200 open holds"),
    ],
)
def test_limits_are_described_in_words(limit: str, text: str) -> None:
    assert describe(parse_limits(f"[{limit}]")[0]) == text
