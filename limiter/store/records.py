"""Reads reservations and ledger rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from limiter.domain.reservations import ReservationName
from limiter.domain.rows import Row
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

    async def rows(self, shard: int, *, after: tuple[int, int] | None, count: int) -> list[Row]:
        """Ledger rows of a shard behind (epoch, seq), oldest first."""
        start = "-" if after is None else f"({after[0]}-{after[1]}"
        entries = await self._command("XRANGE", keys.shard_keys(shard)[1], start, "+", "COUNT", count)
        return [replies.row(shard, entry, fields[1]) for entry, fields in _entries(entries)]

    async def last_rows(self, shard: int, *, count: int) -> list[Row]:
        """The newest ledger rows of a shard, oldest first."""
        entries = await self._command("XREVRANGE", keys.shard_keys(shard)[1], "+", "-", "COUNT", count)
        return [replies.row(shard, entry, fields[1]) for entry, fields in _entries(entries)][::-1]

    async def refused(self, organization: str, limits: Sequence[tuple[Scope, str]]) -> list[int]:
        """How many calls these limits have refused."""
        if not limits:
            return []
        fields = [keys.refused_field(scope, limit) for scope, limit in limits]
        counts = await self._command("HMGET", keys.organization_key(organization), *fields)
        return [int(count or 0) for count in counts]

    async def counts(self, organizations: Sequence[str]) -> tuple[int, int]:
        """Open holds, and the largest number of ledger rows in one shard, over the organizations' shards."""
        held, rows = 0, 0
        for shard in {keys.shard_of(organization) for organization in organizations}:
            due, ledger, _ = keys.shard_keys(shard)
            held += await self._command("ZCARD", due)
            rows = max(rows, await self._command("XLEN", ledger))
        return held, rows

    def shard_of(self, organization: str) -> int:
        """The shard that an organization is in."""
        return keys.shard_of(organization)


def _entries(entries: list[tuple[bytes, Any]] | None) -> Iterable[tuple[bytes, list[bytes]]]:
    """Id and flat fields of stream entries, in whichever shape the client returned them."""
    for entry, fields in entries or ():
        yield entry, [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else fields
