"""Servers for the tests: one Valkey, a Cluster of three, a primary with a replica and a Sentinel.

Each is started at first use, in a directory of its own, on loopback only.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import redis

from tests.servers import SentinelSet, StartServer, StoreServer, free_port, is_whole, start_process, until

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell: what the tests start would inherit it, and never hear a Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.fakes.plugin", "tests.ledger.plugin"]


@pytest.fixture(scope="session")
def start_server() -> Iterator[StartServer]:
    """Start further servers; they are stopped at the end of the run at the latest."""
    started: list[StoreServer] = []

    def start(*arguments: str, port: int = 0, binary: str = "", config: str | None = None) -> StoreServer:
        server = start_process("--save", "", *arguments, port=port, binary=binary, config=config)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def valkey(start_server: StartServer) -> StoreServer:
    """One Valkey as Limiter wants it, on a Unix socket and a port of loopback."""
    return start_server("--appendonly", "yes", "--maxmemory-policy", "noeviction", port=free_port())


@pytest.fixture(scope="session")
def valkey_url(valkey: StoreServer) -> str:
    """The Unix socket of the Valkey of this run. Its data are shared: use keys of your own or flush."""
    return f"unix://{valkey.directory}/s"


@pytest.fixture(scope="session")
def redis7_url(start_server: StartServer) -> str:
    """A real Redis 7 from the PATH; skips where there is none."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("no redis-server on the PATH")
    server = start_server("--appendonly", "yes", binary=binary)
    with server.client() as client:
        version = str(client.info("server")["redis_version"])
    if not version.startswith("7."):
        pytest.skip(f"the redis-server on the PATH is {version}, not 7")
    return server.url


@pytest.fixture(scope="session")
def cluster(start_server: StartServer) -> list[StoreServer]:
    """Three primaries that share the slots evenly."""
    nodes = [
        start_server(
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "3000"),
            *("--appendonly", "yes"),
            port=free_port(),
        )
        for _ in range(3)
    ]
    bounds = [0, 5461, 10923, 16384]
    clients: list[Any] = [node.client() for node in nodes]  # Any: execute_command has no types
    for number, client in enumerate(clients):
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
    for node in nodes[1:]:
        clients[0].execute_command("CLUSTER", "MEET", "127.0.0.1", node.port)
    for client in clients:
        until(partial(is_whole, client, nodes=3), what="the Cluster")
        client.close()
    return nodes


@pytest.fixture(scope="session")
def cluster_urls(cluster: list[StoreServer]) -> list[str]:
    """A Cluster URL by way of each node."""
    return [f"redis+cluster://{node.place}" for node in cluster]


@pytest.fixture(scope="session")
def cluster_url(cluster: list[StoreServer]) -> str:
    """A Cluster URL that names every node."""
    return f"redis+cluster://{','.join(node.place for node in cluster)}"


@pytest.fixture
def sentinel_set(start_server: StartServer) -> SentinelSet:
    """A set of its own for each test, because the roles move."""
    primary = start_server("--appendonly", "yes", "--repl-diskless-sync-delay", "0", port=free_port())
    replica = start_server("--appendonly", "yes", "--replicaof", "127.0.0.1", str(primary.port), port=free_port())
    config = (
        f"sentinel monitor limiter 127.0.0.1 {primary.port} 1\n"
        "sentinel down-after-milliseconds limiter 500\n"
        "sentinel failover-timeout limiter 3000\n"
    )
    sentinel = start_server("--sentinel", port=free_port(), config=config)
    with replica.client() as client:
        until(lambda: client.info("replication")["master_link_status"] == "up", what="the replica")
    with sentinel.client() as client:
        until(lambda: _knows_replica(client), what="the Sentinel's view")
    return SentinelSet(primary, replica, sentinel)


def _knows_replica(client: redis.Redis) -> bool:
    replicas = client.sentinel_slaves("limiter")
    return bool(replicas and replicas[0]["master-link-status"] == "ok")
