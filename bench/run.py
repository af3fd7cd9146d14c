"""`python -m bench.run`: measure, print tables, write JSON."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from bench.machine import cores, description
from bench.report import as_json, show, summarize
from bench.scenarios import Bench, Measurement, Pace

_RESULTS = Path(__file__).with_name("results")
#: How wide the tables are where nobody says how wide they may be.
_FILE_COLUMNS = 150
_FULL = Pace(seconds=4.0, warm_up_s=1.0, batches=300, singles=2000, organizations=1000)
_QUICK = Pace(seconds=0.3, warm_up_s=0.2, batches=10, singles=50, organizations=20)


def main(arguments: list[str] | None = None) -> None:
    """Measure as the arguments say."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with the servers that it started
    console = console_for_people()
    on = cores()
    pace = _QUICK if options.quick else replace(_FULL, seconds=options.seconds)
    rounds: list[list[Measurement]] = []
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="limiter-bench-") as directory:
        bench = Bench(Path(directory), on, pace)
        for number in range(1, 1 + (1 if options.quick else options.rounds)):
            rounds.append([])
            for measurement in bench.round(options.only):
                rounds[-1].append(measurement)
                console.print(
                    f"round {number}: {measurement.name}: {measurement.per_s:,.0f}/s, p50 {measurement.p50_ms:.2f} ms",
                    highlight=False,
                )
    summary = summarize(rounds)
    console.print()
    console.print(f"many organizations: {pace.organizations:,}", highlight=False)
    show(console, summary)
    if on.shared:
        console.print("CAUTION: this machine has one core: sidecar, store and load shared it.")
    file = write(
        options.json,
        {
            "started_at": started.isoformat(timespec="seconds"),
            "limiter": version("limiter"),
            "machine": description(),
            "cores": asdict(on),
            "pace": asdict(pace),
            **as_json(summary),
            "rounds": [[asdict(measurement) for measurement in measured] for measured in rounds],
        },
    )
    console.print(f"written: {file}", highlight=False, soft_wrap=True)


def console_for_people() -> Console:
    """Where tables go; wide enough for them if that is a file."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_COLUMNS)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.run",
        description="Measures a sidecar with its embedded store: one worker on one core, store and load on another.",
    )
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all of it works")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=_FULL.seconds, help="length of one run (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="TEXT", help="only scenarios whose name contains TEXT")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="where to write the figures (bench/results/latest.json)"
    )
    return parser


def write(path: Path | None, figures: dict[str, object], *, name: str = "latest.json") -> Path:
    """Write figures to a file, by default `name` among the results; answers which."""
    path = path or _RESULTS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


if __name__ == "__main__":
    main()
