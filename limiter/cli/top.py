"""`top`: a live table of the scopes and how much of their limits is in use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from limiter.cli.arguments import duration
from limiter.cli.failures import CommandFailed, ExitCode
from limiter.cli.lazy import example
from limiter.cli.options import Output, Scope, with_admin
from limiter.cli.output import RIGHT, Format, console, fit, table, write, write_json
from limiter.cli.plain import plain_all
from limiter.cli.refusals import refusals
from limiter.cli.sidecar import Place, Sidecar
from limiter.cli.statuses import ceiling, cells, limit_name, overage, used
from limiter.client.contract import messages as pb

#: Lines around the rows: heading, table head and its rule, totals.
_LINES_AROUND: Final = 6

_INTERVAL_MIN_S: Final = 0.05

_NUMBERS: Final = ("ceiling", "settled", "held", "free", "used", "overage", "denied")
_COLUMNS: Final = ("scope", "limit", *(f"{name}{RIGHT}" for name in _NUMBERS))


class Sort(StrEnum):
    """What stands above."""

    USED = "used"
    SCOPE = "scope"


@dataclass(frozen=True, slots=True)
class View:
    """What is looked at."""

    scope: str
    sort: Sort
    metrics: str


@example("limiter top", "limiter top acme --sort scope --interval 5s", "limiter top --once --format json")
@with_admin
def top(
    *,
    scope: Scope = "",
    sort: Annotated[
        Sort, typer.Option(metavar="used|scope", help="What stands above: what is used most, or the scope's name.")
    ] = Sort.USED,
    interval: Annotated[
        timedelta, typer.Option(parser=duration, metavar="DURATION", help="The time between two looks.")
    ] = "2s",  # type: ignore[assignment] # the parser reads the default, too
    once: Annotated[bool, typer.Option("--once", help="Look once, as for a file or a pipe.")] = False,
    metrics: Annotated[
        str,
        typer.Option(
            envvar="LIMITER_HTTP", metavar="HOST:PORT", help="Where the sidecar's /metrics is, for the refusals."
        ),
    ] = "127.0.0.1:9464",
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """Watch the scopes: ceiling, settled, held, free, in place.

    Ctrl-C ends it. Below the table stand the refusals since the sidecar's start, by reason.
    """
    view = View(scope, sort, metrics)
    target = console()
    with admin.open() as sidecar:
        if output is Format.JSON:
            write_json({"scopes": plain_all(_look(sidecar, view).scopes), "refusals": refusals(metrics)})
        elif once or not target.is_terminal:
            write(_table(_look(sidecar, view), view), _totals(view))
        else:
            _watch(sidecar, view, target, max(interval.total_seconds(), _INTERVAL_MIN_S))


def _watch(sidecar: Sidecar, view: View, target: Console, interval_s: float) -> None:
    """Draw until Ctrl-C; a sidecar that is away for a while does not end it."""
    answer = _look(sidecar, view)
    with Live(console=target, screen=True, auto_refresh=False) as live:
        trouble = ""
        while True:
            rows_max = max(1, target.size.height - _LINES_AROUND)
            live.update(
                Group(_heading(view, trouble), _fitted(answer, view, target, rows_max), _totals(view)), refresh=True
            )
            time.sleep(interval_s)
            try:
                answer, trouble = _look(sidecar, view), ""
            except CommandFailed as error:
                if error.exit_code is not ExitCode.UNREACHABLE:
                    raise
                trouble = str(error)


def _look(sidecar: Sidecar, view: View) -> pb.ListScopesResponse:
    answer: pb.ListScopesResponse = sidecar.ask(sidecar.admin.ListScopes, pb.ListScopesRequest(scope=view.scope))
    return answer


def _heading(view: View, trouble: str) -> Text:
    if trouble:
        return Text(trouble, style="bold red")
    now = datetime.now(UTC).strftime("%H:%M:%SZ")
    return Text(f"limiter top {view.scope}".rstrip() + f" at {now}; Ctrl-C ends it", style="dim")


def _fitted(answer: pb.ListScopesResponse, view: View, target: Console, rows_max: int | None) -> Table:
    made = _table(answer, view, rows_max=rows_max)
    fit(made, target)
    return made


def _table(answer: pb.ListScopesResponse, view: View, *, rows_max: int | None = None) -> Table:
    rows = [(scope, status) for scope in answer.scopes for status in scope.limits]
    if view.sort is Sort.USED:
        rows.sort(key=lambda row: -used(row[1]))
    shown = rows[:rows_max]
    made = table(
        _COLUMNS,
        (
            [
                scope.scope,
                limit_name(status),
                ceiling(status),
                *cells(status),
                overage(status),
                str(scope.refused[status.limit]),
            ]
            for scope, status in shown
        ),
    )
    if len(shown) < len(rows):
        made.caption = f"{len(rows) - len(shown)} more limits do not fit here"
    return made


def _totals(view: View) -> Text:
    counts = refusals(view.metrics)
    if counts is None:
        return Text("")
    listed = "  ".join(f"{reason} {count}" for reason, count in counts.items()) or "none"
    return Text(f"refused since the start of {view.metrics}: {listed}", style="dim")
