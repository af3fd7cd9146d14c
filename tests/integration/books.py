"""The books as Admin shows them: counters, ledger rows and open holds, and that they agree."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from limiter.v1 import limiter_pb2 as pb
from tests.integration.connections import Connection

_MOVES_MONEY = ("SETTLEMENT", "CHARGE", "CORRECTION")


class SpendLimit(NamedTuple):
    """A spend limit, as rows name its counter: `acme/search` and `monthly:spend:month`."""

    scope: str
    counter: str


@dataclass(frozen=True, slots=True)
class Books:
    """Everything that is written of one organization but the sums of its refusals, read at rest."""

    limits: dict[SpendLimit, pb.LimitStatus]
    others: dict[tuple[str, str], pb.LimitStatus]
    rows: list[dict[str, Any]]
    open_holds: list[pb.Reservation]

    def settled(self, scope: str) -> int:
        """What the only spend limit of a scope has settled."""
        return self._only(scope).settled

    def held(self, scope: str) -> int:
        """What the only spend limit of a scope has held."""
        return self._only(scope).held

    def _only(self, scope: str) -> pb.LimitStatus:
        (status,) = [status for name, status in self.limits.items() if name.scope == scope]
        return status

    def money_rows(self, reservation: str = "") -> list[dict[str, Any]]:
        """The rows that move money; of one reservation, or all."""
        return [
            row
            for row in self.rows
            if row["kind"] in _MOVES_MONEY and (not reservation or row["reservation"] == reservation)
        ]

    def disagreements(self) -> Iterator[str]:
        """What does not agree; counters are taken to have one window since the organization began."""
        settled, held = Counter[SpendLimit](), Counter[SpendLimit]()
        for row in self.money_rows():
            for taken in row["charged"]:
                if taken["period_ms"]:
                    settled[SpendLimit(taken["scope"], taken["counter"])] += row["amount_nanousd"]
        for hold in self.open_holds:
            for charged in hold.charged:
                held[SpendLimit(*charged.split(" "))] += hold.held_nanousd
        for name, status in self.limits.items():
            if status.settled != settled[name]:
                yield f"{name} has {status.settled} settled, its rows say {settled[name]}"
            if status.held != held[name]:
                yield f"{name} has {status.held} held, its open holds say {held[name]}"
        yield from self._sequence()
        yield from self._levels()

    def _sequence(self) -> Iterator[str]:
        """Within an epoch rows are numbered one by one; an organization that shares its shard sees gaps."""
        places = [(row["epoch"], row["seq"]) for row in self.rows]
        if places != sorted(set(places)):
            yield "rows are out of order or twice in the ledger"

    def _levels(self) -> Iterator[str]:
        """What stands at a scope is the sum of what stands under it, wherever both have one spend limit."""
        money: dict[str, list[pb.LimitStatus]] = {}
        for name, status in self.limits.items():
            money.setdefault(name.scope, []).append(status)
        below: dict[str, list[list[pb.LimitStatus]]] = {}
        for scope, statuses in money.items():
            below.setdefault(scope.rpartition("/")[0], []).append(statuses)
        for scope, statuses in money.items():
            children = below.get(scope, [])
            if not children or len(statuses) > 1 or any(len(child) > 1 for child in children):
                continue
            total = sum(child[0].settled for child in children)
            if total != statuses[0].settled:
                yield f"{scope} has {statuses[0].settled} settled, what is under it {total}"


async def read_books(connection: Connection, organization: str) -> Books:
    """Read an organization's books; nobody may be writing them meanwhile."""
    scopes = await connection.admin.ListScopes(pb.ListScopesRequest(scope=organization))
    limits: dict[SpendLimit, pb.LimitStatus] = {}
    others: dict[tuple[str, str], pb.LimitStatus] = {}
    for scope in scopes.scopes:
        for status in scope.limits:
            if status.kind == pb.LimitStatus.SPEND:
                limits[SpendLimit(scope.scope, f"{status.limit}:spend:{status.window}")] = status
            else:
                status.ClearField("refills_at")  # of a full bucket it is the time of the question
                others[scope.scope, status.limit] = status
    stream = connection.admin.ReadLedger(pb.ReadLedgerRequest(scope=organization))
    rows = [json.loads(row.json) async for row in stream]
    rows = [row for row in rows if row["kind"] != "REFUSALS"]  # sums, which are written when their time comes
    return Books(limits, others, rows, [hold async for hold in open_holds(connection, organization)])


async def open_holds(connection: Connection, scope: str) -> Any:  # noqa: ANN401 - an async iterator of reservations
    """Yield every open reservation of a scope."""
    token = ""
    while True:
        request = pb.ListReservationsRequest(scope=scope, page_size=1000, page_token=token)
        page = await connection.admin.ListReservations(request)
        for hold in page.reservations:
            yield hold
        token = page.next_page_token
        if not token:
            return


async def balanced_books(connection: Connection, organization: str) -> Books:
    """Read an organization's books, which must balance to the nano-dollar."""
    books = await read_books(connection, organization)
    assert list(books.disagreements()) == []
    return books
