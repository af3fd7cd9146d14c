"""What would change from one policy to another, in words for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from limiter.domain.limits import Limit, LimitKind
from limiter.domain.mistakes import Place, path
from limiter.domain.money import format_usd
from limiter.policy.document import OrganizationPolicy
from limiter.policy.parts import Key, KeyDefaults, Organization, SettingsPart, Team


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. `path` is within the organization, such as teams.search.keys.bot.limits.daily.

    `before` is "" if added, `after` is "" if removed. The organization itself has the path `organization`,
    a team or key its own path; what changes there is whether it is enabled.
    """

    path: str
    change: Literal["added", "removed", "changed"]
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class AddedLimit:
    """A limit that was not there before, and its place such as ("teams", "search", "limits", "daily")."""

    place: Place
    limit: Limit

    @property
    def team(self) -> str:
        """The team that it is under; "": it is the organization's."""
        return str(self.place[1]) if self.place[0] == "teams" else ""

    @property
    def key(self) -> str | None:
        """The key that it is for; None: it is one of key_defaults; "": it is for no key."""
        match self.place:
            case (_, _, "key_defaults", *_):
                return None
            case (_, _, "keys", key, *_):
                return str(key)
        return ""


def changes(before: OrganizationPolicy | None, after: OrganizationPolicy | None) -> list[Change]:
    """Return what differs, in the order of the document; None is an organization that is not there."""
    old = dict(_facts(before)) if before else {}
    new = dict(_facts(after)) if after else {}
    found = []
    for place in {**old, **new}:
        if place not in old:
            found.append(Change(path(place), "added", "", new[place]))
        elif place not in new:
            found.append(Change(path(place), "removed", old[place], ""))
        elif old[place] != new[place]:
            found.append(Change(path(place), "changed", old[place], new[place]))
    return found


def notes(
    before: OrganizationPolicy | None, after: OrganizationPolicy | None, *, opened_from_ledger: bool = False
) -> list[str]:
    """Return what an operator should know of the change.

    `opened_from_ledger`: new spend counters open with what the SQL ledger says was spent in their window.
    """
    found = []
    if after and not opened_from_ledger:
        found = [
            f"{path(new.place)}: starts at 0: no SQL ledger to open it from"
            for new in added_spend_limits(before, after)
        ]
    kept = after.rules.teams if after else {}
    for team in before.rules.teams if before and after else {}:
        if team not in kept:
            found.append(f"{path(('teams', team))}: keys minted under it are now under the limits of the organization")
    return found


def added_spend_limits(before: OrganizationPolicy | None, after: OrganizationPolicy) -> list[AddedLimit]:
    """Return the spend limits of `after` that `before` does not have at the same place."""
    old = {(place, limit.counter) for place, limit in _limits(before)} if before else set()
    return [
        AddedLimit((*place, limit.id), limit)
        for place, limit in _limits(after)
        if limit.kind is LimitKind.SPEND and (place, limit.counter) not in old
    ]


def keys_without_limits(before: OrganizationPolicy | None, after: OrganizationPolicy) -> list[tuple[str, str]]:
    """Return the keys, with their teams, that had limits of their own in `before` and have none in `after`."""
    found = []
    for team, part in before.rules.teams.items() if before else ():
        kept = after.rules.teams.get(team)
        for key, old in part.keys.items():
            new = kept.keys.get(key) if kept else None
            if kept and old.limits is not None and (new is None or new.limits is None):
                found.append((team, key))
    return found


def keys_gone(before: OrganizationPolicy, after: OrganizationPolicy) -> list[tuple[str, str]]:
    """Return the keys, with their teams, that `before` names and `after` does not."""
    teams = after.rules.teams
    return [
        (team, key)
        for team, part in before.rules.teams.items()
        for key in part.keys
        if team not in teams or key not in teams[team].keys
    ]


def describe(limit: Limit) -> str:
    """Write a limit as `20.00 USD per day, warns at 80 %`."""
    if limit.kind is LimitKind.SPEND:
        text = f"{format_usd(limit.amount)} USD {'in total' if limit.per == 'total' else f'per {limit.per}'}"
    elif limit.kind is LimitKind.CONCURRENCY:
        text = f"{limit.amount} open holds"
    else:
        text = f"{limit.amount} {limit.kind.name.lower()} per {limit.per}, burst {limit.burst}"
    if limit.models:
        text += f", only {', '.join(limit.models)}"
    if limit.warn_at:
        text += f", warns at {', '.join(f'{Decimal(part) / 10_000:f} %' for part in limit.warn_at)}"
    if limit.sizing is not None:
        text += f", held for by {limit.sizing.name.lower()} estimates"
    return text + (", shadow" if limit.shadow else "")


def _facts(policy: OrganizationPolicy) -> Iterator[tuple[Place, str]]:
    for place, part in _levels(policy.rules):
        if not isinstance(part, KeyDefaults):
            yield place or ("organization",), "enabled" if part.enabled else "disabled"
        if isinstance(part, Organization):
            yield ("timezone",), part.timezone
            yield from ((("aliases", alias), model) for alias, model in part.aliases.items())
        yield from (((*place, "settings", name), text) for name, text in _settings(part.settings))
        if part.models is not None:
            yield (*place, "models"), ", ".join(part.models)
        if isinstance(part, (Key, KeyDefaults)) and part.allowed_tags is not None:
            yield (*place, "allowed_tags"), ", ".join(part.allowed_tags) or "none"
        if part.limits == () and isinstance(part, (Key, KeyDefaults)):
            yield (*place, "limits"), "none"  # differs from saying nothing, which falls back to the defaults
        yield from (((*place, "limits", limit.id), describe(limit)) for limit in part.limits or ())
        if isinstance(part, Key):
            yield from (((*place, "tags", tag), value) for tag, value in part.tags.items())


def _limits(policy: OrganizationPolicy) -> Iterator[tuple[Place, Limit]]:
    for place, part in _levels(policy.rules):
        yield from (((*place, "limits"), limit) for limit in part.limits or ())


def _levels(rules: Organization) -> Iterator[tuple[Place, Organization | Team | KeyDefaults | Key]]:
    yield (), rules
    for team_id, team in rules.teams.items():
        yield ("teams", team_id), team
        yield ("teams", team_id, "key_defaults"), team.key_defaults
        yield from ((("teams", team_id, "keys", key_id), key) for key_id, key in team.keys.items())


def _settings(settings: SettingsPart) -> Iterator[tuple[str, str]]:
    for name, value in settings.model_dump(exclude_none=True).items():
        if name == "floors":
            yield name, "; ".join(map(_described_floor, value)) or "none"
        elif isinstance(value, dict):
            yield name, ", ".join(f"{pattern}: {count}" for pattern, count in value.items())
        elif isinstance(value, (list, tuple)):
            yield name, ", ".join(value) or "none"
        else:
            yield name, f"{Decimal(value):f} USD" if name == "max_cost_per_call" else str(value)


def _described_floor(floor: dict[str, Any]) -> str:
    """Write a floor as `images of gpt-image-*: 0.02 USD`."""
    operations = ", ".join(floor.get("operations", ("every call",)))
    return f"{operations} of {', '.join(floor.get('models', ('*',)))}: {Decimal(floor['cost']):f} USD"
