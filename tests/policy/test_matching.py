"""Which limits, models and settings a key gets."""

import pytest

from limiter.domain.errors import InvalidArgument
from limiter.domain.limits import Limit, LimitKind
from limiter.domain.money import CALL_MAX_NANOUSD
from limiter.domain.reservations import OnExpiry
from limiter.domain.scopes import Scope
from limiter.policy.document import OrganizationPolicy, parse_limits, parse_policy
from limiter.policy.matching import KeyPolicy, Settings, limit_applies, resolve

ACME = parse_policy(
    """
version: 1
settings: {on_expiry: release, ttl: 2h, free: ["local-*"]}
aliases: {azure: gpt-4o, twice: azure-2}
organizations:
  acme:
    timezone: Asia/Tokyo
    models: ["gpt-*", "claude-*", "azure-2"]
    settings: {default_max_output_tokens: 100}
    limits: [{id: monthly, spend: 100, per: month}]
    teams:
      search:
        settings: {default_max_output_tokens: 200, max_cost_per_call: 5}
        limits: [{id: monthly, spend: 10, per: month}]
        key_defaults:
          limits: [{id: daily, spend: 1, per: day}]
          models: ["gpt-4*"]
          settings: {default_max_output_tokens: 300, on_expiry: charge}
        keys:
          bot:
            limits: [{id: hourly, spend: 2, per: hour}]
            models: ["gpt-5*"]
            settings: {max_lifetime: 1h}
            tags: {feature: search}
          plain: {}
          unlimited: {limits: []}
          off: {enabled: false}
      closed: {enabled: false, keys: {k: {}}}
"""
).organizations["acme"]


def key(team: str, name: str, own: str | None = None, *, policy: OrganizationPolicy = ACME) -> KeyPolicy:
    limits = None if own is None else parse_limits(own)
    return resolve(policy, key=Scope("acme", team, name), own_limits=limits)


def limit_ids(policy: KeyPolicy) -> list[tuple[str, list[str]]]:
    return [(scope.path, [limit.id for limit in limits]) for scope, limits in policy.scopes]


@pytest.mark.parametrize(
    ("team", "name", "own", "ids"),
    [
        ("search", "bot", None, ["hourly"]),
        ("search", "plain", None, ["daily"]),
        ("search", "unlimited", None, []),
        ("search", "minted", None, ["daily"]),
        ("search", "minted", "[]", []),
        ("search", "minted", "[{id: mine, concurrency: 1}]", ["mine"]),
        ("search", "bot", "[{id: mine, concurrency: 1}]", ["hourly"]),
    ],
)
def test_a_keys_limits_are_those_declared_else_its_own_else_the_defaults(
    *, team: str, name: str, own: str | None, ids: list[str]
) -> None:
    assert limit_ids(key(team, name, own)) == [
        ("acme", ["monthly"]),
        (f"acme/{team}", ["monthly"]),
        (f"acme/{team}/{name}", ids),
    ]


def test_a_key_of_an_unknown_team_is_under_the_organization_only() -> None:
    policy = key("sales", "k")
    assert limit_ids(policy) == [("acme", ["monthly"]), ("acme/sales", []), ("acme/sales/k", [])]
    assert not policy.declared
    assert policy.enabled
    assert policy.models == (("gpt-*", "claude-*", "azure-2"),)


@pytest.mark.parametrize(
    ("team", "name", "declared", "enabled"),
    [
        ("search", "bot", True, True),
        ("search", "minted", False, True),
        ("search", "off", True, False),
        ("closed", "k", True, False),
        ("closed", "minted", False, False),
    ],
)
def test_a_key_is_enabled_if_every_level_is(*, team: str, name: str, declared: bool, enabled: bool) -> None:
    policy = key(team, name)
    assert (policy.declared, policy.enabled) == (declared, enabled)


def test_a_disabled_organization_disables_its_keys() -> None:
    off = parse_policy("version: 1\norganizations: {acme: {enabled: false}}").organizations["acme"]
    assert not key("search", "bot", policy=off).enabled


def test_the_nearest_setting_wins_field_by_field() -> None:
    assert key("search", "bot").settings == Settings(
        on_expiry=OnExpiry.CHARGE,  # key_defaults
        default_max_output_tokens=(("*", 300),),  # key_defaults
        free=("local-*",),  # document
        max_cost_per_call_nanousd=5_000_000_000,  # team
        ttl_ms=3_600_000,  # document, shortened to the key's max_lifetime
        max_lifetime_ms=3_600_000,
    )
    assert key("sales", "k").settings.default_output("m") == 100
    assert key("sales", "k").settings.on_expiry is OnExpiry.RELEASE


def test_without_settings_the_defaults_hold() -> None:
    bare = parse_policy("version: 1\norganizations: {acme: {}}").organizations["acme"]
    policy = key("any", "k", policy=bare)
    assert policy.settings == Settings(
        on_expiry=OnExpiry.CHARGE,
        default_max_output_tokens=(("*", 4096),),
        free=(),
        max_cost_per_call_nanousd=CALL_MAX_NANOUSD,
        ttl_ms=600_000,
        max_lifetime_ms=86_400_000,
    )
    assert (policy.zone, policy.models, dict(policy.aliases), dict(policy.tags)) == ("UTC", (), {}, {})


@pytest.mark.parametrize(
    ("name", "model", "allowed"),
    [
        ("bot", "gpt-5-mini", True),
        ("bot", "gpt-4o", False),  # the key's list goes instead of the defaults'
        ("plain", "gpt-4o", True),
        ("plain", "gpt-5", False),
        ("plain", "claude-4", False),
        ("plain", "GPT-4o", False),
        ("plain", "", False),
    ],
)
def test_a_model_must_be_on_the_list_of_every_level(*, name: str, model: str, allowed: bool) -> None:
    assert key("search", name).allows(model) is allowed


def test_without_lists_every_model_is_allowed() -> None:
    bare = parse_policy("version: 1\norganizations: {acme: {}}").organizations["acme"]
    assert key("any", "k", policy=bare).allows("anything")


def test_an_alias_is_applied_once() -> None:
    policy = key("search", "bot")
    assert [policy.model_for(name) for name in ("azure", "twice", "gpt-4o", "")] == ["gpt-4o", "azure-2", "gpt-4o", ""]


def test_only_models_named_free_are_free() -> None:
    policy = key("search", "bot")
    assert [policy.is_free(model) for model in ("local-llama", "local", "gpt-5", "")] == [True, False, False, False]


def test_tags_and_zone_come_along() -> None:
    policy = key("search", "bot")
    assert (dict(policy.tags), policy.zone) == ({"feature": "search"}, "Asia/Tokyo")


@pytest.mark.parametrize(
    ("patterns", "model", "applies"),
    [
        ((), "gpt-5", True),
        ((), "", True),
        (("gpt-5*",), "gpt-5-mini", True),
        (("gpt-5*",), "gpt-5", True),
        (("gpt-5*",), "my-gpt-5", False),
        (("gpt-?",), "gpt-5", True),
        (("gpt-?",), "gpt-55", False),
        (("o3", "gpt-5"), "gpt-5", True),
        (("gpt-5",), "GPT-5", False),
        (("gpt.5",), "gpt-5", False),
        (("*",), "anything", True),
        (("*",), "", False),
    ],
)
def test_a_limit_applies_to_the_models_that_it_names(*, patterns: tuple[str, ...], model: str, applies: bool) -> None:
    assert limit_applies(Limit("a", LimitKind.CONCURRENCY, 1, models=patterns), model) is applies


@pytest.mark.parametrize("scope", [Scope("globex", "search", "bot"), Scope("acme", "search"), Scope("acme")])
def test_only_keys_of_the_organization_have_a_policy(scope: Scope) -> None:
    with pytest.raises(InvalidArgument, match="name a key of acme"):
        resolve(ACME, key=scope, own_limits=None)
