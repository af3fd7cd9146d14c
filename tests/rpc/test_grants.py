"""Grants are told as bytes: read by protobuf, they are the message of the contract, whole and with nothing else."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as some

from limiter.domain.limits import UNITS, Limit, LimitKind
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import Granted, LimitStatus, Place
from limiter.rpc.answers import add_status
from limiter.rpc.grants import grant_bytes
from limiter.v1 import limiter_pb2 as pb

LONGEST = "a" * 128
COUNTS = some.integers(0, 2**63 - 1)
TIMES = some.just(0) | some.integers(1, 253_402_300_799_999)
SCOPES = some.sampled_from(
    [Scope("acme"), Scope("acme", "search"), Scope("acme", "search", "bot"), Scope(LONGEST, LONGEST, LONGEST)]
)
LIMITS = some.builds(
    Limit,
    id=some.sampled_from(["daily", "rpm", LONGEST]),
    kind=some.sampled_from(LimitKind),
    amount=COUNTS,
    per=some.sampled_from(["", "day", "minute", "total"]),
    burst=COUNTS,
    shadow=some.booleans(),
)
STATUSES = some.builds(
    LimitStatus,
    place=some.builds(Place, SCOPES, LIMITS),
    settled=COUNTS,
    held=COUNTS,
    remaining=COUNTS,
    requested=COUNTS,
    resets_at_ms=TIMES,
    refills_at_ms=TIMES,
    overage=COUNTS,
)
GRANTS = some.builds(
    Granted,
    reservation=some.sampled_from(["", f"organizations/{LONGEST}/reservations/{'0' * 32}"]),
    held_nanousd=COUNTS,
    expires_at_ms=TIMES,
    max_output_tokens=some.none() | COUNTS,
    limits=some.lists(STATUSES, max_size=4).map(tuple),
    warnings=some.lists(STATUSES, max_size=2).map(tuple),
    repeated_call=some.booleans(),
    dry_run=some.booleans(),
    output_field=some.sampled_from(["", "generationConfig.maxOutputTokens"]),
)


def stamp(at_ms: int) -> Timestamp:
    return Timestamp(seconds=at_ms // 1000, nanos=at_ms % 1000 * 1_000_000)


def message(status: LimitStatus) -> pb.LimitStatus:
    limit = status.limit
    told = pb.LimitStatus(
        scope=status.scope.name,
        limit=limit.id,
        kind=limit.kind.name,
        unit=UNITS[limit.kind],
        window=limit.per,
        limit_value=limit.amount,
        settled=status.settled,
        held=status.held,
        remaining=status.remaining,
        requested=status.requested,
        shadow=limit.shadow,
        overage=status.overage,
    )
    if limit.kind in (LimitKind.REQUESTS, LimitKind.TOKENS):
        told.burst = limit.burst
    if status.resets_at_ms:
        told.resets_at.CopyFrom(stamp(status.resets_at_ms))
    if status.refills_at_ms:
        told.refills_at.CopyFrom(stamp(status.refills_at_ms))
    return told


@given(some.lists(GRANTS, min_size=1, max_size=3))
def test_every_grant_is_told_whole_and_has_nothing_of_the_one_before(grants: list[Granted]) -> None:
    for granted in grants:
        told = pb.ReserveResponse.FromString(grant_bytes(granted))
        wanted = pb.ReserveResponse(
            decision=pb.ReserveResponse.GRANTED,
            reservation=granted.reservation,
            held_nanousd=granted.held_nanousd,
            expires_at=stamp(granted.expires_at_ms),
            max_output_tokens=granted.max_output_tokens,
            limits=map(message, granted.limits),
            warnings=map(message, granted.warnings),
            repeated_call=granted.repeated_call,
            dry_run=granted.dry_run,
            output_field=granted.output_field,
        )
        assert told == wanted


@given(STATUSES)
def test_where_limits_are_read_a_status_is_the_same_message(status: LimitStatus) -> None:
    response = pb.GetHeadroomResponse()
    add_status(response.limits, status)
    assert response.limits[0] == message(status)


def test_a_place_that_comes_anew_is_told_as_itself() -> None:
    def told(amount: int) -> pb.ReserveResponse:
        place = Place(Scope("acme"), Limit("daily", LimitKind.SPEND, amount, "day"))
        granted = Granted("", 0, 1, None, (LimitStatus(place, 0, 0, 0, 0),))
        return pb.ReserveResponse.FromString(grant_bytes(granted))

    assert [told(amount).limits[0].limit_value for amount in range(200)] == list(range(200))
