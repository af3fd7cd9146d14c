"""What was learned of calls, as the sidecars share it: published in the store by one, remembered by all who ask for it.

What is published of an organization is one string: a format byte (1), then JSON, a list of
`[team, model, quantile, slope, share, amount, samples, wide, at_ms]` (see :class:`limiter.pricing.learning.Factor`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from limiter.pricing.learning import QUANTILE_DEFAULT, Factor, learned_cost
from limiter.service.memory import Memory

__all__ = ["Kind", "Learned", "Published", "decode", "encode", "learned_cost"]

_ORGANIZATIONS_REMEMBERED = 20_000
_FORMAT = b"\x01"


class Kind(NamedTuple):
    """The calls that a factor is for: of a team, by the model after aliases; the wanted quantile in millionths."""

    team: str
    model: str
    quantile: int = QUANTILE_DEFAULT


class Published(NamedTuple):
    """A factor, and when it was computed, in ms by the store's clock."""

    factor: Factor
    at_ms: int


def encode(factors: Mapping[Kind, Published]) -> bytes:
    """Write what is published of an organization."""
    entries = [
        [*kind, factor.slope, factor.share, factor.amount, factor.samples, int(factor.wide), at_ms]
        for kind, (factor, at_ms) in factors.items()
    ]
    return _FORMAT + json.dumps(entries, separators=(",", ":")).encode()


def decode(published: bytes | None) -> dict[Kind, Published]:
    """Read what was published; nothing where it is of a format that this release does not know."""
    if published is None or not published.startswith(_FORMAT):
        return {}
    entries: list[Any] = json.loads(published[len(_FORMAT) :])
    return {
        Kind(team, model, quantile): Published(Factor(slope, share, amount, samples, bool(wide)), at_ms)
        for team, model, quantile, slope, share, amount, samples, wide, at_ms in entries
    }


class _Known(NamedTuple):
    raw: bytes | None
    factors: dict[tuple[str, str, int], Factor]  # by plain tuples, that are made faster in the way of a call


class Learned:
    """What was learned of the organizations that were asked for, in bounded space.

    `asked` is set when a further organization is asked for.
    """

    def __init__(self) -> None:
        self._known: Memory[str, _Known] = Memory(_ORGANIZATIONS_REMEMBERED)
        self._unread: list[str] = []
        self.asked = asyncio.Event()

    def factor(self, organization: str, team: str, model: str, quantile: int = QUANTILE_DEFAULT) -> Factor | None:
        """The factor for calls of a team by a model; None: hold what is safe.

        An organization that is asked for the first time is read in the background, at once.
        """
        known = self._known.get(organization)
        if known is None:
            self._known.put(organization, _Known(None, {}))
            self._unread.append(organization)
            self.asked.set()
            return None
        return known.factors.get((team, model, quantile))

    def take_unread(self) -> list[str]:
        """Every organization that was asked for since the last time."""
        self.asked.clear()
        unread, self._unread = self._unread, []
        return unread

    def organizations(self) -> list[str]:
        """Every organization that was asked for."""
        return list(self._known)

    @property
    def count(self) -> int:
        """How many factors are remembered."""
        return sum(len(known.factors) for known in self._known.values())

    def put(self, organization: str, published: bytes | None) -> None:
        """Take over what is published now."""
        known = self._known.get(organization)
        if known is None or known.raw != published:
            factors = {
                (kind.team, kind.model, kind.quantile): entry.factor for kind, entry in decode(published).items()
            }
            self._known.put(organization, _Known(published, factors))
