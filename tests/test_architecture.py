"""Folders are layers and imports point one way; type-only and local imports count."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "limiter"

#: What each part of the package may import of it, beside itself. A part that is not here fails the test.
MAY_IMPORT = {
    "domain": set(),
    "observability": {"domain"},
    "store": {"domain", "observability"},
    "pricing": {"domain", "observability"},
    "policy": {"domain", "observability"},
    "ledger": {"domain", "observability"},
    "service": {"domain", "observability", "ledger", "policy", "pricing", "store.port"},
    "rpc": {"domain", "observability", "policy", "store.port", "service", "v1"},
    "envoy": {"domain", "observability", "policy", "pricing", "store.port", "service"},
    "client": {"domain", "v1"},
    "app": {"domain", "observability", "ledger", "policy", "pricing", "store", "service", "rpc", "envoy", "v1"},
    "cli": {"domain", "observability", "ledger", "policy", "pricing", "service", "app", "client", ""},
}
#: Modules beside the folders: together the layer `app`.
APP = {"alert_file", "app", "bookkeeping", "scratch", "serving", "worker", "settings", "sockets", "peppers"}

#: Third-party packages that only one part may see.
ONLY_IN = {
    "redis": {"store"},
    "grpc": {"rpc", "envoy", "client", "app", "cli"},
    "google": {"rpc", "envoy", "client", "cli"},
    "prometheus_client": {"observability"},
    "genai_prices": {"pricing"},
    "typer": {"cli"},
    "rich": {"cli"},
    "sqlalchemy": {"ledger"},
    "alembic": {"ledger"},
}

#: What the domain must not touch: no clock, no I/O, no environment, no log.
IMPURE = {"time", "asyncio", "os", "logging", "structlog", "random", "socket", "redis", "grpc", "google", "pathlib"}

#: Folders of generated code.
GENERATED = ("v1", "v3")

MODULE_LINES_MAX = 300
FUNCTION_LINES_MAX = 60
LUA_LINES_MAX = 160
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "misc"}


def _modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name not in GENERATED)


def _part(module: str) -> str:
    """`limiter.store.port` is part `store`; modules of the top belong to `app`."""
    parts = module.split(".")[1:]
    if not parts:
        return ""
    return "app" if parts[0] in APP else parts[0]


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names if module.startswith("limiter"))


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_imports_point_down_the_layers(path: Path) -> None:
    part = _part(_name(path))
    if _name(path) in ("limiter", "limiter.__main__"):
        return
    allowed = MAY_IMPORT[part]
    for imported in _imports(path):
        if imported.partition(".")[0] != "limiter":
            continue
        target = _part(imported)
        inside = imported.removeprefix("limiter.")
        fits = (
            target == part or target in allowed or any(inside.startswith(f"{name}") for name in allowed if "." in name)
        )
        assert fits or (target == "" and part in ("cli", "app")) or imported == "limiter", f"{path}: imports {imported}"


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_a_library_is_seen_only_where_it_belongs(path: Path) -> None:
    part = _part(_name(path))
    for imported in _imports(path):
        top = imported.partition(".")[0]
        assert part in ONLY_IN.get(top, {part}), f"{path}: imports {imported}"
        if part == "domain":
            assert top not in IMPURE, f"{path}: the domain is pure, but imports {imported}"


@pytest.mark.parametrize("path", _modules(), ids=_name)
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.count("\n") <= MODULE_LINES_MAX, f"{path}: {text.count(chr(10))} lines"
    assert path.stem not in FORBIDDEN_NAMES
    for node in ast.walk(ast.parse(text)):
        if path.parent.name == "versions":  # a migration is a list of statements, never changed again
            break
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{path}: {node.name} has {length} lines"


def test_scripts_stay_small() -> None:
    for path in (PACKAGE / "store" / "lua").glob("*.lua"):
        assert path.read_text("utf-8").count("\n") <= LUA_LINES_MAX, path


def test_every_folder_says_what_it_is_for() -> None:
    for folder in (path for path in PACKAGE.iterdir() if path.is_dir() and path.name not in ("v1", "__pycache__")):
        init = folder / "__init__.py"
        if list(folder.glob("*.py")):
            assert ast.get_docstring(ast.parse(init.read_text("utf-8"))), f"{init} has no docstring"
