"""Learns from settled calls how much of a safe hold such calls really need.

A learned hold is `slope` of the safe hold's input part, and an addition for the output: a `share` of the safe hold's
output part, or an `amount` of money (where calls name very different maxima, what they produce hardly depends on
them). It is never more than the safe hold. Which slope, and whether share or amount, is chosen by what makes the holds
smallest; the addition is then the order statistic that covers the wanted part of the samples. Money stays an integer;
floats only compare candidates.

>>> factor = learn([Sample(1_000, 40_000, 1_000 + used) for used in range(1_000)])
>>> learned_cost(1_000, 40_000, factor)
1995
"""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, cast

#: Slopes, shares and quantiles are counted in millionths.
MILLION: Final = 1_000_000

#: The part of calls that should cost no more than their hold, where nothing else is said.
QUANTILE_DEFAULT: Final = 995_000

#: Nothing is learned from fewer calls.
SAMPLES_MIN: Final = 500
#: Older samples are forgotten: what calls cost changes with those who make them.
SAMPLES_KEPT: Final = 5_000

#: Calls are not what they were, where holds must be widened: so many samples are kept then.
_SAMPLES_KEPT_WHEN_WIDENED: Final = 1_000
_FORGOTTEN_AT_ONCE: Final = 1_000

#: So many of the newest samples tell whether the holds of the moment still suffice.
_JUDGED: Final = 500
#: Above so many times the expected misses among those judged, holds are widened until they are half of that; and above
#: so many they are safe ones again.
_WIDE_FROM, _SAFE_FROM = 2, 6
_WIDE_LEAST, _SAFE_LEAST = 1, 5

_SLOPE_STEP: Final = 100_000
_SLOPES: Final = tuple(range(0, 1_600_001, _SLOPE_STEP))
#: What nearly every call costs, as a part of its input: a slope below that would fail for longer inputs.
_INPUT_QUANTILE: Final = 10_000
#: Also those that cover this part of the samples by themselves: input bounds can be loose by any constant.
_SLOPE_QUANTILES: Final = (500_000, 900_000, 990_000)
#: So many samples tell.
_SLOPES_FROM: Final = 1_000
_SLOPE_MAX: Final = 4 * MILLION
#: Candidates are compared by so many samples.
_COMPARED: Final = 256
#: An amount must be so much better than a share (ln): a share stays right when prices change.
_AMOUNT_HANDICAP: Final = 0.02

#: A factor is computed anew after so many further samples, sooner where holds do not suffice.
_AGAIN_AFTER: Final = 250
_AGAIN_PART: Final = 8
_AGAIN_IF_WIDE: Final = 50


class Sample(NamedTuple):
    """A settled call: the two parts of its safe hold, and what it cost, in nano-USD."""

    input_nanousd: int
    output_nanousd: int
    cost_nanousd: int


@dataclass(frozen=True, slots=True)
class Factor:
    """How a learned hold follows from a safe one; `slope` and `share` in millionths, `amount` in nano-USD.

    `samples` is the number of calls that it was learned from. `wide`: more of the newest calls than expected had cost
    more than their hold, so that it covers all of those.
    """

    slope: int
    share: int
    amount: int
    samples: int
    wide: bool = False

    @property
    def is_safe(self) -> bool:
        """Whether it gives the safe hold itself."""
        return self.slope >= MILLION and self.share >= MILLION


def learned_cost(input_nanousd: int, output_nanousd: int, factor: Factor) -> int:
    """Return the learned hold of a call whose safe hold has these two parts: rounded up, never more than that."""
    # -(-a // b) rounds up.
    learned = -(-input_nanousd * factor.slope // MILLION) - (-output_nanousd * factor.share // MILLION) + factor.amount
    safe = input_nanousd + output_nanousd
    return learned if learned < safe else safe  # noqa: FURB136 - min() takes twice as long, for every call


def safe_factor(samples: int) -> Factor:
    """Return the factor that gives the safe hold itself."""
    return Factor(MILLION, MILLION, 0, samples, wide=True)


def learn(samples: Sequence[Sample], *, quantile: int = QUANTILE_DEFAULT, wide: bool = False) -> Factor | None:
    """Learn from the samples, oldest first; None: there are too few.

    At least `quantile` (in millionths) of the samples, and so the next call with about that probability, cost no more
    than their learned hold, or more than their safe one. `wide`: so do all of the newest 500.
    """
    steps = learning(samples, quantile=quantile, wide=wide)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("Factor | None", end.value)


def learning(samples: Sequence[Sample], *, quantile: int, wide: bool) -> Generator[None, None, Factor | None]:
    """Do what `learn` does in steps of a few milliseconds."""
    if len(samples) < SAMPLES_MIN:
        return None
    compared = samples[:: max(1, len(samples) // _COMPARED)]
    slopes = _slopes(samples[:: max(1, len(samples) // _SLOPES_FROM)])
    yield
    shares = all(sample.output_nanousd > 0 for sample in samples)
    amounts = not shares or any(sample.output_nanousd != samples[0].output_nanousd for sample in compared)
    yield
    found: list[tuple[float, Factor]] = []
    for by_share in (True,) * shares + (False,) * amounts:
        handicap = 0.0 if by_share or not shares else _AMOUNT_HANDICAP
        for slope in slopes:
            needed = _needed(samples, slope, by_share=by_share)
            yield
            addition = max(0, sorted(needed)[_rank(len(needed), quantile)], *needed[-_JUDGED:] if wide else ())
            factor = Factor(slope, addition if by_share else 0, 0 if by_share else addition, len(samples), wide)
            found.append((_mean_log(compared, factor) + handicap, factor))
            yield
    return min(found, key=lambda candidate: candidate[0])[1]


def _slopes(samples: Sequence[Sample]) -> list[int]:
    """The slopes to try: none that would not even do for the input, were it longer than all that was seen."""
    found = sorted(-(-each.cost_nanousd * MILLION // each.input_nanousd) for each in samples if each.input_nanousd > 0)
    if len(found) < SAMPLES_MIN:
        return list(_SLOPES)
    own = {min(_SLOPE_MAX, found[_rank(len(found), quantile)]) for quantile in _SLOPE_QUANTILES}
    least = min(found[_rank(len(found), _INPUT_QUANTILE)] // _SLOPE_STEP * _SLOPE_STEP, MILLION)
    return sorted({*own, *(slope for slope in _SLOPES if slope >= least)})


def _needed(samples: Sequence[Sample], slope: int, *, by_share: bool) -> list[int]:
    """The share or amount for the output with which each sample's hold would have been exactly what it cost."""
    if by_share:
        return [-((-have * slope // MILLION + cost) * -MILLION // out) for have, out, cost in samples]
    return [cost + (-have * slope // MILLION) for have, _, cost in samples]


def _rank(count: int, quantile: int) -> int:
    """The position of the order statistic that the next one of its kind is below with at least this probability."""
    return min(count, -(-quantile * (count + 1) // MILLION)) - 1


def _mean_log(samples: Sequence[Sample], factor: Factor) -> float:
    holds = (learned_cost(have, out, factor) for have, out, _ in samples)
    return sum(math.log(hold) if hold > 1 else 0.0 for hold in holds) / len(samples)


class Learning:
    """What is known of the calls of one kind, in bounded space; every sample is judged before it is learned from.

    `factor` is the present one, None before the first. `due` says whether `study` could change it.
    """

    def __init__(self, *, quantile: int = QUANTILE_DEFAULT) -> None:
        self.quantile = quantile
        self.factor: Factor | None = None
        self._learned: Factor | None = None
        self._samples = array("q")  # three numbers each: a tenth of what objects would take
        self._missed: deque[bool] = deque(maxlen=_JUDGED)
        self._misses = 0
        self._new = 0
        self._wide_from = max(_WIDE_LEAST, _WIDE_FROM * _JUDGED * (MILLION - quantile) // MILLION)
        self._safe_from = max(_SAFE_LEAST, _SAFE_FROM * _JUDGED * (MILLION - quantile) // MILLION)

    def __len__(self) -> int:
        """How many samples are kept."""
        return min(SAMPLES_KEPT, len(self._samples) // 3)

    def add(self, sample: Sample) -> None:
        """Take in the newest sample. A cost above the safe hold counts as that: no learned hold covers more."""
        have, out, cost = sample
        cost = min(cost, have + out)
        if self._learned is not None:
            if len(self._missed) == _JUDGED:
                self._misses -= self._missed[0]
            missed = cost > learned_cost(have, out, self._learned)
            self._missed.append(missed)
            self._misses += missed
        self._samples.extend((have, out, cost))
        if len(self._samples) > 3 * (SAMPLES_KEPT + _FORGOTTEN_AT_ONCE):
            del self._samples[: 3 * _FORGOTTEN_AT_ONCE]
        self._new += 1

    @property
    def due(self) -> bool:
        """Whether there is enough news for another factor."""
        if self._learned is None:
            return len(self) >= SAMPLES_MIN
        if self._learned.wide is not self._is_wide or (self.factor is self._learned) is not self._trusted:
            return True
        again = max(_AGAIN_AFTER, len(self) // _AGAIN_PART)
        return self._new >= (_AGAIN_IF_WIDE if self._is_wide else again)

    @property
    def _is_wide(self) -> bool:
        wide = self._learned is not None and self._learned.wide
        return self._misses > (self._wide_from // 2 if wide else self._wide_from)

    @property
    def _trusted(self) -> bool:
        return self._misses <= self._safe_from

    def study(self) -> Iterator[None]:
        """Compute `factor` anew in steps of a few milliseconds; no sample may be added meanwhile."""
        wide = self._is_wide
        if wide and self._learned is not None and not self._learned.wide:
            del self._samples[: -3 * _SAMPLES_KEPT_WHEN_WIDENED]
        kept = iter(self._samples[-3 * SAMPLES_KEPT :])
        samples = list(map(Sample, kept, kept, kept))
        self._new = 0
        yield
        learned = yield from learning(samples, quantile=self.quantile, wide=wide)
        if learned is not None:
            self._learned = learned
            self.factor = learned if self._trusted else safe_factor(len(samples))
