"""Finds rows in the books as the store had written them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, select, tuple_

from limiter.domain.rows import Position, Row
from limiter.ledger.database import Database
from limiter.ledger.entries import row_of
from limiter.ledger.schema import ledger
from limiter.ledger.texts import read_texts

_REFERRING = ("tags", "charged", "price")


def rows_of(database: Database, organization: str, reservation: str) -> list[Row]:
    """The rows of a reservation, oldest first."""
    wanted = select(ledger).where(ledger.c.reservation == reservation, ledger.c.organization == organization)
    with database.read() as connection:
        return _rows(connection, wanted.order_by(ledger.c.epoch, ledger.c.seq))


def rows_behind(database: Database, shard: int, *, after: Position | None, count: int) -> list[Row]:
    """Rows of a shard behind a position, oldest first."""
    wanted = select(ledger).where(ledger.c.shard == shard)
    if after is not None:
        wanted = wanted.where(tuple_(ledger.c.epoch, ledger.c.seq) > tuple_(*after))
    with database.read() as connection:
        return _rows(connection, wanted.order_by(ledger.c.epoch, ledger.c.seq).limit(count))


def rows_before(database: Database, shard: int, *, before: Position | None, count: int) -> list[Row]:
    """The newest rows of a shard before a position (None: of all), oldest first."""
    wanted = select(ledger).where(ledger.c.shard == shard)
    if before is not None:
        wanted = wanted.where(tuple_(ledger.c.epoch, ledger.c.seq) < tuple_(*before))
    with database.read() as connection:
        return _rows(connection, wanted.order_by(ledger.c.epoch.desc(), ledger.c.seq.desc()).limit(count))[::-1]


def _rows(connection: Connection, wanted: Select[Any]) -> list[Row]:
    found: Sequence[Any] = connection.execute(wanted).mappings().all()
    texts = read_texts(connection, {row[name] for row in found for name in _REFERRING})
    return [row_of(row, texts) for row in found]
