"""The files of deploy/, taken apart, and the tools that know what such files may say."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from limiter.cli.settings_flags import flag, variable
from limiter.settings import Settings

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"

Tree = dict[str, Any]


def tree(text: str) -> Tree:
    """A YAML document."""
    found: Tree = yaml.safe_load(text)
    return found


def document(path: Path) -> Tree:
    """The one YAML document of a file."""
    return tree(path.read_text("utf-8"))


def tool(name: str, *arguments: str) -> str:
    """Run a tool of the development environment; "" if it has nothing to say against what it was given."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.exists():
        pytest.skip(f"{name} is not installed: it has no package for this platform")
    environment = os.environ | {"NO_COLOR": "1"}
    done = subprocess.run(
        [path, *arguments], capture_output=True, text=True, check=False, timeout=60, cwd=ROOT, env=environment
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def served(arguments: Sequence[str], environment: Mapping[str, str], files: Mapping[str, Path]) -> Settings:
    """The settings of `limiter serve …` in a container; `files` are those here that it has mounted there."""
    command, *rest = arguments
    assert command == "serve"
    names = {flag(name): name for name in Settings.model_fields}
    flags = {names[given]: value for given, value in zip(rest[::2], rest[1::2], strict=True)}
    variables = {variable(name): name for name in Settings.model_fields}
    ours = {name: value for name, value in environment.items() if name.startswith("LIMITER_")}
    given = {variables[name]: value for name, value in ours.items()} | flags
    return Settings.load({name: _here(value, files) for name, value in given.items()})


def _here(value: str, files: Mapping[str, Path]) -> str:
    return str(files[value]) if value in files else value


def addresses(part: object) -> Iterator[tuple[str, int]]:
    """Host and port of every socket address in a part of an Envoy's configuration."""
    if isinstance(part, dict):
        if "port_value" in part:
            yield part["address"], part["port_value"]
        for inner in part.values():
            yield from addresses(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from addresses(inner)


def limiter_address(envoy: Tree) -> tuple[str, int]:
    """Where an Envoy's configuration looks for Limiter."""
    (found,) = (
        address
        for cluster in envoy["static_resources"]["clusters"]
        if cluster["name"] == "limiter"
        for address in addresses(cluster)
    )
    return found


def client_address(envoy: Tree) -> tuple[str, int]:
    """Where an Envoy's configuration serves clients."""
    (listener,) = envoy["static_resources"]["listeners"]
    (found,) = addresses(listener["address"])
    return found
