"""Single answers are judged by their own numbers."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from limiter.cli.replay_checks import overshoot, refusal_faults
from limiter.cli.replay_tally import FAULTS_TOLD, Tally
from limiter.domain.verdicts import DenialReason
from limiter.v1 import limiter_pb2 as pb

SPEND, CONCURRENCY = pb.LimitStatus.SPEND, pb.LimitStatus.CONCURRENCY
REQUESTS, TOKENS = pb.LimitStatus.REQUESTS, pb.LimitStatus.TOKENS
DENIED = pb.ReserveResponse.DENIED


def spend(
    *, settled: int = 0, held: int = 0, requested: int = 10, ceiling: int = 100, **more: object
) -> pb.LimitStatus:
    status = pb.LimitStatus(
        scope="organizations/acme",
        limit="monthly",
        kind=SPEND,
        unit="nanousd",
        window="month",
        limit_value=ceiling,
        settled=settled,
        held=held,
        remaining=max(0, ceiling - settled - held),
        requested=requested,
    )
    for name, value in more.items():
        setattr(status, name, value)
    return status


def rate(kind: pb.LimitStatus.Kind, *, remaining: int, requested: int, burst: int) -> pb.LimitStatus:
    return pb.LimitStatus(
        scope="organizations/acme",
        limit=f"rate{kind}",
        kind=kind,
        window="minute",
        limit_value=60,
        remaining=remaining,
        requested=requested,
        burst=burst,
    )


def slots(held: int, of: int) -> pb.LimitStatus:
    return pb.LimitStatus(
        scope="organizations/acme", limit="inflight", kind=CONCURRENCY, limit_value=of, held=held, requested=1
    )


def refusal(
    reason: DenialReason, *violations: pb.LimitStatus, told: tuple[pb.LimitStatus, ...] = ()
) -> pb.ReserveResponse:
    denial = pb.Denial(
        reason=reason.name, http_status=reason.http_status, retryable=reason.retryable, violations=violations
    )
    if reason.retryable:
        denial.retry_after.CopyFrom(Duration(seconds=1))
    return pb.ReserveResponse(decision=pb.ReserveResponse.DENIED, denial=denial, limits=told)


@pytest.mark.parametrize(
    "answer",
    [
        refusal(DenialReason.SPEND_CEILING, spend(settled=91)),
        refusal(DenialReason.SPEND_HELD, spend(settled=90, held=1)),
        refusal(DenialReason.SPEND_CEILING, spend(settled=91), slots(5, 5)),
        refusal(DenialReason.REQUEST_RATE, rate(REQUESTS, remaining=0, requested=1, burst=10)),
        refusal(DenialReason.TOKEN_RATE, rate(TOKENS, remaining=99, requested=100, burst=100)),
        refusal(DenialReason.NEVER_FITS, rate(TOKENS, remaining=100, requested=101, burst=100), spend(settled=95)),
        refusal(DenialReason.CONCURRENCY, slots(5, 5), told=(spend(settled=90), slots(5, 5))),
        refusal(DenialReason.KEY_DISABLED),
        refusal(DenialReason.MODEL_UNPRICED),
    ],
)
def test_a_refusal_that_its_numbers_bear_out_has_no_fault(answer: pb.ReserveResponse) -> None:
    assert list(refusal_faults(answer)) == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refusal(DenialReason.SPEND_CEILING, spend(settled=90)), "had room"),
        (refusal(DenialReason.SPEND_HELD, spend(settled=91)), "SPEND_CEILING goes before"),
        (refusal(DenialReason.SPEND_CEILING, spend(settled=85, held=6)), "SPEND_HELD goes before"),
        (refusal(DenialReason.REQUEST_RATE, rate(REQUESTS, remaining=1, requested=1, burst=10)), "had room"),
        (
            refusal(DenialReason.TOKEN_RATE, rate(TOKENS, remaining=5, requested=101, burst=100)),
            "NEVER_FITS goes before",
        ),
        (refusal(DenialReason.CONCURRENCY, slots(4, 5)), "had room"),
        (refusal(DenialReason.CONCURRENCY, slots(5, 5), spend(settled=100)), "SPEND_CEILING goes before"),
        (refusal(DenialReason.CONCURRENCY, slots(5, 5), told=(spend(settled=100),)), "is not named"),
        (refusal(DenialReason.SPEND_CEILING), "names no limit"),
        (refusal(DenialReason.SPEND_CEILING, spend(settled=91, shadow=True)), "shadow"),
        (refusal(DenialReason.SPEND_CEILING, spend(settled=100, requested=0)), "had room"),
        (refusal(DenialReason.KEY_UNKNOWN, spend(settled=91)), "policy alone"),
        (
            pb.ReserveResponse(
                decision=DENIED, denial=pb.Denial(reason="SPEND_CEILING", http_status=429, retryable=True)
            ),
            "HTTP status 429",
        ),
        (
            pb.ReserveResponse(
                decision=DENIED, denial=pb.Denial(reason="REQUEST_RATE", http_status=429, retryable=True)
            ),
            "without retry_after",
        ),
        (pb.ReserveResponse(decision=DENIED, denial=pb.Denial()), "none that the contract knows"),
    ],
)
def test_a_refusal_that_its_numbers_do_not_bear_out_is_found(answer: pb.ReserveResponse, said: str) -> None:
    assert said in " | ".join(refusal_faults(answer))


def test_overshoot_is_what_stands_above_the_ceiling() -> None:
    assert overshoot(spend(settled=60, held=40)) == 0
    assert overshoot(spend(settled=60, held=41)) == 1
    assert overshoot(slots(7, 5)) == 2
    assert overshoot(rate(TOKENS, remaining=0, requested=9, burst=5)) == 0


def granted(name: str, *limits: pb.LimitStatus) -> pb.ReserveResponse:
    return pb.ReserveResponse(decision=pb.ReserveResponse.GRANTED, reservation=name, limits=limits)


def test_the_tally_counts_by_limit_reason_and_customer() -> None:
    tally = Tally()
    tally.answered(granted("r1", spend(settled=50, held=20)), key="acme/a/k", customer="c1")
    tally.answered(granted("r2", spend(settled=80, held=25)), key="acme/a/k", customer="c2")
    tally.answered(refusal(DenialReason.SPEND_CEILING, spend(settled=95)), key="acme/a/k", customer="c2")
    tally.settled_as(pb.SettleResponse(state=pb.SETTLED, cost_nanousd=7), reservation="r1", customer="c1")
    (line,) = tally.limits.values()
    assert (line.granted, dict(line.refused), line.overshoot) == (2, {DenialReason.SPEND_CEILING: 1}, 5)
    assert tally.customers["c1"].cost_nanousd == 7
    assert (tally.customers["c2"].granted, tally.customers["c2"].denied) == (1, 1)
    assert tally.costs == {"r1": 7, "r2": None}
    assert not tally.faults


def test_a_reservation_that_is_granted_twice_and_a_settlement_in_another_state_are_found() -> None:
    tally = Tally()
    tally.answered(granted("r1"), key="acme/a/k", customer="c")
    tally.answered(granted("r1"), key="acme/a/k", customer="c")
    tally.settled_as(pb.SettleResponse(state=pb.EXPIRED), reservation="r1", customer="c")
    assert tally.faults.counts["answers"] == 2


def test_all_faults_are_counted_and_only_the_first_are_told() -> None:
    tally = Tally()
    for _ in range(FAULTS_TOLD + 5):
        tally.answered(refusal(DenialReason.SPEND_CEILING), key="acme/a/k", customer="c")
    assert tally.faults.counts["refusals"] == FAULTS_TOLD + 5
    assert len(tally.faults.told["refusals"]) == FAULTS_TOLD
