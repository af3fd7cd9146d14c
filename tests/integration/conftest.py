"""Sidecars of the whole run, and connections of each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import pytest

from tests.integration.connections import Connection
from tests.integration.sidecars import ANYWHERE, Fleet, Sidecar
from tests.servers import StartServer, StoreServer

#: LIMITER_THOROUGH=1 asks for the long variants.
THOROUGH: Final = os.environ.get("LIMITER_THOROUGH") == "1"

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """Starts sidecars; they end with the run at the latest."""
    fleet = Fleet()
    yield fleet
    fleet.close()


@pytest.fixture(scope="session")
def books_store(start_server: StartServer) -> StoreServer:
    """A Valkey that only the sidecars of these tests use: nobody flushes it."""
    return start_server("--appendonly", "yes", "--maxmemory-policy", "noeviction")


@pytest.fixture(scope="session")
def trio(fleet: Fleet, books_store: StoreServer) -> list[Sidecar]:
    """Three sidecars on one store. Use an organization of your own; do not stop them."""
    sidecars = [
        fleet.launch(*ANYWHERE, "--store", books_store.url, "--engine", engine)
        for engine in ("native", "grpcio", "auto")
    ]
    for sidecar in sidecars:
        sidecar.wait_until_serving()
    return sidecars


@pytest.fixture
def organization() -> str:
    """An organization that no other test uses."""
    return f"acme-{next(_numbers)}"


#: Opens connections to a sidecar.
Dial = Callable[[Sidecar], Connection]


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    """Open connections; they are closed after the test."""
    opened: list[Connection] = []

    def open_connection(sidecar: Sidecar) -> Connection:
        connection = Connection(sidecar)
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        await connection.close()


@pytest.fixture
def three(trio: list[Sidecar], dial: Dial) -> list[Connection]:
    """Connections to three sidecars on one store."""
    return [dial(sidecar) for sidecar in trio]
