"""Limits and their counters, as a table shows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rich.table import Table
from rich.text import Text

from limiter.cli.output import RIGHT, table, when
from limiter.client.contract import messages as pb
from limiter.domain.money import format_usd
from limiter.domain.scopes import Scope

#: From here on a limit is nearly reached, and at FULL it is; in thousandths.
NEAR: Final = 800
FULL: Final = 1_000

_RATES: Final = (pb.LimitStatus.REQUESTS, pb.LimitStatus.TOKENS)


def used(status: pb.LimitStatus) -> int:
    """How much of a limit is in use, in thousandths, rounded down; a limit of 0 is full."""
    size = status.burst if status.kind in _RATES else status.limit_value
    taken = size - status.remaining if status.kind in _RATES else status.settled + status.held
    return taken * FULL // size if size > 0 else FULL


def used_text(status: pb.LimitStatus) -> Text:
    """Write how much is in use, with a colour where it gets tight."""
    share = used(status)
    style = "bold red" if share >= FULL else "yellow" if share >= NEAR else ""
    return Text(f"{share // 10}.{share % 10} %", style=style)


def scope_path(status: pb.LimitStatus) -> str:
    """ORG/TEAM/KEY of a limit, as the command line writes scopes."""
    return Scope.parse(status.scope).path if status.scope else ""


def ceiling(status: pb.LimitStatus) -> str:
    """Write what a limit allows: `20.00 USD/day`, `600 requests/minute`, `200 holds`."""
    unit = "USD" if status.kind == pb.LimitStatus.SPEND else status.unit
    per = f"/{status.window}" if status.window and status.window != "total" else ""
    text = f"{amount(status, status.limit_value)} {unit}{per}"
    if status.kind in _RATES and status.burst != status.limit_value:
        text += f", burst {status.burst}"
    return text


def amount(status: pb.LimitStatus, value: int) -> str:
    """Write a number in the unit of a limit, without the unit."""
    return format_usd(value) if status.kind == pb.LimitStatus.SPEND else str(value)


def cells(status: pb.LimitStatus) -> list[str | Text]:
    """Settled, held, free and the share in use; what a kind of limit does not count stays empty."""
    is_rate = status.kind in _RATES
    return [
        amount(status, status.settled) if status.kind == pb.LimitStatus.SPEND else "",
        "" if is_rate else amount(status, status.held),
        amount(status, status.remaining),
        used_text(status),
    ]


def overage(status: pb.LimitStatus) -> str:
    """Write what was charged above the holds; empty for what counts no money."""
    return amount(status, status.overage) if status.kind == pb.LimitStatus.SPEND else ""


def limits_table(
    statuses: Iterable[pb.LimitStatus], *, title: str | None = None, asked: bool = False, read: bool = False
) -> Table:
    """Make the table of limits; `asked`: with what the call asked for, `read`: with what only reading them tells."""
    columns = ["scope", "limit", f"ceiling{RIGHT}", *(f"{name}{RIGHT}" for name in ("settled", "held", "free", "used"))]
    if asked:
        columns.append(f"asked for{RIGHT}")
    if read:
        columns.append(f"overage{RIGHT}")
    return table([*columns, "resets"], (_row(status, asked=asked, read=read) for status in statuses), title=title)


def limit_name(status: pb.LimitStatus) -> str:
    """The limit's id, marked if it refuses nothing."""
    return f"{status.limit} (shadow)" if status.shadow else status.limit


def _row(status: pb.LimitStatus, *, asked: bool, read: bool) -> list[str | Text]:
    row = [scope_path(status), limit_name(status), ceiling(status), *cells(status)]
    if asked:
        row.append(amount(status, status.requested))
    if read:
        row.append(overage(status))
    return [*row, when(status.resets_at) or when(status.refills_at)]
