"""The three scopes on a call's path: organization, team, key."""

from __future__ import annotations

import re
from typing import NamedTuple

from limiter.domain.errors import InvalidArgument

#: Ids are limited to characters that mean nothing in a store key, a path or a hash tag.
ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}", re.ASCII)
ID_RULE = "1 to 128 of the letters A-Z a-z, digits and . _ @ -, beginning with a letter or digit"


def check_id(text: object, *, field: str) -> str:
    """Return `text` if it is a valid id of an organization, team, key or limit."""
    if not isinstance(text, str) or ID_PATTERN.fullmatch(text) is None:
        raise InvalidArgument(field, text, f"use {ID_RULE}")
    return text


class Scope(NamedTuple):
    """An organization, a team of it, or a key of that team; absent parts are empty.

    A tuple, because every call hashes it several times.
    """

    organization: str
    team: str = ""
    key: str = ""

    @classmethod
    def parse(cls, text: str, *, field: str = "scope") -> Scope:
        """Read `org`, `org/team` or `org/team/key`, or the resource name of one of them."""
        parts = text.split("/")
        if len(parts) in (2, 4, 6) and parts[0::2] == ["organizations", "teams", "keys"][: len(parts) // 2]:
            parts = parts[1::2]
        if len(parts) > 3:
            raise InvalidArgument(field, text, "write organization, organization/team or organization/team/key")
        return cls(*(check_id(part, field=field) for part in parts))

    @classmethod
    def parse_key(cls, text: str, *, field: str = "key_id") -> Scope:
        """Read a scope that must be a key."""
        scope = cls.parse(text, field=field)
        if not scope.key:
            raise InvalidArgument(field, text, "write organization/team/key")
        return scope

    @property
    def path(self) -> str:
        """`acme/search/bot`, as the command line writes it."""
        return "/".join(part for part in (self.organization, self.team, self.key) if part)

    @property
    def name(self) -> str:
        """`organizations/acme/teams/search/keys/bot`, as the contract writes it."""
        name = f"organizations/{self.organization}"
        if self.team:
            name += f"/teams/{self.team}"
        if self.key:
            name += f"/keys/{self.key}"
        return name

    def lineage(self) -> tuple[Scope, ...]:
        """The scopes from the organization down to this one."""
        scopes = [Scope(self.organization)]
        if self.team:
            scopes.append(Scope(self.organization, self.team))
        if self.key:
            scopes.append(self)
        return tuple(scopes)
