"""How the outcome of a replay looks: tables for people, one JSON object for programs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from limiter.cli.output import table
from limiter.cli.replay_verdict import CHECKS, LimitLine, Outcome
from limiter.domain.limits import UNITS, LimitKind
from limiter.domain.money import format_usd
from limiter.domain.verdicts import DenialReason


def as_json(outcome: Outcome) -> dict[str, Any]:
    """All numbers of an outcome; money in nano-USD, times in seconds."""
    tally, score = outcome.tally, outcome.score
    return {
        "trace": outcome.trace,
        "model": score.model,
        "run": score.run,
        "seed": score.seed,
        "callers": score.callers,
        "speed": score.speed or "max",
        "calls": outcome.calls,
        "played": outcome.tally.done,
        "seconds": round(outcome.seconds, 3),
        "calls_per_second": round(tally.done / outcome.seconds, 1) if outcome.seconds else 0.0,
        "reserve_seconds": {name: round(value, 6) for name, value in _latencies(outcome).items()},
        "granted": tally.granted,
        "denied": {reason.name: count for reason, count in sorted(tally.denied.items())},
        "refused_for_now_and_asked_again": tally.retried,
        "undecided": dict(tally.undecided),
        "unsettled": dict(tally.unsettled),
        "reservations": outcome.books.states(),
        "ledger_rows": outcome.books.ledger.rows,
        "limits": [_limit_json(line) for line in outcome.limits],
        "customers": {
            name: {"granted": one.granted, "denied": one.denied, "cost_nanousd": one.cost_nanousd}
            for name, one in sorted(tally.customers.items())
        },
        "checks": {
            name: {
                "ok": not tally.faults.counts[name],
                "faults": tally.faults.counts[name],
                "told": tally.faults.told[name],
            }
            for name in CHECKS
        },
        "ok": outcome.kept,
    }


def _limit_json(line: LimitLine) -> dict[str, Any]:
    return {
        "scope": line.scope.path,
        "limit": line.limit,
        "kind": line.kind.name,
        "unit": UNITS[line.kind],
        "window": line.window,
        "limit_value": line.ceiling,
        "settled": line.settled,
        "held": line.held,
        "granted": line.granted,
        "refused": line.refused,
        "overshoot": line.overshoot,
        "overshoot_explained": line.explained,
        "shadow": line.shadow,
    }


def parts(outcome: Outcome) -> Iterator[RenderableType]:
    """Yield what people read: the tables, the sums and the verdict."""
    for part in (_limits(outcome), _refusals(outcome), _customers(outcome)):
        if part.row_count:
            yield part
            yield ""
    yield from _summary(outcome)
    yield from _verdict(outcome)


def _limits(outcome: Outcome) -> Table:
    titles = ("scope", "limit", "ceiling>", "settled>", "held>", "granted>", "refused>", "overshoot>", "by reason")
    return table(titles, (_limit_row(line) for line in outcome.limits), title="Limits (money in USD)")


def _limit_row(line: LimitLine) -> tuple[str | Text, ...]:
    spend = line.kind is LimitKind.SPEND
    amount = format_usd(line.ceiling) if spend else f"{line.ceiling} {UNITS[line.kind]}"
    return (
        line.scope.path,
        f"{line.limit} (shadow)" if line.shadow else line.limit,
        f"{amount} / {line.window}" if line.window else amount,
        format_usd(line.settled) if spend else "",
        format_usd(line.held) if spend else "",
        f"{line.granted}",
        f"{sum(line.refused.values())}",
        _overshoot(line),
        ", ".join(f"{name} {count}" for name, count in line.refused.items()),
    )


def _overshoot(line: LimitLine) -> Text:
    if line.kind not in (LimitKind.SPEND, LimitKind.CONCURRENCY):
        return Text("")
    shown = format_usd(line.overshoot) if line.kind is LimitKind.SPEND else str(line.overshoot)
    if line.overshoot == 0 or line.shadow:
        return Text(shown)
    if line.overshoot <= line.explained:
        return Text(f"{shown} by overage", style="yellow")
    return Text(f"{shown} PASSED", style="bold red")


def _refusals(outcome: Outcome) -> Table:
    denied = outcome.tally.denied
    rows = [(reason.name, f"{reason.http_status}", f"{denied[reason]}") for reason in DenialReason if denied[reason]]
    return table(("reason", "HTTP>", "calls>"), rows, title="Refusals")


def _customers(outcome: Outcome) -> Table:
    rows = [
        (name, f"{one.granted}", f"{one.denied}", format_usd(one.cost_nanousd))
        for name, one in sorted(outcome.tally.customers.items())
    ]
    return table(("customer", "granted>", "refused>", "spent USD>"), rows, title="Customers")


def _summary(outcome: Outcome) -> Iterator[str]:
    tally = outcome.tally
    rate = f", {tally.done / outcome.seconds:,.0f} calls/s" if outcome.seconds else ""
    latencies = _latencies(outcome)
    yield (
        f"{tally.done} of {outcome.calls} calls as {outcome.score.model} by {outcome.score.callers} callers"
        f" in {outcome.seconds:.1f} s{rate}; Reserve took {latencies['p50'] * 1000:.1f} ms (median),"
        f" {latencies['p99'] * 1000:.1f} ms (99 %)"
    )
    states = ", ".join(f"{count} {name}" for name, count in outcome.books.states().items() if count)
    spent = sum(one.cost_nanousd for one in tally.customers.values())
    yield (
        f"{tally.granted} granted ({states or 'none'}), {tally.denied.total()} refused;"
        f" {format_usd(spent)} USD spent, {outcome.books.ledger.rows} ledger rows"
    )


def _verdict(outcome: Outcome) -> Iterator[Text]:
    faults = outcome.tally.faults
    for name, promise in CHECKS.items():
        count = faults.counts[name]
        if not count:
            yield Text(f"ok      {promise}", style="green")
            continue
        yield Text(f"FAILED  not so: {promise} ({count} found)", style="bold red")
        for sentence in faults.told[name]:
            yield Text(f"        {sentence}")
        if count > len(faults.told[name]):
            yield Text(f"        and {count - len(faults.told[name])} more")
    yield Text("The limiter kept its word." if outcome.kept else "The limiter did NOT keep its word.", style="bold")


def _latencies(outcome: Outcome) -> dict[str, float]:
    ordered = sorted(outcome.tally.latencies_s)
    shares = {"p50": 0.50, "p90": 0.90, "p99": 0.99, "max": 1.0}
    return {
        name: ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0 for name, share in shares.items()
    }
