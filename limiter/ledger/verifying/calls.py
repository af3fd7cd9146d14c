"""Whether the rows of a call agree: corrections point to its first row, costs follow, nothing is charged twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

from sqlalchemy import Connection, and_, exists, func, select

from limiter.domain.reservations import RowFlag, State
from limiter.domain.rows import SPENDING, Position, RowKind
from limiter.ledger.schema import ledger
from limiter.ledger.verifying.findings import Findings, position_name, row_name
from limiter.ledger.verifying.rows import parts

#: Reservations per look-up.
_AT_ONCE: Final = 500
_ID_CHARACTERS: Final = 32
_FIRST: Final = (RowKind.SETTLEMENT, RowKind.CHARGE)
_SUBJECT: Final = (ledger.c.reservation, ledger.c.organization, ledger.c.reserved_ms)
_ROW: Final = (
    *(ledger.c.shard, ledger.c.epoch, ledger.c.seq, ledger.c.kind, ledger.c.state, ledger.c.flags),
    *(ledger.c.amount_nanousd, ledger.c.cost_nanousd),
)


def check_calls(connection: Connection, findings: Findings) -> None:
    """Check what has several rows; calls of one row are seen with it."""
    for check in ("correction", "twice"):
        findings.look(check)
    _check_pointers(connection, findings)
    several = (
        select(ledger.c.reservation)
        .where(func.length(ledger.c.reservation) == _ID_CHARACTERS)
        .group_by(ledger.c.reservation)
        .having(func.count() > 1)
    )
    for part in parts(connection, several):
        ids = [row.reservation for row in part]
        for at in range(0, len(ids), _AT_ONCE):
            _check_several(connection, findings, ids[at : at + _AT_ONCE])


def _check_pointers(connection: Connection, findings: Findings) -> None:
    """A correction whose first row is not there, or is another call's."""
    first = ledger.alias("first")
    same = and_(
        first.c.shard == ledger.c.shard,
        first.c.epoch == ledger.c.corrects_epoch,
        first.c.seq == ledger.c.corrects_seq,
        first.c.kind.in_(_FIRST),
        *(first.c[column.name] == column for column in _SUBJECT),
    )
    columns = (*_ROW[:3], ledger.c.reservation, ledger.c.corrects_epoch, ledger.c.corrects_seq)
    wrong = select(*columns).where(ledger.c.kind == RowKind.CORRECTION, ~exists().where(same))
    for part in parts(connection, wrong):
        for shard, epoch, seq, reservation, *points in part:
            where = row_name(shard, (epoch, seq))
            found = "nothing" if points[1] is None else position_name((points[0], points[1]))
            findings.fault("correction", where, f"points to the first row of {reservation}", f"points to {found}")


def _check_several(connection: Connection, findings: Findings, ids: Sequence[str]) -> None:
    wanted = ledger.c.reservation.in_(ids), ledger.c.kind.in_(SPENDING)
    statement = select(*_SUBJECT, *_ROW).where(*wanted).order_by(*_SUBJECT, *_ROW[:3])
    found = connection.execute(statement).all()
    for (reservation, *_), rows in groupby(found, lambda row: tuple(row[:3])):
        _check_call(findings, reservation, [row[3:] for row in rows])
        for check in ("correction", "twice"):
            findings.look(check, 1)


@dataclass(slots=True)
class _Call:
    """A call as its rows so far tell it. `nothing`: it was given back by who never had it, or corrected away."""

    shard: int
    first: Position
    cost: int
    nothing: bool = False


def _check_call(findings: Findings, reservation: str, rows: Iterable[Sequence[Any]]) -> None:
    calls: list[_Call] = []
    for shard, epoch, seq, kind, state, flags, amount, cost in rows:
        where = row_name(shard, (epoch, seq))
        if not all(isinstance(value, int) for value in (flags, amount, cost)):
            return  # a text where there should be a number: its checksum tells
        if kind in _FIRST:
            given_back = state == State.RELEASED and bool(flags & RowFlag.UNCLAIMED)
            calls.append(_Call(shard, Position(epoch, seq), cost, nothing=given_back))
            continue
        if not calls:
            continue  # told as a correction of nothing
        call = calls[-1]
        if call.cost + amount != cost:
            findings.fault("cost", where, f"cost_nanousd {call.cost} + {amount}", cost)
        call.cost, call.nothing = cost, cost == 0
    charged = [call for call in calls if not call.nothing]
    for again in charged[1:]:
        where = row_name(again.shard, again.first)
        findings.fault("twice", where, f"{reservation} once, by {position_name(charged[0].first)}", "charged again")
