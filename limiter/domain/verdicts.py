"""The answer to a Reserve: granted, or denied for reasons in a fixed order of precedence."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from limiter.domain.limits import Limit
from limiter.domain.scopes import Scope


class DenialReason(IntEnum):
    """In order of precedence: if several apply, the answer is the first of them.

    The numbers are those of the wire contract and of the scripts.
    """

    KEY_UNKNOWN = 1
    KEY_DISABLED = 2
    KEY_EXPIRED = 3
    MODEL_NOT_ALLOWED = 4
    MODEL_UNPRICED = 5
    NEVER_FITS = 6
    SPEND_CEILING = 7
    SPEND_HELD = 8
    REQUEST_RATE = 9
    TOKEN_RATE = 10
    CONCURRENCY = 11

    @property
    def http_status(self) -> int:
        """The HTTP status that a proxy should answer with."""
        return _HTTP_STATUS[self]

    @property
    def retryable(self) -> bool:
        """Whether the same call can succeed later without anybody changing anything."""
        return self.http_status == 429


_HTTP_STATUS = {
    DenialReason.KEY_UNKNOWN: 401,
    DenialReason.KEY_DISABLED: 401,
    DenialReason.KEY_EXPIRED: 401,
    DenialReason.MODEL_NOT_ALLOWED: 403,
    DenialReason.MODEL_UNPRICED: 403,
    DenialReason.NEVER_FITS: 400,
    DenialReason.SPEND_CEILING: 402,
    DenialReason.SPEND_HELD: 429,
    DenialReason.REQUEST_RATE: 429,
    DenialReason.TOKEN_RATE: 429,
    DenialReason.CONCURRENCY: 429,
}


@dataclass(slots=True)
class Place:
    """A limit where it stands. `told` is its part of an answer's bytes, kept by who encodes it first."""

    scope: Scope
    limit: Limit
    told: bytes = field(default=b"", init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Hash once what tells places apart, and no more: what is counted by place looks it up for every answer."""
        self._hash = hash((self.scope, self.limit.id))

    def __hash__(self) -> int:
        """What was hashed when the place was made."""
        return self._hash


class LimitStatus(NamedTuple):
    """One limit and its counters at the moment of an answer, in the limit's unit.

    Times are ms since the epoch by the store's clock; 0 means never. `overage` is what of `settled` was charged above
    the holds; it is known where limits are read, and 0 in the answers to a Reserve.
    """

    place: Place
    settled: int
    held: int
    remaining: int
    requested: int
    resets_at_ms: int = 0
    refills_at_ms: int = 0
    overage: int = 0

    @property
    def scope(self) -> Scope:
        """The scope that the limit stands on."""
        return self.place.scope

    @property
    def limit(self) -> Limit:
        """The limit itself."""
        return self.place.limit


class Granted(NamedTuple):
    """Permission to call. `reservation` is "" for a dry run.

    `output_field` is where the maximum output can be written in the body of a provider's request that names none: a
    dotted path, "" where there is no such place, or none is needed.
    """

    reservation: str
    held_nanousd: int
    expires_at_ms: int
    max_output_tokens: int | None
    limits: tuple[LimitStatus, ...]
    warnings: tuple[LimitStatus, ...] = ()
    repeated_call: bool = False
    dry_run: bool = False
    output_field: str = ""


@dataclass(frozen=True, slots=True)
class Denied:
    """A refusal; no counter has moved."""

    reason: DenialReason
    message: str
    violations: tuple[LimitStatus, ...] = ()
    limits: tuple[LimitStatus, ...] = ()
    warnings: tuple[LimitStatus, ...] = ()
    retry_after_ms: int | None = None
    fits_max_output_tokens: int | None = None
    dry_run: bool = False


Verdict = Granted | Denied
