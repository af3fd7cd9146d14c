"""`report`: what calls cost, summed up by anything that tells them apart; from the books, without a sidecar."""

from __future__ import annotations

import difflib
import io
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta, tzinfo
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from limiter.cli.arguments import duration
from limiter.cli.books import with_books
from limiter.cli.failures import say
from limiter.cli.lazy import example
from limiter.cli.output import write
from limiter.cli.report_lines import as_csv, as_json, in_order, not_written, write_parquet
from limiter.cli.report_table import parts
from limiter.domain.errors import InvalidArgument
from limiter.domain.zones import zone
from limiter.ledger.database import Database
from limiter.ledger.entries import HOUR_MS
from limiter.ledger.periods import KINDS, instant, month, month_start
from limiter.ledger.reports.questions import PLACES, Question, condition, grouping, plain_words
from limiter.ledger.reports.reading import has_tag
from limiter.ledger.reports.report import Line, Report, make_report


class ReportFormat(StrEnum):
    """What a report is written for."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


_By: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME,…",
        help="organization, team, key, model, provider, operation, hour, day, week, month, or a tag: customer, "
        "feature, tag:NAME.",
        show_default="one line in all",
    ),
]
_From: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="TIME", help="A date or an ISO 8601 time, in the time zone.", show_default="this month"
    ),
]
_To: TypeAlias = Annotated[
    str | None,
    typer.Option("--to", metavar="TIME", help="Likewise; calls of that instant are left out.", show_default="now"),
]
_Month: TypeAlias = Annotated[str | None, typer.Option("--month", metavar="YYYY-MM", help="A whole month.")]
_Last: TypeAlias = Annotated[
    timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="So long until now, such as 7d.")
]
_Where: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE,…",
        help="Only calls with one of these values; * and ? stand for anything, NAME= for calls without. "
        "Several times: all must hold.",
    ),
]
_Zone: TypeAlias = Annotated[
    str, typer.Option("--timezone", metavar="ZONE", help="Where days begin, such as Europe/Berlin.")
]
_Sort: TypeAlias = Annotated[
    str, typer.Option(metavar="COLUMN", help="cost, calls, …, or a name of --by.", show_default="time, else cost")
]
_Limit: TypeAlias = Annotated[int | None, typer.Option(metavar="N", min=1, help="So many lines at most.")]
_Format: TypeAlias = Annotated[
    ReportFormat, typer.Option("--format", metavar="table|csv|json|parquet", help="For people, or for programs.")
]
_File: TypeAlias = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Where to write.", show_default="the standard output"),
]


@example(
    "limiter report --by customer",
    "limiter report --by customer,model --month 2026-11 --timezone Europe/Berlin --format csv --output november.csv",
    "limiter report --by day --last 7d --where team=search --where 'model=gpt-*,o?'",
    "limiter report --by tag:feature --where customer=acme --from 2026-11-01 --to 2026-11-15T12:00:00Z",
)
@with_books
def report(
    *,
    by: _By = None,
    start: _From = None,
    end: _To = None,
    whole_month: _Month = None,
    last: _Last = None,
    where: _Where = None,
    timezone: _Zone = "UTC",
    sort: _Sort = "",
    limit: _Limit = None,
    output: _Format = ReportFormat.TABLE,
    file: _File = None,
    books: Database,
) -> None:
    """Sum up calls, tokens and cost by customer, model, day or anything.

    Calls count when they were reserved, as they do for limits. The total counts every call once, though one with
    several values of a tag stands on the line of each. Calls without a tag have a line of their own.
    """
    if output is ReportFormat.PARQUET and file is None:
        raise InvalidArgument("--format", "parquet", "name a file for it with --output")
    at = zone(timezone)
    start_ms, end_ms = _stretch(at, start=start, end=end, whole_month=whole_month, last=last)
    question = Question(
        start_ms,
        end_ms,
        at,
        grouping(by or (), field="--by"),
        tuple(condition(text, field="--where") for text in where or ()),
    )
    in_order(Report(question), sort)  # a mistake is told before the work, not after it
    with _progress() as progress:
        made = make_report(books, question, progress)
    _check_words(books, made, "--by", [word for text in by or () for word in text.split(",")])
    _check_words(books, made, "--where", where or ())
    lines = in_order(made, sort)
    notes = list(made.notes)
    if limit is not None and len(lines) > limit:
        notes.append(f"the first {limit} of {len(lines)} lines; the total is of all")
    lines = lines[:limit]
    if output is ReportFormat.PARQUET and file is not None:
        write_parquet(made, lines, notes, file)
    elif output is ReportFormat.TABLE and file is None:
        write(*parts(made, lines, notes))
    else:
        _hand_over(_text(made, lines, notes, output), file)
    if output in (ReportFormat.CSV, ReportFormat.PARQUET):
        for note in (["there is nothing to report"] if made.is_empty else []) + notes:
            say(note)


def _stretch(
    at: tzinfo, *, start: str | None, end: str | None, whole_month: str | None, last: timedelta | None
) -> tuple[int, int]:
    """The time that is asked for, in ms: by default this month so far."""
    now_ms = int(time.time() * 1000)
    ways = [name for name, given in (("--month", whole_month), ("--last", last), ("--from", start or end)) if given]
    if len(ways) > 1:
        raise InvalidArgument(ways[0], whole_month or str(last), f"use it, or {' and '.join(ways[1:])}, not both")
    if whole_month is not None:
        return month(whole_month, at, field="--month")
    if last is not None:
        if not timedelta() < last < timedelta(milliseconds=now_ms):
            raise InvalidArgument("--last", str(last), "use a duration such as 7d")
        return now_ms - last // timedelta(milliseconds=1), now_ms
    # Nothing is reserved later than now: up to the next full hour no hour is cut, and its sums are there.
    until = (now_ms // HOUR_MS + 1) * HOUR_MS if end is None else instant(end, at, field="--to")
    since = month_start(max(until - 1, 0), at) if start is None else instant(start, at, field="--from")
    if since >= until:
        field, value = ("--from", start) if end is None else ("--to", end)
        raise InvalidArgument(field, value, "the time must begin before it ends, and --to itself is left out")
    return since, until


def _check_words(books: Database, made: Report, option: str, words: Sequence[str]) -> None:
    """Refuse words that are taken as tags, though no call of any time has such a tag."""
    for word in sorted(plain_words(words)):
        if word in made.tag_names:
            continue
        with books.read() as connection:
            if has_tag(connection, word):
                continue
        names = [*PLACES, *KINDS, *sorted(made.tag_names)]
        near = difflib.get_close_matches(word, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join(names)}"
        raise InvalidArgument(
            option, word, f"{hint} (no call has a tag of that name; tag:{word} asks for it all the same)"
        )


def _text(made: Report, lines: Sequence[Line], notes: Sequence[str], output: ReportFormat) -> str:
    if output is ReportFormat.CSV:
        return as_csv(made, lines)
    if output is ReportFormat.JSON:
        return json.dumps(as_json(made, lines, notes), indent=2, ensure_ascii=False) + "\n"
    with redirect_stdout(io.StringIO()) as text:
        write(*parts(made, lines, notes))
    return text.getvalue()


def _hand_over(text: str, file: Path | None) -> None:
    if file is None:
        sys.stdout.write(text)
        return
    try:
        file.write_bytes(text.encode())  # the ends of lines as they are
    except OSError as error:
        raise not_written(file, error) from None


@contextmanager
def _progress() -> Iterator[Callable[[int, int], object]]:
    """Show how much is read, on standard error where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("report", total=None)
        yield lambda done, of: progress.update(task, completed=done, total=of if of > 1 else None)
