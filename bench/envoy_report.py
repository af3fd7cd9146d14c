"""What the rounds of Envoy come to: what each layout adds to bare Envoy, ratios to empty handlers, and goals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from rich import box
from rich.console import Console
from rich.table import Table

from bench.envoy_scenarios import (
    ACCESS_LOG,
    BARE,
    CONNECTIONS,
    DEFAULT,
    EMPTY_CHAIN,
    EMPTY_CHECK,
    RATE,
    UPSTREAM,
    Measurement,
)
from bench.report import Spread, Summary, plain, shown, spread_of

_NUMBERS = tuple(field.name for field in fields(Measurement) if field.name not in ("name", "fixed"))
#: More than this share of a core for other programs, and the figures are not to be believed.
_STRANGERS_MAX = 0.1
#: Settlement that ends later than this after the load could not keep up with it.
_SETTLED_AFTER_MAX_S = 1.0

#: Latency added to bare Envoy's, in milliseconds; requests per second as a share of another layout's.
ADDED_P50, ADDED_P99, SHARE = "added_p50_ms", "added_p99_ms", "share"
_COMPARED = {ACCESS_LOG.name: EMPTY_CHECK.name, DEFAULT.name: EMPTY_CHAIN.name}

Round = Sequence[Measurement]


def full(rounds: Sequence[Round]) -> Summary:
    """By layout, at full rate: every number, and the share of the layout with empty handlers in the same round."""
    summary = _summary(rounds, fixed=False)
    for name, other in _COMPARED.items():
        if name in summary:
            summary[name][SHARE] = spread_of(_each(rounds, name, other, "per_s", _ratio, fixed=False))
    return summary


def fixed(rounds: Sequence[Round]) -> Summary:
    """By layout, at the fixed rate: every number, and what the layout adds to bare Envoy in the same round."""
    summary = _summary(rounds, fixed=True)
    for name in summary:
        for number, added in (("p50_ms", ADDED_P50), ("p99_ms", ADDED_P99)):
            summary[name][added] = spread_of(_each(rounds, name, BARE.name, number, _difference, fixed=True))
    return summary


def _summary(rounds: Sequence[Round], *, fixed: bool) -> dict[str, dict[str, Spread | None]]:
    runs = [one for measured in rounds for one in measured if one.fixed == fixed]
    return {
        name: {number: spread_of(getattr(run, number) for run in runs if run.name == name) for number in _NUMBERS}
        for name in dict.fromkeys(run.name for run in runs)
    }


def _each(
    rounds: Sequence[Round],
    name: str,
    other: str,
    number: str,
    compare: Callable[[float, float], float],
    *,
    fixed: bool,
) -> Iterator[float]:
    """Compare a number of two layouts in every round that has both."""
    for measured in rounds:
        found: Mapping[str, float] = {one.name: getattr(one, number) for one in measured if one.fixed == fixed}
        if name in found and other in found:
            yield compare(found[name], found[other])


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else 0.0


def _difference(ours: float, theirs: float) -> float:
    return ours - theirs


# ---------------------------------------------------------------------- goals


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted of a median: a share of requests per second, or latency added at the fixed rate."""

    layout: str
    number: str
    at_least: float | None = None
    at_most: float | None = None

    def value(self, summary: Summary) -> float | None:
        """What was measured; None: nothing."""
        spread = summary.get(self.layout, {}).get(self.number)
        return None if spread is None else spread.median

    def met(self, summary: Summary) -> bool | None:
        """Whether it is so; None: not measured."""
        value = self.value(summary)
        if value is None:
            return None
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


GOALS_FULL = (
    Goal(ACCESS_LOG.name, SHARE, at_least=0.50),
    Goal(DEFAULT.name, SHARE, at_least=0.55),
)
GOALS_FIXED = (
    Goal(ACCESS_LOG.name, ADDED_P50, at_most=2.0),
    Goal(DEFAULT.name, ADDED_P50, at_most=4.0),
)


def as_json(rounds: Sequence[Round]) -> dict[str, object]:
    """The summaries, goals and what is to be said of them, ready for JSON."""
    at_full, at_fixed = full(rounds), fixed(rounds)
    judged = [(goal, at_full) for goal in GOALS_FULL] + [(goal, at_fixed) for goal in GOALS_FIXED]
    return {
        "full": plain(at_full),
        f"at {RATE}/s": plain(at_fixed),
        "goals": [{**asdict(goal), "measured": goal.value(one), "met": goal.met(one)} for goal, one in judged],
        "bottleneck": list(bottleneck(at_full)),
        "cautions": list(cautions(rounds)),
        "rounds": [[asdict(one) for one in measured] for measured in rounds],
    }


# ---------------------------------------------------------------------- for people


def show(console: Console, rounds: Sequence[Round]) -> None:
    """Print the tables and what to think of them."""
    at_full, at_fixed = full(rounds), fixed(rounds)
    console.print(_full_table(at_full))
    console.print(_fixed_table(at_fixed))
    console.print(_goal_table(at_full, at_fixed))
    for line in (*bottleneck(at_full), *cautions(rounds)):
        console.print(line, highlight=False)


def _full_table(summary: Summary) -> Table:
    title = f"{CONNECTIONS} connections, as fast as it goes: medians (least–most); CPU in seconds per 1,000 requests"
    table = Table(title=title, box=box.SIMPLE_HEAD)
    table.add_column("what")
    for heading in ("per second", "share of empty", "p50 ms", "p99 ms", "Envoy CPU", "sidecar CPU", "store CPU"):
        table.add_column(heading, justify="right")
    for name, numbers in summary.items():
        table.add_row(
            name,
            shown(numbers["per_s"], ",.0f"),
            shown(numbers.get(SHARE), ".0%"),
            shown(numbers["p50_ms"], ".2f", spread=False),
            shown(numbers["p99_ms"], ".2f", spread=False),
            *(shown(numbers[program], ".3f", spread=False) for program in ("envoy_s", "sidecar_s", "store_s")),
        )
    return table


def _fixed_table(summary: Summary) -> Table:
    table = Table(title=f"{RATE} requests per second; latency from the time they were due", box=box.SIMPLE_HEAD)
    table.add_column("what")
    for heading in ("p50 ms", "p99 ms", "added p50", "added p99", "Envoy CPU", "sidecar CPU", "store CPU"):
        table.add_column(heading, justify="right")
    for name, numbers in summary.items():
        added = name != BARE.name
        table.add_row(
            name,
            shown(numbers["p50_ms"], ".2f"),
            shown(numbers["p99_ms"], ".2f"),
            shown(numbers[ADDED_P50], ".2f") if added else "",
            shown(numbers[ADDED_P99], ".2f") if added else "",
            *(shown(numbers[program], ".3f", spread=False) for program in ("envoy_s", "sidecar_s", "store_s")),
        )
    return table


_LABELS = {
    SHARE: "requests per second, of those with empty handlers",
    ADDED_P50: f"median latency added at {RATE}/s, ms",
}


def _goal_table(at_full: Summary, at_fixed: Summary) -> Table:
    table = Table(title="goals", box=box.SIMPLE_HEAD)
    for heading in ("what", "number", "wanted", "measured", ""):
        table.add_column(heading)
    for goal, summary in [(goal, at_full) for goal in GOALS_FULL] + [(goal, at_fixed) for goal in GOALS_FIXED]:
        value = goal.value(summary)
        if value is None:
            continue
        wanted = f"≥ {goal.at_least:.0%}" if goal.at_least is not None else f"≤ {goal.at_most:g}"
        text = f"{value:.0%}" if goal.at_least is not None else f"{value:.2f}"
        table.add_row(goal.layout, _LABELS[goal.number], wanted, text, "met" if goal.met(summary) else "missed")
    return table


def bottleneck(summary: Summary) -> Iterable[str]:
    """Say how one knows that neither the generator nor the upstream was the bottleneck."""
    alone = _median(summary, UPSTREAM, "per_s")
    for name in summary:
        per_s = _median(summary, name, "per_s")
        if name == UPSTREAM or not alone or not per_s:
            continue
        told = {
            number: _median(summary, name, number) or 0.0
            for number in ("load_busy", "load_starved", "upstream_busy", "upstream_starved")
        }
        yield (
            f"{name}: the load generator worked {told['load_busy']:.0%} of the time and waited"
            f" {told['load_starved']:.0%} for a core, the upstream {told['upstream_busy']:.0%} and"
            f" {told['upstream_starved']:.0%}; without Envoy they do {alone / per_s:.0f} times as many requests."
        )


def _median(summary: Summary, name: str, number: str) -> float | None:
    spread = summary.get(name, {}).get(number)
    return None if spread is None else spread.median


def cautions(rounds: Sequence[Round]) -> Iterable[str]:
    """Say what makes the figures doubtful."""
    for one in (one for measured in rounds for one in measured):
        what = f"CAUTION: {one.name}{f' at {RATE}/s' if one.fixed else ''}"
        if one.refused or one.lacking:
            yield f"{what}: {one.refused} requests were refused, {one.lacking} answers lacked their header."
        if one.unsettled:
            yield f"{what}: {one.unsettled} calls were not settled."
        elif one.settled_after_s is not None and one.settled_after_s > _SETTLED_AFTER_MAX_S:
            yield f"{what}: settlement was {one.settled_after_s:.1f} s behind at the end; the rate cannot last."
        if one.fixed and one.per_s < 0.98 * RATE:
            yield f"{what}: only {one.per_s:.0f} requests a second were answered."
        if one.strangers > _STRANGERS_MAX:
            yield f"{what}: other programs used {one.strangers:.0%} of a core."
