"""What is wrong with the store: errors in words, and servers that are not fit for the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import MasterNotFoundError

from limiter.domain.errors import Unavailable

#: Whatever a command may raise; RedisClusterException is no RedisError.
STORE_ERRORS: Final = (exceptions.RedisError, exceptions.RedisClusterException, OSError)

REDIS_MIN: Final = (7, 0)
VALKEY_MIN: Final = (7, 2)


class StoreUnsuitable(Unavailable):
    """The server answers, but the truth cannot be kept in it; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Server:
    """What the store runs on. `warnings` are sentences for the log."""

    product: str  # Redis or Valkey
    version: str
    nodes: int  # primaries
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trouble:
    """`kind` is a bounded word for a metric, `text` a sentence for people."""

    kind: str
    text: str


# By class where redis-py has one, by the reply's first word otherwise; subclasses stand before their parents.
_BY_CLASS: Final[tuple[tuple[type[BaseException], Trouble], ...]] = (
    (
        exceptions.AuthenticationError,
        Trouble("auth", "the store refuses the login: check user and password in the store URL"),
    ),
    (exceptions.NoPermissionError, Trouble("permission", "the store's ACL forbids a command that the limiter needs")),
    (exceptions.BusyLoadingError, Trouble("loading", "the store is still loading its data")),
    (exceptions.MaxConnectionsError, Trouble("connections", "all connections to the store are in use")),
    (exceptions.ClusterDownError, Trouble("cluster", "the store's Cluster is down or does not cover every slot")),
    (exceptions.SlotNotCoveredError, Trouble("cluster", "the store's Cluster is down or does not cover every slot")),
    (exceptions.MasterDownError, Trouble("cluster", "the store's primary is down")),
    (MasterNotFoundError, Trouble("sentinel", "no Sentinel names a primary of the service")),
    (exceptions.TimeoutError, Trouble("timeout", "the store did not answer in time")),
    (exceptions.ConnectionError, Trouble("connection", "the store cannot be reached")),
    (
        exceptions.ReadOnlyError,
        Trouble("readonly", "the store is a read-only replica: name the primary, or use redis+sentinel://"),
    ),
    (
        exceptions.OutOfMemoryError,
        Trouble("memory", "the store is out of memory: raise its maxmemory (CONFIG SET maxmemory …)"),
    ),
)
_BY_FIRST_WORD: Final = {
    "NOAUTH": _BY_CLASS[0][1],
    "WRONGPASS": _BY_CLASS[0][1],
    "CLUSTERDOWN": _BY_CLASS[4][1],
    "MISCONF": Trouble("persistence", "the store cannot write its data to disk and refuses writes: see its log"),
    "NOREPLICAS": Trouble("replicas", "the store has fewer replicas than its min-replicas-to-write"),
    "BUSY": Trouble("busy", "the store is busy with a script"),
    "UNKILLABLE": Trouble("busy", "the store is busy with a script"),
}


_WRAPPERS: Final = (exceptions.ConnectionError, exceptions.RedisClusterException)


def diagnose(error: BaseException) -> Trouble:
    """Name what an error of redis-py or of the operating system means for the store.

    The text has no secret: what may repeat a login, a command or its arguments is not shown.
    """
    # redis-py wraps what happens while it connects.
    while isinstance(error, _WRAPPERS) and isinstance(error.__cause__, (exceptions.RedisError, *_WRAPPERS)):
        error = error.__cause__
    for kind, trouble in _BY_CLASS:
        if isinstance(error, kind):
            shown = trouble.kind in ("timeout", "connection", "permission")
            return Trouble(trouble.kind, f"{trouble.text} ({error})") if shown and str(error) else trouble
    first_word = str(error).partition(" ")[0]
    if first_word in _BY_FIRST_WORD:
        return _BY_FIRST_WORD[first_word]
    if isinstance(error, exceptions.RedisClusterException):
        detail = f" ({error})" if str(error) == "Cluster mode is not enabled on this node" else ""
        return Trouble("cluster", f"the store's Cluster cannot be used{detail}")
    if isinstance(error, OSError):
        return Trouble("connection", f"the store cannot be reached ({error})")
    code = first_word if first_word.isupper() else type(error).__name__
    return Trouble("other", f"the store answered with an error ({code})")


def describe(error: BaseException) -> str:
    """`diagnose` in one sentence, for the message of Unavailable."""
    return diagnose(error).text


async def check_server(client: Redis | RedisCluster) -> Server:
    """Make sure that the truth is safe in this server; on a Cluster, in each of its primaries.

    Raises StoreUnsuitable, naming the command that mends it, and Unavailable if it does not answer.
    """
    try:
        if isinstance(client, RedisCluster):
            infos = [(node.name, await client.info(target_nodes=node)) for node in client.get_primaries()]
        else:
            infos = [("", await client.info())]
    except exceptions.NoPermissionError as error:
        raise StoreUnsuitable("the store's ACL forbids INFO: ACL SETUSER <user> +info") from error
    except STORE_ERRORS as error:
        raise Unavailable(describe(error)) from error
    warnings: list[str] = []
    for name, info in infos:
        of_node = f" of node {name}" if name else ""
        _check_mode(info, is_cluster=isinstance(client, RedisCluster))
        _check_version(info, of_node)
        _check_eviction(info, of_node)
        if not info.get("aof_enabled"):
            warnings.append(
                f"the append-only file{of_node} is off: after a crash, holds and spend since the last snapshot "
                "are lost; CONFIG SET appendonly yes"
            )
    product, version = _version(infos[0][1])
    return Server(product, version, len(infos), tuple(warnings))


def _check_mode(info: dict[str, Any], *, is_cluster: bool) -> None:
    mode = info.get("redis_mode") or info.get("server_mode")
    if mode == "sentinel":
        raise StoreUnsuitable("this server is a Sentinel: write redis+sentinel://host:26379/service")
    if mode == "cluster" and not is_cluster:
        raise StoreUnsuitable("this server is part of a Cluster: write redis+cluster://host:6379")
    if info.get("role") == "slave":
        primary = f"{info.get('master_host')}:{info.get('master_port')}"
        raise StoreUnsuitable(f"this server is a replica of {primary}: name the primary, or use redis+sentinel://")


def _version(info: dict[str, Any]) -> tuple[str, str]:
    if "valkey_version" in info:
        return "Valkey", str(info["valkey_version"])
    return "Redis", str(info.get("redis_version", "0"))


def _check_version(info: dict[str, Any], of_node: str) -> None:
    product, version = _version(info)
    least = VALKEY_MIN if product == "Valkey" else REDIS_MIN
    present = tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])
    if present < least:
        raise StoreUnsuitable(
            f"the version{of_node} is {product} {version}: Redis 7.0 or Valkey 7.2 is the least that keeps the books"
        )


def _check_eviction(info: dict[str, Any], of_node: str) -> None:
    policy = info.get("maxmemory_policy")
    if policy != "noeviction":
        raise StoreUnsuitable(
            f"the maxmemory-policy{of_node} is {policy}, so money that was spent could be evicted: "
            "CONFIG SET maxmemory-policy noeviction (and the same in its configuration)"
        )
