"""What can go wrong, by the answer it gets.

::

    LimiterError
    ├── InvalidArgument        a field is missing, malformed or out of bounds
    ├── Unauthenticated        the calling program showed no valid token
    ├── PermissionDenied       the calling program may not do this here
    ├── NotFound               no such reservation, key or organization
    ├── AlreadyExists          the request_id or key is taken by other content
    ├── FailedPrecondition     the subject is in a state that forbids this
    ├── Overloaded             too much is waiting
    ├── Unavailable            the store cannot be reached or trusted
    └── DeadlineExceeded       the caller's deadline passed before the store was asked

A refusal is not an error: see :mod:`limiter.domain.verdicts`.
"""

from __future__ import annotations

#: How much of a bad value a message repeats.
SHOWN_VALUE_MAX = 80


class LimiterError(Exception):
    """A call that got no decision. `str(error)` is a sentence for the caller."""


class InvalidArgument(LimiterError):
    """Names the field, the value and the remedy; nothing was changed."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        shown = repr(value)
        if len(shown) > SHOWN_VALUE_MAX:
            shown = f"{shown[:SHOWN_VALUE_MAX]}… ({len(shown)} characters)"
        super().__init__(f"{field}: {shown} is not valid; {remedy}")
        self.field = field
        self.remedy = remedy


class Unauthenticated(LimiterError):
    """The calling program showed no valid token."""


class PermissionDenied(LimiterError):
    """The calling program may not do this on this listener."""


class NotFound(LimiterError):
    """No such reservation, key or organization; nothing was charged."""


class AlreadyExists(LimiterError):
    """The request_id or the key is taken by other content."""


class FailedPrecondition(LimiterError):
    """The subject is in a state that forbids the call; the message names the state."""


class Overloaded(LimiterError):
    """Too many calls are waiting; the caller should try again later."""


class Unavailable(LimiterError):
    """The store cannot be reached or trusted, or its backlog is full; no decision was made."""


class DeadlineExceeded(LimiterError):
    """The caller's deadline passed before the store was asked; nothing was changed."""
