"""Grants as the bytes of a ReserveResponse: what does not change from call to call is encoded once.

Most Reserves are granted, and each grant tells of several limits. Fields of a message may stand in any order, so that
the bytes of some of them can be kept and put before those of the others
(https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from limiter.domain.verdicts import Granted, LimitStatus, Place
from limiter.rpc.answers import place_message, timestamp
from limiter.v1 import limiter_pb2 as pb

#: No id is longer than 128 bytes, so that a status is far below.
_LENGTHS: Final = tuple(
    bytes([length]) if length < 0x80 else bytes([length & 0x7F | 0x80, length >> 7]) for length in range(2_048)
)


def _tag(message: type[pb.ReserveResponse | pb.LimitStatus], field: str) -> bytes:
    """What stands before the length of a field that is a message."""
    return bytes([message.DESCRIPTOR.fields_by_name[field].number << 3 | 2])


_LIMITS: Final = _tag(pb.ReserveResponse, "limits")
_WARNINGS: Final = _tag(pb.ReserveResponse, "warnings")
_EXPIRES_AT: Final = _tag(pb.ReserveResponse, "expires_at")
_RESETS_AT: Final = _tag(pb.LimitStatus, "resets_at")
_REFILLS_AT: Final = _tag(pb.LimitStatus, "refills_at")

_GRANT = pb.ReserveResponse(decision="GRANTED")
_COUNTERS = pb.LimitStatus()


def grant_bytes(granted: Granted) -> bytes:
    """Encode the answer to a Reserve that was granted."""
    grant = _GRANT
    grant.reservation = granted.reservation
    grant.held_nanousd = granted.held_nanousd
    if granted.max_output_tokens is None:
        grant.ClearField("max_output_tokens")
    else:
        grant.max_output_tokens = granted.max_output_tokens
    grant.repeated_call = granted.repeated_call
    grant.dry_run = granted.dry_run
    grant.output_field = granted.output_field
    parts = [grant.SerializeToString(), _EXPIRES_AT, _time(granted.expires_at_ms)]
    for tag, statuses in ((_LIMITS, granted.limits), (_WARNINGS, granted.warnings)):
        for status in statuses:
            encoded = _status(status)
            parts += tag, _LENGTHS[len(encoded)], encoded
    return b"".join(parts)


def _status(status: LimitStatus) -> bytes:
    counters = _COUNTERS
    place, settled, held, remaining, requested, resets_at_ms, refills_at_ms, overage = status
    counters.settled, counters.held, counters.remaining = settled, held, remaining
    counters.requested, counters.overage = requested, overage
    encoded = (place.told or _told(place)) + counters.SerializeToString()
    if resets_at_ms:
        encoded += _RESETS_AT + _time(resets_at_ms)
    if refills_at_ms:
        encoded += _REFILLS_AT + _time(refills_at_ms)
    return encoded


def _told(place: Place) -> bytes:
    place.told = place_message(place).SerializeToString()
    return place.told


@lru_cache(maxsize=4096)
def _time(at_ms: int) -> bytes:
    """Encode a Timestamp with its length; many answers have the same."""
    encoded = timestamp(at_ms).SerializeToString()
    return _LENGTHS[len(encoded)] + encoded
