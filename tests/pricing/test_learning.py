"""What learned holds promise: never above the safe one, as many calls covered as is said, tight on real calls."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limiter.pricing import learning as subject
from limiter.pricing.learning import (
    MILLION,
    SAMPLES_KEPT,
    SAMPLES_MIN,
    Factor,
    Learning,
    Sample,
    learn,
    learned_cost,
    safe_factor,
)

ROOT = Path(__file__).parents[2]
TRACE = Path(os.environ.get("LIMITER_TEST_DATA", ROOT.parent / "shared" / "data")) / "azure_llm_code_2023.csv.gz"

#: Nano-USD for a token of the input.
TOKEN = 2_500

AMOUNTS = st.integers(0, 2**53 - 1)
FACTORS = st.builds(Factor, st.integers(0, 4 * MILLION), st.integers(0, 2 * MILLION), AMOUNTS, st.just(500))


def dice(seed: int) -> random.Random:
    return random.Random(seed)


def calls(traced: Sequence[tuple[int, int]], *, dearer: int = 4, most: int = 4096) -> list[Sample]:
    """Calls with exactly known input, whose output costs `dearer` times as much and is at most `most` tokens."""
    out = dearer * TOKEN
    return [Sample(have * TOKEN, max(most, made) * out, have * TOKEN + made * out) for have, made in traced]


def talk(count: int, *, seed: int = 1, longer: Callable[[float], float] = lambda _: 1.0) -> list[tuple[int, int]]:
    """Tokens in and out of a conversation: short answers and long ones, none above 1,000 tokens."""
    rolls = dice(seed)
    found = []
    for number in range(count):
        made = rolls.lognormvariate(4, 0.7) if rolls.random() < 0.5 else rolls.gauss(300, 100)
        made *= longer(number / count)
        found.append((int(min(14_000, rolls.lognormvariate(7, 0.9))) + 1, int(max(1, min(1_000, made)))))
    return found


def replay(samples: Sequence[Sample], *, every: int = 20, quantile: int = 995_000) -> tuple[float, float]:
    """Hold for every call by what the earlier ones taught: the part covered, and median hold/cost as part of safe's."""
    lessons = Learning(quantile=quantile)
    covered, ratios, safes = 0, [], []
    for number, (have, out, cost) in enumerate(samples):
        if number % every == 0 and lessons.due:
            for _ in lessons.study():
                pass
        if lessons.factor is not None:
            hold = learned_cost(have, out, lessons.factor)
            covered += cost <= hold
            ratios.append(hold / cost)
            safes.append((have + out) / cost)
        lessons.add(Sample(have, out, cost))
    assert len(ratios) >= len(samples) - SAMPLES_MIN - every
    return covered / len(ratios), median(ratios) / median(safes)


# ------------------------------------------------------------------ the arithmetic


@given(AMOUNTS, AMOUNTS, FACTORS)
def test_a_learned_hold_is_never_above_the_safe_one_nor_negative(have: int, out: int, factor: Factor) -> None:
    assert 0 <= learned_cost(have, out, factor) <= have + out


@given(AMOUNTS, AMOUNTS, st.integers(0, 10**12), st.integers(0, 10**12), FACTORS)
def test_a_larger_call_is_never_held_for_with_less(
    have: int, out: int, more_have: int, more_out: int, factor: Factor
) -> None:
    assert learned_cost(have + more_have, out + more_out, factor) >= learned_cost(have, out, factor)


@given(AMOUNTS, AMOUNTS)
def test_the_safe_factor_gives_the_safe_hold(have: int, out: int) -> None:
    assert learned_cost(have, out, safe_factor(500)) == have + out


def test_a_learned_hold_is_rounded_up() -> None:
    assert learned_cost(10, 10, Factor(slope=1, share=0, amount=0, samples=500)) == 1
    assert learned_cost(10, 10, Factor(slope=1, share=1, amount=0, samples=500)) == 2


# ------------------------------------------------------------------ learning


def test_nothing_is_learned_from_fewer_than_500_calls() -> None:
    samples = calls(talk(SAMPLES_MIN))
    assert learn(samples[1:]) is None
    assert learn(samples) is not None


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([900_000, 990_000, 995_000, 999_900]),
    st.sampled_from([(0,), (10**6,), (10**5, 10**6)]),
)
def test_of_the_calls_learned_from_as_many_are_covered_as_asked_for(
    seed: int, quantile: int, outs: tuple[int, ...]
) -> None:
    rolls = dice(seed)
    samples = []
    for _ in range(rolls.randrange(SAMPLES_MIN, 900)):
        have, out = rolls.randrange(10**6), rolls.choice(outs)
        samples.append(Sample(have, out, int((have + out) * rolls.random() ** 3)))
    factor = learn(samples, quantile=quantile)
    assert factor is not None
    covered = sum(cost <= learned_cost(have, out, factor) for have, out, cost in samples)
    assert covered * MILLION >= quantile * len(samples)


def test_a_wide_factor_covers_all_of_the_newest_calls() -> None:
    samples = calls([*talk(3_000), *talk(SAMPLES_MIN, seed=2, longer=lambda _: 3.0)])
    factor = learn(samples, wide=True)
    assert factor is not None
    assert factor.wide
    assert all(cost <= learned_cost(have, out, factor) for have, out, cost in samples[-SAMPLES_MIN:])


def test_the_input_is_covered_however_long_it_becomes() -> None:
    factor = learn(calls([(have, 20) for have in range(1, 1_001)]))
    assert factor is not None
    assert factor.slope >= MILLION
    (longer,) = calls([(200_000, 20)])
    assert learned_cost(longer.input_nanousd, longer.output_nanousd, factor) >= longer.cost_nanousd


def test_what_calls_produce_is_told_from_the_maxima_that_they_name() -> None:
    rolls = dice(3)
    tokens = talk(2_000)
    mixed = [calls([each], most=rolls.choice((1_024, 4_096, 16_384, 65_536)))[0] for each in tokens]
    factor = learn(mixed)
    assert factor is not None
    assert factor.amount > 0  # a share of such different maxima would be too much or too little


def test_a_share_is_learned_where_it_serves_because_prices_may_change() -> None:
    factor = learn(calls(talk(2_000)))
    assert factor is not None
    assert (factor.amount, factor.share > 0) == (0, True)


def test_what_is_kept_of_calls_is_bounded() -> None:
    lessons = Learning()
    for sample in calls(talk(SAMPLES_KEPT)) * 3:
        lessons.add(sample)
    assert len(lessons) == SAMPLES_KEPT
    assert len(lessons._samples) <= 3 * (SAMPLES_KEPT + subject._FORGOTTEN_AT_ONCE)


# ------------------------------------------------------------------ one call after the other


def test_holds_that_suddenly_do_not_suffice_are_widened_and_tight_again_later() -> None:
    lessons = Learning()
    widths = []
    made = [1 + number % 200 for number in range(2_000)] + [10 + number % 300 for number in range(4_000)]
    for number, sample in enumerate(calls([(1_000, each) for each in made])):
        if number % 20 == 0 and lessons.due:
            for _ in lessons.study():
                pass
        widths.append(lessons.factor is not None and lessons.factor.wide)
        lessons.add(sample)
    assert not any(widths[:2_000])
    assert any(widths[2_000:2_300])
    assert not widths[-1]


def test_where_most_holds_do_not_suffice_they_are_safe_ones_at_once() -> None:
    lessons = Learning()
    for sample in calls([(1_000, 10)] * 1_000):
        lessons.add(sample)
    for _ in lessons.study():
        pass
    for sample in calls([(1_000, 500)] * 20):
        lessons.add(sample)
    assert lessons.due
    for _ in lessons.study():
        pass
    assert lessons.factor is not None
    assert lessons.factor.is_safe


def test_a_cost_above_the_safe_hold_does_not_make_holds_safe_for_ever() -> None:
    plain = calls(talk(2_000))
    dear = [
        each._replace(cost_nanousd=each.cost_nanousd * 100) if n % 400 == 0 else each for n, each in enumerate(plain)
    ]
    covered, part = replay(dear)
    assert covered > 0.99
    assert part < 0.4


PATTERNS = {
    "steady": calls(talk(8_000)),
    "output eight times as dear": calls(talk(8_000), dearer=8),
    "output as dear": calls(talk(8_000), dearer=1),
    "growing": calls(talk(8_000, longer=lambda at: 0.5 + at)),
    "shrinking": calls(talk(8_000, longer=lambda at: 1.5 - at)),
    "in steps": calls(talk(8_000, longer=lambda at: (1.0, 0.3, 1.2, 0.5, 1.4)[int(at * 5)])),
    "overestimated input": [
        sample._replace(input_nanousd=int(sample.input_nanousd * (1 + number % 21 / 10)))
        for number, sample in enumerate(calls(talk(8_000)))
    ],
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_99_percent_of_later_calls_are_covered_whatever_the_pattern(pattern: str) -> None:
    covered, part = replay(PATTERNS[pattern])
    assert covered >= 0.99
    assert part < 0.45


# ------------------------------------------------------------------ a production trace


@pytest.fixture(scope="module")
def traced() -> list[tuple[int, int]]:
    if not TRACE.exists():
        pytest.skip(f"{TRACE.name} is not there; set LIMITER_TEST_DATA to the folder that has it")
    from limiter.cli.replay_trace import read_trace  # noqa: PLC0415 - only where there is a trace

    return [(call.context_tokens, call.generated_tokens) for call in read_trace(TRACE)]


@pytest.mark.parametrize("order", ["as recorded", "backwards", "second half first"])
@pytest.mark.parametrize("every", [1, 1_000])
def test_on_a_production_trace_99_percent_are_covered_by_a_fifth_of_the_safe_holds(
    traced: list[tuple[int, int]], order: str, every: int
) -> None:
    half = len(traced) // 2
    ordered = {"as recorded": traced, "backwards": traced[::-1], "second half first": traced[half:] + traced[:half]}
    covered, part = replay(calls(ordered[order]), every=every)
    assert covered >= 0.99
    assert part <= 0.2
