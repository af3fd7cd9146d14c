"""`ledger drain` and `ledger migrate`: the books' own process, and their tables."""

from __future__ import annotations

from typing import Annotated

import typer

from limiter.app import run_loop
from limiter.bookkeeping import drain_books, migrate_books
from limiter.cli.lazy import example
from limiter.cli.settings_flags import with_some_settings
from limiter.observability import logs
from limiter.settings import Settings


@example(
    "limiter ledger drain --store redis://redis.internal --books postgresql://limiter@db.internal/books",
    "limiter ledger drain --data-dir data --once",
)
@with_some_settings("config", "data_dir", "store", "books", "alerts", "http", "log_format", "log_level")
def drain(
    *,
    settings: Settings,
    once: Annotated[bool, typer.Option("--once", help="Move what is there now, and end.")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Go on in these books, though the store's rows went into others so far.")
    ] = False,
) -> None:
    """Move ledger rows into the books, as a process of its own.

    Metrics are served only where --http or its variable names an address.
    """
    logs.configure(level=settings.log_level, style=settings.log_format)
    rows = run_loop(drain_books(settings, once=once, adopt=adopt))
    if once:
        typer.echo(f"{rows} rows", err=True)


@example("limiter ledger migrate --books postgresql://limiter@db.internal/books")
@with_some_settings("config", "data_dir", "books")
def migrate(*, settings: Settings) -> None:
    """Bring the books to this version."""
    typer.echo(f"{migrate_books(settings)} is of this version")
