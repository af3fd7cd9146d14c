"""What the rounds of Envoy come to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.envoy_report import ADDED_P50, ADDED_P99, GOALS_FIXED, GOALS_FULL, SHARE, Goal, bottleneck, cautions
from bench.envoy_report import fixed as at_fixed_rate
from bench.envoy_report import full as at_full_rate
from bench.envoy_scenarios import ACCESS_LOG, BARE, DEFAULT, EMPTY_CHAIN, EMPTY_CHECK, LAYOUTS, UPSTREAM, Measurement
from bench.report import Spread

RUN = Measurement(
    name=ACCESS_LOG.name,
    fixed=False,
    per_s=5_000.0,
    p50_ms=12.0,
    p90_ms=14.0,
    p99_ms=20.0,
    max_ms=40.0,
    late_p99_ms=0.0,
    refused=0,
    lacking=0,
    messages=None,
    settled_after_s=0.2,
    unsettled=0,
    envoy_s=0.1,
    sidecar_s=0.15,
    store_s=0.05,
    load_s=0.01,
    upstream_s=0.01,
    envoy_busy=0.5,
    sidecar_busy=0.9,
    store_busy=0.2,
    load_busy=0.06,
    load_starved=0.04,
    upstream_busy=0.05,
    upstream_starved=0.02,
    strangers=0.0,
)
EMPTY = replace(RUN, name=EMPTY_CHECK.name, per_s=8_000.0)
STEADY = replace(RUN, fixed=True, per_s=300.0, p50_ms=1.5, p99_ms=4.0)
BARE_STEADY = replace(STEADY, name=BARE.name, p50_ms=0.25, p99_ms=1.0, settled_after_s=None)


def test_a_share_is_that_of_empty_handlers_in_the_same_round() -> None:
    rounds = [
        [replace(EMPTY, per_s=10_000.0), replace(RUN, per_s=6_000.0)],
        [replace(EMPTY, per_s=5_000.0), replace(RUN, per_s=2_500.0)],  # the machine was slower, for both
        [replace(EMPTY, per_s=10_000.0), replace(RUN, per_s=5_500.0)],
    ]

    summary = at_full_rate(rounds)

    assert summary[ACCESS_LOG.name][SHARE] == Spread(0.55, 0.5, 0.6)
    assert SHARE not in summary[EMPTY_CHECK.name]


def test_a_share_is_not_known_without_the_layout_that_it_is_a_share_of() -> None:
    assert at_full_rate([[RUN]])[ACCESS_LOG.name][SHARE] is None


def test_added_latency_is_what_bare_envoy_does_not_have_in_the_same_round() -> None:
    rounds = [
        [BARE_STEADY, STEADY],
        [replace(BARE_STEADY, p50_ms=1.0), replace(STEADY, p50_ms=2.0)],
        [BARE_STEADY, replace(STEADY, p50_ms=3.25)],
    ]

    summary = at_fixed_rate(rounds)

    assert summary[ACCESS_LOG.name][ADDED_P50] == Spread(1.25, 1.0, 3.0)
    assert summary[ACCESS_LOG.name][ADDED_P99] == Spread(3.0, 3.0, 3.0)
    assert summary[BARE.name][ADDED_P50] == Spread(0.0, 0.0, 0.0)


def test_runs_at_full_rate_and_at_the_fixed_rate_are_kept_apart() -> None:
    rounds = [[EMPTY, RUN, BARE_STEADY, STEADY]]

    full, fixed = at_full_rate(rounds), at_fixed_rate(rounds)

    assert full[ACCESS_LOG.name]["per_s"] == Spread(5_000.0, 5_000.0, 5_000.0)
    assert fixed[ACCESS_LOG.name]["per_s"] == Spread(300.0, 300.0, 300.0)
    assert full.keys() == {EMPTY_CHECK.name, ACCESS_LOG.name}


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(ACCESS_LOG.name, SHARE, at_least=0.625), True),
        (Goal(ACCESS_LOG.name, SHARE, at_least=0.63), False),
        (Goal(ACCESS_LOG.name, SHARE, at_most=0.6), False),
        (Goal(DEFAULT.name, SHARE, at_least=0.1), None),
    ],
)
def test_a_goal_is_met_missed_or_not_measured(goal: Goal, *, met: bool | None) -> None:
    assert goal.met(at_full_rate([[EMPTY, RUN]])) is met


def test_every_goal_is_of_a_layout_that_is_measured_with_the_one_it_is_compared_with() -> None:
    names = {layout.name for layout in LAYOUTS}

    assert {goal.layout for goal in (*GOALS_FULL, *GOALS_FIXED)} <= names
    assert {BARE.name, EMPTY_CHECK.name, EMPTY_CHAIN.name} <= names


def test_the_report_says_how_far_generator_and_upstream_are_from_being_the_bottleneck() -> None:
    alone = replace(RUN, name=UPSTREAM, per_s=100_000.0, envoy_s=None, sidecar_s=None)

    (line,) = bottleneck(at_full_rate([[alone, RUN]]))

    assert ACCESS_LOG.name in line
    assert "worked 6% of the time" in line
    assert "waited 4%" in line
    assert "20 times" in line


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (replace(RUN, refused=3), "3 requests were refused"),
        (replace(RUN, lacking=2), "2 answers lacked"),
        (replace(RUN, unsettled=5), "5 calls were not settled"),
        (replace(RUN, settled_after_s=4.0), "4.0 s behind"),
        (replace(RUN, strangers=0.5), "other programs used 50%"),
        (replace(STEADY, per_s=200.0), "only 200 requests a second"),
    ],
)
def test_what_makes_figures_doubtful_is_said(run: Measurement, words: str) -> None:
    (line,) = cautions([[run]])

    assert line.startswith("CAUTION")
    assert words in line


def test_good_runs_need_no_caution() -> None:
    assert list(cautions([[EMPTY, RUN, BARE_STEADY, STEADY]])) == []
