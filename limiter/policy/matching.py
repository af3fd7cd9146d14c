"""Which limits apply to this call? Pure: a policy and a key in, the key's rules out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Final

from limiter.domain.errors import InvalidArgument
from limiter.domain.limits import Limit
from limiter.domain.money import CALL_MAX_NANOUSD
from limiter.domain.reservations import OnAbort, OnExpiry, Sizing
from limiter.domain.scopes import Scope
from limiter.policy.document import OrganizationPolicy
from limiter.policy.parts import Key, SettingsPart, Team
from limiter.policy.sizes import OUTPUT_DEFAULT, Floor, OutputDefaults

#: What a setting of the document is called when its unit goes with it.
_WITH_UNIT: Final = {
    "max_cost_per_call": "max_cost_per_call_nanousd",
    "ttl": "ttl_ms",
    "max_lifetime": "max_lifetime_ms",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How a key's calls are handled, every level considered. Patterns know * and ?.

    `default_max_output_tokens` are the most specific first. `learned_quantile` is in millionths.
    """

    on_expiry: OnExpiry = OnExpiry.CHARGE
    on_abort: OnAbort = OnAbort.ESTIMATE
    estimate: Sizing = Sizing.SAFE
    default_max_output_tokens: OutputDefaults = (("*", OUTPUT_DEFAULT),)
    floors: tuple[Floor, ...] = ()
    learned_quantile: int = 995_000
    free: tuple[str, ...] = ()
    max_cost_per_call_nanousd: int = CALL_MAX_NANOUSD
    ttl_ms: int = 600_000
    max_lifetime_ms: int = 86_400_000

    def default_output(self, model: str) -> int:
        """Return the output to hold for where a call of this model names none."""
        found = (count for pattern, count in self.default_max_output_tokens if fnmatchcase(model, pattern))
        return next(found, OUTPUT_DEFAULT)

    def floors_for(self, model: str) -> tuple[Floor, ...]:
        """Return the floors under calls of this model, whatever they ask of it."""
        return tuple(floor for floor in self.floors if floor.models is None or _matches(floor.models, model))


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """What a policy says about one key.

    `declared`: the policy names the key. `enabled`: organization, team and key are all enabled. `scopes`:
    organization, team and key in this order, each with its limits. `models`: the allow-lists of the levels
    that have one; all of them must allow a model. `tags` go with every call; `allowed_tags` are the names of those
    that a caller may add (None: any).
    """

    declared: bool
    enabled: bool
    scopes: tuple[tuple[Scope, tuple[Limit, ...]], ...]
    settings: Settings
    zone: str
    models: tuple[tuple[str, ...], ...]
    aliases: Mapping[str, str]
    tags: Mapping[str, str]
    allowed_tags: tuple[str, ...] | None

    def model_for(self, asked: str) -> str:
        """Return the model that `asked` stands for: aliases are applied once, before anything else."""
        return self.aliases.get(asked, asked)

    def allows(self, model: str) -> bool:
        """Say whether every allow-list has a pattern for this model; for "" only * is one."""
        return all(_matches(patterns, model) for patterns in self.models)

    def is_free(self, model: str) -> bool:
        """Say whether the policy names this model as one that costs nothing."""
        return _matches(self.settings.free, model)


def resolve(organization: OrganizationPolicy, *, key: Scope, own_limits: tuple[Limit, ...] | None) -> KeyPolicy:
    """Return the rules for `key`, whether the policy names it or it was minted.

    The limits declared for the key hold; else `own_limits`, with which it was minted (None: it has none of its
    own); else its team's key_defaults. For everything else of a key (models, settings, allowed_tags)
    the declaration goes before key_defaults, field by field. A key of a team that the policy does not name
    is under the organization's limits, its own and no others. Raises InvalidArgument if `key` is no key
    of this organization.
    """
    if key.organization != organization.id or not key.key:
        raise InvalidArgument("key", key.path, f"name a key of {organization.id}: organization/team/key")
    rules = organization.rules
    team = rules.teams.get(key.team, _NO_TEAM)
    declared = team.keys.get(key.key)
    own = declared or _NO_KEY
    defaults = team.key_defaults
    limits = next((found for found in (own.limits, own_limits, defaults.limits) if found is not None), ())
    lists = (rules.models, team.models, own.models or defaults.models)
    return KeyPolicy(
        declared=declared is not None,
        enabled=rules.enabled and team.enabled and own.enabled,
        scopes=tuple(zip(key.lineage(), (rules.limits, team.limits, limits), strict=True)),
        settings=_settings(own.settings, defaults.settings, team.settings, rules.settings),
        zone=rules.timezone,
        models=tuple(patterns for patterns in lists if patterns is not None),
        aliases=rules.aliases,
        tags=own.tags,
        allowed_tags=own.allowed_tags if own.allowed_tags is not None else defaults.allowed_tags,
    )


def limit_applies(limit: Limit, model: str) -> bool:
    """Say whether a call of `model` counts against this limit; one of no model ("") only if it names no models."""
    return models_match(limit.models, model)


def models_match(patterns: tuple[str, ...], model: str) -> bool:
    """Say whether a call of `model` is one of a limit with these models; of none, every call is."""
    return not patterns or (model != "" and _matches(patterns, model))


_NO_TEAM: Final = Team()
_NO_KEY: Final = Key()


def _settings(*nearest_first: SettingsPart) -> Settings:
    given = {
        _WITH_UNIT.get(name, name): value
        for part in reversed(nearest_first)
        for name, value in part
        if value is not None
    }
    settings = Settings(**given)
    return replace(settings, ttl_ms=min(settings.ttl_ms, settings.max_lifetime_ms))


def _matches(patterns: tuple[str, ...], model: str) -> bool:
    return any(fnmatchcase(model, pattern) for pattern in patterns)
