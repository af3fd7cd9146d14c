"""INSERT … ON CONFLICT, which SQLite and PostgreSQL share and the rest of SQLAlchemy has no word for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_new(connection: Connection, table: Table, values: Sequence[dict[str, Any]]) -> None:
    """Insert rows whose primary key is not there yet; the others stay as they are."""
    if values:
        connection.execute(_statement(connection.dialect.name, table, ()), values)


def add(connection: Connection, table: Table, values: Sequence[dict[str, Any]], sums: tuple[str, ...]) -> None:
    """Insert rows, or add their `sums` to those that have the same primary key."""
    if values:
        connection.execute(_statement(connection.dialect.name, table, sums), values)


@lru_cache(maxsize=64)
def _statement(dialect: str, table: Table, sums: tuple[str, ...]) -> Any:  # noqa: ANN401 - two types of the same shape
    insert: Any = postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
    key = list(table.primary_key.columns)
    if not sums:
        return insert.on_conflict_do_nothing(index_elements=key)
    return insert.on_conflict_do_update(
        index_elements=key, set_={name: table.c[name] + insert.excluded[name] for name in sums}
    )
