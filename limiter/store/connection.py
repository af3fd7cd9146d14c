"""Connections to the store: URLs, what the server must be, and what its errors mean.

========================================================  ==========================================
URL                                                       store
========================================================  ==========================================
``redis://[user:password@]host[:6379][/db]``              one Redis or Valkey
``unix://[user:password@]/path/to.sock[?db=0]``           the same, by its Unix socket
``redis+sentinel://[user:password@]host[:26379][,host…]/service[/db]``
                                                          the primary that these Sentinels name
``redis+cluster://[user:password@]host[:6379][,host…]``   a Cluster, found through any of its nodes
========================================================  ==========================================

``rediss`` in place of ``redis`` speaks TLS; ``valkey`` and ``valkeys`` mean the same. Special characters in
a user or password are percent-encoded. Options after ``?``: `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`,
`ssl_check_hostname`, `db`, and for Sentinels with a login of their own `sentinel_username`, `sentinel_password`.
"""

from __future__ import annotations

from typing import Any, Final, cast

from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import (
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import ExponentialBackoff, NoBackoff

from limiter.domain.errors import Unavailable
from limiter.store.address import Address, mask, parse_address
from limiter.store.diagnosis import STORE_ERRORS, Server, StoreUnsuitable, Trouble, check_server, describe, diagnose
from limiter.store.lanes import Line

__all__ = [
    "STORE_ERRORS",
    "Client",
    "Server",
    "StoreUnsuitable",
    "Trouble",
    "check_server",
    "connect",
    "describe",
    "diagnose",
    "mask",
    "no_retry",
    "open_client",
]

#: How a client of the store is seen by the rest of this layer.
Client = Redis | RedisCluster

#: A script that was sent may have been executed: a silent repetition could do its work twice.
COMMAND_RETRIES: Final = 0

#: A refused connection can be repeated: 20 + 40 + 80 + 160 ms outlast a restart of the embedded store.
CONNECT_RETRIES: Final = 4
PAUSE_BASE_S: Final = 0.01  # the n-th pause is this × 2ⁿ

#: How long a server may take for a command, and for a connection.
TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0

#: Connections to one server.
CONNECTIONS_MAX: Final = 128

#: A connection unused for so long is probed before a command is entrusted to it.
HEALTH_CHECK_S: Final = 30


def no_retry() -> Retry:
    """Retry nothing: what was sent once is never sent again behind the caller's back."""
    return Retry(NoBackoff(), COMMAND_RETRIES)


async def connect(url: str, *, timeout_s: float = TIMEOUT_S) -> Client:
    """Open a client and make sure that the server answers; see :func:`open_client`.

    Raises InvalidArgument for a malformed URL and Unavailable, saying why, if the store cannot be reached.
    """
    client = open_client(url, timeout_s=timeout_s)
    try:
        await client.ping()
    except STORE_ERRORS as error:
        await client.aclose()
        raise Unavailable(f"{describe(error)} (store {parse_address(url)})") from error
    except BaseException:
        await client.aclose()
        raise
    return client


def open_client(url: str, *, timeout_s: float = TIMEOUT_S) -> Client:
    """Make a client, which connects at its first command; the caller closes it with ``aclose()``.

    Replies are bytes. Commands are sent once: an error or a timeout may mean that the command was executed. Only
    connecting is tried again (not on a Cluster, where the next command asks anew which node to use). A command may
    take `timeout_s`, and a connection at most 2 seconds. Raises InvalidArgument for a malformed URL.
    """
    address = parse_address(url)
    options: dict[str, Any] = {
        **address.login,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": min(timeout_s, CONNECT_TIMEOUT_S),
        "health_check_interval": HEALTH_CHECK_S,
        "max_connections": CONNECTIONS_MAX,
        "client_name": "limiter",
        "protocol": 2,  # flat replies, and no negotiation of push messages that nobody reads
        "decode_responses": False,
        "retry": no_retry(),
    }
    return _client(address, options)


def _client(address: Address, options: dict[str, Any]) -> Client:
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return _ClusterClient(startup_nodes=nodes, ssl=address.tls, **options, **address.tls_options)
    if address.kind == "sentinel":
        return _sentinel_client(address, options)
    kind: type[Connection | UnixDomainSocketConnection] = _TlsConnection if address.tls else _TcpConnection
    place: dict[str, Any]
    if address.kind == "unix":
        kind, place = _UnixConnection, {"path": address.path}
    else:
        ((host, port),) = address.hosts
        place = {"host": host, "port": port}
    pool = ConnectionPool(connection_class=kind, db=address.db, **place, **options, **address.tls_options)
    return Redis.from_pool(pool)


def _sentinel_client(address: Address, options: dict[str, Any]) -> Redis:
    sentinel_options = {
        **{name: value for name, value in options.items() if name not in address.login},
        **address.sentinel_login,
        **({"ssl": True} if address.tls else {}),
        **address.tls_options,
    }
    sentinel = Sentinel(address.hosts, sentinel_kwargs=sentinel_options)  # type: ignore[no-untyped-call] # redis-py
    client: Redis = sentinel.master_for(
        address.service,
        redis_class=_SentinelClient,
        connection_class=_SentinelTlsConnection if address.tls else _SentinelConnection,
        db=address.db,
        **options,
        **address.tls_options,
    )
    return client


class _SentinelClient(Redis):
    """Closes its connections to the Sentinels along with those to the primary."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 (the parent's signature)
        await super().aclose(close_connection_pool)
        await cast("SentinelConnectionPool", self.connection_pool).sentinel_manager.aclose()


class _ClusterClient(RedisCluster):
    """Closes its connections even if the last command failed, when the parent takes itself for closed."""

    async def aclose(self) -> None:
        await super().aclose()
        for nodes in ("nodes_cache", "startup_nodes"):
            await self.nodes_manager.aclose(nodes)


class _PatientConnect(Line):
    """Tries a refused connection again, which no command has used yet."""

    async def connect(self) -> None:
        pauses = ExponentialBackoff(cap=1.0, base=PAUSE_BASE_S)
        retry = Retry(pauses, CONNECT_RETRIES, (exceptions.ConnectionError,))
        await retry.call_with_retry(super().connect, lambda _: self.disconnect(), is_retryable=_is_worth_another_try)


def _is_worth_another_try(error: Exception) -> bool:
    """Refused or reset: yes. Silence has cost enough time; a refused login stays refused."""
    while isinstance(error.__cause__, exceptions.RedisError):
        error = error.__cause__
    return type(error) in (exceptions.ConnectionError, MasterNotFoundError)


class _TcpConnection(_PatientConnect, Connection):
    pass


class _TlsConnection(_PatientConnect, SSLConnection):
    pass


class _UnixConnection(_PatientConnect, UnixDomainSocketConnection):
    pass


class _PrimaryConnection(_PatientConnect):
    """A connection to a primary, of which a Sentinel may make a replica at any time."""

    async def exchange(self, command: bytes) -> Any:  # noqa: ANN401 - whatever the server replies
        """As a Line does; a primary that has become a replica is lost, and the next connection asks the Sentinels."""
        try:
            return await super().exchange(command)
        except exceptions.ReadOnlyError as error:
            raise exceptions.ConnectionError("the primary has become a replica") from error


class _SentinelConnection(_PrimaryConnection, SentinelManagedConnection):
    pass


class _SentinelTlsConnection(_PrimaryConnection, SentinelManagedSSLConnection):
    pass
