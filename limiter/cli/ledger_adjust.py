"""`ledger adjust`: correct what a call cost."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from limiter.cli.lazy import example
from limiter.cli.options import Output, with_admin
from limiter.cli.output import Format
from limiter.cli.settlements import print_settlement
from limiter.cli.sidecar import Place
from limiter.client.contract import messages as pb
from limiter.domain.errors import InvalidArgument
from limiter.domain.money import parse_usd


@example(
    "limiter ledger adjust --reservation organizations/acme/reservations/0af7651916cd43dd8448eb211c80319c"
    " --cost 0.0125 --reason 'the provider credited half of it'"
)
@with_admin
def adjust(
    *,
    reservation: Annotated[
        str, typer.Option(metavar="RESERVATION", help="Which call: organizations/ORG/reservations/ID, of a charge too.")
    ],
    cost: Annotated[str, typer.Option(metavar="USD", help="What it cost, as a decimal number; 0: nothing.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why: the ledger keeps it.")],
    by: Annotated[
        str, typer.Option("--by", metavar="NAME", help="Who says so.", show_default="the user of this machine")
    ] = "",
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """Correct what a call cost, by a row that says who and why."""
    cost_nanousd = parse_usd(cost, field="--cost")
    if cost_nanousd < 0:
        raise InvalidArgument("--cost", cost, "write what the call cost in all, not the change; 0: nothing")
    request = pb.AdjustReservationRequest(
        reservation=reservation,
        cost_nanousd=cost_nanousd,
        reason=reason,
        by=by or getpass.getuser(),
    )
    with admin.open() as sidecar:
        print_settlement(sidecar.ask(sidecar.admin.AdjustReservation, request), output)
