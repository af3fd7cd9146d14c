"""A reservation is a hold with a name: HELD → SETTLED, RELEASED or EXPIRED."""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from limiter.domain.errors import InvalidArgument
from limiter.domain.scopes import check_id


class State(IntEnum):
    """The numbers are those of the wire contract and of the scripts."""

    HELD = 1
    SETTLED = 2
    RELEASED = 3
    EXPIRED = 4


class Basis(IntEnum):
    """What a settlement rests on; a later one corrects the books only if it is higher."""

    EXPIRED = 1
    RELEASED = 2
    ESTIMATED = 3
    USAGE = 4


class OnExpiry(IntEnum):
    """What a hold costs that nobody settled in time."""

    CHARGE = 1
    RELEASE = 2


class OnAbort(IntEnum):
    """What a call costs that was broken off before the provider told its usage; never more than the hold."""

    USAGE_SEEN = 1  # what the provider had counted so far, and at least the input
    ESTIMATE = 2  # the larger of that and an estimate from what had passed
    FULL_HOLD = 3


class Sizing(IntEnum):
    """How large a hold is for what a call may cost."""

    STRICT = 1  # an upper bound, or no hold at all
    SAFE = 2  # conservative, by what is in the request
    LEARNED = 3  # what such calls really cost, once enough of them are known; never above SAFE


class RowFlag(IntFlag):
    """What a ledger row wants known of it. The numbers are those of the scripts."""

    OVERAGE = 1  # charged more than was held
    LATE = 2  # settled or released after the hold had expired
    UNCLAIMED = 4  # the caller was gone before the grant was written
    ABORTED = 8  # the call was broken off
    FAILED = 16  # the provider answered with an error
    TOKEN_EXCESS = 32  # used more tokens than a bucket's debt may hold
    WINDOW_CLOSED = 64  # at least one window had closed: charged in the ledger only
    FORCED = 128  # ended by an operator
    CONSUMED = 256  # admitted and settled at once
    SHADOWED = 512  # a shadow limit would have refused it
    ZERO_COST = 1024  # what was told comes to nothing, and the policy does not name the model free
    SUSPECT = 2048  # the counts that were told contradict each other: the larger reading was charged
    ADJUSTED = 4096  # an operator said what it cost


#: Nothing to say of a row.
NO_FLAG: Final = RowFlag(0)

_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class ReservationName(NamedTuple):
    """`organizations/acme/reservations/<id>`; the id is 128 bits in hexadecimal."""

    organization: str
    id: str

    @classmethod
    def parse(cls, text: str, *, field: str = "reservation") -> ReservationName:
        """Read a name; raises InvalidArgument for anything else."""
        parts = text.split("/") if len(text) <= 256 else []
        if len(parts) != 4 or parts[0] != "organizations" or parts[2] != "reservations" or not _ID.fullmatch(parts[3]):
            raise InvalidArgument(field, text, "pass the name that Reserve returned: organizations/…/reservations/…")
        return cls(check_id(parts[1], field=field), parts[3])

    def __str__(self) -> str:
        return f"organizations/{self.organization}/reservations/{self.id}"
