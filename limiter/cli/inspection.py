"""`inspect`: one scope or one reservation, with all that is known of it."""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Final

import typer

from limiter.cli.failures import CommandFailed, ExitCode
from limiter.cli.keys import all_keys, key_facts
from limiter.cli.lazy import example
from limiter.cli.options import Output, with_admin
from limiter.cli.output import Format, facts, write, write_json
from limiter.cli.plain import plain, plain_all
from limiter.cli.reservations import open_reservations, print_reservation
from limiter.cli.sidecar import Place, Sidecar
from limiter.cli.statuses import limits_table
from limiter.client.contract import messages as pb
from limiter.domain.scopes import Scope

_HOLDS_SHOWN: Final = 20


@example(
    "limiter inspect acme/search/bot",
    "limiter inspect organizations/acme/reservations/0123456789abcdef0123456789abcdef",
)
@with_admin
def inspect(
    *,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="SCOPE|RESERVATION",
            help="ORG, ORG/TEAM or ORG/TEAM/KEY; or organizations/ORG/reservations/ID",
            show_default=False,
        ),
    ],
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """Show a scope with its counters, or a reservation."""
    with admin.open() as sidecar:
        if "/reservations/" in subject:
            _show_reservation(sidecar, subject, output)
        else:
            _show_scope(sidecar, Scope.parse(subject).path, output)


def _show_reservation(sidecar: Sidecar, name: str, output: Format) -> None:
    request = pb.GetReservationRequest(reservation=name)
    found: pb.Reservation = sidecar.ask(sidecar.admin.GetReservation, request)
    if output is Format.JSON:
        write_json(plain(found))
    else:
        print_reservation(found)


def _show_scope(sidecar: Sidecar, scope: str, output: Format) -> None:
    request = pb.ListScopesRequest(scope=scope)
    answer: pb.ListScopesResponse = sidecar.ask(sidecar.admin.ListScopes, request)
    key = next(all_keys(sidecar, scope), None) if scope.count("/") == 2 else None
    if not answer.scopes and key is None:
        raise CommandFailed(f"there is no scope {scope}: neither a policy nor a key has this name", ExitCode.NOT_FOUND)
    holds = list(islice(open_reservations(sidecar, scope), _HOLDS_SHOWN + 1))
    if output is Format.JSON:
        write_json(
            {
                "scope": scope,
                "key": None if key is None else plain(key),
                "scopes": plain_all(answer.scopes),
                "open_reservations": [hold.reservation for hold in holds[:_HOLDS_SHOWN]],
                "more_open_reservations": len(holds) > _HOLDS_SHOWN,
            }
        )
        return
    count = f"more than {_HOLDS_SHOWN}" if len(holds) > _HOLDS_SHOWN else str(len(holds))
    of_key = [] if key is None else key_facts(key)[1:]
    statuses = [status for one in answer.scopes for status in one.limits]
    write(
        facts([("scope", scope), *of_key, ("open holds", f"{count}; see `limiter reservations list {scope}`")]),
        "",
        limits_table(statuses, read=True) if statuses else "It has no limits of its own; those above it hold.",
    )
