"""The keys of one script call and where they stand: see open_batch in _prelude.lua."""

from __future__ import annotations

import struct

from limiter.domain.reservations import ReservationName
from limiter.store import encoding
from limiter.store.keys import Home, home, shard_keys
from limiter.store.port import Plan

_HEADING = struct.Struct("<HHHQ")


class Cargo:
    """Collects organizations, plans and holds of a batch; `extra` is one number for the script."""

    def __init__(self, extra: int) -> None:
        self._extra = extra
        self._organizations: dict[str, int] = {}
        self._homes: list[Home] = []
        self._plans: dict[int, int] = {}
        self._plan_organizations: list[int] = []
        self.plan_blobs: list[bytes] = []
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
        index = self._plans.get(id(plan))
        if index is None:
            index = self._plans[id(plan)] = len(self.plan_blobs)
            self.plan_blobs.append(encoding.plan_blob(plan))
            self._plan_organizations.append(self.organization_index(plan.organization))
        return index

    def label(self) -> tuple[list[str], bytes, bytes]:
        """KEYS, heading and placing."""
        shards: dict[int, int] = {}
        placing = [shards.setdefault(home.shard, len(shards)) for home in self._homes]
        names = [name for shard in shards for name in shard_keys(shard)]
        names += [home.key for home in self._homes]
        names += self.holds
        heading = _HEADING.pack(len(shards), len(self._homes), len(self.holds), self._extra)
        placing += self._plan_organizations
        return names, heading, struct.pack(f"<{len(placing)}H", *placing)
