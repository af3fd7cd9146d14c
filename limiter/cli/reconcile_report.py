"""What `reconcile` prints."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final

from rich.console import RenderableType

from limiter.cli.output import facts, table, usd
from limiter.cli.plain import with_usd
from limiter.cli.policies import counted
from limiter.cli.reconcile_adjust import Words
from limiter.domain.money import format_usd
from limiter.ledger.reconciling.bills.lines import Told
from limiter.ledger.reconciling.plan import CHARGE, Plan, Planned, Step
from limiter.ledger.reconciling.results import Cell, Drift, Kind, shown, worst
from limiter.ledger.reconciling.run import totals

#: What people read of each kind.
WORDS: Final = {
    Kind.ROUNDING: "the bill's rounding",
    Kind.NEIGHBOUR: "counted in the neighbouring bucket",
    Kind.EXPIRED: "expiry charged: nobody settled",
    Kind.RELEASED: "released, but billed",
    Kind.ESTIMATED: "settled by an estimate",
    Kind.PRICE: "price changed",
    Kind.USAGE: "other tokens in the same calls",
    Kind.ONLY_THEIRS: "calls that only the bill has",
    Kind.ONLY_OURS: "calls that only the books have",
    Kind.MODEL_THEIRS: "model that only the bill has",
    Kind.MODEL_OURS: "model that only the books have",
    Kind.UNEXPLAINED: "unexplained",
}
_CELLS_MAX: Final = 20
_STEPS_MAX: Final = 20
_CSV: Final = (
    *("start", "end", "model", "ours_usd", "theirs_usd", "drift_usd", "drift_percent"),
    *("our_calls", "their_calls", "explanations"),
)


class ReconcileFormat(StrEnum):
    """What the comparison is printed for."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def percent(ours: int, drift: int) -> str:
    """Drift in percent of ours."""
    return f"{100 * Decimal(drift) / ours:+.4f} %" if ours else "—"


def time_of(at_ms: int) -> str:
    """A time in UTC, to the minute."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")


def as_tables(drift: Drift, told: Told, *, all_cells: bool) -> list[RenderableType]:
    """The comparison for people."""
    way = f"request id; {counted('calls', drift.matched)}" if drift.by_call else "model and bucket of time"
    head = [
        ("provider", drift.provider),
        ("period", f"{time_of(drift.from_ms)} to {time_of(drift.to_ms)}"),
        ("bill", f"{counted('lines', told.lines)}, rounded to {drift.unit:f} USD"),
        ("matched by", way),
        ("ours", usd(drift.ours)),
        ("theirs", usd(drift.theirs)),
        ("drift", f"{shown(drift.drift)} USD ({percent(drift.ours, drift.drift)})"),
        ("without rounding", f"{shown(drift.harmful)} USD"),
    ]
    parts: list[RenderableType] = [facts(head)]
    if found := drift.explanations():
        lines = [[WORDS[one.kind], shown(one.nanousd), str(one.calls or ""), one.note] for one in found[:_CELLS_MAX]]
        parts += ["", table(("why", "USD>", "calls>", "note"), lines)]
        parts += [f"and {len(found) - _CELLS_MAX} more: --format json"] if len(found) > _CELLS_MAX else []
    models = [
        [
            drift.names.get(key, key),
            format_usd(ours),
            format_usd(theirs),
            shown(theirs - ours),
            percent(ours, theirs - ours),
        ]
        for key, ours, theirs in totals(drift)
    ]
    parts += ["", table(("model", "ours>", "theirs>", "drift>", "%>"), models)]
    cells = drift.cells if all_cells else worst(drift.cells)[:_CELLS_MAX]
    if cells:
        more = 0 if all_cells else len(worst(drift.cells)) - len(cells)
        parts += [
            "",
            table(("from", "model", "booked>", "billed>", "drift>", "why"), (_cell_line(drift, one) for one in cells)),
        ]
        parts += [f"and {more} more: --all, or --format csv"] if more else []
    if drift.examples:
        rows = [
            [
                WORDS[one.kind], one.model, "" if one.ours is None else format_usd(one.ours),
                "" if one.theirs is None else format_usd(one.theirs), _full(one.reservation), one.request_id, one.line,
            ]
            for one in drift.examples
        ]  # fmt: skip
        parts += ["", table(("row", "model", "ours>", "theirs>", "reservation", "request id", "line"), rows)]
    return [*parts, *_notes(told)]


def _notes(told: Told) -> list[RenderableType]:
    lines = [f"left out: {one.lines} {reason}, {one.usd:f} USD" for reason, one in told.left_out.items()]
    if told.unknown_columns:
        lines.append(f"unknown columns, not read: {', '.join(sorted(told.unknown_columns))}")
    found = [*lines, *told.notes]
    return ["", *found] if found else []


def _cell_line(drift: Drift, cell: Cell) -> list[str]:
    parts = cell.explanations
    why = [WORDS[one.kind] + (f" {shown(one.nanousd)}" if len(parts) > 1 else "") for one in parts]
    name, time = drift.names.get(cell.key, cell.key), time_of(cell.bucket.start_ms)
    amounts = [format_usd(cell.ours.nanousd), format_usd(cell.theirs.nanousd), shown(cell.drift)]
    return [time, name, *amounts, "\n".join(why)]


def as_json(drift: Drift, told: Told) -> dict[str, Any]:
    """The comparison for programs."""
    return {
        **_head(drift),
        "bill": {
            "lines": told.lines,
            "left_out": {
                reason: {"lines": one.lines, "usd": f"{one.usd:f}"} for reason, one in told.left_out.items()
            },
            "unknown_columns": sorted(told.unknown_columns),
            "notes": told.notes,
        },
        "explanations": [
            with_usd({"kind": one.kind.value, "amount_nanousd": one.nanousd, "calls": one.calls, "note": one.note})
            for one in drift.explanations()
        ],
        "cells": [_cell_json(drift, cell) for cell in drift.cells],
        "rows": [_row_json(one) for one in drift.examples],
    }  # fmt: skip


def _head(drift: Drift) -> dict[str, Any]:
    return with_usd(
        {
            "provider": drift.provider,
            "from_ms": drift.from_ms,
            "to_ms": drift.to_ms,
            "matched_by": "request_id" if drift.by_call else "model_and_bucket",
            "matched_calls": drift.matched,
            "unit_usd": f"{drift.unit:f}",
            "ours_nanousd": drift.ours,
            "theirs_nanousd": drift.theirs,
            "drift_nanousd": drift.drift,
            "drift_without_rounding_nanousd": drift.harmful,
            "unexplained_nanousd": sum(o.nanousd for o in drift.explanations() if o.kind is Kind.UNEXPLAINED),
        }
    )


def _row_json(one: Any) -> dict[str, Any]:  # noqa: ANN401 - an Example
    found = one._asdict()
    found["kind"], found["reservation"] = one.kind.value, _full(one.reservation)
    found["ours_nanousd"], found["theirs_nanousd"] = found.pop("ours"), found.pop("theirs")
    return with_usd(found)


def _full(reservation: str) -> str:
    """`acme/0af7…` as `ledger adjust` takes it."""
    organization, _, id_ = reservation.partition("/")
    return f"organizations/{organization}/reservations/{id_}" if id_ else reservation


def _cell_json(drift: Drift, cell: Cell) -> dict[str, Any]:
    return with_usd(
        {
            "start_ms": cell.bucket.start_ms,
            "end_ms": cell.bucket.end_ms,
            "model": drift.names.get(cell.key, cell.key),
            "ours_nanousd": cell.ours.nanousd,
            "theirs_nanousd": cell.theirs.nanousd,
            "drift_nanousd": cell.drift,
            "our_calls": cell.ours.counts.calls,
            "their_calls": cell.theirs.counts.calls,
        }
    ) | {
        "explanations": [
            with_usd({"kind": one.kind.value, "amount_nanousd": one.nanousd, "calls": one.calls, "note": one.note})
            for one in cell.explanations
        ]
    }


def write_csv(drift: Drift) -> None:
    """Print a line for each model and bucket."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_CSV)
    for cell in drift.cells:
        ours, theirs = cell.ours.nanousd, cell.theirs.nanousd
        why = "; ".join(f"{one.kind.value} {format_usd(one.nanousd)}" for one in cell.explanations)
        start, end = (time_of(at_ms) for at_ms in cell.bucket)
        share = percent(ours, cell.drift).removesuffix(" %") if ours else ""
        amounts = [format_usd(amount) for amount in (ours, theirs, cell.drift)]
        counts = [cell.ours.counts.calls, cell.theirs.counts.calls]
        writer.writerow([start, end, drift.names.get(cell.key, cell.key), *amounts, share, *counts, why])


def plan_tables(plan: Plan, totals_: Sequence[Planned], words: Words) -> list[RenderableType]:
    """The adjusting rows for people: the first of them, and what all come to."""
    steps = [_step_line(step) for step in plan.steps(most=_STEPS_MAX)]
    made: list[RenderableType] = [
        "",
        table(("row", "time", "model", "now>", "then>", "subject", "why"), steps),
    ]
    if (more := sum(one.steps for one in totals_) - _STEPS_MAX) > 0:
        made.append(f"and {more} more: --format json")
    for one in totals_:
        noun, how = ("charges", _charged(words)) if one.kind == CHARGE else ("corrections", "")
        made.append(f"{counted(noun, one.steps)}, {shown(one.nanousd)} USD{how}")
    return made


def _charged(words: Words) -> str:
    """To whom charges go, and who pays for them."""
    if not words.charge_to:
        return ": left out without --charge-to"
    tags = ", ".join(f"{tag.name}:{tag.value}" for tag in words.tags)
    return f", to {words.charge_to}, {tags or 'without tags: for no customer, see --charge-tag'}"


def _step_line(step: Step) -> list[str]:
    subject = step.reservation or step.provider_request_id or step.request_id
    return [
        step.kind, time_of(step.at_ms), step.model, format_usd(step.before), format_usd(step.after), subject, step.why,
    ]  # fmt: skip


def step_json(step: Step, words: Words) -> dict[str, Any]:
    """An adjusting row for programs."""
    found = step._asdict()
    if step.kind == CHARGE:
        found |= {"charge_to": words.charge_to, "tags": [[tag.name, tag.value] for tag in words.tags]}
    found["before_nanousd"], found["after_nanousd"] = found.pop("before"), found.pop("after")
    return with_usd(found)
