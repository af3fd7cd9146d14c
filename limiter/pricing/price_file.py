"""Writes price files: YAML for people, compact JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def write_yaml(entries: Sequence[Mapping[str, Any]], *, head: Mapping[str, str], notes: Sequence[str] = ()) -> str:
    """Return a price file in YAML; `notes` are comments at its end."""
    lines = [
        "version: 1",
        *(f"{name}: {_scalar(value)}" for name, value in head.items()),
        "models:" + " []" * (not entries),
    ]
    for entry in entries:
        lines += [
            ("  - " if number == 0 else "    ") + f"{name}: {_scalar(value)}"
            for number, (name, value) in enumerate(entry.items())
        ]
    if notes:
        lines += ["", "# Left out, because a price file cannot say it:", *(f"# - {_one_line(note)}" for note in notes)]
    return "\n".join(lines) + "\n"


def write_json(entries: Sequence[Mapping[str, Any]], *, head: Mapping[str, str]) -> str:
    """Return a price file in JSON, a line for each entry."""
    lines = ",\n".join(json.dumps(entry, separators=(",", ":"), ensure_ascii=False) for entry in entries)
    return _with_head(head, f'"models": [\n{lines}\n]')


def write_limits(models: Mapping[str, Mapping[str, Sequence[int | None]]], *, head: Mapping[str, str]) -> str:
    """Return the data file of the models' limits, a line for each provider."""
    lines = ",\n".join(
        f"{json.dumps(provider)}: {json.dumps(names, separators=(',', ':'))}" for provider, names in models.items()
    )
    return _with_head(head, f'"models": {{\n{lines}\n}}')


def _with_head(head: Mapping[str, str], rest: str) -> str:
    facts = "".join(f"{json.dumps(name)}: {json.dumps(value)},\n" for name, value in head.items())
    return f'{{\n"version": 1,\n{facts}{rest}\n}}\n'


def _scalar(value: object) -> str:
    """Write a value on one line; amounts and names are quoted, so that nothing reads them as something else."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_scalar(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    return json.dumps(text, ensure_ascii=not text.isprintable())  # a text of JSON is one of YAML


def _one_line(text: str) -> str:
    return " ".join(text.split())
