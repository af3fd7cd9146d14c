"""A report's lines as plain values, in order; and as the files that other programs read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from datetime import tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from limiter.domain.errors import FailedPrecondition, InvalidArgument
from limiter.domain.money import format_usd
from limiter.ledger.periods import KINDS, local
from limiter.ledger.reports.questions import PLACES, Dimension, Question
from limiter.ledger.reports.report import Group, Line, Report

_TOKENS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
#: What is told of a line, in this order.
MEASURES: Final = (
    *("calls", *_TOKENS, "cost_nanousd", "cost_usd", "share", "held_nanousd", "held_usd", "held_to_cost"),
    *("released", "refused", "refused_by_reason"),
)
_TAKEN: Final = frozenset((*PLACES, *KINDS, *MEASURES))
_BY_AMOUNT: Final[dict[str, Callable[[Line], int]]] = {
    "cost": lambda line: line.cost_nanousd,
    "held": lambda line: line.held_nanousd,
    "refused": lambda line: line.refusals or 0,
    **{name: lambda line, name=name: getattr(line, name) for name in ("calls", "released", *_TOKENS)},  # type: ignore[misc]
}
#: A cell that begins so is a formula to a spreadsheet; some take the wide forms of = + - @ as well.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def titles(by: Sequence[Dimension]) -> list[str]:
    """The names of the columns of a grouping: a tag that is called like another column keeps its `tag:`."""
    return [dimension.text if dimension.name in _TAKEN else dimension.name for dimension in by]


def in_order(report: Report, sort: str) -> list[Line]:
    """The lines by an amount, largest first, or by a column of the grouping; "": by time, else by cost."""
    by = titles(report.question.by)
    if sort not in ("", *_BY_AMOUNT, *by):
        raise InvalidArgument("--sort", sort, f"use {', '.join((*_BY_AMOUNT, *by))}")
    lines = sorted(report.lines, key=lambda line: _sortable(line.group))
    if sort in by:
        column = by.index(sort)
        if not report.question.by[column].is_time:
            return sorted(lines, key=lambda line: _sortable(line.group[column : column + 1]))
    else:
        amount = _BY_AMOUNT[sort or "cost"]
        lines.sort(key=lambda line: -amount(line))
    if sort in ("", *by) and report.question.kinds:
        lines.sort(key=lambda line: line.start_ms)
    return lines


def _sortable(group: Group) -> list[tuple[bool, str]]:
    return [(value is None, value or "") for value in group]


def record(line: Line, total: Line) -> dict[str, Any]:
    """What is told of a line: integers, amounts in USD and ratios as decimals, what is not known as None."""
    return {
        "calls": line.calls,
        **{name: getattr(line, name) for name in _TOKENS},
        "cost_nanousd": line.cost_nanousd,
        "cost_usd": format_usd(line.cost_nanousd),
        "share": line.share(total),
        "held_nanousd": line.held_nanousd,
        "held_usd": format_usd(line.held_nanousd),
        "held_to_cost": line.held_to_cost,
        "released": line.released,
        "refused": line.refusals,
        "refused_by_reason": None if line.refused is None else dict(line.refused.most_common()),
    }


def as_json(report: Report, lines: Sequence[Line], notes: Sequence[str]) -> dict[str, Any]:
    """The report as one JSON object. A value that calls do not have is null."""
    by = titles(report.question.by)
    return {
        **_head(report.question),
        "total": _for_json(record(report.total, report.total)),
        "line_count": len(report.lines) if by else 0,
        "lines": [
            {"group": dict(zip(by, line.group, strict=True)), **_for_json(record(line, report.total))}
            for line in (lines if by else [])
        ],
        "refusals_by_limit": [
            {"scope": scope, "limit": limit, "reason": reason, "refusals": count}
            for (scope, limit, reason), count in report.limits.most_common()
        ],
        "notes": list(notes),
    }


def _head(question: Question) -> dict[str, Any]:
    return {
        "from": _time(question.start_ms, question.zone),
        "to": _time(question.end_ms, question.zone),
        "timezone": str(question.zone),
        "by": titles(question.by),
        "where": [{"name": one.dimension.text, "values": list(one.patterns)} for one in question.where],
    }


def _time(at_ms: int, zone: tzinfo) -> str:
    return local(at_ms, zone).isoformat()


def _for_json(values: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in values.items()}


def as_csv(report: Report, lines: Sequence[Line]) -> str:
    """The lines as RFC 4180 has it, with a header; without a grouping the total. No cell of text is a formula."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_harmless(title) for title in titles(report.question.by)] + list(MEASURES))
    for line in lines:
        values = record(line, report.total)
        reasons = values["refused_by_reason"]
        values["refused_by_reason"] = reasons and ";".join(f"{name}={count}" for name, count in reasons.items())
        group = [_harmless(shown(value, d)) for value, d in zip(line.group, report.question.by, strict=True)]
        writer.writerow([*group, *("" if value is None else str(value) for value in values.values())])
    return text.getvalue()


def shown(value: str | None, dimension: Dimension) -> str:
    """A value for people."""
    return value if value is not None else "(untagged)" if dimension.is_tag else "(none)"


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text


def write_parquet(report: Report, lines: Sequence[Line], notes: Sequence[str], target: Path) -> None:
    """Write the lines to a Parquet file; its metadata has the total under `limiter`, as JSON."""
    try:
        import pyarrow as pa  # type: ignore[import-untyped] # noqa: PLC0415 - an optional package
        import pyarrow.parquet as pq  # type: ignore[import-untyped] # noqa: PLC0415 - as above
    except ImportError:
        raise FailedPrecondition("--format parquet needs a package; pip install 'limiter[parquet]'") from None
    usd, ratio = pa.decimal128(38, 9), pa.decimal128(38, 6)
    types = dict.fromkeys(MEASURES, pa.int64()) | {"cost_usd": usd, "held_usd": usd, "share": ratio}
    types |= {"held_to_cost": ratio, "refused_by_reason": pa.map_(pa.string(), pa.int64())}
    by = titles(report.question.by)
    about = as_json(report, [], notes) | {"lines": None}
    schema = pa.schema([*((name, pa.string()) for name in by), *types.items()], metadata={"limiter": json.dumps(about)})
    values = [dict(zip(by, line.group, strict=True)) | _for_parquet(record(line, report.total)) for line in lines]
    try:
        pq.write_table(pa.Table.from_pylist(values, schema=schema), target)
    except OSError as error:
        raise not_written(target, error) from None


def _for_parquet(values: dict[str, Any]) -> dict[str, Any]:
    reasons = values["refused_by_reason"]
    return values | {
        "cost_usd": Decimal(values["cost_usd"]),
        "held_usd": Decimal(values["held_usd"]),
        "refused_by_reason": None if reasons is None else list(reasons.items()),
    }


def not_written(target: Path, error: OSError) -> InvalidArgument:
    """What is said of a file that cannot be written."""
    return InvalidArgument("--output", str(target), f"name a file that can be written ({error.strerror or error})")
