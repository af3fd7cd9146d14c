"""`python -m bench.envoy`: measure what Limiter adds to Envoy, print tables, write JSON."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.envoy_report import as_json, show
from bench.envoy_scenarios import Bench, Measurement, Pace
from bench.machine import ANYWHERE, Cores, cores, description
from bench.run import console_for_people, write

_FULL = Pace(warm_up_s=1.0, full_s=4.0, fixed_s=8.0)
_QUICK = Pace(warm_up_s=0.2, full_s=0.3, fixed_s=0.3)


def main(arguments: list[str] | None = None) -> None:
    """Measure as the arguments say."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # with the servers that it started
    console = console_for_people()
    on = Cores(ANYWHERE, ANYWHERE) if options.unpinned else cores()
    pace = _QUICK if options.quick else replace(_FULL, full_s=options.seconds, fixed_s=2 * options.seconds)
    rounds: list[list[Measurement]] = []
    started = datetime.now(UTC)
    with tempfile.TemporaryDirectory(prefix="limiter-bench-") as directory:
        bench = Bench(Path(directory), on, pace)
        for number in range(1, 1 + (1 if options.quick else options.rounds)):
            rounds.append([])
            for one in bench.round(options.only):
                rounds[-1].append(one)
                console.print(
                    f"round {number}: {one.name}: {one.per_s:,.0f}/s, p50 {one.p50_ms:.2f} ms", highlight=False
                )
    console.print()
    show(console, rounds)
    if on.shared:
        console.print("CAUTION: this machine has one core: everything shared it.")
    file = write(
        options.json,
        {
            "started_at": started.isoformat(timespec="seconds"),
            "limiter": version("limiter"),
            "machine": description(),
            "cores": asdict(on),
            "pace": asdict(pace),
            **as_json(rounds),
        },
        name="envoy.json",
    )
    console.print(f"written: {file}", highlight=False, soft_wrap=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.envoy",
        description="Measures Envoy with Limiter beside it: the sidecar on one core, Envoy, store and load on another.",
    )
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all of it works")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: %(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=_FULL.full_s,
        help="length of a run at full rate; half of one at the fixed rate (default: %(default)s)",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="only layouts whose name contains TEXT, beside bare Envoy"
    )
    parser.add_argument("--unpinned", action="store_true", help="let the system place all programs on its cores")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="where to write the figures (bench/results/envoy.json)"
    )
    return parser


if __name__ == "__main__":
    main()
