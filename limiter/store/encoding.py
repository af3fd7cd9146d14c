"""Plans and calls as the scripts read them; the formats are described in the Lua files."""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import groupby

from limiter.domain.limits import RATE_PERIODS, LimitKind
from limiter.domain.money import NANOUSD_PER_USD
from limiter.store.keys import key_field, scope_field
from limiter.store.port import AdjustCall, ChargeCall, EndCall, HoldCall, HoldRecord, Plan, PlanLimit

_ENFORCED, _SHADOW, _LESSER_MODE = 1, 2, 4

_PLAN_HEAD = struct.Struct("<QQBB")
_RULE = struct.Struct("<9q")
_WARN = struct.Struct("<3q")
_HOLD = struct.Struct("<HBBBBBIQQQQQQQq16sB")
_AMOUNTS = struct.Struct("<QQ")
_END = struct.Struct("<HBIQqQQ")
_CHARGE = struct.Struct("<HIQQQ16sI")
_ADJUST = struct.Struct("<HQQI")

#: A hold's record and the lesser amounts that its taken part may begin with: see _holds.lua.
LESSER_AMOUNTS = struct.Struct("<BQQ")
RECORD = struct.Struct("<BBBBIIQQQQQQQq16sH")
#: Above every time in ms: what a period has more where the counter holds a lesser amount.
LESSER = 2**48


def plan_blobs(plan: Plan) -> tuple[bytes, tuple[bytes, ...]]:
    """Encode a plan, and the rules of each of its scopes; the result is kept in it."""
    if plan.blobs is None:
        plan.blobs = (_encode_plan(plan), tuple(_encode_rules(scope.limits) for scope in plan.scopes))
    return plan.blobs


def _encode_plan(plan: Plan) -> bytes:
    key = key_field(plan.key) if plan.key is not None else b""
    parts = [_PLAN_HEAD.pack(plan.version, plan.key_revision, plan.denial, len(plan.scopes)), key, b"\0"]
    for scope in plan.scopes:
        parts += [scope_field(scope.scope), b"\0"]
    return b"".join(parts)


@lru_cache(maxsize=4096)
def _encode_rules(limits: tuple[PlanLimit, ...]) -> bytes:
    """Encode the limits of a scope; the same object for the same limits, as thousands of keys may have them."""
    layout = ",".join(entry.limit.counter for entry in limits)
    warns: list[bytes] = []
    rules = [_RULE.pack(*_rule(entry, warns)) for entry in limits]
    return b"".join([layout.encode(), b"\0", bytes([len(limits)]), *rules, struct.pack("<H", len(warns)), *warns])


def _rule(entry: PlanLimit, warns: list[bytes]) -> tuple[int, ...]:
    """Encode one limit; its thresholds are added to `warns`."""
    limit = entry.limit
    mode = 0 if not entry.applies else _SHADOW if limit.shadow else _ENFORCED
    if limit.kind is LimitKind.SPEND:
        first = 3 * len(warns) + 1
        for millionths in limit.warn_at:
            at = -(-limit.amount * millionths // 1_000_000)
            warns.append(_WARN.pack(millionths, *divmod(at, NANOUSD_PER_USD)))
        if mode:
            mode += _LESSER_MODE * entry.lesser
        return (limit.kind, mode, *divmod(limit.amount, NANOUSD_PER_USD), first, len(limit.warn_at), *entry.window)
    if limit.kind is LimitKind.CONCURRENCY:
        return (limit.kind, mode, limit.amount, 0, 0, 0, 0, 0, 0)
    ticks, tick_ms = RATE_PERIODS[limit.per]
    return (limit.kind, mode, limit.amount, limit.burst, ticks, tick_ms, 0, 0, 0)


def hold_blob(call: HoldCall, plan_index: int) -> bytes:
    """Encode one Reserve."""
    head = _HOLD.pack(
        plan_index,
        call.dry_run,
        call.all_limits,
        call.consume,
        call.on_expiry,
        call.requests,
        call.flags,
        call.cost,
        call.tokens,
        call.ttl_ms,
        call.lifetime_ms,
        call.retention_ms,
        call.key_expires_ms,
        call.secret_expires_ms,
        call.output_max,
        call.fingerprint,
        call.lesser is not None,
    )
    return head + call.call if call.lesser is None else head + _AMOUNTS.pack(*call.lesser) + call.call


def settle_blob(call: EndCall, organization_index: int) -> bytes:
    """Encode one Settle."""
    head = _END.pack(
        organization_index, call.basis, call.flags, call.cost, call.tokens, call.retention_ms, call.reserved_ms
    )
    return head + call.ending


def release_blob(call: EndCall, organization_index: int) -> bytes:
    """Encode one Release."""
    return struct.pack("<HIQQ", organization_index, call.flags, call.retention_ms, call.reserved_ms) + call.ending


def adjust_blob(call: AdjustCall, organization_index: int) -> bytes:
    """Encode one correction by an operator."""
    retired = b"" if call.retired is None else _record(call.retired)
    return _ADJUST.pack(organization_index, call.cost, call.retention_ms, len(retired)) + retired + call.ending


def _record(record: HoldRecord) -> bytes:
    """Encode a hold's record as the scripts do: see _holds.lua."""
    amounts = sorted({taken.held for taken in record.taken} - {0, record.held})[:2]
    parts = [LESSER_AMOUNTS.pack(0, *[*amounts, 0][:2])] if amounts else []
    for scope, counters in groupby(record.taken, key=lambda taken: taken.scope):
        taken = list(counters)
        parts += [
            bytes([len(taken)]),
            scope_field(scope),
            b"\0",
            ",".join(one.counter for one in taken).encode(),
            b"\0",
        ]
        periods = [
            one.period_ms + LESSER * (1 + amounts.index(one.held) if one.held in amounts else 0) for one in taken
        ]
        parts.append(struct.pack(f"<{len(periods)}Q", *periods))
    taken_part = b"".join(parts)
    head = RECORD.pack(
        1, record.state, record.basis or 0, record.on_expiry, record.flags, record.claims, record.reserved_ms,
        record.expires_ms, record.expires_max_ms, record.ended_ms, record.held, record.cost, record.tokens,
        record.output_max, record.fingerprint, len(taken_part),
    )  # fmt: skip
    return head + taken_part + record.call


def charge_blob(call: ChargeCall, plan_index: int) -> bytes:
    """Encode one Charge."""
    head = _CHARGE.pack(
        plan_index, call.flags, call.cost, call.occurred_ms, call.retention_ms, call.fingerprint, len(call.call)
    )
    return head + call.call + call.ending
