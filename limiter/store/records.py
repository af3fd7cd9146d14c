"""Reads reservations, and what limits have refused."""

from __future__ import annotations

from collections.abc import Sequence

from limiter.domain.reservations import ReservationName
from limiter.domain.scopes import Scope
from limiter.store import keys, replies
from limiter.store.port import HoldRecord
from limiter.store.wire import Wire


class Records(Wire):
    """What the scripts have written, for those who look."""

    async def hold(self, name: ReservationName) -> HoldRecord | None:
        """A reservation's record."""
        raw = await self._command("GET", keys.hold_key(name))
        return None if raw is None else replies.hold_record(name, raw)

    async def open_holds(self, organization: str, *, after: str, count: int) -> tuple[list[HoldRecord], str]:
        """Open holds by due time, a page at a time; the second value continues ("" at the end)."""
        start = int(after or 0)
        due = keys.shard_keys(keys.shard_of(organization))[0]
        members = await self._command("ZRANGE", due, start, start + count - 1)
        names = [keys.name_of_member(member.decode()) for member in members]
        records = [await self.hold(name) for name in names if name.organization == organization]
        following = str(start + len(members)) if len(members) == count else ""
        return [record for record in records if record is not None], following

    async def refused(self, organization: str, limits: Sequence[tuple[Scope, str]]) -> list[int]:
        """How many calls these limits have refused."""
        if not limits:
            return []
        fields = [keys.refused_field(scope, limit) for scope, limit in limits]
        counts = await self._command("HMGET", keys.organization_key(organization), *fields)
        return [int(count or 0) for count in counts]

    async def open_count(self, organizations: Sequence[str]) -> int:
        """Open holds in the shards of the organizations."""
        shards = {keys.shard_of(organization) for organization in organizations}
        return sum([int(await self._command("ZCARD", keys.shard_keys(shard)[0])) for shard in sorted(shards)])

    def shard_of(self, organization: str) -> int:
        """The shard that an organization is in."""
        return keys.shard_of(organization)
