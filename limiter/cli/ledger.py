"""`ledger …`: read what was spent, row by row."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from limiter.cli.lazy import example
from limiter.cli.options import Output, Scope, with_admin
from limiter.cli.output import Format
from limiter.cli.plain import with_usd
from limiter.cli.sidecar import Place
from limiter.client.contract import messages as pb
from limiter.domain.errors import InvalidArgument
from limiter.domain.money import format_usd

#: Widths of the columns, which a stream must know before its rows; a longer value pushes the rest aside.
_COLUMNS: Final = (
    ("time", 20),
    ("kind", 11),
    ("key", 28),
    ("model", 22),
    ("USD", -14),
    ("cost USD", -14),
    ("basis", 10),
)


@example("limiter ledger tail acme --follow", "limiter ledger tail --last 100 --format json")
@with_admin
def tail(
    *,
    scope: Scope = "",
    last: Annotated[
        int, typer.Option(metavar="N", min=1, max=100_000, help="Begin with so many rows of each shard.")
    ] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new rows as they come.")] = False,
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """Print the newest ledger rows, and new ones as they come."""
    for line in _lines(_rows(admin, pb.ReadLedgerRequest(scope=scope, follow=follow, last=last)), output):
        sys.stdout.write(line)
        sys.stdout.flush()


@example("limiter ledger export acme > acme.jsonl", "limiter ledger export --output ledger.jsonl")
@with_admin
def export(
    *,
    scope: Scope = "",
    file: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FILE", help="Where to write; it must not exist.", show_default="the standard output"
        ),
    ] = None,
    output: Output = Format.JSON,
    admin: Place,
) -> None:
    """Write every ledger row as a line of JSON."""
    try:
        opened = nullcontext(sys.stdout) if file is None else file.open("x", encoding="utf-8")
    except OSError as error:
        raise InvalidArgument("--output", str(file), f"name a new file ({error.strerror})") from None
    with opened as target:
        target.writelines(_lines(_rows(admin, pb.ReadLedgerRequest(scope=scope)), output))


def _lines(rows: Iterator[dict[str, Any]], output: Format) -> Iterator[str]:
    if output is Format.JSON:
        yield from (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
        return
    yield _padded([name for name, _ in _COLUMNS], "flags, tags, refusals")
    yield from (_padded(*_cells(row)) for row in rows)


def _rows(admin: Place, request: pb.ReadLedgerRequest) -> Iterator[dict[str, Any]]:
    with admin.open() as sidecar:
        for row in sidecar.stream(sidecar.admin.ReadLedger, request):
            yield with_usd(json.loads(row.json))


def _cells(row: dict[str, Any]) -> tuple[list[str], str]:
    call = row.get("call") or {}
    at_ms = row.get("at_ms")
    cells = [
        "" if at_ms is None else datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
        str(row.get("kind") or ""),
        str(call.get("key") or row.get("organization") or ""),
        str(call.get("model") or ""),
        format_usd(row.get("amount_nanousd") or 0),
        format_usd(row.get("cost_nanousd") or 0),
        str(row.get("basis") or ""),
    ]
    marks = [*row.get("flags", ()), *(f"{name}:{value}" for name, value in call.get("tags", ()))]
    refusals = [
        f"{sum_['count']} × {sum_['reason']} at {sum_['scope']} {sum_['limit']}".rstrip()
        for sum_ in call.get("refusals", ())
    ]
    return cells, " ".join([*marks, ", ".join(refusals)]).rstrip()


def _padded(cells: list[str], rest: str) -> str:
    padded = [
        cell.rjust(-width) if width < 0 else cell.ljust(width) for cell, (_, width) in zip(cells, _COLUMNS, strict=True)
    ]
    return "  ".join([*padded, rest]).rstrip() + "\n"
