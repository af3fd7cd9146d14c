"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from limiter.domain.money import format_usd

#: So wide is a table that goes into a file or a pipe at most: nothing is folded there.
_UNFOLDED: Final = 10_000

#: Columns that a narrow terminal can do without, the least first.
_MATTER_LESS: Final = (
    *("resets", "overage", "used", "by reason", "held", "overshoot"),
    *("read", "answered", "priced", "p99", "p90", "denied"),
    *("reasoning", "cache write", "held/cost", "cache read", "held USD", "billed", "booked"),
)

#: Text is folded to so few characters where that is enough, and to the second where it is not.
_FOLDED: Final = (24, 8)

#: What is never folded: a time, with the space in it, and a word, unless it is a very long name that has no id in it.
_PIECE: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d\S*|\S+")
_NAME_MAX: Final = 64
_ID: Final = re.compile(r"(?=[a-f]*[0-9])[0-9a-f]{24}")

#: A column whose title ends so has its cells on the right: amounts and counts.
RIGHT: Final = ">"


class Format(StrEnum):
    """What a command prints for."""

    TABLE = "table"
    JSON = "json"


def console() -> Console:
    """Make the console for the standard output: plain text where it is no terminal."""
    terminal = sys.stdout.isatty()
    width = None if terminal or "COLUMNS" in os.environ else _UNFOLDED
    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


def write(*parts: RenderableType) -> None:
    """Print texts and tables."""
    target = console()
    width = target.width
    with target.capture() as captured:  # so that this program, not rich, meets a reader that has gone
        for part in parts:
            target.width = fit(part, target) if isinstance(part, Table) else width  # rich cuts what is wider
            target.print(part, crop=False, soft_wrap=isinstance(part, str))
            target.width = width
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def fit(made: Table, target: Console) -> int:
    """Drop the columns that matter least until the table fits; return how wide it is to be printed.

    Text is folded between words. A table that still does not fit is as wide as it has to be: no digit is ever cut.
    """
    for title in _MATTER_LESS:
        if _needed(made) <= target.width:
            break
        _drop(made, title)
    if _needed(made) > target.width:
        for column in made.columns:
            if column.justify == "left" and made.box is not None:
                texts = [str(text) for text in (column.header, *column.cells)]
                least = min(column.min_width or 0, max(_FOLDED[1], _longest(texts)))
                column.min_width, column.no_wrap = least, least == max(map(cell_len, texts))
    return max(_needed(made), target.width)


def _needed(made: Table) -> int:
    """How narrow a table may get: rich itself takes the longest word of each column, which may be a long name."""
    between = 2 if made.box is None else 3
    return sum((column.min_width or 0) + between for column in made.columns) - between


def _drop(made: Table, title: str) -> None:
    kept = [column for column in made.columns if str(column.header) != title]
    lines = list(zip(*(column.cells for column in kept), strict=True))
    if len(kept) == len(made.columns):
        return
    made.columns.clear()  # and anew: a column that moved is measured as if it stood where it was
    made.rows.clear()
    for column in kept:
        made.add_column(
            column.header,
            justify=column.justify,
            min_width=column.min_width,
            no_wrap=column.no_wrap,
            overflow=column.overflow,
        )
    for line in lines:
        made.add_row(*line)


def write_json(value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Print one JSON value."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str | None = None) -> Table:
    """Make a table; a column title that ends with RIGHT has its cells on the right."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_edge=False, pad_edge=False)
    lines = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    for place, column in enumerate(columns):
        right = column.endswith(RIGHT)
        name = column.removesuffix(RIGHT)
        texts = [name, *(line[place].plain for line in lines)]
        widest, least = max(map(cell_len, texts)), _least(texts, right=right)
        made.add_column(
            name, justify="right" if right else "left", min_width=least, no_wrap=least == widest, overflow="fold"
        )
    for line in lines:
        made.add_row(*line)
    return made


def _least(texts: Sequence[str], *, right: bool) -> int:
    """How narrow a column may get: numbers are folded after a comma only, text to what can still be read."""
    if right:
        return max(cell_len(part.strip(" ")) for text in texts for part in text.replace(", ", ",\n").split("\n"))
    return max(min(max(map(cell_len, texts)), _FOLDED[0]), _longest(texts))


def _longest(texts: Iterable[str]) -> int:
    """How wide the longest of those pieces is that are never folded."""
    pieces = (piece for text in texts for piece in _PIECE.findall(text))
    return max((cell_len(piece) for piece in pieces if len(piece) <= _NAME_MAX or _ID.search(piece)), default=0)


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Make a list of names and what they are; what is empty is left out, and no word is folded."""
    told = [(name, value) for name, value in pairs if value]
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True, min_width=max((cell_len(name) for name, _ in told), default=0))
    made.add_column(min_width=max((cell_len(word) for _, value in told for word in _PIECE.findall(value)), default=0))
    for name, value in told:
        made.add_row(Text(name, style="bold"), Text(value))
    return made


def usd(nanousd: int) -> str:
    """Write an amount with its currency, every digit that counts."""
    return f"{format_usd(nanousd)} USD"


def when(moment: Timestamp) -> str:
    """Write a time in UTC, to the second; "" if it is not set."""
    if not (moment.seconds or moment.nanos):
        return ""
    return datetime.fromtimestamp(moment.seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
