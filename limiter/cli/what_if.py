"""`what-if`: what a proposed policy would have refused of the calls in the books; no sidecar is needed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import tzinfo
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from limiter.app import run_loop
from limiter.cli.arguments import read_file
from limiter.cli.books import with_books
from limiter.cli.failures import ExitCode
from limiter.cli.lazy import example
from limiter.cli.options import Output
from limiter.cli.output import Format, write, write_json
from limiter.cli.policies import print_mistakes
from limiter.cli.what_if_report import Played, as_json, parts
from limiter.domain.errors import InvalidArgument
from limiter.domain.zones import zone
from limiter.ledger.database import Database
from limiter.ledger.periods import instant, month, month_start
from limiter.ledger.replaying import count_calls, past_calls, spent
from limiter.policy.document import OrganizationPolicy, Policy, PolicyInvalid, parse_policy
from limiter.scratch import scratch_store
from limiter.service.what_if import WhatIf
from limiter.service.what_if_plans import Proposal
from limiter.service.what_if_tally import Tally


@example(
    "limiter what-if --policy new.yaml --month 2026-11",
    "limiter what-if --policy new.yaml --from 2026-11-15T12:00:00Z --organization acme --format json",
)
@with_books
def what_if(
    *,
    policy: Annotated[
        Path, typer.Option(metavar="FILE", help="The proposed policy; - is the standard input.", show_default=False)
    ],
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TIME", help="A date or an ISO 8601 time, in the time zone.", show_default="this month"
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="Likewise; calls of that instant are left out.", show_default="now"),
    ] = None,
    whole_month: Annotated[str | None, typer.Option("--month", metavar="YYYY-MM", help="A whole month.")] = None,
    organization: Annotated[
        str | None, typer.Option(metavar="ORG", help="Only this one.", show_default="all that the policy names")
    ] = None,
    timezone: Annotated[
        str,
        typer.Option(
            "--timezone",
            metavar="ZONE",
            help="For --from, --to, --month and the times that are shown. Windows are in the policy's.",
        ),
    ] = "UTC",
    output: Output = Format.TABLE,
    books: Database,
) -> None:
    """Replay the books' calls against another policy.

    They are decided again in the order in which they happened, by the limiter's own rules, in a store that is thrown
    away: what was held is reserved, what it cost is settled. A call that would have been refused takes nothing.
    Neither the policy in force nor any counter is touched.
    """
    try:
        proposed = parse_policy(read_file(policy, option="--policy"))
    except PolicyInvalid as error:
        print_mistakes(error, policy, output)
        raise typer.Exit(ExitCode.FAILED) from None
    at = zone(timezone)
    start_ms, end_ms = _stretch(at, start=start, end=end, whole_month=whole_month)
    proposal = Proposal(_wanted(proposed, organization))
    played = Played(str(policy), start_ms, end_ms, at, tuple(proposal.organizations))
    with books.read() as connection:
        counts = count_calls(connection, start_ms=start_ms, end_ms=end_ms)
    if organization is None:
        played.left_out = {name: count for name, count in counts.items() if name not in proposal.organizations}
    total = sum(count for name, count in counts.items() if name in proposal.organizations)
    if total:
        with _progress(total) as advance:
            played.tally = run_loop(_play(books, proposal, played, advance))
    if output is Format.JSON:
        write_json(as_json(played))
    else:
        write(*parts(played))


def _stretch(at: tzinfo, *, start: str | None, end: str | None, whole_month: str | None) -> tuple[int, int]:
    """The time that is asked for, in ms: by default this month so far."""
    if whole_month is not None:
        if start is not None or end is not None:
            raise InvalidArgument("--month", whole_month, "use it, or --from and --to, not both")
        return month(whole_month, at, field="--month")
    end_ms = int(time.time() * 1000) if end is None else instant(end, at, field="--to")
    start_ms = month_start(max(end_ms - 1, 0), at) if start is None else instant(start, at, field="--from")
    if start_ms >= end_ms:
        field, value = ("--from", start) if end is None else ("--to", end)
        raise InvalidArgument(field, value, "the time must begin before it ends, and --to itself is left out")
    return start_ms, end_ms


async def _play(books: Database, proposal: Proposal, played: Played, advance: Callable[[int], object]) -> Tally:
    start_ms, names = played.start_ms, played.organizations
    async with scratch_store() as store:
        replay = WhatIf(store, proposal, advance=advance)
        with books.read() as connection:
            before = spent(connection, proposal.window_starts(start_ms), end_ms=start_ms, organizations=names)
            await replay.open(before, at_ms=start_ms)
            await replay.play(past_calls(connection, start_ms=start_ms, end_ms=played.end_ms, organizations=names))
    return replay.tally


def _wanted(policy: Policy, organization: str | None) -> dict[str, OrganizationPolicy]:
    if organization is None:
        return dict(policy.organizations)
    if organization not in policy.organizations:
        raise InvalidArgument("--organization", organization, f"the policy names {', '.join(policy.organizations)}")
    return {organization: policy.organizations[organization]}


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], object]]:
    """Show how many calls have been played, on standard error where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("what-if", total=total)
        yield lambda done: progress.update(task, completed=done)
