"""Versions of the books' tables, by Alembic; which takes its time to load, and is needed once per process."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection

_HERE = Path(__file__).parent


def upgrade(connection: Connection) -> None:
    """Bring the tables to the newest version."""
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_HERE).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def newest() -> str | None:
    """The version that this program knows."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    return ScriptDirectory(str(_HERE)).get_current_head()


def version(connection: Connection) -> str | None:
    """The version of the tables; None: there are none."""
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415

    return MigrationContext.configure(connection).get_current_revision()
