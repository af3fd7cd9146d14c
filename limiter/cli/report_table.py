"""A report for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from limiter.cli.output import table
from limiter.cli.report_lines import shown, titles
from limiter.domain.money import NANOUSD_PER_USD, format_usd
from limiter.ledger.periods import local
from limiter.ledger.reports.report import Line, Report

#: Counts that have a column where they are not all 0.
_COUNTS: Final = (
    ("calls", "calls"),
    ("input_tokens", "input"),
    ("output_tokens", "output"),
    ("cache_read_tokens", "cache read"),
    ("cache_write_tokens", "cache write"),
    ("reasoning_tokens", "reasoning"),
)
_ALWAYS: Final = ("calls", "input_tokens", "output_tokens")
_LIMITS_SHOWN: Final = 10


def parts(report: Report, lines: Sequence[Line], notes: Sequence[str]) -> Iterator[RenderableType]:
    """Yield what is printed: what was asked, the lines and the total, which limits refused, and notes."""
    yield _asked(report)
    yield ""
    if report.is_empty:
        yield "Nothing: no call was reserved or refused that fits."
    else:
        yield _table(report, lines)
        yield from _refusals(report)
    for note in notes:
        yield f"Note: {note}."


def _asked(report: Report) -> str:
    question = report.question
    start, end = (local(at_ms, question.zone) for at_ms in (question.start_ms, question.end_ms))
    where = "".join(f", {one.dimension.text}={','.join(one.patterns)}" for one in question.where)
    return f"Calls reserved from {start:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} ({question.zone}){where}"


def _table(report: Report, lines: Sequence[Line]) -> Table:
    by = report.question.by
    total = report.total
    everything = [*(lines if by else ()), total]
    counts = [(name, title) for name, title in _COUNTS if name in _ALWAYS or getattr(total, name)]
    costs, held = _aligned(everything, "amount_nanousd"), _aligned(everything, "held_nanousd")
    released = any(line.released for line in everything)
    refused = any(line.refusals for line in everything)
    columns = [*titles(by), *(f"{title}>" for _, title in counts), "cost USD>", *(["share>"] if by else [])]
    columns += ["held USD>", "held/cost>", *(["released>"] if released else [])]
    columns += ["refused>", "by reason"] if refused else []
    rows: list[list[str | Text]] = []
    for i, line in enumerate(everything):
        is_total = i == len(everything) - 1
        group = [shown(value, d) for value, d in zip(line.group, by, strict=True)] if not is_total else _total(len(by))
        cells = [*group, *(f"{getattr(line, name):,}" for name, _ in counts), costs[i]]
        cells += [_percent(line.share(total))] if by else []
        cells += [held[i], "" if line.held_to_cost is None else f"{line.held_to_cost:.2f}"]
        cells += [f"{line.released:,}"] if released else []
        cells += ["?" if line.refusals is None else f"{line.refusals:,}", _why(line)] if refused else []
        rows.append([Text(cell, style="bold") if is_total and by else cell for cell in cells])
    made = table(columns, rows)
    if by and lines:
        made.rows[-2].end_section = True
    return made


def _total(columns: int) -> list[str]:
    return ["total", *[""] * (columns - 1)] if columns else []


def _aligned(lines: Sequence[Line], name: str) -> list[str]:
    """Amounts in USD with as many decimals as the one that needs the most of them."""
    amounts = [getattr(line, name) for line in lines]
    decimals = max(len(format_usd(amount).partition(".")[2]) for amount in amounts)
    return [f"{Decimal(amount) / NANOUSD_PER_USD:,.{decimals}f}" for amount in amounts]


def _percent(share: Decimal | None) -> str:
    return "" if share is None else f"{share * 100:.1f} %"


def _why(line: Line) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in (line.refused or Counter[str]()).most_common())


def _refusals(report: Report) -> Iterator[RenderableType]:
    limits = report.limits.most_common()
    if not limits:
        return
    yield ""
    rows = [
        (scope, limit or "(none)", reason, f"{count:,}") for (scope, limit, reason), count in limits[:_LIMITS_SHOWN]
    ]
    yield table(("refused at", "limit", "reason", "refusals>"), rows)
    if len(limits) > _LIMITS_SHOWN:
        yield f"and {len(limits) - _LIMITS_SHOWN} more (--format json has them all)"
