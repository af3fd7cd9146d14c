"""Reads YAML and JSON without making floats: a number is its literal text, and a key that is given twice is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Never

import yaml

try:  # the parser in C reads a file of thousands of entries ten times as fast
    from yaml import CSafeLoader as _SafeLoader
except ImportError:  # pragma: no cover - builds of PyYAML without libyaml
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]


class Literal(str):
    """An unquoted number, as it stands in the file."""

    __slots__ = ()


class _ExactLoader(_SafeLoader):
    """Reads numbers as their literal text and refuses a key that is given twice."""


def _exact_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Literal:
    return Literal(loader.construct_scalar(node))


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        name = str(key.value)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", key.start_mark)
        seen.add(name)
    return loader.construct_mapping(node, deep=True)


_CONSTRUCTORS: Final[Mapping[str, Callable[..., object]]] = {
    "tag:yaml.org,2002:int": _exact_number,
    "tag:yaml.org,2002:float": _exact_number,
    "tag:yaml.org,2002:map": _unique_mapping,
}
for _tag, _constructor in _CONSTRUCTORS.items():
    _ExactLoader.add_constructor(_tag, _constructor)


def read_yaml(content: bytes) -> object:
    """Return what a YAML document says. Raises yaml.YAMLError, ValueError or RecursionError."""
    return yaml.load(content, Loader=_ExactLoader)  # noqa: S506 - the loader is a SafeLoader


def read_json(content: bytes) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Return what a JSON document says. Raises ValueError or RecursionError."""
    return json.loads(
        content, parse_float=Literal, parse_int=Literal, parse_constant=_no_number, object_pairs_hook=_unique_object
    )


def _unique_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return found


def _no_number(name: str) -> Never:
    raise ValueError(f"{name} is no number")


def unreadable(error: Exception) -> str:
    """Say in one line why a file could not be read, or what it has is neither YAML nor JSON."""
    if isinstance(error, OSError):
        return f"name a file that can be read ({error.strerror})"
    return " ".join(str(error).split())
