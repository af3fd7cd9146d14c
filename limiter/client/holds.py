"""A hold in the caller's hands, and what becomes of it when its block is left. Pure.

+-------------------------------+-----------------------------------------------------------------+
| in the block                  | on leaving it                                                   |
+===============================+=================================================================+
| settled or released           | nothing more, however the block is left                         |
+-------------------------------+-----------------------------------------------------------------+
| `not_sent()`                  | released                                                        |
+-------------------------------+-----------------------------------------------------------------+
| the provider answered with an | settled as FAILED with that answer: the limiter reads it        |
| error (the SDK's exception)   |                                                                 |
+-------------------------------+-----------------------------------------------------------------+
| no mark, and the SDK says it  | released                                                        |
| never reached the provider    |                                                                 |
+-------------------------------+-----------------------------------------------------------------+
| no mark, and the hold was     | released                                                        |
| reserved with                 |                                                                 |
| `assume_sent=False`           |                                                                 |
+-------------------------------+-----------------------------------------------------------------+
| another exception             | settled as ABORTED: charged in full, as an estimate             |
+-------------------------------+-----------------------------------------------------------------+
| no exception                  | charged in full, as an estimate; a warning is logged            |
+-------------------------------+-----------------------------------------------------------------+

Without a mark the client cannot see whether the provider was called, and money that was spent must
not be lost: it assumes that it was. What is charged as an estimate is corrected by a later
settlement by usage.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from limiter.client.answers import to_usd
from limiter.client.calls import Ending
from limiter.client.errors import InvalidRequest, LimiterClientError
from limiter.client.requests import SettleArguments, release_request, settle_request
from limiter.client.responses import read_response
from limiter.domain.calls import Outcome
from limiter.domain.money import format_usd
from limiter.domain.verdicts import Granted, LimitStatus
from limiter.v1 import limiter_pb2 as pb

_log = logging.getLogger("limiter.client")

#: Errors of HTTP libraries that are raised before a request is written: httpx and its kin, and Python's own.
_UNSENT = frozenset(
    {"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "ConnectionRefusedError", "gaierror"}
)


class HeldCall:
    """What both holds know: the grant, the marks, and how the hold ended."""

    def __init__(self, granted: Granted, *, assume_sent: bool, consumed: bool) -> None:
        self._granted = granted
        self._expires_at_ms = granted.expires_at_ms
        self._sent: bool | None = None
        self._assume_sent = assume_sent
        self._ended = consumed or not granted.reservation  # nothing is open
        self._failure: LimiterClientError | None = None  # of the last attempt to end it

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {_recognisable(self.reservation)}, {format_usd(self.held_nanousd)} USD>"

    @property
    def reservation(self) -> str:
        """`organizations/…/reservations/…`; who knows it may settle it. Empty for dry runs."""
        return self._granted.reservation

    @property
    def held_nanousd(self) -> int:
        """What the call may cost at most."""
        return self._granted.held_nanousd

    @property
    def held_usd(self) -> Decimal:
        """The same in USD, exact."""
        return to_usd(self._granted.held_nanousd)

    @property
    def expires_at(self) -> datetime | None:
        """When the limiter ends the hold by itself (UTC, the store's clock)."""
        return datetime.fromtimestamp(self._expires_at_ms / 1000, UTC) if self._expires_at_ms else None

    @property
    def max_output_tokens(self) -> int | None:
        """The most output that the hold pays for: pass it to the provider."""
        return self._granted.max_output_tokens

    @property
    def output_field(self) -> str:
        """Where the provider's request can take that maximum, with dots; "" where it names one, or was not sent."""
        return self._granted.output_field

    def capped(self, request: Mapping[str, Any], *, field: str = "") -> dict[str, Any]:
        """Return a copy of a provider's request that names a maximum output: its own, or what the hold pays for.

        Where it stands is known if the hold was reserved for that request (`provider_request`); else name the field:
        "max_completion_tokens", "generationConfig.maxOutputTokens". Without either the copy names no maximum.
        """
        capped = dict(request)
        *places, name = (field or self.output_field).split(".")
        if not name or self.max_output_tokens is None:
            return capped
        inner = capped
        for place in places:
            known = inner.get(place)
            inner[place] = inner = dict(known) if isinstance(known, Mapping) else {}
        if inner.get(name) is None:
            inner[name] = self.max_output_tokens
        return capped

    @property
    def limits(self) -> tuple[LimitStatus, ...]:
        """The tightest limit of each kind, or all of them if asked for."""
        return self._granted.limits

    @property
    def warnings(self) -> tuple[LimitStatus, ...]:
        """Thresholds that were passed (warn_at), and shadow limits that would have refused."""
        return self._granted.warnings

    @property
    def repeated_call(self) -> bool:
        """This grant was given before: another call with this request_id may be under way."""
        return self._granted.repeated_call

    @property
    def dry_run(self) -> bool:
        """Nothing was held; the limiter only said what it would have decided."""
        return self._granted.dry_run

    def sent(self) -> None:
        """Mark that the request has left for the provider: from now on an exception costs the hold."""
        self._sent = True

    def not_sent(self) -> None:
        """Mark that nothing has left for the provider: an exception releases the hold."""
        self._sent = False

    def _settle_request(self, response: object, arguments: SettleArguments) -> pb.SettleRequest:
        self._check_held()
        return settle_request(self.reservation, response, arguments)

    def _release_request(self, reason: str) -> pb.ReleaseRequest:
        self._check_held()
        return release_request(self.reservation, reason=reason)

    def _check_held(self) -> None:
        if not self.reservation:
            raise InvalidRequest("reservation: there is none; this call was admitted without a hold")

    def _not_ended(self, request: Ending, error: LimiterClientError) -> None:
        self._failure = error
        _log.warning("%s", undelivered(request, error))

    def _closing(self, error: BaseException | None) -> Ending | None:
        """Return what is left to send when the block is left with `error`."""
        # A settlement that could not be delivered is not replaced by a worse one: the hold expires,
        # and is charged then. One that the limiter could not read is.
        if self._ended or not (self._failure is None or isinstance(self._failure, InvalidRequest)):
            return None
        answer = None if error is None or self._sent is False else _error_answer(error)
        if answer is not None:
            failed = pb.SettleRequest.FAILED
            return pb.SettleRequest(reservation=self.reservation, provider_response=answer, outcome=failed)
        if not self._may_be_sent(error):
            return release_request(self.reservation, reason=_reason(error))
        if error is None:
            _log.warning("limiter: %s was neither settled nor released; it is charged in full", self)
        return self._in_full(Outcome.COMPLETED if error is None else Outcome.ABORTED)

    def _may_be_sent(self, error: BaseException | None) -> bool:
        if self._sent is not None:
            return self._sent
        return self._assume_sent and (error is None or not _never_reached(error))

    def _in_full(self, outcome: Outcome) -> pb.SettleRequest:
        arguments = SettleArguments(cost_nanousd=self.held_nanousd, estimated=True, outcome=outcome)
        return settle_request(self.reservation, None, arguments)


def undelivered(request: Ending, error: LimiterClientError) -> str:
    """Say that a hold could not be ended, for the log."""
    verb = "settled" if isinstance(request, pb.SettleRequest) else "released"
    return f"limiter: {_recognisable(request.reservation)} could not be {verb} and will expire: {error}"


def _recognisable(reservation: str) -> str:
    """Shorten a name for logs: who knows all of it may settle the hold."""
    return f"{reservation[:-24]}…" if reservation else "no hold"


def _reason(error: BaseException | None) -> str:
    return "not sent" if error is None else f"not sent: {type(error).__name__}"  # its text may hold content


def _error_answer(error: BaseException) -> pb.ProviderResponse | None:
    """Return the provider's error answer that an SDK's exception carries.

    The SDKs of OpenAI, Anthropic and their kin call it APIStatusError. Only theirs counts: an error
    of an HTTP library may come from any other service that the block talks to. A status below 400
    means that the answer broke off on the way (Anthropic streams errors so).
    """
    if "APIStatusError" not in _names(error):
        return None
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if not isinstance(status, int) or status < 400:
        return None
    try:
        return read_response(response)
    except InvalidRequest:  # too large to pass on; the status says enough
        return pb.ProviderResponse(status=status, content_type="application/json")


def _never_reached(error: BaseException) -> bool:
    """Tell whether an SDK's exception says that no connection to the provider was made."""
    return "APIConnectionError" in _names(error) and any(not _UNSENT.isdisjoint(_names(e)) for e in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause = error.__cause__
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _names(error: BaseException) -> frozenset[str]:
    return frozenset(kind.__name__ for kind in type(error).__mro__)
