"""INSERT … ON CONFLICT, which SQLite and PostgreSQL share and the rest of SQLAlchemy has no word for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import BigInteger, Connection, Numeric, Table, cast, func
from sqlalchemy.dialects import postgresql, sqlite

from limiter.domain.money import SUM_MAX_NANOUSD


def insert_new(connection: Connection, table: Table, values: Sequence[dict[str, Any]]) -> None:
    """Insert rows whose primary key is not there yet; the others stay as they are."""
    if values:
        connection.execute(_statement(connection.dialect.name, table, ()), values)


def add(connection: Connection, table: Table, values: Sequence[dict[str, Any]], sums: tuple[str, ...]) -> None:
    """Insert rows, or add their `sums` to those that have the same primary key.

    A sum ends at SUM_MAX, 9.2 billion USD, which is more than the store can count: no row may be in the way of others.
    """
    for row in values:
        for name in sums:
            row[name] = min(row[name], SUM_MAX_NANOUSD)
    if values:
        connection.execute(_statement(connection.dialect.name, table, sums), values)


@lru_cache(maxsize=64)
def _statement(dialect: str, table: Table, sums: tuple[str, ...]) -> Any:  # noqa: ANN401 - two types of the same shape
    insert: Any = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    key = list(table.primary_key.columns)
    if not sums:
        return insert.on_conflict_do_nothing(index_elements=key)
    added = {name: _bounded(dialect, table.c[name], insert.excluded[name]) for name in sums}
    return insert.on_conflict_do_update(index_elements=key, set_=added)


def _bounded(dialect: str, there: Any, more: Any) -> Any:  # noqa: ANN401 - expressions
    """The sum, or the largest integer: where it overflows, SQLite takes a float, and PostgreSQL raises."""
    if dialect == "postgresql":
        return cast(func.least(SUM_MAX_NANOUSD, cast(there, Numeric) + more), BigInteger)
    return func.min(SUM_MAX_NANOUSD, there + more)
