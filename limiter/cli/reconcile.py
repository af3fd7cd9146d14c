"""`reconcile`: hold the books against a provider's bill."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import typer
from rich.console import Console

from limiter.cli import reconcile_options as options
from limiter.cli.arguments import tags
from limiter.cli.books import with_books
from limiter.cli.failures import ExitCode, say
from limiter.cli.lazy import example
from limiter.cli.options import with_admin
from limiter.cli.output import write, write_json
from limiter.cli.policies import counted
from limiter.cli.reconcile_adjust import Done, Words, carry_out, listener_of
from limiter.cli.reconcile_checks import check
from limiter.cli.reconcile_report import ReconcileFormat, as_json, as_tables, plan_tables, step_json, write_csv
from limiter.cli.sidecar import Place
from limiter.client.contract import messages as pb
from limiter.domain.errors import InvalidArgument
from limiter.domain.money import parse_usd
from limiter.domain.scopes import Scope
from limiter.ledger.alerting.alerts import tell
from limiter.ledger.database import Database
from limiter.ledger.reconciling.bills import Bill
from limiter.ledger.reconciling.plan import CHARGE, Plan
from limiter.ledger.reconciling.results import shown
from limiter.ledger.reconciling.run import Reconciliation
from limiter.ledger.reports.questions import Question, grouping
from limiter.ledger.reports.report import make_report


@example(
    "limiter reconcile --provider openai --file costs.json --file usage.json",
    "limiter reconcile --provider aws --file cur-00001.csv.gz --from 2026-11-01 --to 2026-12-01 --format csv",
    "limiter reconcile --provider acme --file export.csv --mapping acme.yaml --adjust --charge-to acme/finance/bill"
    " --charge-tag customer:acme",
)
@with_books
@with_admin
def reconcile(
    *,
    provider: options.Provider,
    file: options.Files,
    mapping: options.MappingFile = None,
    ours: options.Ours = [],  # noqa: B006 - typer's; nobody changes it
    from_: options.From = None,
    to: options.To = None,
    tolerance: options.Tolerance = "0.000001",
    rounds_up: options.RoundsUp = False,
    count_credits: options.CountCredits = False,
    all_buckets: options.AllBuckets = False,
    output: options.Output = ReconcileFormat.TABLE,
    adjust: options.Adjust = False,
    by: options.By = "",
    reason: options.Reason = "",
    charge_to: options.ChargeTo = "",
    charge_tag: options.ChargeTags = [],  # noqa: B006 - typer's; nobody changes it
    zero_absent: options.ZeroAbsent = False,
    yes: options.Yes = False,
    charge_address: options.ChargeAddress = None,
    charge_token: options.ChargeToken = None,
    books: Database,
    admin: Place,
) -> None:
    """Compare the books with a provider's bill.

    Prints ours, theirs and the drift by model and bucket of time, and explains it to the nano-dollar. Ends with exit
    code 1 if drift beyond the tolerance remains; an alert of it (books.drift) is written then.
    """
    accepted = parse_usd(tolerance, field="--tolerance")
    if charge_to:
        Scope.parse_key(charge_to, field="--charge-to")
    words = Words(provider, by or getpass.getuser(), reason or f"the bill of {provider}", charge_to, _tags(charge_tag))
    flags = {"providers": tuple(ours), "credits_count": count_credits, "rounds_up": rounds_up}
    run = _run(books, Bill(provider, file, mapping), from_, to, flags)
    off = run.drift.beyond(accepted)
    plan = Plan(run, zero_absent=zero_absent) if adjust else None
    _show(run, plan, words, output, all_buckets=all_buckets)
    misnamed = not run.drift.ours and _misnamed(books, run)
    if off and not misnamed:
        tell(books, run.drift.alert(int(time.time() * 1000)))
    if off and plan is not None:
        off = not _adjusted(plan, admin, words, (charge_address, charge_token), output, yes=yes)
    run.close()
    if off:
        raise typer.Exit(ExitCode.FAILED)


def _run(
    database: Database, bill: Bill, from_: datetime | None, to: datetime | None, flags: Mapping[str, Any]
) -> Reconciliation:
    from_ms, to_ms = (None if at is None else int(at.timestamp() * 1000) for at in (from_, to))
    if from_ms is not None and to_ms is not None and from_ms >= to_ms:
        raise InvalidArgument("--to", str(to), "name a time after --from")
    terminal = Console(stderr=True)
    waiting = terminal.status("reading the bill and the books") if terminal.is_terminal else nullcontext()
    with waiting:
        return Reconciliation(database, bill, from_ms=from_ms, to_ms=to_ms, **flags)


def _tags(texts: list[str]) -> tuple[pb.Tag, ...]:
    found = tags(texts, option="--charge-tag")
    return tuple(pb.Tag(name=name, value=value) for name, values in found.items() for value in values)


def _show(run: Reconciliation, plan: Plan | None, words: Words, output: ReconcileFormat, *, all_buckets: bool) -> None:
    told = run.gathered.bill.told
    if output is ReconcileFormat.CSV:
        write_csv(run.drift)
    elif output is ReconcileFormat.JSON:
        found: dict[str, Any] = as_json(run.drift, told)
        if plan is not None:
            found["plan"] = [step_json(step, words) for step in plan.steps()]
        write_json(found)
    else:
        write(*as_tables(run.drift, told, all_cells=all_buckets))
        if plan is not None and (totals := plan.totals()):
            write(*plan_tables(plan, totals, words))


def _misnamed(books: Database, run: Reconciliation) -> bool:
    """Nothing of this provider is in the books: if they know others, say which."""
    made = make_report(books, Question(*run.period, UTC, grouping(("provider",), field="--by")))
    known = {line.group[0] for line in made.lines} - {None, ""}
    named = run.keys.providers
    misnamed = bool(known) and known.isdisjoint(named)
    if misnamed:
        say(
            f"the books have no call of {' or '.join(named)} in this time, "
            f"but of {', '.join(sorted(map(str, known)))}: "
            "if the bill is for these, name them by --ours"
        )
    return misnamed


def _adjusted(
    plan: Plan,
    admin: Place,
    words: Words,
    listener: tuple[str | None, str | None],
    output: ReconcileFormat,
    *,
    yes: bool,
) -> bool:
    """Ask, do, and say what was done; False: drift remains."""
    totals = plan.totals()
    if not totals:
        say("nothing to adjust; calls that only the books have are set to 0 by --zero-absent alone")
        return False
    if not yes and output is not ReconcileFormat.TABLE:
        return _not_written()
    charges = any(one.kind == CHARGE for one in totals)
    caller = listener_of(admin, *listener) if charges and words.charge_to else None
    check(plan, admin, caller, words)
    if not yes and not _confirmed():
        return _not_written()
    done = carry_out(plan, admin, caller, words)
    _tell(done, sum(one.nanousd for one in totals))
    return not (done.refused or done.skipped)


def _not_written() -> bool:
    say("nothing was written; --yes writes these rows")
    return False


def _confirmed() -> bool:
    sys.stdout.flush()  # the rows are read before the question
    try:
        return typer.confirm("Write these rows?", default=False, err=True)
    except typer.Abort:  # nobody is there to answer
        say("")  # the question's line ends
        return False


def _tell(done: Done, nanousd: int) -> None:
    counts = asdict(done)
    say(
        f"{counted('calls', counts['adjusted'])} corrected, {counted('charges', counts['charged'])} written"
        + ("" if done.refused or done.skipped else f"; the books changed by {shown(nanousd)} USD")
    )
    if done.skipped:
        say(f"{counted('charges', done.skipped)} left out: say with --charge-to which key they are charged to")
    for message in done.failed:
        say(f"not corrected: {message}")
    if done.refused > len(done.failed):
        say(f"and {done.refused - len(done.failed)} more")
