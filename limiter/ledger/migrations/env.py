"""Runs the migrations on the connection that limiter.ledger.database passes."""

from __future__ import annotations

from alembic import context

from limiter.ledger.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
