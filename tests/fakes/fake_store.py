"""A fakeredis server that can run Limiter's scripts: it lacks `struct` and does not read the first line."""

from __future__ import annotations

from typing import Any

from fakeredis import FakeAsyncRedis, FakeServer
from fakeredis.commands_mixins.scripting_mixin import ScriptingCommandsMixin

from tests.fakes import lua_struct


class _Runtime:
    """A Lua runtime that knows `struct` and skips the line of script flags, as a server does."""

    def __init__(self, runtime: Any) -> None:  # noqa: ANN401 - lupa has no types
        self._runtime = runtime
        runtime.globals().struct = runtime.table_from(
            {b"pack": lua_struct.pack, b"unpack": lua_struct.unpack, b"size": lua_struct.size}
        )

    def execute(self, source: bytes | str) -> object:
        if isinstance(source, bytes) and source.startswith(b"#!"):
            # The line break stays, so that line numbers in errors are right.
            source = source[source.index(b"\n") :]
        return self._runtime.execute(source)

    def __getattr__(self, name: str) -> object:
        return getattr(self._runtime, name)


_plain_runtime = ScriptingCommandsMixin._get_server_runtime


def _limiter_runtime(self: ScriptingCommandsMixin, server: FakeServer) -> object:
    runtime = _plain_runtime(self, server)
    if not isinstance(runtime, _Runtime) and isinstance(server, LimiterFakeServer):
        runtime = server._lua_runtime = _Runtime(runtime)
        server._lua_expected_globals.add(b"struct")
    return runtime


class LimiterFakeServer(FakeServer):
    """One fake store; only this kind of server gets the additions."""

    _lua_runtime: object
    _lua_expected_globals: set[bytes]


# fakeredis has no place to add a Lua module that needs no file.
ScriptingCommandsMixin._get_server_runtime = _limiter_runtime  # type: ignore[method-assign]


def fake_client(server: FakeServer | None = None) -> FakeAsyncRedis:
    """Open a client of a fake store, a new one by default."""
    return FakeAsyncRedis(server=server or LimiterFakeServer(), protocol=2)
