"""The ledger streams, for those who read and drain them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from limiter.domain.errors import FailedPrecondition
from limiter.domain.rows import Position, Row
from limiter.domain.scopes import Scope
from limiter.store import keys, replies
from limiter.store.port import CounterState
from limiter.store.wire import Wire

#: The consumer group of every stream that stands where the books stand: XINFO GROUPS tells how far they are.
GROUP: Final = "books"

#: Rows of each shard that stay in its stream when they are in the books: for who follows, and to see that the
#: store has not gone back to an earlier state.
KEPT_ROWS: Final = 1_000

_SEQ_MAX: Final = 2**64 - 1
_NEWEST_AT_ONCE: Final = 64


class Ledgers(Wire):
    """Reads rows, and says what of them is in the books."""

    async def rows(self, shard: int, *, after: tuple[int, int] | None, count: int) -> list[Row]:
        """Ledger rows of a shard behind (epoch, seq), oldest first."""
        start = "-" if after is None else f"({after[0]}-{after[1]}"
        entries = await self._command("XRANGE", keys.shard_keys(shard)[1], start, "+", "COUNT", count)
        return [replies.row(shard, entry, fields[1]) for entry, fields in _entries(entries)]

    async def rows_from(self, shard: int, first: Position, *, count: int) -> list[Row]:
        """Ledger rows of a shard from a position on, that one included, oldest first."""
        return await self.rows(shard, after=_before(first), count=count)

    async def last_rows(self, shard: int, *, count: int) -> list[Row]:
        """The newest ledger rows of a shard, oldest first."""
        entries = await self._command("XREVRANGE", keys.shard_keys(shard)[1], "+", "-", "COUNT", count)
        return [replies.row(shard, entry, fields[1]) for entry, fields in _entries(entries)][::-1]

    async def newest(self, shards: Iterable[int]) -> dict[int, Position]:
        """Where the newest row of each shard stands; shards without rows are left out."""
        found: dict[int, Position] = {}
        wanted = sorted(shards)
        for at in range(0, len(wanted), _NEWEST_AT_ONCE):
            part = wanted[at : at + _NEWEST_AT_ONCE]
            answers = await self._all([("XREVRANGE", keys.shard_keys(s)[1], "+", "-", "COUNT", 1) for s in part])
            for shard, entries in zip(part, answers, strict=True):
                for entry, _ in _entries(entries):
                    found[shard] = _position(entry)
        return found

    async def waiting(self, shards: Iterable[int]) -> dict[int, int]:
        """How many rows of each shard are not in the books yet, by what the drains have told the store."""
        newest = await self.newest(shards)
        wanted = sorted(newest)
        lengths = await self._all([("XLEN", keys.shard_keys(shard)[1]) for shard in wanted])
        groups = await self._all([("XINFO GROUPS", keys.shard_keys(shard)[1]) for shard in wanted])
        return {
            shard: _behind(newest[shard], _stands(found), int(length))
            for shard, length, found in zip(wanted, lengths, groups, strict=True)
        }

    async def booked(self, shard: int, position: Position) -> None:
        """Say that all rows up to a position are in the books: all but the newest of them may go."""
        stream = keys.shard_keys(shard)[1]
        at = f"{position.epoch}-{position.seq}"
        if _stands(await self._command("XINFO GROUPS", stream)) is None:
            await self._command("XGROUP CREATE", stream, GROUP, at)
        else:
            await self._command("XGROUP SETID", stream, GROUP, at)
        await self._command("XTRIM", stream, "MINID", "~", f"{position.epoch}-{max(0, position.seq - KEPT_ROWS)}")

    async def rebase(self, first: Row, raw: bytes, *, beyond: int) -> int:
        """Move a row and all newer ones of its shard to a new epoch; answers how many, 0 if it is not there.

        The epoch comes after `beyond`, even if the store's clock does not.
        """
        _, stream, epoch = keys.shard_keys(first.shard)
        arguments: list[bytes | str] = [self._clock(), f"{first.epoch}-{first.seq}", raw, str(beyond)]
        return int(await self._fcall("rebase", [stream, epoch], arguments))

    async def raw_row(self, shard: int, position: Position) -> bytes:
        """A row as it stands in the stream; b"" if it does not."""
        stream, at = keys.shard_keys(shard)[1], f"{position.epoch}-{position.seq}"
        for _, fields in _entries(await self._command("XRANGE", stream, at, at)):
            return fields[1]
        return b""

    async def bind_books(self, identity: str, *, adopt: bool = False) -> None:
        """Say which books this store's ledger goes into. Raises FailedPrecondition if it goes into others."""
        if adopt:
            await self._command("HSET", keys.META, "books", identity)
        await self._command("HSETNX", keys.META, "books", identity)
        bound = (await self._command("HGET", keys.META, "books")).decode()
        if bound != identity:
            raise FailedPrecondition(
                f"books: the ledger of this store goes into other books ({bound}) than these ({identity});"
                " name those by --books, or go on in these with `limiter ledger drain --adopt`"
            )

    async def bound_books(self) -> str | None:
        """Which books this store's ledger goes into; None: into none yet."""
        bound = await self._command("HGET", keys.META, "books")
        return None if bound is None else bound.decode()

    async def counters(self, organization: str, scopes: Sequence[Scope]) -> tuple[Position | None, list[CounterState]]:
        """The spend counters of scopes, and the newest row that they count."""
        _, stream, _ = keys.shard_keys(keys.shard_of(organization))
        fields = [keys.scope_field(scope) for scope in scopes]
        newest, *packed = await self._fcall("counters", [stream, keys.organization_key(organization)], fields)
        found = [
            counter
            for scope, raw in zip(scopes, packed, strict=True)
            if raw is not None
            for counter in replies.spend_counters(scope, raw)
        ]
        return _position(newest) if newest else None, found


def _entries(entries: list[tuple[bytes, Any]] | None) -> Iterable[tuple[bytes, list[bytes]]]:
    """Id and flat fields of stream entries, in whichever shape the client returned them."""
    for entry, fields in entries or ():
        yield entry, [part for pair in fields.items() for part in pair] if isinstance(fields, dict) else fields


def _position(entry: bytes) -> Position:
    epoch, _, seq = entry.decode().partition("-")
    return Position(int(epoch), int(seq))


def _before(position: Position) -> Position:
    """The position right before one, whether there is a row or not."""
    if position.seq:
        return Position(position.epoch, position.seq - 1)
    return Position(position.epoch - 1, _SEQ_MAX)


def _stands(groups: Iterable[dict[str, Any]]) -> Position | None:
    """Where our group stands among those of a stream; None: it is not there."""
    return next((_position(group["last-delivered-id"]) for group in groups if group["name"] == GROUP.encode()), None)


def _behind(newest: Position, booked: Position | None, length: int) -> int:
    if booked is None or booked.epoch != newest.epoch:
        return length
    return max(0, newest.seq - booked.seq)
