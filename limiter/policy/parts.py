"""The parts of a policy: what a file may say, validated, and what it then means, immutable.

What holds across several parts (a key, its team, its organization) is in :mod:`limiter.policy.matching`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, WrapSerializer

from limiter.domain.calls import TAGS_MAX
from limiter.domain.mistakes import Place, mistaken, shown
from limiter.policy.fields import (
    Abort,
    CallCost,
    Estimate,
    Expiry,
    Id,
    Lifetime,
    Model,
    Patterns,
    Quantile,
    SomePatterns,
    Switch,
    TagName,
    TagNames,
    TagValue,
    Timezone,
    Ttl,
    Version,
)
from limiter.policy.limit_lists import Limits
from limiter.policy.part import Part
from limiter.policy.sizes import Floors, Outputs


def _at_most_tags(value: Mapping[str, str]) -> Mapping[str, str]:
    if len(value) > TAGS_MAX:
        raise mistaken(f"has {len(value)} tags; the most is {TAGS_MAX}")
    return value


def _thawed(value: Mapping[str, Any], handler: SerializerFunctionWrapHandler) -> Any:  # noqa: ANN401 pydantic's shape
    return handler(dict(value))


_FROZEN: Final = (AfterValidator(MappingProxyType), WrapSerializer(_thawed))


class SettingsPart(Part):
    """How calls are handled. Allowed at every level; field by field, the level nearest to the key wins."""

    on_expiry: Expiry | None = None
    """What a hold costs that nobody settled in time: charge (all of it, the default) or release."""
    on_abort: Abort | None = None
    """What a broken-off call costs, up to its hold: usage_seen, estimate (by what passed; the default) or full_hold."""
    estimate: Estimate | None = None
    """How large holds are: strict (an upper bound), safe (conservative; the default), learned (as such calls cost)."""
    default_max_output_tokens: Outputs | None = None
    """The output of calls that name no maximum: a number, or numbers by pattern of models; 4096 by default."""
    floors: Floors | None = None
    """The least that calls cost, for models and operations whose answers do not tell all that they cost."""
    learned_quantile: Quantile | None = None
    """With estimate learned: the part of calls that should cost no more than their hold; 0.995 by default."""
    free: Patterns | None = None
    """Models that cost nothing, as patterns; a model that is neither priced nor free is refused."""
    max_cost_per_call: CallCost | None = None
    """The most that a single call may cost, in USD; a larger one is a mistake of the caller."""
    ttl: Ttl | None = None
    """How long a hold stays open if the call does not say; 10m by default, 24h at most."""
    max_lifetime: Lifetime | None = None
    """How long Extend may keep a hold open, from its Reserve on; 24h by default. Shortens ttl if it is less."""

    def over(self, outer: SettingsPart) -> SettingsPart:
        """Return these settings, with those of `outer` where these say nothing."""
        own = {name: value for name, value in self if value is not None}
        return outer.model_copy(update=own)


class KeyDefaults(Part):
    """What holds for the keys of a team that do not say otherwise."""

    settings: SettingsPart = SettingsPart()
    limits: Limits | None = None
    """For keys without limits of their own."""
    models: SomePatterns | None = None
    """For keys that do not list their models."""
    allowed_tags: TagNames | None = None
    """For keys that do not say which tags their calls may carry."""


class Key(Part):
    """A key that the file names."""

    enabled: Switch = True
    models: SomePatterns | None = None
    """The models that may be called, as patterns (* and ?); the lists of team and organization must allow them too."""
    limits: Limits | None = None
    """Instead of key_defaults; [] for none."""
    settings: SettingsPart = SettingsPart()
    tags: Annotated[Mapping[TagName, TagValue], AfterValidator(_at_most_tags), *_FROZEN] = Field(
        default={}, validate_default=True
    )
    """Tags that every call of this key has in the books, whatever the caller says."""
    allowed_tags: TagNames | None = None
    """Names of the tags that callers may give; a call with another one is refused. Left out: any; []: none."""


class Team(Part):
    """A team of an organization."""

    enabled: Switch = True
    models: SomePatterns | None = None
    """The models that may be called, as patterns (* and ?)."""
    limits: Limits = ()
    settings: SettingsPart = SettingsPart()
    key_defaults: KeyDefaults = KeyDefaults()
    keys: Annotated[Mapping[Id, Key], *_FROZEN] = Field(default={}, validate_default=True)


class Organization(Part):
    """An organization and everything under it."""

    timezone: Timezone = "UTC"
    """The IANA zone of its calendar windows."""
    enabled: Switch = True
    models: SomePatterns | None = None
    """The models that may be called, as patterns (* and ?)."""
    limits: Limits = ()
    settings: SettingsPart = SettingsPart()
    aliases: Annotated[Mapping[Model, Model], *_FROZEN] = Field(default={}, validate_default=True)
    """Other names of models, on top of the document's aliases."""
    teams: Annotated[Mapping[Id, Team], *_FROZEN] = Field(default={}, validate_default=True)


class Document(Part):
    """A Limiter policy: what may be spent, by whom, on which models."""

    version: Version
    """1."""
    settings: SettingsPart = SettingsPart()
    aliases: Annotated[Mapping[Model, Model], *_FROZEN] = Field(default={}, validate_default=True)
    """Other names of models, such as a deployment's: {name: model}. Applied once, before anything else is decided."""
    organizations: Annotated[Mapping[Id, Organization], *_FROZEN] = Field()

    @classmethod
    def together(cls, data: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """Yield the aliases that lead to another alias: an alias is applied once."""
        shared = _mapping(data.get("aliases"))
        yield from _chains(shared, shared, under=())
        for name, organization in _mapping(data.get("organizations")).items():
            own = _mapping(_mapping(organization).get("aliases"))
            if own:
                yield from _chains(own, {**shared, **own}, under=("organizations", name))
                for alias, model in shared.items():
                    if isinstance(model, str) and model in own and alias not in own:
                        message = f"is what the document's alias {shown(alias)} stands for; name the model there"
                        yield ("organizations", name, "aliases", model), message


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _chains(aliases: dict[str, Any], known: dict[str, Any], *, under: Place) -> Iterator[tuple[Place, str]]:
    for alias, model in aliases.items():
        if isinstance(model, str) and model in known:
            yield (*under, "aliases", alias), f"{shown(model)} is an alias itself; write the model that it stands for"
