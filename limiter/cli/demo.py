"""`make demo`: a sidecar of its own, and a real trace against ceilings that it must reach on all three levels."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import typer

from limiter.cli.failures import CommandFailed, ExitCode, ending, say
from limiter.cli.output import usd, write
from limiter.cli.replay_admin import enabled_keys
from limiter.cli.replay_driver import Score
from limiter.cli.replay_report import parts
from limiter.cli.replay_run import Target, run
from limiter.cli.replay_trace import read_trace
from limiter.cli.replay_verdict import LimitLine, Outcome
from limiter.domain.limits import LimitKind
from limiter.policy.document import Policy

#: In a clone; the policy is an example for people, and not part of the package.
_POLICY: Final = Path(__file__).parents[2] / "deploy" / "demo" / "policy.yaml"
_TRACE: Final = "azure_code_cut.csv"

_START_S: Final = 30.0
_STOP_S: Final = 20.0
_LEVELS: Final = ("organization", "team", "key")


def demo(
    policy: Annotated[Path, typer.Option(help="The policy to hold; it must have ceilings on all levels.")] = _POLICY,
    callers: Annotated[int, typer.Option(min=1, help="Calls under way at the same time.")] = 64,
) -> None:
    """Start a sidecar, replay the shipped trace against a policy, and check that every ceiling holds.

    The exit code is 1 if a spend ceiling on any of the three levels was not reached, or if the limiter
    did not keep its word.
    """
    with (
        ending(),
        resources.as_file(resources.files("limiter") / "data" / _TRACE) as trace,
        tempfile.TemporaryDirectory(prefix="limiter-demo-") as directory,
        _serving(Path(directory), policy) as (target, in_force),
    ):
        calls = read_trace(trace)
        say(f"A sidecar serves {policy.name}; {len(calls)} recorded calls of a code-completion service come in.\n")
        score = Score(keys=tuple(enabled_keys(in_force)), model="gpt-4o", run="demo", callers=callers)
        outcome = run(target, in_force, calls, score, name=trace.name)
    write(*parts(outcome), "", *(_reached(level, lines) for level, lines in reached(outcome).items()))
    if not outcome.kept or not all(reached(outcome).values()):
        raise typer.Exit(ExitCode.FAILED)


def reached(outcome: Outcome) -> dict[str, list[LimitLine]]:
    """The spend ceilings that refused calls, by level."""
    found: dict[str, list[LimitLine]] = {level: [] for level in _LEVELS}
    for line in outcome.limits:
        if line.kind is LimitKind.SPEND and line.refused and not line.shadow:
            found[_LEVELS[len(line.scope.lineage()) - 1]].append(line)
    return found


def _reached(level: str, lines: list[LimitLine]) -> str:
    if not lines:
        return f"FAILED  no ceiling of the {level} was reached"
    places = ", ".join(f"{line.scope.path} {usd(line.settled)} of {usd(line.ceiling)}" for line in lines)
    return f"ok      ceiling of the {level} reached, and held: {places}"


@contextmanager
def _serving(directory: Path, policy: Path) -> Iterator[tuple[Target, Policy]]:
    """Run `limiter serve` with a store of its own; raises CommandFailed with its log if it does not start."""
    data_dir, log = directory / "data", directory / "log"
    command = [sys.executable, "-m", "limiter", "serve", "--data-dir", str(data_dir), "--listen", "127.0.0.1:0"]
    command += ["--http", "", "--policy", str(policy), "--log-level", "warning"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")}
    with log.open("wb") as output:
        # Ctrl-C is for us: a second signal would end it before its store.
        process = subprocess.Popen(  # noqa: S603 - our own program
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield _ready(process, data_dir, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ready(process: subprocess.Popen[bytes], data_dir: Path, log: Path) -> tuple[Target, Policy]:
    """Wait until the sidecar answers."""
    give_up_s = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < give_up_s:
        if (data_dir / "admin.address").exists():
            target = Target.of(data_dir)
            try:
                return target, target.policy()
            except CommandFailed as error:
                if error.exit_code is not ExitCode.UNREACHABLE:
                    raise
        time.sleep(0.1)
    raise CommandFailed(f"the sidecar did not start:\n{log.read_text(encoding='utf-8', errors='replace')}")


if __name__ == "__main__":
    typer.run(demo)
