"""Opens the books: SQLite in a file, or PostgreSQL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Connection, Engine, create_engine, event, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from limiter.domain.errors import FailedPrecondition, InvalidArgument, Unavailable
from limiter.ledger import migrations
from limiter.ledger.schema import books

#: How long a writer of SQLite waits for another one.
_BUSY_S: Final = 30.0
#: One migration at a time on a server: a number of ours for its advisory lock.
_LOCK: Final = 0x6C696D69746572


def check_url(url: str, *, field: str = "books") -> None:
    """Raise InvalidArgument for a URL that names no books, FailedPrecondition where the driver is missing."""
    _checked(url, field)


def shown_url(url: str) -> str:
    """A URL without its password."""
    return _shown(make_url(url))


def _shown(url: URL) -> str:
    return url.set(drivername=url.get_backend_name()).render_as_string(hide_password=True)


def sqlite_url(file: Path) -> str:
    """The URL of books in a file."""
    return f"sqlite:///{file.absolute()}"


def books_in(data_dir: Path) -> str:
    """The URL of the books of a data directory."""
    return sqlite_url(data_dir / "books.db")


class Database:
    """The books at a URL: `sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/NAME`.

    Opens nothing until it is used. Raises InvalidArgument for another URL.
    """

    def __init__(self, url: str, *, field: str = "books") -> None:
        self._url = _checked(url, field)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {"connect_args": {"timeout": _BUSY_S}} if self.is_sqlite else {"pool_pre_ping": True}
        self._engine: Engine = create_engine(self._url, **options)
        if self.is_sqlite:
            event.listen(self._engine, "connect", _set_up_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)

    @property
    def shown(self) -> str:
        """The URL without its password."""
        return _shown(self._url)

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed at the end. Raises Unavailable where the books cannot be written."""
        with self._troubles(), self._engine.connect() as opened:
            connection = opened.execution_options(writes=True)
            with connection.begin():
                yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the books, however long it reads. Raises Unavailable."""
        with self._troubles(), self._engine.connect() as connection:
            level = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            with connection.execution_options(**level).begin():
                yield connection

    def migrate(self) -> None:
        """Make the tables, or bring them to this version; safe for several at once."""
        with self.write() as connection:
            if not self.is_sqlite:
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            migrations.upgrade(connection)
            if connection.execute(select(books.c.id)).first() is None:
                connection.execute(books.insert().values(id=uuid4().hex, created_ms=int(time.time() * 1000)))

    def check(self) -> None:
        """Raise FailedPrecondition unless the tables are there, of this version."""
        if self.is_sqlite and not Path(self._url.database or "").exists():
            raise FailedPrecondition(
                f"books: there are none at {self._url.database};"
                " they are made by `limiter serve` or `limiter ledger drain`"
            )
        head = migrations.newest()
        with self.read() as connection:
            version = migrations.version(connection)
        if version is None:
            raise FailedPrecondition(
                f"books: {self.shown} has no tables yet;"
                " they are made by `limiter serve`, `limiter ledger drain` or `limiter ledger migrate`"
            )
        if version != head:
            raise FailedPrecondition(
                f"books: {self.shown} is of version {version}, this program of {head};"
                " run `limiter ledger migrate`, or the newer program"
            )

    def identity(self) -> str:
        """The id of these books."""
        with self.read() as connection:
            return str(connection.execute(select(books.c.id)).scalar_one())

    def close(self) -> None:
        """Let the connections go."""
        self._engine.dispose()

    @contextmanager
    def _troubles(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            self._engine.dispose()  # a server that was restarted has none of these connections
            raise Unavailable(f"books: {self.shown}: {_reason(error)}") from error
        except SQLAlchemyError as error:
            raise Unavailable(f"books: {self.shown}: {error}") from error


def _checked(url: str, field: str) -> URL:
    try:
        made = make_url(url)
        if made.get_backend_name() == "postgresql":
            made = made.set(drivername="postgresql+psycopg")
        made.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):
        made = None
    if made is None or made.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidArgument(
            field, url.split("://", maxsplit=1)[0], "use sqlite:///PATH or postgresql://USER:PASSWORD@HOST/NAME"
        )
    if made.get_backend_name() == "postgresql":
        try:
            import psycopg  # noqa: F401, PLC0415 - an optional package
        except ImportError:
            raise FailedPrecondition("books: PostgreSQL needs a driver; pip install 'limiter[postgres]'") from None
    if made.get_backend_name() == "sqlite" and made.database in (None, "", ":memory:"):
        raise InvalidArgument(field, url, "name a file: sqlite:///PATH")
    return made


def _reason(error: DBAPIError) -> str:
    return str(error.orig).strip().splitlines()[0] if error.orig is not None and str(error.orig).strip() else str(error)


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    """What was committed is on the disk: the store forgets rows after that. Readers and the writer do not wait."""
    connection.isolation_level = None  # transactions begin where _begin_sqlite says
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-65536", "temp_store=MEMORY"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """A writer takes its turn at the beginning; one that read first could be refused later."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
