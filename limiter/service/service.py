"""The service as the protocols see it: every verb, and the upkeep beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from limiter.domain.reservations import ReservationName
from limiter.domain.verdicts import LimitStatus, Verdict
from limiter.ledger.database import Database
from limiter.ledger.openings import OpeningSums
from limiter.observability.metrics import Metrics
from limiter.pricing.book import PriceBook
from limiter.service.aborting import Aborting
from limiter.service.accounting import Accounting
from limiter.service.administration import Administration
from limiter.service.calls import BookCall, BrokenOff, Principal, ReserveCall, SettleCall, Settled
from limiter.service.desk import Desk
from limiter.service.keyring import Keyring
from limiter.service.learner import LOOK_EVERY_S, Learner
from limiter.service.openings import OPEN_EVERY_S, Openings
from limiter.service.reserving import Reserving
from limiter.service.secrets import Pepper
from limiter.service.upkeep import FLUSH_EVERY_S, SWEEP_EVERY_S, GiveBack, Sweeper, end, repeat
from limiter.store.port import ExtendReply, Store


class Service:
    """One limiter on one store. The store is to tell `give_backs` of grants that nobody received.

    `books`: where the store's ledger rows go, if this process has them.
    """

    def __init__(
        self, store: Store, *, pepper: Pepper, prices: PriceBook, metrics: Metrics, books: Database | None = None
    ) -> None:
        self.metrics = metrics
        self.books = books
        self._desk = Desk(store, pepper, prices, metrics)
        self._sweeper = Sweeper(self._desk)
        self.give_backs = GiveBack(self._desk)
        self._reserving = Reserving(self._desk, sweep=self._sweeper.sweep_shard)
        self._accounting = Accounting(self._desk)
        self._aborting = Aborting(self._desk, self._accounting)
        self.openings = Openings(self._desk, None if books is None else OpeningSums(books))
        self.administration = Administration(self._desk, self._accounting, self.openings, books)
        self.keyring = Keyring(self._desk, self.openings)
        self.learner = Learner(self._desk)
        self._upkeep: Sequence[asyncio.Task[None]] = ()

    def reserve(self, call: ReserveCall) -> Coroutine[Any, Any, Verdict]:
        """Ask for a hold. Not a coroutine function: every call would pass through one more."""
        return self._reserving.reserve(call)

    async def knows(self, principal: Principal) -> bool:
        """Whether a principal is somebody, before more work is put into its call."""
        return (self._desk.known_identity(principal) or await self._desk.identify(principal)) is not None

    async def settle(self, call: SettleCall) -> Settled:
        """Replace a hold by what was used."""
        return await self._accounting.settle(call)

    async def settle_broken_off(self, call: BrokenOff) -> Settled:
        """End a hold by the policy's on_abort; usage that comes later corrects it."""
        return await self._aborting.settle(call)

    async def release(self, name: ReservationName, *, reason: str = "") -> Settled:
        """End a hold with nothing spent."""
        return await self._accounting.release(name, reason=reason)

    async def extend(self, name: ReservationName, ttl_ms: int) -> ExtendReply:
        """Keep a hold open for longer."""
        return await self._accounting.extend(name, ttl_ms)

    async def charge(self, call: BookCall) -> Settled:
        """Book spend that had no hold."""
        return await self._accounting.charge(call)

    async def headroom(self, principal: Principal, model: str, provider: str) -> tuple[LimitStatus, ...]:
        """Every limit on the path of a key and model."""
        return await self._accounting.headroom(principal, model, provider)

    def give_back(self, name: ReservationName) -> None:
        """Release a grant that its caller did not receive."""
        self.give_backs.give_back(name)

    async def now_ms(self) -> int:
        """About what the store's clock says; the store is asked only if it never answered."""
        return await self._desk.clock.now_ms(self._desk.store)

    async def sweep(self) -> int:
        """End every hold that is due; answers how many."""
        return await self._sweeper.sweep()

    async def flush_refusals(self) -> None:
        """Write the sums of refusals to the ledger."""
        await self._desk.refusals.flush()

    def start_upkeep(self) -> None:
        """Sweep, write sums and learn in the background from now on."""
        create = asyncio.get_running_loop().create_task
        self._upkeep = (
            create(repeat(self.sweep, every_s=SWEEP_EVERY_S, what="sweep")),
            create(repeat(self.flush_refusals, every_s=FLUSH_EVERY_S, what="refusals")),
            create(repeat(self.learner.look, every_s=LOOK_EVERY_S, what="learning")),
            create(repeat(self.learner.keep_up, every_s=0.0, what="learned")),
            create(repeat(self.openings.look, every_s=OPEN_EVERY_S, what="openings")),
        )

    async def stop(self) -> None:
        """End the upkeep; write what is still to be written."""
        await end(self._upkeep)
        await self.give_backs.drain()
        await self.flush_refusals()
