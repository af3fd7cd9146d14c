"""A fakeredis server that can run Limiter's functions: its Lua lacks `struct`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fakeredis import FakeAsyncRedis, FakeAsyncRedisConnection, FakeServer
from fakeredis.commands_mixins import _lua_functions, scripting_mixin

from tests.fakes import lua_struct

_LUA: Any = scripting_mixin.LUA_MODULE


def _runtime(**options: Any) -> Any:  # noqa: ANN401 - lupa has no types
    runtime = _LUA.LuaRuntime(**options)
    runtime.globals().struct = runtime.table_from(
        {b"pack": lua_struct.pack, b"unpack": lua_struct.unpack, b"size": lua_struct.size}
    )
    return runtime


class _Engine(_lua_functions.FunctionsEngine):
    """The interpreter of a server's functions, with `struct`."""

    def __init__(self, lua_module: Any, *rest: Any) -> None:  # noqa: ANN401 - lupa has no types
        super().__init__(SimpleNamespace(LuaRuntime=_runtime, LuaError=lua_module.LuaError), *rest)


# fakeredis has no place to add a Lua module that needs no file.
vars(_lua_functions)["_ALLOWED_GLOBALS"] += ("struct",)
vars(scripting_mixin)["FunctionsEngine"] = _Engine


class _FakeLine(FakeAsyncRedisConnection):
    """A connection as Lanes take it, without a socket under it."""

    is_quiet = True

    async def exchange(self, command: bytes) -> Any:  # noqa: ANN401 - whatever the server replies
        await self.send_packed_command(command, check_health=False)
        return await self.read_response()


def fake_client(server: FakeServer | None = None) -> FakeAsyncRedis:
    """Open a client of a fake store, a new one by default."""
    return FakeAsyncRedis(server=server or FakeServer(), protocol=2, connection_class=_FakeLine)
