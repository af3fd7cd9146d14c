"""`reservations …`: see and end open holds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Annotated

import typer

from limiter.cli.failures import say
from limiter.cli.lazy import example
from limiter.cli.options import Output, Reservation, Scope, with_admin
from limiter.cli.output import RIGHT, Format, facts, table, usd, when, write, write_json
from limiter.cli.plain import plain_all
from limiter.cli.settlements import print_settlement
from limiter.cli.sidecar import Place, Sidecar
from limiter.client.contract import messages as pb
from limiter.domain.money import format_usd

PAGE = 1_000


@example("limiter reservations list acme/search --limit 20")
@with_admin
def list_(
    *,
    scope: Scope = "",
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="So many at most; 0: all.")] = 100,
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """List open holds, those that expire first first."""
    with admin.open() as sidecar:
        found = list(islice(open_reservations(sidecar, scope), limit + 1 if limit else None))
    shown = found[:limit] if limit else found
    if output is Format.JSON:
        write_json(plain_all(shown))
    else:
        columns = ("reservation", "key", "model", f"held USD{RIGHT}", "reserved", "expires")
        write(table(columns, (_row(one) for one in shown)))
    if len(found) > len(shown):
        say(f"There are more than these {limit}; see --limit.")


@example("limiter reservations release organizations/acme/reservations/0123456789abcdef0123456789abcdef")
@with_admin
def release(
    *,
    reservation: Reservation,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="For the ledger.")] = "",
    output: Output = Format.TABLE,
    admin: Place,
) -> None:
    """End an open hold with nothing spent, by force.

    Whoever took it can still settle: what was really used is then charged.
    """
    with admin.open() as sidecar:
        request = pb.ReleaseRequest(reservation=reservation, reason=reason)
        print_settlement(sidecar.ask(sidecar.admin.ForceRelease, request), output)


def open_reservations(sidecar: Sidecar, scope: str) -> Iterator[pb.Reservation]:
    """Yield the open holds of a scope, page by page."""
    token = ""
    while True:
        request = pb.ListReservationsRequest(scope=scope, page_size=PAGE, page_token=token)
        answer: pb.ListReservationsResponse = sidecar.ask(sidecar.admin.ListReservations, request)
        yield from answer.reservations
        token = answer.next_page_token
        if not token:
            return


def reservation_facts(one: pb.Reservation) -> list[tuple[str, str]]:
    """What is known of a reservation, for people."""
    return [
        ("reservation", one.reservation),
        ("state", pb.ReservationState.Name(one.state)),
        ("basis", pb.Settlement.Basis.Name(one.basis) if one.basis else ""),
        ("key", one.key),
        ("request id", one.request_id),
        ("model", one.model),
        ("provider", one.provider),
        ("tags", ", ".join(f"{tag.name}:{tag.value}" for tag in one.tags)),
        ("held", usd(one.held_nanousd)),
        ("cost", usd(one.cost_nanousd) if one.state != pb.HELD else ""),
        ("max output tokens", str(one.max_output_tokens) if one.HasField("max_output_tokens") else ""),
        ("reserved", when(one.reserved_at)),
        ("expires", when(one.expires_at)),
        ("ended", when(one.ended_at)),
        ("taken from", "\n".join(one.charged)),
    ]


def _row(one: pb.Reservation) -> list[str]:
    return [
        one.reservation,
        one.key,
        one.model,
        format_usd(one.held_nanousd),
        when(one.reserved_at),
        when(one.expires_at),
    ]


def print_reservation(one: pb.Reservation) -> None:
    """Print a reservation, for people."""
    write(facts(reservation_facts(one)))
