"""The sync client: the same calls, performed by a thread that waits."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from types import TracebackType
from typing import Self, Unpack

from limiter.client.answers import Settlement
from limiter.client.calls import Calls, Ending, Options
from limiter.client.errors import LimiterClientError
from limiter.client.holds import HeldCall
from limiter.client.requests import (
    ChargeArguments,
    Principal,
    ReserveArguments,
    SettleArguments,
    release_request,
    settle_request,
)
from limiter.client.wires import BlockingWire
from limiter.domain.verdicts import Granted, LimitStatus


class Client:
    """Asks a limiter from blocking code; threads may share it.

    `address` is `host:port` or `unix:/path`; default LIMITER_ADDRESS, else 127.0.0.1:50051. The
    other arguments are the Options.
    """

    def __init__(self, address: str | None = None, **options: Unpack[Options]) -> None:
        self._calls = Calls(address, **options)
        self._wire = BlockingWire(self._calls.connection)

    def __repr__(self) -> str:
        return f"Client({self._calls.connection.address!r})"  # no key, no token

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def reserve(
        self,
        *,
        timeout: float | None = None,
        wait_for_rate: timedelta | float | None = None,
        assume_sent: bool = True,
        **arguments: Unpack[ReserveArguments],
    ) -> Hold:
        """Ask for a hold, before the provider is called; raises Refused or CallFailed.

        Use it as `hold = client.reserve(…)`, or as `with client.reserve(…) as hold:`, which ends the
        hold whatever happens (`limiter.client.holds` has the rule). `assume_sent=False` promises that
        the block calls `hold.sent()`: until then an exception releases the hold.
        """
        granted = self._wire.run(self._calls.reserve(arguments, timeout=timeout, wait_for_rate=wait_for_rate))
        return Hold(self._calls, self._wire, granted, assume_sent=assume_sent, consumed=bool(arguments.get("consume")))

    def settle(
        self,
        reservation: str,
        response: object = None,
        *,
        timeout: float | None = None,
        **actual: Unpack[SettleArguments],
    ) -> Settlement:
        """Settle a hold by its name, from wherever the call ended."""
        return self._wire.run(self._calls.end(settle_request(reservation, response, actual), timeout))

    def release(self, reservation: str, *, reason: str = "", timeout: float | None = None) -> Settlement:
        """End a hold with nothing spent; `reason` is for the ledger."""
        return self._wire.run(self._calls.end(release_request(reservation, reason=reason), timeout))

    def charge(
        self, response: object = None, *, timeout: float | None = None, **actual: Unpack[ChargeArguments]
    ) -> Settlement:
        """Book spend that had no hold; never refused for money."""
        return self._wire.run(self._calls.charge(response, actual, timeout))

    def headroom(
        self, model: str = "", *, provider: str = "", timeout: float | None = None, **principal: Unpack[Principal]
    ) -> tuple[LimitStatus, ...]:
        """Return what is left at every limit on the path of the key and the model."""
        return self._wire.run(self._calls.headroom(model, provider, principal, timeout))


class Hold(HeldCall, AbstractContextManager["Hold", None]):
    """A hold. As a context manager it is ended when its block is left (`limiter.client.holds`)."""

    def __init__(
        self, calls: Calls, wire: BlockingWire, granted: Granted, *, assume_sent: bool, consumed: bool
    ) -> None:
        super().__init__(granted, assume_sent=assume_sent, consumed=consumed)
        self._calls = calls
        self._wire = wire

    def settle(
        self, response: object = None, *, timeout: float | None = None, **actual: Unpack[SettleArguments]
    ) -> Settlement:
        """Replace the hold by what was used: a response of the provider, counts, or a cost."""
        return self._deliver(self._settle_request(response, actual), timeout)

    def release(self, *, reason: str = "", timeout: float | None = None) -> Settlement:
        """End the hold with nothing spent: the call never reached the provider."""
        return self._deliver(self._release_request(reason), timeout)

    def extend(self, ttl: timedelta | float, *, timeout: float | None = None) -> None:
        """Keep the hold open for at least `ttl` (seconds) from now."""
        self._expires_at_ms = self._wire.run(self._calls.extend(self.reservation, ttl, timeout))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closing = self._closing(error)
        if closing is None:
            return
        try:
            self._deliver(closing, None)
        except LimiterClientError as failure:
            if error is None:
                raise
            error.add_note(f"limiter: {failure}")

    def _deliver(self, request: Ending, timeout: float | None) -> Settlement:
        try:
            settlement = self._wire.run(self._calls.end(request, timeout))
        except LimiterClientError as error:
            self._not_ended(request, error)
            raise
        self._ended = True
        return settlement
