"""What the scripts answer, decoded; an answer of another shape is a bug and raises struct.error."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from limiter.domain.money import NANOUSD_PER_USD
from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag, State
from limiter.domain.rows import Row, RowKind, Taken
from limiter.domain.scopes import Scope
from limiter.store.encoding import LESSER, LESSER_AMOUNTS, RECORD
from limiter.store.keys import name_of_member, scope_of_field
from limiter.store.port import (
    ChargeReply,
    CounterState,
    EndReply,
    ExtendReply,
    HoldRecord,
    HoldReply,
    InspectReply,
    RawStatus,
)

_HOLD = struct.Struct("<BBBQQqB")
_STATUS = struct.Struct("<BBB5q")
_SUM = struct.Struct("<qq")
_END = struct.Struct("<BBBBIQq")
_EXTEND = struct.Struct("<BBBQ")
_CHARGE = struct.Struct("<BBBIQ")
_ROW = struct.Struct("<BBBBIqQqQQQQ")

_SCOPE = struct.Struct("<BQ")
_COUNTER = struct.Struct("<7q")

_REPEATED, _DUE_WAITING = 1, 2


def _statuses(raw: bytes, at: int) -> list[RawStatus]:
    return list(map(RawStatus._make, _STATUS.iter_unpack(raw[at:])))


def hold_reply(now_ms: int, raw: bytes) -> HoldReply:
    """Decode what reserve.lua answered for one hold."""
    code, state, flags, expires_ms, held, output_max, _ = _HOLD.unpack_from(raw)
    return HoldReply(
        now_ms,
        code,
        state,
        flags & _REPEATED != 0,
        flags & _DUE_WAITING != 0,
        expires_ms,
        held,
        output_max,
        _statuses(raw, _HOLD.size),
    )


def end_reply(now_ms: int, raw: bytes) -> EndReply:
    """Decode what settle.lua, release.lua or expire.lua answered for one hold."""
    if len(raw) == 1:
        return EndReply(
            now_ms,
            found=False,
            state=State.HELD,
            basis=None,
            repeated=False,
            flags=RowFlag(0),
            held=0,
            cost=0,
            other=raw == b"\2",
        )
    _, state, basis, repeated, flags, held, cost = _END.unpack(raw)
    return EndReply(
        now_ms,
        found=True,
        state=State(state),
        basis=Basis(basis) if basis else None,
        repeated=repeated == 1,
        flags=RowFlag(flags),
        held=held,
        cost=cost,
    )


def extend_reply(now_ms: int, raw: bytes) -> ExtendReply:
    """Decode what extend.lua answered for one hold."""
    if raw == b"\0":
        return ExtendReply(now_ms, found=False, state=State.HELD, repeated=False, expires_ms=0)
    _, state, repeated, expires_ms = _EXTEND.unpack(raw)
    return ExtendReply(now_ms, found=True, state=State(state), repeated=repeated == 1, expires_ms=expires_ms)


def charge_reply(now_ms: int, raw: bytes) -> ChargeReply:
    """Decode what charge.lua answered for one charge."""
    code, state, repeated, flags, cost = _CHARGE.unpack(raw)
    return ChargeReply(now_ms, code, state, repeated == 1, RowFlag(flags), cost)


def inspect_reply(now_ms: int, raw: bytes) -> InspectReply:
    """Decode what inspect.lua answered for one plan."""
    told = 2 + raw[1] * _STATUS.size
    return InspectReply(
        now_ms,
        raw[0],
        _statuses(raw[:told], 2),
        [usd * NANOUSD_PER_USD + nano for usd, nano in _SUM.iter_unpack(raw[told:])],
    )


def _taken(organization: str, raw: bytes, held: int) -> tuple[Taken, ...]:
    """Decode the taken part of a hold: see _holds.lua."""
    taken, at, amounts = [], 0, [held]
    if raw.startswith(b"\0"):
        _, *lesser = LESSER_AMOUNTS.unpack_from(raw)
        amounts, at = amounts + lesser, LESSER_AMOUNTS.size
    while at < len(raw):
        field_end = raw.index(b"\0", at + 1)
        layout_end = raw.index(b"\0", field_end + 1)
        scope = scope_of_field(organization, raw[at + 1 : field_end].decode())
        counters = raw[field_end + 1 : layout_end].decode().split(",")
        periods = struct.unpack_from(f"<{len(counters)}Q", raw, layout_end + 1)
        at = layout_end + 1 + 8 * len(counters)
        for counter, period in zip(counters, periods, strict=True):
            which, period_ms = divmod(period, LESSER)
            if period:
                taken.append(Taken(scope, counter, period_ms, amounts[which] if ":spend:" in counter else 0))
    return tuple(taken)


def hold_record(name: ReservationName, raw: bytes) -> HoldRecord:
    """Decode a hold's record: see _holds.lua."""
    (
        _, state, basis, on_expiry, flags, claims, reserved_ms, expires_ms, expires_max_ms, ended_ms, held, cost,
        tokens, output_max, fingerprint, size,
    ) = RECORD.unpack_from(raw)  # fmt: skip
    end = RECORD.size + size
    return HoldRecord(
        name=name,
        state=State(state),
        basis=Basis(basis) if basis else None,
        on_expiry=OnExpiry(on_expiry),
        flags=RowFlag(flags),
        claims=claims,
        reserved_ms=reserved_ms,
        expires_ms=expires_ms,
        expires_max_ms=expires_max_ms,
        ended_ms=ended_ms,
        held=held,
        cost=cost,
        tokens=tokens,
        output_max=output_max,
        fingerprint=fingerprint,
        taken=_taken(name.organization, raw[RECORD.size : end], held),
        call=raw[end:],
    )


def spend_counters(scope: Scope, raw: bytes) -> Iterator[CounterState]:
    """Decode the spend counters of a scope: see _scopes.lua."""
    end = raw.index(b"\0", _SCOPE.size)
    for counter, state in zip(
        raw[_SCOPE.size : end].decode().split(","), _COUNTER.iter_unpack(raw[end + 1 :]), strict=False
    ):
        if ":spend:" in counter:
            period_ms, _, usd, nano, held_usd, held_nano, _ = state
            settled, held = usd * NANOUSD_PER_USD + nano, held_usd * NANOUSD_PER_USD + held_nano
            yield CounterState(scope, counter, period_ms, settled, held)


def row(shard: int, row_id: bytes, raw: bytes) -> Row:
    """Decode a ledger row: see add_row in _holds.lua."""
    epoch, _, seq = row_id.decode().partition("-")
    _, kind, state, basis, flags, amount, held, cost, tokens, reserved_ms, expires_ms, at_ms = _ROW.unpack_from(raw)
    member_end = raw.index(b"\0", _ROW.size)
    member = raw[_ROW.size : member_end].decode()
    rest_size, taken_size = struct.unpack_from("<IH", raw, member_end + 1)
    taken_end = member_end + 7 + taken_size
    call_end = member_end + 5 + rest_size
    return Row(
        shard=shard,
        epoch=int(epoch),
        seq=int(seq),
        kind=RowKind(kind),
        member=member,
        state=State(state) if state else None,
        basis=Basis(basis) if basis else None,
        flags=RowFlag(flags),
        amount=amount,
        held=held,
        cost=cost,
        tokens=tokens,
        reserved_ms=reserved_ms,
        expires_ms=expires_ms,
        at_ms=at_ms,
        taken=_taken(name_of_member(member).organization, raw[member_end + 7 : taken_end], held),
        call=raw[taken_end:call_end],
        ending=raw[call_end:],
    )
