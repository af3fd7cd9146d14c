"""What the client raises.

::

    LimiterClientError
    ├── Refused                  the limiter decided: no (denial, http_status, message, violations)
    │   ├── KeyRefused           401  the API key is unknown, disabled or expired
    │   ├── ModelRefused         403  the model is not allowed or has no price
    │   ├── NeverFits            400  the call is larger than a limit (fits_max_output_tokens)
    │   ├── SpendCeilingReached  402  the money is spent
    │   └── RateLimited          429  try again after retry_after
    └── CallFailed               no decision was made (code, attempts)
        ├── InvalidRequest       an argument is missing, malformed or out of bounds
        ├── NotAuthenticated     this program showed no valid token
        ├── NotPermitted         this program may not do that on this listener
        ├── HoldNotFound         no such reservation, or its record was retired: book it with charge()
        ├── HoldEnded            the hold has ended; the message names its state
        ├── AlreadyExists        the request_id was used for other content
        └── LimiterUnavailable   the limiter or its store cannot be reached
            ├── LimiterOverloaded
            └── DeadlineExceeded
"""

from __future__ import annotations

from datetime import timedelta

import grpc

from limiter.domain.verdicts import DenialReason, Denied, LimitStatus


class LimiterClientError(Exception):
    """Everything that the client raises on purpose; `str(error)` is a sentence for people."""


class Refused(LimiterClientError):
    """The limiter refused the call: nothing was held, and the provider must not be called."""

    def __init__(self, denial: Denied) -> None:
        super().__init__(denial)
        self.denial = denial

    def __str__(self) -> str:
        return self.message

    @property
    def reason(self) -> DenialReason:
        """Why: the first, in order of precedence, of all that apply."""
        return self.denial.reason

    @property
    def http_status(self) -> int:
        """The HTTP status that a proxy should answer with."""
        return self.denial.reason.http_status

    @property
    def message(self) -> str:
        """One sentence for people."""
        return self.denial.message or self.denial.reason.name

    @property
    def violations(self) -> tuple[LimitStatus, ...]:
        """Every limit that refused, with its counters."""
        return self.denial.violations


class KeyRefused(Refused):
    """The API key is unknown, disabled or expired (401)."""


class ModelRefused(Refused):
    """The model is not allowed for this key, or it has no price (403)."""


class NeverFits(Refused):
    """The call is larger than a limit can ever admit (400)."""

    @property
    def fits_max_output_tokens(self) -> int | None:
        """The largest max_output_tokens that would have been granted, if any."""
        return self.denial.fits_max_output_tokens


class SpendCeilingReached(Refused):
    """The money of a window is spent (402). Waiting does not help before the window ends."""

    @property
    def fits_max_output_tokens(self) -> int | None:
        """The largest max_output_tokens that would have been granted, if any."""
        return self.denial.fits_max_output_tokens


class RateLimited(Refused):
    """A rate, the concurrency, or the open holds of others stand in the way (429)."""

    @property
    def retry_after(self) -> timedelta:
        """How long to wait before the same call can succeed."""
        return timedelta(milliseconds=self.denial.retry_after_ms or 0)


_REFUSED_BY_STATUS = {400: NeverFits, 401: KeyRefused, 402: SpendCeilingReached, 403: ModelRefused, 429: RateLimited}


def refusal(denial: Denied) -> Refused:
    """Make the error that stands for `denial`."""
    return _REFUSED_BY_STATUS[denial.reason.http_status](denial)


class CallFailed(LimiterClientError):
    """The limiter made no decision.

    `code` is the name of the gRPC status. `attempts` counts how often the request was sent; 0: the
    client refused it itself.
    """

    def __init__(self, message: str, code: str = "UNKNOWN", attempts: int = 0) -> None:
        super().__init__(message, code, attempts)
        self.message = message
        self.code = code
        self.attempts = attempts

    def __str__(self) -> str:
        return f"{self.message} ({self.attempts} attempts)" if self.attempts > 1 else self.message


class InvalidRequest(CallFailed):
    """An argument is missing, malformed or out of bounds; the message names it. Nothing changed."""

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT", attempts: int = 0) -> None:
        super().__init__(message, code, attempts)


class NotAuthenticated(CallFailed):
    """This program did not show the listener's token."""


class NotPermitted(CallFailed):
    """This program may not do that on this listener (key_id needs a trusted one)."""


class HoldNotFound(CallFailed):
    """No such reservation, or its record was retired. Nothing was charged; book the spend with charge()."""


class HoldEnded(CallFailed):
    """The hold has ended; the message names its state."""


class AlreadyExists(CallFailed):
    """The request_id was used by this key for other content."""


class LimiterUnavailable(CallFailed):
    """The limiter or its store cannot be reached or trusted. Whether to go on is the caller's choice."""


class LimiterOverloaded(LimiterUnavailable):
    """Too many calls are waiting in the limiter."""


class DeadlineExceeded(LimiterUnavailable):
    """No answer within the timeout."""


_FAILED_BY_CODE: dict[grpc.StatusCode, type[CallFailed]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: NotAuthenticated,
    grpc.StatusCode.PERMISSION_DENIED: NotPermitted,
    grpc.StatusCode.NOT_FOUND: HoldNotFound,
    grpc.StatusCode.FAILED_PRECONDITION: HoldEnded,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.UNAVAILABLE: LimiterUnavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimiterOverloaded,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def failure(error: grpc.RpcError, *, attempts: int) -> CallFailed:
    """Make the error that stands for a gRPC status."""
    code = error.code()
    kind = _FAILED_BY_CODE.get(code, CallFailed)
    return kind(error.details() or f"the limiter answered {code.name}", code.name, attempts)
