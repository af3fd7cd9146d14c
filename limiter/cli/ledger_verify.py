"""`ledger verify` and `ledger heads`: whether the books are whole; no sidecar is needed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from limiter.cli.arguments import duration, read_file
from limiter.cli.books import with_books
from limiter.cli.failures import ExitCode, say
from limiter.cli.lazy import example
from limiter.cli.ledger_counters import read_counters
from limiter.cli.options import Output, with_admin
from limiter.cli.output import Format, table, write, write_json
from limiter.cli.sidecar import Place
from limiter.ledger.database import Database
from limiter.ledger.verifying.counters import wait_for
from limiter.ledger.verifying.findings import CHECKS, SHOWN, Findings
from limiter.ledger.verifying.heads import Head, make_heads, read_heads
from limiter.ledger.verifying.verify import verify as verify_books


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not valid; write a day such as 2026-11-30") from None


@example(
    "limiter ledger verify",
    "limiter ledger verify --heads heads.jsonl --format json",
    "limiter ledger verify --books postgresql://auditor@db.internal/books --no-counters",
)
@with_books
@with_admin
def verify(
    *,
    heads: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Days as `ledger heads --format json` printed them earlier; - for stdin."),
    ] = None,
    counters: Annotated[
        bool, typer.Option("--counters/--no-counters", help="Hold the store's counters against the rows, too.")
    ] = True,
    wait: Annotated[
        timedelta,
        typer.Option(parser=duration, metavar="DURATION", help="How long rows may take from the store to the books."),
    ] = "10s",  # type: ignore[assignment] # the parser reads the default, too
    show: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Faults to show of each check.")] = SHOWN,
    output: Output = Format.TABLE,
    books: Database,
    admin: Place,
) -> None:
    """Check the books: every row, every sum.

    Reads one state of the books while they are written on. Ends with exit code 1 if anything is wrong. Without a
    sidecar at the data directory the store's counters are left out.
    """
    exported = None if heads is None else read_heads(read_file(heads, option="--heads").splitlines())
    counted = read_counters(admin, books) if counters else None
    if counted is not None:
        wait_for(books, counted, wait_s=wait.total_seconds())
    with _progress() as progress:
        findings = verify_books(books, heads=exported, counted=counted, now_ms=_now_ms(), shown=show, progress=progress)
    if counted is None:
        why = f"no sidecar serves {admin.data_dir}" if counters else "--no-counters"
        findings.notes.append(f"the store's counters were left out: {why}")
    if output is Format.JSON:
        write_json(_as_json(findings, books))
    else:
        _show(findings, books)
    if findings.count:
        raise typer.Exit(ExitCode.FAILED)


@example(
    "limiter ledger heads --from 2026-11-01 --to 2026-12-01",
    "limiter ledger heads --format json >> heads.jsonl",
)
@with_books
def heads(
    *,
    start: Annotated[
        date | None,
        typer.Option("--from", parser=_day, metavar="DAY", help="The first day (UTC).", show_default="the first"),
    ] = None,
    end: Annotated[
        date | None,
        typer.Option("--to", parser=_day, metavar="DAY", help="The day after the last.", show_default="all"),
    ] = None,
    output: Output = Format.TABLE,
    books: Database,
) -> None:
    """Print a line for each day that its rows can be held to.

    Keep the lines where whoever can write to the books cannot; the newest one holds all days before it. Days that are
    not over, or whose rows may still be on their way into the books, are not final: leave them for later.
    """
    with _progress() as progress:
        found = make_heads(books, now_ms=_now_ms(), progress=progress)
    first, behind = str(start or ""), str(end or "9999-99-99")
    chosen = [head for head in found if first <= head.day < behind]
    if output is Format.JSON:
        sys.stdout.writelines(f"{head.line}\n" for head in chosen)
    elif chosen:
        write(table(("day (UTC)", "rows>", "shards>", "final", "hash"), [_cells(head) for head in chosen]))
    else:
        say("no day has rows")


def _cells(head: Head) -> list[str]:
    return [head.day, f"{head.rows:,}", str(len(head.shards)), "yes" if head.final else "no", head.hash]


def _show(findings: Findings, books: Database) -> None:
    rows = [
        (check, f"{looked_at:,}", f"{findings.counts[check]:,}", CHECKS[check][0])
        for check, looked_at in _checked(findings).items()
    ]
    write(f"{books.shown}\n", table(("check", "looked at>", "faults>", "what should be"), rows))
    for check in CHECKS:
        for fault in (fault for fault in findings.faults if fault.check == check):
            write(f"\n{check}: {fault.where}\n  expected  {fault.expected}\n  found     {fault.found}")
        unshown = findings.counts[check] - findings.shown
        if unshown > 0:
            write(f"\n{check}: {unshown:,} more; see --show")
        if findings.counts[check]:
            write(f"  to do     {CHECKS[check][1]}")
    write("", *(f"note: {note}" for note in findings.notes))
    write(f"{findings.count:,} faults" if findings.count else "no fault")


def _as_json(findings: Findings, books: Database) -> dict[str, Any]:
    return {
        "books": books.shown,
        "ok": not findings.count,
        "checks": {
            check: {"looked_at": looked_at, "faults": findings.counts[check]}
            for check, looked_at in _checked(findings).items()
        },
        "fault_count": findings.count,
        "faults": [{**fault._asdict(), "remedy": fault.remedy} for fault in findings.faults],
        "notes": findings.notes,
    }


def _checked(findings: Findings) -> dict[str, int]:
    """The checks that were made, in their order, and how much each looked at."""
    made = findings.looked_at.keys() | findings.counts.keys()
    return {check: findings.looked_at.get(check, 0) for check in CHECKS if check in made}


def _now_ms() -> int:
    return int(time.time() * 1000)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], object]]:
    """Show how much is done, on standard error where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        tasks: dict[str, TaskID] = {}

        def advance(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=total)
            progress.update(tasks[stage], completed=done)

        yield advance
