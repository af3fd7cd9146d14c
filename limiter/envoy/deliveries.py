"""Which grant was the answer to which request, for the case that Envoy did not wait for it.

A server cannot know whether Envoy still waited when it wrote an answer: Envoy counts from a moment before the call came
here, and drops what comes a moment too late. Its access log tells, by the id that Envoy gave to the client's request.
"""

from __future__ import annotations

from typing import Final

from limiter.domain.reservations import ReservationName
from limiter.service.memory import Memory

#: Where Envoy tells its id of the client's request; its log has it in a field of its own. By default it is Envoy's and
#: not the client's. Should a client choose it, it could at most have a hold released that is then settled by usage.
REQUEST_ID: Final = "x-request-id"

#: The youngest grants that are remembered: those of the seconds that a log entry takes to come.
REMEMBERED_MAX: Final = 16_384


class Deliveries:
    """The grants of one listener, by Envoy's id of the request; the oldest are forgotten first."""

    def __init__(self, *, remembered_max: int = REMEMBERED_MAX) -> None:
        self._grants: Memory[str, ReservationName] = Memory(remembered_max)

    def sent(self, request_id: str, name: ReservationName) -> None:
        """A grant is about to be written."""
        if request_id:
            self._grants.put(request_id, name)

    def undelivered(self, request_id: str) -> ReservationName | None:
        """The grant that Envoy did not wait for; None: there was none, or it is forgotten."""
        return self._grants.pop(request_id, None)
