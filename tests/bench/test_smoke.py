"""The benchmark runs, and what it writes is whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.report import GOALS
from bench.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it pins processes to cores"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the load generator is compiled when it is needed"),
]


def test_a_quick_run_measures_every_scenario_and_loses_no_call(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    done = subprocess.run(
        [sys.executable, "-m", "bench.run", "--quick", "--json", str(file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE_S,
        check=False,
        text=True,
    )

    assert done.returncode == 0, done.stdout
    figures = json.loads(file.read_text("utf-8"))
    summary = figures["summary"]
    assert {scenario.name for scenario in SCENARIOS} <= summary.keys()
    for name, numbers in summary.items():
        assert numbers["per_s"]["median"] > 0, name
        assert numbers["p50_ms"]["median"] > 0, name
        assert numbers["refused"]["most"] == 0, name
        assert numbers["failed"]["most"] == 0, name
    assert figures["ratios"]
    assert all(goal["met"] is not None for goal in figures["goals"])
    assert "goals" in done.stdout


def test_every_goal_is_of_something_that_is_measured() -> None:
    measured = {scenario.name for scenario in SCENARIOS}

    assert {goal.scenario for goal in GOALS if "script" not in goal.scenario} <= measured


def test_the_help_tells_how_to_use_it() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", "--help"], cwd=ROOT, capture_output=True, check=True, text=True
    )

    assert "--quick" in done.stdout
    assert "--json" in done.stdout
