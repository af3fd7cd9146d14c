"""docs/concepts.md: every worked table is played, and says what the limiter answers."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Final

import pytest

from limiter.domain.windows import window_bounds
from limiter.domain.zones import zone
from limiter.store.connection import Client, connect
from tests.docs.pages import Table, blocks, page, table_of, tables
from tests.docs.stories import Story
from tests.servers import StartServer, StoreServer

PAGE: Final = "docs/concepts.md"


def _stories() -> list[tuple[str, Table]]:
    """Each table of calls, with the YAML that stands nearest before it."""
    text = page(PAGE)
    parts = blocks(text, "yaml")
    return [
        (next(part.text for part in reversed(parts) if part.line < table.line), table)
        for table in tables(text)
        if table.head[:3] == ("at", "call", "answer")
    ]


@pytest.fixture(scope="module")
def server(start_server: StartServer) -> Iterator[StoreServer]:
    """A store of their own: a story sets the clock, and sweeps what is due by it."""
    server = start_server("--maxmemory-policy", "noeviction")
    yield server
    server.stop()


@pytest.fixture
async def client(server: StoreServer) -> AsyncIterator[Client]:
    with server.client() as blocking:
        blocking.flushall()
    client = await connect(server.url)
    yield client
    await client.aclose()


@pytest.mark.parametrize(("part", "table"), _stories(), ids=[f"line_{table.line}" for _, table in _stories()])
async def test_a_worked_table_says_what_the_limiter_answers(part: str, table: Table, client: Client) -> None:
    story = Story(client, part)
    await story.apply()
    for number, row in enumerate(table.rows):
        played = dict(row)
        played["answer"] = await story.step(row["at"], row["call"])
        for column in table.head[3:]:
            played[column] = await story.number(column)
        assert played == row, f"{PAGE}, row {number + 1} of the table in line {table.line}"


def test_there_are_tables_to_play() -> None:
    assert len(_stories()) >= 10


def test_the_windows_are_as_the_table_says() -> None:
    rows = table_of(PAGE, "zone", "window", "an instant in it").rows
    for row in rows:
        at = datetime.fromisoformat(row["an instant in it"])
        start, end, _ = window_bounds(row["window"], int(at.timestamp() * 1000), zone(row["zone"]))
        written = [f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%MZ}" for ms in (start, end)]
        assert [row["begins"], row["ends"]] == written
        assert re.match(rf"{(end - start) // 3_600_000} h", row["lasts"])
