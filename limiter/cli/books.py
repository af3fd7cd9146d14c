"""The options by which a command finds the books: it reads them itself, and needs no sidecar."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from limiter.cli.options import ConfiguredDataDir, configured_data_dir, in_place_of, own_options, settings_of_file
from limiter.ledger.database import Database, books_in

_PANEL = "Where the books are"

_Books: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--books",
        envvar="LIMITER_BOOKS",
        metavar="URL",
        help="sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME; prefer the environment for a password.",
        show_default="books.db in the data directory",
        rich_help_panel=_PANEL,
    ),
]


def _configured(url: str | None, data_dir: Path | None) -> str:
    """The URL of the books: as given, else as the sidecar's settings say."""
    if url:
        return url
    if data_dir is None and os.environ.get("LIMITER_CONFIG"):
        books: str | None = settings_of_file().books_url
        if books is not None:
            return books
    return books_in(data_dir or configured_data_dir())


def with_books(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options by which it finds the books, in place of its parameter `books: Database`.

    The books are there and of this version when the command begins.
    """

    def books(*, books: _Books = None, data_dir: ConfiguredDataDir = None) -> Database:
        database = Database(_configured(books, data_dir), field="--books")
        database.check()
        return database

    def closing(**given: Any) -> None:  # noqa: ANN401 - as typer read them
        database: Database = given["books"]
        try:
            command(**given)
        finally:
            database.close()

    closing.__dict__.update(command.__dict__ | {"__wrapped__": command})
    closing.__name__, closing.__doc__ = command.__name__, command.__doc__
    return in_place_of("books", closing, own_options(books), books)
