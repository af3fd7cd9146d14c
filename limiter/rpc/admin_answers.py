"""From the administration's words to the messages of the Admin service; pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from limiter.domain.reservations import RowFlag
from limiter.domain.rows import Position, Row, Taken
from limiter.policy.document import limits_to_yaml
from limiter.rpc.answers import timestamp
from limiter.service.administration import Applied
from limiter.service.keyring import KeyView
from limiter.store.port import CounterState, HoldRecord
from limiter.v1 import limiter_pb2 as pb


def applied(result: Applied) -> pb.ApplyPolicyResponse:
    """What an apply changed."""
    return pb.ApplyPolicyResponse(
        changes=[
            pb.PolicyChange(
                organization=organization,
                path=change.path,
                change=change.change,
                before=change.before,
                after=change.after,
            )
            for organization, change in result.changes
        ],
        versions=result.versions,
        notes=result.notes,
        openings=[
            pb.Opening(
                scope=opening.scope,
                limit=opening.limit,
                window=opening.window,
                amount_nanousd=opening.amount,
                pending=opening.pending,
            )
            for opening in result.openings
        ],
    )


def key(view: KeyView) -> pb.Key:
    """A key, without anything secret."""
    record = view.record
    return pb.Key(
        key=view.key.path,
        enabled=record.enabled,
        expires_at=timestamp(record.expires_ms) if record.expires_ms else None,
        limits_yaml="" if record.limits is None else limits_to_yaml(record.limits),
        secrets=[
            pb.Key.Secret(
                hint=secret.hint,
                not_after=timestamp(secret.not_after_ms) if secret.not_after_ms else None,
                pepper_version=secret.digest.partition(":")[0],
                created_at=timestamp(secret.created_ms),
            )
            for secret in record.secrets
        ],
        created_at=timestamp(record.created_ms) if record.created_ms else None,
        declared=view.declared,
    )


def reservation(record: HoldRecord) -> pb.Reservation:
    """A reservation as the store keeps it."""
    call = json.loads(record.call) if record.call else {}
    return pb.Reservation(
        reservation=str(record.name),
        state=record.state.name,
        basis=record.basis.name if record.basis is not None else "BASIS_UNSPECIFIED",
        key=call.get("key", ""),
        request_id=call.get("request_id", ""),
        model=call.get("model", ""),
        provider=call.get("provider", ""),
        tags=[pb.Tag(name=name, value=value) for name, value in call.get("tags", ())],
        held_nanousd=record.held,
        cost_nanousd=record.cost,
        reserved_at=timestamp(record.reserved_ms),
        expires_at=timestamp(record.expires_ms),
        ended_at=timestamp(record.ended_ms) if record.ended_ms else None,
        charged=[f"{taken.scope.path} {taken.counter}" for taken in record.taken],
        max_output_tokens=None if record.output_max < 0 else record.output_max,
    )


def call_of(row: Row) -> dict[str, Any]:
    """The call that a row is about."""
    call: dict[str, Any] = json.loads(row.call) if row.call else {}
    return call


def _charged(taken: Taken, held: int) -> dict[str, object]:
    facts: dict[str, object] = {"scope": taken.scope.path, "counter": taken.counter, "period_ms": taken.period_ms}
    return facts | {"held_nanousd": taken.held} if 0 < taken.held < held else facts


def counters(shard: int, position: Position | None, found: Sequence[CounterState]) -> pb.ReadCountersResponse:
    """Counters, and the row up to which they count."""
    response = pb.ReadCountersResponse(shard=shard)
    if position is not None:
        response.epoch, response.seq = position
    for one in found:
        response.counters.add(
            scope=one.scope.path,
            counter=one.counter,
            period_ms=one.period_ms,
            settled_nanousd=one.settled,
            held_nanousd=one.held,
        )
    return response


def ledger_row(row: Row) -> pb.LedgerRow:
    """A ledger row as one JSON object."""
    organization, _, hold_id = row.member.partition("/")
    facts: dict[str, object] = {
        "shard": row.shard,
        "epoch": row.epoch,
        "seq": row.seq,
        "kind": row.kind.name,
        "organization": organization,
        "reservation": f"organizations/{organization}/reservations/{hold_id}",
        "state": row.state.name if row.state is not None else None,
        "basis": row.basis.name if row.basis is not None else None,
        "flags": [flag.name for flag in RowFlag if flag in row.flags],
        "amount_nanousd": row.amount,
        "held_nanousd": row.held,
        "cost_nanousd": row.cost,
        "tokens": row.tokens,
        "reserved_at_ms": row.reserved_ms,
        "expires_at_ms": row.expires_ms,
        "at_ms": row.at_ms,
        "charged": [_charged(taken, row.held) for taken in row.taken],
        "call": call_of(row),
        "end": json.loads(row.ending) if row.ending else {},
    }
    return pb.LedgerRow(shard=row.shard, epoch=row.epoch, seq=row.seq, json=json.dumps(facts, separators=(",", ":")))
