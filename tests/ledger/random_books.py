"""Books of random rows of every kind, the same for the same seed: healthy, to be damaged."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from limiter.domain.reservations import Basis, RowFlag, State
from limiter.domain.rows import Row, RowKind, Taken
from limiter.domain.scopes import Scope
from limiter.ledger.booking import Booking
from tests.ledger.rows import DAY, HOUR, NOVEMBER, WINDOW, Ledger

MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-5")
KEYS = ("acme/search/bot", "acme/search/crawler", "acme/mail/bot")
CUSTOMERS = ("globex", "initech", "hooli", "Ünïcode GmbH")


@dataclass
class RandomBooks:
    """Writes random rows of several shards, of two epochs each, in pages of random sizes."""

    seed: int = 1
    shards: tuple[int, ...] = (7, 19)
    rows: int = 60
    books: dict[int, Ledger] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self.books = {shard: Ledger(shard=shard) for shard in self.shards}

    def write(self, booking: Booking) -> list[Row]:
        """Make the rows and book them; answers all of them."""
        for _ in range(self.rows):
            book = self.books[self._random.choice(self.shards)]
            self._row(book)
            if self._random.random() < 0.2:
                book.book(booking)
        for book in self.books.values():
            book.book(booking)
            book.epoch, book.seq = book.epoch + DAY, 0
            for _ in range(5):
                self._row(book)
            book.book(booking)
        return [row for book in self.books.values() for row in book.made]

    def _row(self, book: Ledger) -> None:
        pick = self._random.random()
        at_ms = NOVEMBER + self._random.randrange(3 * DAY)
        organization = f"org{book.shard}"
        if pick < 0.08:
            book.note(RowKind.EVENT, {"event": "threshold", "scope": organization, "limit": "monthly"}, at_ms=at_ms)
        elif pick < 0.16:
            self._refusals(book, organization, at_ms)
        elif pick < 0.2:
            self._opening(book, organization, at_ms)
        else:
            self._call(book, at_ms)

    def _call(self, book: Ledger, at_ms: int) -> None:
        cost = self._random.choice((0, 1, 999, 1_234_567, 10**12))
        scope, key = Scope("acme"), self._random.choice(KEYS)
        taken = (Taken(scope, "monthly:spend:month", WINDOW, 2 * cost), Taken(Scope.parse(key), "rpm:requests:", 5))
        fields: dict[str, Any] = {
            "key": key,
            "model": self._random.choice(MODELS),
            "tags": [("customer", self._random.choice(CUSTOMERS))][: self._random.randrange(2)],
            "at_ms": at_ms,
            "reservation": f"{self._random.getrandbits(128):032x}",
            "taken": taken[: self._random.randrange(3)],
        }
        pick = self._random.random()
        if pick < 0.1:
            book.row(**fields, cost=cost, kind=RowKind.CHARGE, held=0)
        elif pick < 0.2:  # nobody claimed it, and the same call came again
            book.row(**fields, cost=0, state=State.RELEASED, basis=Basis.RELEASED, flags=RowFlag.UNCLAIMED, usage={})
            book.row(**fields, cost=cost)
        elif pick < 0.5:  # it expired, or was given back, and was corrected, once or twice
            ends = ((State.EXPIRED, Basis.EXPIRED), (State.RELEASED, Basis.RELEASED))
            state, basis = self._random.choice(ends)
            before = 0 if state is State.RELEASED else cost
            book.row(**fields, cost=before, state=state, basis=basis, held=cost)
            for basis in (Basis.ESTIMATED, Basis.USAGE)[: self._random.randrange(1, 3)]:
                after = cost // 3 + int(basis)
                book.row(**fields, cost=after, amount=after - before, kind=RowKind.CORRECTION, basis=basis, held=cost)
                before = after
        else:
            book.row(**fields, cost=cost, end={"price": {"input": "2.5"}, "price_version": "v"}, took_ms=HOUR)

    def _refusals(self, book: Ledger, organization: str, at_ms: int) -> None:
        refused = {
            "scope": organization, "limit": "monthly", "reason": "SPEND_CEILING", "count": self._random.randrange(1, 9),
            "model": self._random.choice(MODELS), "customer": self._random.choice((*CUSTOMERS, "")),
            "minute_ms": at_ms // 60_000 * 60_000, "calls": 1,
        }  # fmt: skip
        book.note(RowKind.REFUSALS, {"refusals": [refused]}, organization=organization, at_ms=at_ms)

    def _opening(self, book: Ledger, organization: str, at_ms: int) -> None:
        made = book.note(RowKind.OPENING, {"event": "opening"}, organization=organization, at_ms=at_ms)
        taken = (Taken(Scope(organization), "monthly:spend:month", WINDOW, 0),)
        book.made[-1] = Row(**{name: getattr(made, name) for name in Row.__slots__} | {"amount": 700, "taken": taken})
