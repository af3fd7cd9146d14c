"""The calls of the service, already translated from whatever protocol they came by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from limiter.domain.calls import Estimate, Outcome, ProviderRequest, ProviderResponse, Usage
from limiter.domain.reservations import Basis, ReservationName, RowFlag, State
from limiter.domain.scopes import Scope
from limiter.pricing.reading import CallReading, ResponseReading

Tags = tuple[tuple[str, str], ...]


class Principal(NamedTuple):
    """Who asks: the secret that a client presented, or (on trusted listeners) the key itself."""

    api_key: str = ""
    key: Scope | None = None

    def __repr__(self) -> str:
        return f"Principal(key={self.key})" if self.key is not None else "Principal(api_key=(hidden))"


@dataclass(slots=True, eq=False)
class ReserveCall:
    """One Reserve.

    `size` as an int is a cost in nano-USD; None: a consumed call without a model. A ProviderRequest that was read
    before comes as its CallReading.

    `ttl_ms` None: the policy's. `fingerprint` is 16 bytes over the request as sent. `deadline` is by the
    event loop's clock. `caps_output`: the caller writes the answer's max_output_tokens into a request that names none.
    """

    principal: Principal
    request_id: str
    model: str
    provider: str
    size: Estimate | ProviderRequest | CallReading | int | None
    tags: Tags
    ttl_ms: int | None
    dry_run: bool
    all_limits: bool
    consume: bool
    fingerprint: bytes
    deadline: float | None
    caps_output: bool = False


@dataclass(slots=True, eq=False)
class SettleCall:
    """One Settle. `actual` as an int is a cost in nano-USD. An answer that was read before comes as its reading."""

    name: ReservationName
    actual: Usage | ProviderResponse | ResponseReading | int
    outcome: Outcome
    estimated: bool
    model: str
    provider_request_id: str


@dataclass(slots=True, eq=False)
class BrokenOff:
    """The end of a call of which the provider's final count is not known.

    `reached_provider` False: nothing can have been spent. `usage_seen`: what the provider had counted so far.
    `output_bytes`: about how much text of the answer had passed. `outcome` COMPLETED: the answer went out whole, but
    did not say what was used. `unseen`: of what the provider may have written, nothing could be seen.
    """

    name: ReservationName
    reached_provider: bool = True
    usage_seen: Usage | None = None
    output_bytes: int = 0
    model: str = ""
    provider_request_id: str = ""
    outcome: Outcome = Outcome.ABORTED
    unseen: bool = False


@dataclass(slots=True, eq=False)
class BookCall:
    """One Charge. `occurred_ms` 0: now."""

    principal: Principal
    request_id: str
    model: str
    provider: str
    actual: Usage | ProviderResponse | int
    tags: Tags
    occurred_ms: int
    provider_request_id: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Settled:
    """What the books say after a Settle, Release or Charge. A charge had no hold at all, so no overage."""

    name: ReservationName
    state: State
    basis: Basis | None
    held_nanousd: int
    cost_nanousd: int
    flags: RowFlag
    repeated_call: bool
    usage: Usage | None = None
    model: str = ""
    price_version: str = ""
    warnings: tuple[str, ...] = ()
    held_at_all: bool = True

    @property
    def released_nanousd(self) -> int:
        """What was given back of the hold."""
        return max(0, self.held_nanousd - self.cost_nanousd)

    @property
    def overage_nanousd(self) -> int:
        """What was charged above the hold."""
        return max(0, self.cost_nanousd - self.held_nanousd) if self.held_at_all else 0
