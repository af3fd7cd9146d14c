"""`settle`, `release`, `extend`: what applications do with a hold, tried from a shell."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from limiter.cli.arguments import duration
from limiter.cli.lazy import example
from limiter.cli.options import Output, Reservation, with_caller
from limiter.cli.output import Format, facts, when, write, write_json
from limiter.cli.plain import plain
from limiter.cli.settlements import Actual, built, print_settlement, with_actual
from limiter.cli.sidecar import Place
from limiter.client.contract import messages as pb
from limiter.client.requests import extend_request, release_request, settle_request
from limiter.domain import calls as words

_NAME = "organizations/acme/reservations/0123456789abcdef0123456789abcdef"


class Outcome(StrEnum):
    """How the provider call ended."""

    COMPLETED = "completed"
    ABORTED = "aborted"
    FAILED = "failed"


@example(
    f"limiter settle {_NAME} --input-tokens 900 --output-tokens 120",
    f"limiter settle {_NAME} --response answer.json",
)
@with_caller
@with_actual
def settle(
    *,
    reservation: Reservation,
    model: Annotated[str, typer.Option(metavar="NAME", help="As served.", show_default="as reserved")] = "",
    outcome: Annotated[
        Outcome | None,
        typer.Option(
            metavar="completed|aborted|failed",
            help="How the call ended.",
            show_default="completed; failed for an error answer",
        ),
    ] = None,
    estimated: Annotated[bool, typer.Option("--estimated", help="The figures are an estimate.")] = False,
    output: Output = Format.TABLE,
    actual: Actual,
    caller: Place,
) -> None:
    """Replace a hold by what was used."""
    given = actual.arguments | {
        "model": model,
        "outcome": None if outcome is None else words.Outcome[outcome.name],
        "estimated": estimated,
    }
    request = built(settle_request, reservation, actual.response, given)
    with caller.open() as sidecar:
        print_settlement(sidecar.ask(sidecar.limiter.Settle, request), output)


@example(f"limiter release {_NAME} --reason 'the provider was not reached'")
@with_caller
def release(
    *,
    reservation: Reservation,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="For the ledger.")] = "",
    output: Output = Format.TABLE,
    caller: Place,
) -> None:
    """End a hold with nothing spent."""
    with caller.open() as sidecar:
        request = release_request(reservation, reason=reason)
        print_settlement(sidecar.ask(sidecar.limiter.Release, request), output)


@example(f"limiter extend {_NAME} --ttl 30m")
@with_caller
def extend(
    *,
    reservation: Reservation,
    ttl: Annotated[
        timedelta, typer.Option(parser=duration, metavar="DURATION", help="It ends no earlier than that from now.")
    ],
    output: Output = Format.TABLE,
    caller: Place,
) -> None:
    """Keep a hold open for a longer call."""
    with caller.open() as sidecar:
        answer: pb.ExtendResponse = sidecar.ask(sidecar.limiter.Extend, extend_request(reservation, ttl))
    if output is Format.JSON:
        write_json(plain(answer))
        return
    note = "it was open for that long already" if answer.repeated_call else ""
    write(facts([("expires", when(answer.expires_at)), ("note", note)]))
