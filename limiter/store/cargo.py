"""The keys of one script call and where they stand: see open_batch in _prelude.lua."""

from __future__ import annotations

import struct

from limiter.store import encoding, keys
from limiter.store.port import Plan

_HEADING = struct.Struct("<HHHQ")


class Cargo:
    """Collects organizations, plans and holds of a batch; `extra` is one number for the script."""

    def __init__(self, extra: int) -> None:
        self._extra = extra
        self._organizations: dict[str, int] = {}
        self._plans: dict[int, int] = {}
        self._plan_organizations: list[int] = []
        self.plan_blobs: list[bytes] = []
        self.holds: list[str] = []

    def organization_index(self, organization: str) -> int:
        """Where an organization stands; added if it is new."""
        return self._organizations.setdefault(organization, len(self._organizations))

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
        homes = [keys.home(organization) for organization in self._organizations]
        placing = [shards.setdefault(home.shard, len(shards)) for home in homes]
        names = [name for shard in shards for name in keys.shard_keys(shard)]
        names += [home.key for home in homes]
        names += self.holds
        heading = _HEADING.pack(len(shards), len(self._organizations), len(self.holds), self._extra)
        placing += self._plan_organizations
        return names, heading, struct.pack(f"<{len(placing)}H", *placing)
