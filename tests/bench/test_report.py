"""What the rounds come to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.report import Goal, Spread, ratios, summarize
from bench.scenarios import Measurement

RESERVE = Measurement(
    name="reserve, 64 callers",
    per_s=10_000.0,
    p50_ms=5.0,
    p90_ms=6.0,
    p99_ms=7.0,
    settle_p50_ms=None,
    refused=0,
    failed=0,
    sidecar_s=0.08,
    store_s=0.02,
    script_us=18.0,
    batch=32.0,
    load_s=0.01,
    load_busy=0.1,
    load_starved=0.0,
    strangers=0.0,
)
EMPTY = replace(RESERVE, name="empty call, 64 callers", per_s=40_000.0, sidecar_s=0.02, store_s=None, script_us=None)


def test_a_number_is_the_median_of_its_rounds_between_the_least_and_the_most() -> None:
    rounds = [[replace(RESERVE, per_s=per_s)] for per_s in (9_000.0, 12_000.0, 10_000.0)]

    summary = summarize(rounds)

    assert summary[RESERVE.name]["per_s"] == Spread(10_000.0, 9_000.0, 12_000.0)
    assert summary[RESERVE.name]["settle_p50_ms"] is None


def test_overhead_is_a_multiple_of_an_empty_call_in_the_same_run() -> None:
    found = {ratio.number: ratio.times for ratio in ratios(summarize([[EMPTY, RESERVE]]))}

    assert found["per_s"] == pytest.approx(0.25)
    assert found["sidecar_s"] == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(RESERVE.name, "per_s", at_least=10_000), True),
        (Goal(RESERVE.name, "per_s", at_least=10_001), False),
        (Goal(RESERVE.name, "p50_ms", at_most=5.0), True),
        (Goal(RESERVE.name, "p50_ms", at_most=4.9), False),
        (Goal("not measured", "per_s", at_least=1), None),
    ],
)
def test_a_goal_is_met_missed_or_not_measured(goal: Goal, *, met: bool | None) -> None:
    assert goal.met(summarize([[RESERVE]])) is met
