"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from rich import box
from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from limiter.domain.money import format_usd

#: So wide is a table that goes into a file or a pipe at most: nothing is folded there.
_UNFOLDED: Final = 10_000

#: Columns that a narrow terminal can do without, the least first.
_MATTER_LESS: Final = ("resets", "overage", "used", "by reason", "held", "overshoot")

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
    with target.capture() as captured:  # so that this program, not rich, meets a reader that has gone
        for part in parts:
            width = fit(part, target) if isinstance(part, Table) else None
            target.print(part, width=width, crop=False, soft_wrap=isinstance(part, str))
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def fit(made: Table, target: Console) -> int:
    """Drop the columns that matter least until the table fits; return how wide it is to be printed.

    A table that still does not fit is as wide as it has to be: no digit and no name is ever cut.
    """
    unbounded = target.options.update(max_width=_UNFOLDED)
    needed = Measurement.get(target, unbounded, made).maximum
    for title in _MATTER_LESS:
        if needed <= target.width:
            break
        made.columns = [column for column in made.columns if str(column.header) != title]
        needed = Measurement.get(target, unbounded, made).maximum
    return max(needed, min(target.width, _UNFOLDED))


def write_json(value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Print one JSON value."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, title: str | None = None) -> Table:
    """Make a table; a column title that ends with RIGHT has its cells on the right."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in columns:
        right = column.endswith(RIGHT)
        made.add_column(
            column.removesuffix(RIGHT), justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Make a list of names and what they are; what is empty is left out."""
    made = Table(box=None, show_header=False, pad_edge=False)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs:
        if value:
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
