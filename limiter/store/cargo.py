"""The keys of one script call and where they stand: see open_batch in _prelude.lua."""

from __future__ import annotations

import struct

from limiter.domain.reservations import ReservationName
from limiter.store import encoding
from limiter.store.keys import Home, home, shard_keys
from limiter.store.port import Plan

_HEADING = struct.Struct("<HHHHHQ")


class Cargo:
    """Collects organizations, plans and holds of a batch; `extra` is one number for the script."""

    def __init__(self, extra: int) -> None:
        self._extra = extra
        self._organizations: dict[str, int] = {}
        self._homes: list[Home] = []
        self._rules: dict[bytes, int] = {}
        self._rule_places: dict[tuple[bytes, ...], list[int]] = {}
        self._plans: dict[Plan, int] = {}
        self._plan_blobs: list[bytes] = []
        self._plan_places: list[int] = []
        self.holds: list[str] = []

    def organization_index(self, organization: str) -> int:
        """Where an organization stands; added if it is new."""
        index = self._organizations.get(organization)
        if index is None:
            index = self._organizations[organization] = len(self._homes)
            self._homes.append(home(organization))
        return index

    def add_hold(self, name: ReservationName) -> None:
        """Add the record of a hold, whose organization has been added."""
        self.holds.append(self._homes[self._organizations[name.organization]].hold_prefix + name.id)

    def plan_index(self, plan: Plan) -> int:
        """Where a plan stands; added if it is new."""
        index = self._plans.get(plan)
        if index is None:
            index = self._plans[plan] = len(self._plan_blobs)
            blob, rules = encoding.plan_blobs(plan)
            self._plan_blobs.append(blob)
            self._plan_places.append(self.organization_index(plan.organization))
            self._plan_places += self._rule_places.get(rules) or self._place(rules)
        return index

    def _place(self, rules: tuple[bytes, ...]) -> list[int]:
        """Where the rules of a plan's scopes stand; those that are new are added."""
        known = self._rules
        places = self._rule_places[rules] = [known.setdefault(of_scope, len(known)) for of_scope in rules]
        return places

    def label(self) -> tuple[list[str], bytes, bytes]:
        """KEYS, heading and placing."""
        shards: dict[int, int] = {}
        placing = [shards.setdefault(home.shard, len(shards)) for home in self._homes]
        names = [name for shard in shards for name in shard_keys(shard)]
        names += [home.key for home in self._homes]
        names += self.holds
        heading = _HEADING.pack(
            len(shards), len(self._homes), len(self.holds), len(self._rules), len(self._plan_blobs), self._extra
        )
        placing += self._plan_places
        return names, heading, struct.pack(f"<{len(placing)}H", *placing)

    def blobs(self) -> list[bytes]:
        """What ARGV has behind placing and before the items: rules of scopes, and plans."""
        return [*self._rules, *self._plan_blobs]
