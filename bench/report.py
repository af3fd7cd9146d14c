"""What the rounds come to: medians, ratios to what a sidecar is made of, and goals."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

from rich import box
from rich.console import Console
from rich.table import Table

from bench.scenarios import MANY_ORGANIZATIONS, Measurement

_NUMBERS = tuple(field.name for field in fields(Measurement) if field.name != "name")
#: More than this share of a core for other programs, and rates are too low to be believed.
_STRANGERS_MAX = 0.1


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and most over the rounds."""

    median: float
    least: float
    most: float


Summary = Mapping[str, Mapping[str, Spread | None]]


def summarize(rounds: Sequence[Sequence[Measurement]]) -> Summary:
    """By scenario and number: its spread over the rounds; None where it was not measured."""
    summary: dict[str, dict[str, Spread | None]] = {}
    for name in dict.fromkeys(one.name for measured in rounds for one in measured):
        runs = [one for measured in rounds for one in measured if one.name == name]
        summary[name] = {number: spread_of(getattr(run, number) for run in runs) for number in _NUMBERS}
    return summary


def spread_of(values: Iterable[float | None]) -> Spread | None:
    """The spread of values, without those that were not measured; None if none was."""
    found = [value for value in values if value is not None]
    return Spread(statistics.median(found), min(found), max(found)) if found else None


# ---------------------------------------------------------------------- ratios and goals

#: Scenario, the empty call and the script that it is compared with.
_COMPARED = tuple(
    (f"reserve, {callers}{where}", f"empty call, {callers}", f"reserve script, batches of {batch}{where}")
    for where in ("", MANY_ORGANIZATIONS)
    for callers, batch in (("64 callers", 64), ("1 caller", 1))
)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A number of a scenario as a multiple of that of its comparison."""

    scenario: str
    number: str
    compared_with: str
    times: float


def ratios(summary: Summary) -> list[Ratio]:
    """What the sidecar adds to an empty call and to its script; of the medians."""
    found = []
    for scenario, empty, script in _COMPARED:
        wanted = (
            ("per_s", empty, "per_s"),
            ("per_s", script, "per_s"),
            ("p50_ms", empty, "p50_ms"),
            ("p50_ms", script, "p50_ms"),
            ("sidecar_s", empty, "sidecar_s"),
            ("store_s", script, "store_s"),
        )
        for number, other, its_number in wanted:
            ours, theirs = _median(summary, scenario, number), _median(summary, other, its_number)
            if ours is not None and theirs:
                found.append(Ratio(scenario, number, other, ours / theirs))
    return found


def _median(summary: Summary, name: str, number: str) -> float | None:
    spread = summary.get(name, {}).get(number)
    return None if spread is None else spread.median


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted of a median."""

    scenario: str
    number: str
    at_least: float | None = None
    at_most: float | None = None

    def met(self, summary: Summary) -> bool | None:
        """Whether it is so; None: not measured."""
        value = _median(summary, self.scenario, self.number)
        if value is None:
            return None
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


GOALS = (
    Goal("reserve, 64 callers", "per_s", at_least=12_000),
    Goal("reserve, 64 callers, no request ids", "per_s", at_least=12_000),
    Goal("reserve, 64 callers" + MANY_ORGANIZATIONS, "per_s", at_least=12_000),
    Goal("reserve, 1 caller", "p50_ms", at_most=0.6),
    Goal("reserve, 1 caller" + MANY_ORGANIZATIONS, "p50_ms", at_most=0.6),
    Goal("reserve script, batches of 64", "script_us", at_most=20),
    Goal("settle script, batches of 64", "script_us", at_most=20),
)


def as_json(summary: Summary) -> dict[str, object]:
    """The summary, ratios and goals, ready for JSON."""
    return {
        "summary": plain(summary),
        "ratios": [asdict(ratio) for ratio in ratios(summary)],
        "goals": [{**asdict(goal), "met": goal.met(summary)} for goal in GOALS],
    }


def plain(summary: Summary) -> dict[str, dict[str, dict[str, float] | None]]:
    """The summary, ready for JSON."""
    return {
        name: {number: None if spread is None else asdict(spread) for number, spread in numbers.items()}
        for name, numbers in summary.items()
    }


# ---------------------------------------------------------------------- for people


def show(console: Console, summary: Summary) -> None:
    """Print the tables and what to think of them."""
    console.print(_figures(summary))
    console.print(_comparisons(summary))
    console.print(_goals(summary))
    for line in (*_generator(summary), *_cautions(summary)):
        console.print(line, highlight=False)


def _figures(summary: Summary) -> Table:
    table = Table(title="medians (least–most) of the rounds; CPU in seconds per 1,000 decisions", box=box.SIMPLE_HEAD)
    table.add_column("what")
    for heading in ("per second", "p50 ms", "p99 ms", "sidecar CPU", "store CPU", "script µs", "batch"):
        table.add_column(heading, justify="right")
    for name, numbers in summary.items():
        table.add_row(
            name,
            shown(numbers["per_s"], ",.0f"),
            shown(numbers["p50_ms"], ".2f"),
            *(
                shown(numbers[number], form, spread=False)
                for number, form in (
                    ("p99_ms", ".2f"),
                    ("sidecar_s", ".3f"),
                    ("store_s", ".3f"),
                    ("script_us", ".1f"),
                    ("batch", ".0f"),
                )
            ),
        )
    return table


def shown(found: Spread | None, form: str, *, spread: bool = True) -> str:
    """A median with the least and the most; "" if it was not measured."""
    if found is None:
        return ""
    if not spread or found.least == found.most:
        return format(found.median, form)
    return f"{found.median:{form}} ({found.least:{form}}–{found.most:{form}})"


_LABELS = {
    "per_s": "decisions per second",
    "p50_ms": "median latency",
    "sidecar_s": "CPU of the sidecar",
    "store_s": "CPU of the store",
    "script_us": "µs in the store per call",
}


def _comparisons(summary: Summary) -> Table:
    table = Table(title="the sidecar against its parts", box=box.SIMPLE_HEAD)
    for heading in ("what", "number", "as a multiple of"):
        table.add_column(heading)
    table.add_column("×", justify="right")
    for ratio in ratios(summary):
        table.add_row(ratio.scenario, _LABELS[ratio.number], ratio.compared_with, f"{ratio.times:.2f}")
    return table


def _goals(summary: Summary) -> Table:
    table = Table(title="goals", box=box.SIMPLE_HEAD)
    for heading in ("what", "number", "wanted", "measured", ""):
        table.add_column(heading)
    for goal in GOALS:
        met, measured = goal.met(summary), _median(summary, goal.scenario, goal.number)
        if met is None or measured is None:
            continue
        wanted = f"≥ {goal.at_least:,.0f}" if goal.at_least is not None else f"≤ {goal.at_most:g}"
        text = f"{measured:,.0f}" if measured >= 100 else f"{measured:.2f}"
        table.add_row(goal.scenario, _LABELS[goal.number], wanted, text, "met" if met else "missed")
    return table


def _generator(summary: Summary) -> Iterable[str]:
    """Say how one knows that the generator was not the bottleneck."""
    for name in ("empty call, 64 callers", "reserve, 64 callers", "reserve, 64 callers" + MANY_ORGANIZATIONS):
        load_s, busy = _median(summary, name, "load_s"), _median(summary, name, "load_busy")
        starved = _median(summary, name, "load_starved")
        if load_s and busy is not None and starved is not None:
            yield (
                f"{name}: the load generator worked {busy:.0%} of the time and waited {starved:.0%} for its core;"
                f" at {load_s * 1000:.1f} µs per call it could send {1000 / load_s:,.0f} a second."
            )


def _cautions(summary: Summary) -> Iterable[str]:
    for name, numbers in summary.items():
        wrong = sum(spread.most for number in ("refused", "failed") if (spread := numbers[number]) is not None)
        if wrong:
            yield f"CAUTION: {name}: {wrong:.0f} calls were refused or failed; they are not counted."
        strangers = numbers["strangers"]
        if strangers is not None and strangers.median > _STRANGERS_MAX:
            yield f"CAUTION: {name}: other programs used {strangers.median:.0%} of a core; the figures are too low."
