"""The policy document: YAML in, validated and immutable objects out, and back again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import ValidationError

from limiter.domain.limits import Limit
from limiter.domain.mistakes import Mistake, mistakes_in
from limiter.policy.limit_lists import read_limits, write_limits
from limiter.policy.mistakes import PolicyInvalid
from limiter.policy.parts import Document, Organization
from limiter.policy.yaml_text import Value, read_yaml

__all__ = [
    "Mistake",
    "OrganizationPolicy",
    "Policy",
    "PolicyInvalid",
    "limits_to_yaml",
    "parse_limits",
    "parse_policy",
    "policy_to_yaml",
]

#: Where a list of limits that stands alone is in the paths of its mistakes.
_LIMITS = ("limits",)


@dataclass(frozen=True, slots=True)
class OrganizationPolicy:
    """All that holds for one organization, the document's settings and aliases included."""

    id: str
    rules: Organization

    def to_json(self) -> str:
        """Return the policy as canonical JSON: equal policies give equal text. It is a policy document, too."""
        tree = _tree([self])
        # YAML, unlike JSON, has no pairs of surrogates: characters stand for themselves.
        return json.dumps(tree, default=_plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> OrganizationPolicy:
        """Read what :meth:`to_json` wrote; raises PolicyInvalid for anything else."""
        try:
            tree = json.loads(text, parse_float=str)  # to_json writes decimals as text, too: nothing is rounded
        except (ValueError, RecursionError) as error:
            raise PolicyInvalid.at((), f"not JSON: {error}") from None
        organizations = tuple(_policy(tree, []).organizations.values())
        if len(organizations) != 1:
            raise PolicyInvalid.at(("organizations",), f"has {len(organizations)} organizations; one is expected")
        return organizations[0]


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy document; each organization's part stands for itself."""

    organizations: Mapping[str, OrganizationPolicy]


def parse_policy(text: str) -> Policy:
    """Read a policy document; raises PolicyInvalid with every mistake in it."""
    return _policy(*read_yaml(text))


def parse_limits(yaml_text: str) -> tuple[Limit, ...]:
    """Read a YAML list as it stands under `limits:`, for a key with limits of its own; [] means no limits.

    Raises PolicyInvalid with every mistake in it, as limits[0].spend and so on.
    """
    tree, mistakes = read_yaml(yaml_text)
    mistakes = [Mistake(f"limits{mistake.path}", mistake.message) for mistake in mistakes]
    try:
        limits = read_limits(tree)
    except ValidationError as error:
        raise PolicyInvalid([*mistakes, *mistakes_in(error, under=_LIMITS)]) from None
    if mistakes:
        raise PolicyInvalid(mistakes)
    return limits


def policy_to_yaml(organizations: Iterable[OrganizationPolicy]) -> str:
    """Write a document that parse_policy reads as the same organizations."""
    return _dump(_tree(organizations))


def limits_to_yaml(limits: Sequence[Limit]) -> str:
    """Write a list that parse_limits reads as the same limits."""
    return _dump(write_limits(tuple(limits)))


def _policy(tree: Value, mistakes: list[Mistake]) -> Policy:
    try:
        document = Document.model_validate(tree)
    except ValidationError as error:
        raise PolicyInvalid([*mistakes, *mistakes_in(error)]) from None
    if mistakes:
        raise PolicyInvalid(mistakes)
    folded = {
        name: OrganizationPolicy(name, _folded(rules, document)) for name, rules in document.organizations.items()
    }
    return Policy(MappingProxyType(folded))


def _folded(rules: Organization, document: Document) -> Organization:
    """Return the organization's rules with the document's settings and aliases where it has none of its own."""
    return rules.model_copy(
        update={
            "settings": rules.settings.over(document.settings),
            "aliases": MappingProxyType({**document.aliases, **rules.aliases}),
        }
    )


def _tree(organizations: Iterable[OrganizationPolicy]) -> dict[str, Any]:
    parts = {policy.id: policy.rules.model_dump(exclude_defaults=True) for policy in organizations}
    return {"version": 1, "organizations": parts}


def _dump(tree: object) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes exact decimals as plain numbers, and everything out in full."""

    def ignore_aliases(self, data: object) -> bool:
        """Never write an alias for a value that occurs twice."""
        del data
        return True


def _plain(number: Decimal) -> str:
    return f"{number:f}"  # str() would write a nano-USD as 1E-9


def _decimal(dumper: yaml.SafeDumper, value: Decimal) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:float", _plain(value))


_Dumper.add_representer(Decimal, _decimal)
