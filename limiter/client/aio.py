"""The async client."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, Unpack

from limiter.client.answers import Settlement
from limiter.client.calls import Calls, Ending, Options
from limiter.client.errors import LimiterClientError
from limiter.client.holds import HeldCall, undelivered
from limiter.client.requests import (
    ChargeArguments,
    Principal,
    ReserveArguments,
    SettleArguments,
    release_request,
    settle_request,
)
from limiter.client.steps import Steps
from limiter.client.wires import AsyncWire
from limiter.domain.verdicts import Granted, LimitStatus
from limiter.v1 import limiter_pb2 as pb

_log = logging.getLogger("limiter.client")


class AsyncClient:
    """Asks a limiter from asyncio code.

    `address` is `host:port` or `unix:/path`; default LIMITER_ADDRESS, else 127.0.0.1:50051. The
    other arguments are the Options. The connection opens with the first call and belongs to its
    loop; `close` waits for settlements that are under way.
    """

    def __init__(self, address: str | None = None, **options: Unpack[Options]) -> None:
        self._calls = Calls(address, **options)
        self._wire = AsyncWire(self._calls.connection)

    def __repr__(self) -> str:
        return f"AsyncClient({self._calls.connection.address!r})"  # no key, no token

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Wait for settlements that are under way, then close the connection."""
        await self._wire.close()

    def reserve(
        self,
        *,
        timeout: float | None = None,
        wait_for_rate: timedelta | float | None = None,
        assume_sent: bool = True,
        **arguments: Unpack[ReserveArguments],
    ) -> Reserving:
        """Ask for a hold, before the provider is called; raises Refused or CallFailed.

        Use it as `hold = await client.reserve(…)`, or as `async with client.reserve(…) as hold:`,
        which ends the hold whatever happens (`limiter.client.holds` has the rule).
        `assume_sent=False` promises that the block calls `hold.sent()`: until then an exception
        releases the hold.
        """
        steps = self._calls.reserve(arguments, timeout=timeout, wait_for_rate=wait_for_rate)
        return Reserving(self._hold(steps, assume_sent=assume_sent, consume=bool(arguments.get("consume"))))

    def settle(
        self,
        reservation: str,
        response: object = None,
        *,
        timeout: float | None = None,
        **actual: Unpack[SettleArguments],
    ) -> Settling:
        """Settle a hold by its name, from wherever the call ended."""
        return self._start(self._calls.end(settle_request(reservation, response, actual), timeout))

    def release(self, reservation: str, *, reason: str = "", timeout: float | None = None) -> Settling:
        """End a hold with nothing spent; `reason` is for the ledger."""
        return self._start(self._calls.end(release_request(reservation, reason=reason), timeout))

    def charge(
        self, response: object = None, *, timeout: float | None = None, **actual: Unpack[ChargeArguments]
    ) -> Settling:
        """Book spend that had no hold; never refused for money."""
        return self._start(self._calls.charge(response, actual, timeout))

    def headroom(
        self, model: str = "", *, provider: str = "", timeout: float | None = None, **principal: Unpack[Principal]
    ) -> Coroutine[Any, Any, tuple[LimitStatus, ...]]:
        """Return what is left at every limit on the path of the key and the model."""
        return self._wire.run(self._calls.headroom(model, provider, principal, timeout))

    def _start(self, steps: Steps[Settlement]) -> Settling:
        return Settling(self._wire.start(self._wire.run(steps)))

    async def _hold(self, steps: Steps[Granted], *, assume_sent: bool, consume: bool) -> AsyncHold:
        granted = await self._wire.run(steps, when_abandoned=None if consume else self._give_back)
        return AsyncHold(self._calls, self._wire, granted, assume_sent=assume_sent, consumed=consume)

    def _give_back(self, response: pb.ReserveResponse) -> None:
        """Release a grant whose caller was cancelled while it was on its way."""
        if response.reservation:
            request = release_request(response.reservation, reason="the caller was cancelled")
            self._wire.start(self._given_back(request))

    async def _given_back(self, request: pb.ReleaseRequest) -> None:
        try:
            await self._wire.run(self._calls.end(request, None))
        except LimiterClientError as error:
            _log.warning("%s", undelivered(request, error))


class AsyncHold(HeldCall, AbstractAsyncContextManager["AsyncHold", None]):
    """A hold. As a context manager it is ended when its block is left (`limiter.client.holds`)."""

    def __init__(self, calls: Calls, wire: AsyncWire, granted: Granted, *, assume_sent: bool, consumed: bool) -> None:
        super().__init__(granted, assume_sent=assume_sent, consumed=consumed)
        self._calls = calls
        self._wire = wire
        self._settlings: list[Settling] = []

    def settle(
        self, response: object = None, *, timeout: float | None = None, **actual: Unpack[SettleArguments]
    ) -> Settling:
        """Replace the hold by what was used: a response of the provider, counts, or a cost.

        It is sent at once. `await` it for the Settlement, or let the end of the block wait for it;
        nobody's cancellation stops it.
        """
        return self._start(self._settle_request(response, actual), timeout)

    def release(self, *, reason: str = "", timeout: float | None = None) -> Settling:
        """End the hold with nothing spent: the call never reached the provider. Sent at once, like settle."""
        return self._start(self._release_request(reason), timeout)

    def extend(self, ttl: timedelta | float, *, timeout: float | None = None) -> Coroutine[Any, Any, None]:
        """Keep the hold open for at least `ttl` (seconds) from now."""
        return self._extended(self._calls.extend(self.reservation, ttl, timeout))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure: LimiterClientError | None = None
        for settling in self._settlings:
            try:
                await asyncio.shield(settling.task)
            except LimiterClientError as failed:
                failure = failure if settling.awaited else failed  # who awaited it has seen it
        if (closing := self._closing(error)) is not None:
            try:
                await self._start(closing, None)
            except LimiterClientError as failed:
                failure = failed
        if failure is not None:
            if error is None:
                raise failure
            error.add_note(f"limiter: {failure}")

    async def _extended(self, steps: Steps[int]) -> None:
        self._expires_at_ms = await self._wire.run(steps)

    def _start(self, request: Ending, timeout: float | None) -> Settling:
        settling = Settling(self._wire.start(self._deliver(request, self._calls.end(request, timeout))))
        self._settlings.append(settling)
        return settling

    async def _deliver(self, request: Ending, steps: Steps[Settlement]) -> Settlement:
        try:
            settlement = await self._wire.run(steps)
        except LimiterClientError as error:
            self._not_ended(request, error)
            raise
        self._ended = True
        return settlement


class Reserving(Awaitable[AsyncHold], AbstractAsyncContextManager[AsyncHold, None]):
    """A Reserve that is sent when it is awaited or entered."""

    def __init__(self, coroutine: Coroutine[Any, Any, AsyncHold]) -> None:
        self._coroutine = coroutine  # Python warns if nobody awaits it
        self._hold: AsyncHold | None = None

    def __await__(self) -> Generator[Any, None, AsyncHold]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> AsyncHold:
        self._hold = await self._coroutine
        return self._hold

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hold is not None:
            await self._hold.__aexit__(kind, error, trace)


class Settling(Awaitable[Settlement]):
    """A settlement, release or charge under way: sent when it was made, awaited if one wants the answer.

    Cancelling whoever awaits it does not stop it.
    """

    def __init__(self, task: asyncio.Task[Settlement]) -> None:
        self.task = task
        self.awaited = False

    def __await__(self) -> Generator[Any, None, Settlement]:
        self.awaited = True
        return asyncio.shield(self.task).__await__()
