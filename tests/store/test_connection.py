"""Connections: what a URL means, which servers are refused and why, what errors say and never say."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import DefaultParser

from limiter.domain.errors import InvalidArgument, Unavailable
from limiter.store.address import Address, mask, parse_address
from limiter.store.connection import StoreUnsuitable, check_server, connect, describe, diagnose
from limiter.store.diagnosis import _check_version
from tests.servers import SentinelSet, StartServer, StoreServer, free_port, is_whole, until

READ = [
    ("redis://h", Address("single", "redis", hosts=(("h", 6379),))),
    ("valkey://h:1/3", Address("single", "valkey", hosts=(("h", 1),), db=3)),
    ("redis://h/?db=3", Address("single", "redis", hosts=(("h", 6379),), db=3)),
    ("rediss://h:1", Address("single", "rediss", tls=True, hosts=(("h", 1),))),
    ("rediss://h?ssl_check_hostname=no", Address("single", "rediss", tls=True, hosts=(("h", 6379),))),
    ("redis://[::1]:1", Address("single", "redis", hosts=(("::1", 1),))),
    ("unix:///run/my%20s?db=2", Address("unix", "unix", path="/run/my s", db=2)),
    ("unix://u:p@/s", Address("unix", "unix", path="/s")),
    ("redis+cluster://a,b:1", Address("cluster", "redis+cluster", hosts=(("a", 6379), ("b", 1)))),
    (
        "redis+sentinel://a,[::1]:1/svc/2",
        Address("sentinel", "redis+sentinel", hosts=(("a", 26379), ("::1", 1)), service="svc", db=2),
    ),
]

REFUSED = [
    ("localhost:6379", "write redis://"),
    ("http://h", "write redis://"),
    ("redis://", "name a host"),
    ("redis://a,b", "redis\\+cluster://"),
    ("redis://h:0", "host"),
    ("redis://h:65536", "host"),
    ("redis://h/x", "database"),
    ("redis://h/1/2", "path"),
    ("redis://h?decode_responses=yes", "no such option"),
    ("redis://h?ssl_keyfile=k", "rediss://"),
    ("redis://h?sentinel_password=p", "redis\\+sentinel://"),
    ("redis+cluster://h/1", "only database 0"),
    ("redis+sentinel://h", "name the service"),
    ("unix://", "absolute path"),
    ("unix://relative/s", "absolute path"),
]


def app(*rules: str) -> tuple[str, ...]:
    """A server's arguments for a user `app` with password `p` who may do all but these."""
    return ("--user", "app", "on", ">p", "~*", "&*", "+@all", *rules)


@pytest.mark.parametrize(("url", "address"), READ, ids=[url for url, _ in READ])
def test_a_url_is_read(url: str, address: Address) -> None:
    read = parse_address(url)
    for name in ("kind", "scheme", "tls", "hosts", "path", "service", "db"):
        assert getattr(read, name) == getattr(address, name), name


def test_logins_and_options_are_decoded() -> None:
    read = parse_address(
        "rediss+sentinel://app:p%40ss%2F@h/svc?sentinel_username=w&sentinel_password=x%3D&ssl_ca_certs=/c"
    )
    assert read.login == {"username": "app", "password": "p@ss/"}
    assert read.sentinel_login == {"username": "w", "password": "x="}
    assert read.tls_options == {"ssl_ca_certs": "/c"}


@pytest.mark.parametrize(("url", "remedy"), REFUSED, ids=[url for url, _ in REFUSED])
def test_a_malformed_url_is_refused_with_a_remedy(url: str, remedy: str) -> None:
    with pytest.raises(InvalidArgument, match=remedy):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@h",
        "redis://hunter2@h",
        "redis://u:hunter2@h:x",
        "redis://u:a/hunter2@h",
        "redis://u:a?hunter2@h",
        "redis://u:a#hunter2@h",
        "redis://u:a@hunter2@h",
        "redis://u:1/hunter2@h",
        "redis://u:1?hunter2@h",
        "redis://:hunter2",
        "redis+sentinel://u:hunter2@h/svc?sentinel_password=hunter2",
        "redis+sentinel://u:p@h/svc?sentinel_password=a@hunter2",
        "redis+cluster://u:hunter2@h/7",
        "unix://u:hunter2@/s",
        "u:hunter2@h",
        "foo://u:hunter2@h",
    ],
)
def test_no_message_repeats_a_password(url: str) -> None:
    shown = mask(url)
    try:
        shown += repr(parse_address(url))
    except InvalidArgument as error:
        shown += str(error)
    assert "hunter2" not in shown
    assert "h" in shown  # it still says something


async def test_a_client_reads_bytes_with_the_fast_parser(valkey_url: str) -> None:
    client = await connect(valkey_url)
    async with client:
        await client.set("connection:bytes", "1")
        assert await client.get("connection:bytes") == b"1"
    assert DefaultParser.__name__ == "_AsyncHiredisParser"


async def test_every_kind_of_url_reaches_its_store(
    valkey: StoreServer, valkey_url: str, cluster_url: str, cluster_urls: list[str], sentinel_set: SentinelSet
) -> None:
    for url in (valkey_url, valkey.url, cluster_url, *cluster_urls, sentinel_set.url):
        async with await connect(url) as client:
            await client.set("connection:{reached}", url)
            assert await client.get("connection:{reached}") == url.encode()


async def test_the_database_of_the_url_is_used(valkey: StoreServer) -> None:
    async with await connect(f"{valkey.url}/3") as third, await connect(valkey.url) as first:
        await third.set("connection:database", "3")
        assert await first.get("connection:database") is None


async def test_a_login_is_sent_and_a_wrong_one_is_explained(start_server: StartServer) -> None:
    server = start_server("--requirepass", "p@ss/1")
    async with await connect(f"unix://:p%40ss%2F1@{server.directory}/s") as client:
        assert await client.ping()
    for login in ("", ":hunter2@"):
        with pytest.raises(Unavailable, match="refuses the login") as caught:
            await connect(f"unix://{login}{server.directory}/s")
        assert "hunter2" not in str(caught.value)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that vouches for itself, and its key; skips without the openssl program."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on the PATH to make a certificate")
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command = [openssl, "req", *kind, *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


async def test_tls_is_spoken_and_the_certificate_checked(
    valkey: StoreServer, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled Valkey speaks no TLS itself: a proxy does."""
    monkeypatch.setattr("limiter.store.connection.CONNECT_RETRIES", 0)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_unix_connection(f"{valkey.directory}/s")
        await asyncio.gather(pipe(reader, to_writer), pipe(to_reader, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    async with await asyncio.start_server(proxy, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        trusted = f"ssl_ca_certs={quote(str(certificate[0]))}"
        async with await connect(f"rediss://localhost:{port}?{trusted}") as client:
            assert await client.ping()
        async with await connect(f"rediss://127.0.0.1:{port}?{trusted}&ssl_check_hostname=no") as client:
            assert await client.ping()
        for untrusted in (f"rediss://localhost:{port}", f"rediss://127.0.0.1:{port}?{trusted}"):
            with pytest.raises(Unavailable, match="certificate verify failed"):
                await connect(untrusted)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+cluster", "redis+sentinel"])
async def test_a_store_that_is_not_there_is_named(scheme: str) -> None:
    url = f"{scheme}://u:hunter2@127.0.0.1:{free_port()}"
    if "sentinel" in scheme:
        url += "/svc?sentinel_username=w&sentinel_password=hunter2"
    with pytest.raises(Unavailable, match=r"\(store redis.*127\.0\.0\.1") as caught:
        await connect(url)
    assert "hunter2" not in str(caught.value)


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(say_nothing, tmp_path / "s"):
        with pytest.raises(Unavailable, match="in time"):
            await connect(f"unix://{tmp_path}/s", timeout_s=0.05)


async def test_a_command_that_was_sent_is_never_sent_again(tmp_path: Path) -> None:
    """The server takes INCR and closes: it may have been executed, so nobody may repeat it."""
    received: list[bytes] = []

    async def take_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            received.append(data)
            if b"INCR" in data:
                break
            writer.write(b"+PONG\r\n" if b"PING" in data else b"+OK\r\n" * data.count(b"*"))
        writer.close()

    server = await asyncio.start_unix_server(take_and_close, tmp_path / "s")
    async with server, await connect(f"unix://{tmp_path}/s") as client:
        with pytest.raises(exceptions.ConnectionError):
            await client.incr("spent")
    assert b"".join(received).count(b"INCR") == 1


async def test_a_cluster_command_is_not_repeated_when_its_node_dies(start_server: StartServer) -> None:
    server = start_server("--cluster-enabled", "yes", "--cluster-node-timeout", "3000", port=free_port())
    with server.client() as client:
        client.cluster("addslotsrange", 0, 16383)
        until(lambda: is_whole(client, nodes=1), what="the Cluster")
    async with await connect(f"redis+cluster://{server.place}") as cluster:
        assert isinstance(cluster, RedisCluster)
        await cluster.set("spent", "1")
        server.kill()
        with pytest.raises(exceptions.ConnectionError) as caught:
            await cluster.incr("spent")
        assert describe(caught.value).startswith("the store cannot be reached")


def leads(sentinel: redis.Redis, server: StoreServer) -> bool:
    """Whether the Sentinel hands out this server as the primary."""
    state = sentinel.sentinel_master("limiter")
    assert isinstance(state, dict)
    return bool(state["port"] == server.port and not state["is_sdown"] and not state["is_odown"])


async def test_the_client_follows_a_failover(sentinel_set: SentinelSet) -> None:
    async with await connect(sentinel_set.url) as client:
        await client.set("spent", "1200")
        assert await client.wait(1, 5000) == 1
        sentinel_set.primary.kill()
        with sentinel_set.sentinel.client() as sentinel:
            until(lambda: leads(sentinel, sentinel_set.replica), what="the failover")
        with sentinel_set.replica.client() as replica:
            until(lambda: replica.info("replication")["role"] == "master", what="the new primary")
        assert isinstance(client, Redis)
        await client.connection_pool.disconnect()
        assert await client.get("spent") == b"1200"
        assert (await check_server(client)).nodes == 1


async def test_valkey_and_redis_7_are_fit(valkey_url: str, redis7_url: str) -> None:
    for url, product in ((valkey_url, "Valkey"), (redis7_url, "Redis")):
        async with await connect(url) as client:
            server = await check_server(client)
            assert (server.product, server.nodes, server.warnings) == (product, 1, ())
            assert server.version[0].isdigit()


@pytest.mark.parametrize(
    ("info", "fits"),
    [
        ({"redis_version": "6.2.14"}, False),
        ({"redis_version": "7.0.0"}, True),
        ({"redis_version": "7.0-rc1"}, True),
        ({"redis_version": "8.2.1"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.4"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, True),
        ({"redis_version": 7.0}, True),
        ({}, False),
    ],
)
def test_old_versions_are_refused(info: dict[str, str], fits: bool) -> None:  # noqa: FBT001 (a table's column)
    if fits:
        _check_version(info, "")
        return
    with pytest.raises(StoreUnsuitable, match=r"Redis 7\.0 or Valkey 7\.2"):
        _check_version(info, "")


async def test_a_server_that_may_evict_is_refused_with_the_command_that_mends_it(start_server: StartServer) -> None:
    server = start_server("--maxmemory-policy", "allkeys-lru")
    async with await connect(server.url) as client:
        with pytest.raises(StoreUnsuitable, match=r"is allkeys-lru.*CONFIG SET maxmemory-policy noeviction"):
            await check_server(client)
        await client.config_set("maxmemory-policy", "noeviction")
        (warning,) = (await check_server(client)).warnings
    assert "CONFIG SET appendonly yes" in warning


async def test_a_server_that_forbids_config_can_still_be_judged(start_server: StartServer) -> None:
    server = start_server(*app("-config"), "--maxmemory-policy", "volatile-ttl")
    async with await connect(f"unix://app:p@{server.directory}/s") as client:
        with pytest.raises(StoreUnsuitable, match="volatile-ttl"):
            await check_server(client)


async def test_a_server_that_forbids_info_is_refused_with_the_remedy(start_server: StartServer) -> None:
    server = start_server(*app("-info"))
    async with await connect(f"unix://app:p@{server.directory}/s") as client:
        with pytest.raises(StoreUnsuitable, match="ACL SETUSER <user> \\+info"):
            await check_server(client)


async def test_every_primary_of_a_cluster_is_checked(cluster: list[StoreServer], cluster_url: str) -> None:
    async with await connect(cluster_url) as client:
        server = await check_server(client)
        assert (server.nodes, server.warnings) == (3, ())
        with cluster[2].client() as node:
            node.config_set("maxmemory-policy", "allkeys-lfu")
            try:
                with pytest.raises(StoreUnsuitable, match=f"of node {cluster[2].place} is allkeys-lfu"):
                    await check_server(client)
            finally:
                node.config_set("maxmemory-policy", "noeviction")


async def test_the_wrong_kind_of_url_is_explained(
    cluster: list[StoreServer], sentinel_set: SentinelSet, valkey: StoreServer
) -> None:
    for url, remedy in (
        (cluster[0].url, "redis\\+cluster://"),
        (sentinel_set.sentinel.url, "redis\\+sentinel://"),
        (sentinel_set.replica.url, f"replica of 127.0.0.1:{sentinel_set.primary.port}"),
    ):
        async with await connect(url) as client:
            with pytest.raises(StoreUnsuitable, match=remedy):
                await check_server(client)
    with pytest.raises(Unavailable, match="Cluster cannot be used"):
        await connect(f"redis+cluster://{valkey.place}")
    with pytest.raises(Unavailable, match="other"):
        await connect(f"redis+sentinel://{sentinel_set.sentinel.place}/other")


async def provoke(client: Redis, *command: object) -> exceptions.RedisError:
    with pytest.raises(exceptions.RedisError) as caught:
        await client.execute_command(*command)  # type: ignore[no-untyped-call] # redis-py
    return caught.value


async def test_what_the_server_says_is_translated(start_server: StartServer) -> None:
    server = start_server(*app("-get"))
    async with await connect(server.url) as client:
        assert isinstance(client, Redis)
        await client.config_set("maxmemory", "1mb")
        assert diagnose(await provoke(client, "SET", "k", "v" * 2_000_000)).kind == "memory"
        script = await provoke(client, "EVAL", "return redis.call('SET', KEYS[1], ARGV[1])", 1, "k", "v")
        assert "maxmemory" in describe(script)
        await client.config_set("maxmemory", "0")
        await client.config_set("min-replicas-to-write", "1")
        assert diagnose(await provoke(client, "SET", "k", "v")).kind == "replicas"
        await client.config_set("min-replicas-to-write", "0")
        await client.replicaof("127.0.0.1", str(free_port()))
        assert diagnose(await provoke(client, "SET", "k", "v")).kind == "readonly"
        await client.replicaof("NO", "ONE")
        assert diagnose(await provoke(client, "NOSUCHCOMMAND", "hunter2")).kind == "other"
        assert "hunter2" not in describe(await provoke(client, "NOSUCHCOMMAND", "hunter2"))
    async with await connect(f"unix://app:p@{server.directory}/s") as client:
        assert isinstance(client, Redis)
        assert diagnose(await provoke(client, "GET", "k")).kind == "permission"


async def test_a_server_busy_with_a_script_is_recognised(start_server: StartServer) -> None:
    server = start_server("--busy-reply-threshold", "1")
    async with await connect(server.url) as client, await connect(server.url) as other:
        assert isinstance(client, Redis)
        assert isinstance(other, Redis)
        endless = asyncio.create_task(provoke(client, "EVAL", "while true do end", 0))
        busy: exceptions.RedisError | None = None
        while busy is None:
            try:
                await other.get("k")
            except exceptions.RedisError as error:
                busy = error
        await other.script_kill()
        await endless
    assert diagnose(busy).kind == "busy"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (exceptions.TimeoutError("Timeout reading from h:1"), "timeout"),
        (exceptions.BusyLoadingError("loading"), "loading"),
        (exceptions.MaxConnectionsError("Too many connections"), "connections"),
        (exceptions.ClusterDownError("CLUSTERDOWN The cluster is down"), "cluster"),
        (exceptions.MasterDownError("Link with MASTER is down"), "cluster"),
        (exceptions.ResponseError("MISCONF Errors writing to the AOF file"), "persistence"),
        (exceptions.ResponseError("NOAUTH Authentication required."), "auth"),
        (exceptions.ResponseError("CLUSTERDOWN Hash slot not served"), "cluster"),
        (exceptions.ResponseError("ERR user_script:1: hunter2"), "other"),
        (OSError(104, "Connection reset by peer"), "connection"),
        (ValueError("hunter2"), "other"),
    ],
)
def test_errors_have_a_kind_and_a_sentence(error: Exception, kind: str) -> None:
    trouble = diagnose(error)
    assert trouble.kind == kind
    assert trouble.text == describe(error)
    assert trouble.text.startswith(("the store", "all connections"))
    assert "hunter2" not in trouble.text
