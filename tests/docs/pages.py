"""The project's pages, taken apart: blocks of code, tables, lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

_FENCED: Final = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?```(?P<kind>[a-z]+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_TABLE: Final = re.compile(r"^(?P<head>\|.*\|)\n\|[-:| ]+\|\n(?P<rows>(?:\|.*\|\n)+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code, the line on which it begins, and why it is not run, if it is not."""

    kind: str
    text: str
    line: int
    not_run: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """A table: its header's cells, its rows by them, and the line on which it begins."""

    head: tuple[str, ...]
    rows: tuple[dict[str, str], ...]
    line: int


def page(name: str) -> str:
    """The text of a page, by its path in the project."""
    return (ROOT / name).read_text("utf-8")


def blocks(text: str, *kinds: str) -> list[Block]:
    """The fenced blocks of a page, of all kinds or of some."""
    found = [
        Block(match["kind"], match["text"], _line(text, match), match["reason"]) for match in _FENCED.finditer(text)
    ]
    return [block for block in found if not kinds or block.kind in kinds]


def tables(text: str) -> list[Table]:
    """The tables of a page."""
    return [_table(text, match) for match in _TABLE.finditer(text)]


def table_of(name: str, *head: str) -> Table:
    """The one table of a page whose header begins with these cells."""
    (found,) = (table for table in tables(page(name)) if table.head[: len(head)] == head)
    return found


def cells(line: str) -> list[str]:
    """The cells of a row, without the backticks of code."""
    return [cell.strip().replace("`", "") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]


def _table(text: str, match: re.Match[str]) -> Table:
    head = tuple(cells(match["head"]))
    rows = tuple(dict(zip(head, cells(row), strict=True)) for row in match["rows"].splitlines())
    return Table(head, rows, _line(text, match))


def _line(text: str, match: re.Match[str]) -> int:
    return text.count("\n", 0, match.start()) + 1


def own_files() -> Iterator[Path]:
    """Every file that the project itself consists of."""
    hidden = {".git", ".venv", ".cache", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__"}
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        made = parts[0] in ("build", "dist", "data") or any(part.endswith(".egg-info") for part in parts)
        if path.is_file() and not made and hidden.isdisjoint(parts):
            yield path
