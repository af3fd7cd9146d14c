"""Carries out the adjusting rows of a reconciliation: shown first, and done when somebody says so."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.progress import Progress

from limiter.cli.failures import CommandFailed, ExitCode
from limiter.cli.sidecar import Place, Sidecar, socket_of
from limiter.client.contract import messages as pb
from limiter.ledger.reconciling.plan import ADJUST, Plan, Step

#: Messages of calls that were not adjusted, so many are told.
_TOLD_MAX: Final = 5


@dataclass(slots=True)
class Done:
    """What came of the steps. `failed` are messages, of `refused` steps the first ones."""

    adjusted: int = 0
    charged: int = 0
    refused: int = 0
    skipped: int = 0  # charges without a key to charge
    failed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Words:
    """What goes into the adjusting rows."""

    provider: str
    by: str
    reason: str
    charge_to: str
    tags: tuple[pb.Tag, ...] = ()  # of charges


def listener_of(admin: Place, address: str | None, token: str | None) -> Place:
    """Where charges are booked: a listener that trusts key names; by default the data directory's socket."""
    if address:
        return Place(address, token=token, timeout_s=admin.timeout_s)
    if admin.data_dir is None:
        raise CommandFailed("name the listener that charges are booked at: --charge-address", ExitCode.USAGE)
    return replace(socket_of(admin.data_dir, "limiter"), token=token, timeout_s=admin.timeout_s)


def carry_out(plan: Plan, admin: Place, caller: Place | None, words: Words) -> Done:
    """Do the steps in order. A call that cannot be adjusted is told of, and the others go on.

    Raises CommandFailed where the sidecar cannot be reached, after which the same again goes on where it stopped.
    """
    done = Done()
    total = sum(one.steps for one in plan.totals())
    terminal = Console(stderr=True)
    with ExitStack() as stack:
        adjuster = stack.enter_context(admin.open())
        charger = stack.enter_context(caller.open()) if caller is not None else None
        progress = stack.enter_context(Progress(console=terminal, transient=True, disable=not terminal.is_terminal))
        for step in progress.track(plan.steps(), total=total, description="adjusting"):
            _carry_out(step, adjuster, charger, words, done)
    return done


def _carry_out(step: Step, adjuster: Sidecar, charger: Sidecar | None, words: Words, done: Done) -> None:
    try:
        if step.kind == ADJUST:
            request = pb.AdjustReservationRequest(
                reservation=step.reservation, cost_nanousd=step.after, reason=words.reason, by=words.by
            )
            adjuster.ask(adjuster.admin.AdjustReservation, request)
            done.adjusted += 1
        elif charger is None:
            done.skipped += 1
        else:
            charger.ask(charger.limiter.Charge, _charge(step, words))
            done.charged += 1
    except CommandFailed as error:
        if error.exit_code in (ExitCode.UNREACHABLE, ExitCode.NOT_ALLOWED):
            raise
        done.refused += 1
        if len(done.failed) < _TOLD_MAX:
            done.failed.append(f"{step.reservation or step.request_id}: {error}")


def _charge(step: Step, words: Words) -> pb.ChargeRequest:
    return pb.ChargeRequest(
        request_id=step.request_id,
        key_id=words.charge_to,
        model=step.model,
        provider=words.provider,
        cost_nanousd=step.after,
        tags=words.tags,
        occurred_at=Timestamp(seconds=step.at_ms // 1000, nanos=step.at_ms % 1000 * 1_000_000),
        provider_request_id=step.provider_request_id,
    )
