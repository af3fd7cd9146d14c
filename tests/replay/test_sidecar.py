"""Replays against a real sidecar: the demo, and real traces."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limiter.cli.demo import _serving

ROOT = Path(__file__).parents[2]
DEMO_POLICY = ROOT / "deploy" / "demo" / "policy.yaml"
CUT = ROOT / "limiter" / "data" / "azure_code_cut.csv"
WHOLE = Path(os.environ.get("LIMITER_TEST_DATA", ROOT.parent / "shared" / "data")) / "azure_llm_code_2023.csv.gz"

POLICY = """
version: 1
organizations:
  acme:
    timezone: America/New_York
    limits:
      - {id: yearly, spend: 12, per: year}
      - {id: inflight, concurrency: 40}
    teams:
      one:
        limits: [{id: ever, spend: 5, per: total}]
        keys:
          a: {limits: [{id: weekly, spend: 1.5, per: week}, {id: tpm, tokens: 3000000, per: minute}]}
          b: {limits: [{id: flights, concurrency: 4}]}
      two:
        keys:
          c: {limits: [{id: mini, spend: 0.2, per: day, models: ["gpt-4o-mini"]}]}
          d: {enabled: false}
"""


def limiter(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIMITER_")}
    return subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data directory of a sidecar that holds POLICY."""
    directory = tmp_path_factory.mktemp("sidecar")
    policy = directory / "policy.yaml"
    policy.write_text(POLICY)
    with _serving(directory, policy):
        yield directory / "data"


def replayed(data_dir: Path, trace: Path, *options: str) -> tuple[int, dict[str, Any]]:
    ended = limiter("limiter", "replay", str(trace), "--data-dir", str(data_dir), "--format", "json", *options)
    assert ended.stdout, ended.stderr
    return ended.returncode, json.loads(ended.stdout)


def test_the_demo_reaches_a_ceiling_on_every_level_and_passes_none() -> None:
    ended = limiter("limiter.cli.demo")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for level in ("organization", "team", "key"):
        assert f"ok      ceiling of the {level} reached, and held" in ended.stdout
    assert "REQUEST_RATE" in ended.stdout
    assert "The limiter kept its word." in ended.stdout


def test_a_demo_whose_ceilings_are_not_reached_fails(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(DEMO_POLICY.read_text().replace("spend: 4.00", "spend: 400"))
    ended = limiter("limiter.cli.demo", "--policy", str(policy))
    assert ended.returncode == 1, ended.stderr
    assert "FAILED  no ceiling of the organization was reached" in ended.stdout
    assert "The limiter kept its word." in ended.stdout


def test_a_demo_whose_policy_is_not_valid_says_why(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 2")
    ended = limiter("limiter.cli.demo", "--policy", str(policy))
    assert ended.returncode == 1
    assert "version" in ended.stderr


def test_a_real_sidecar_keeps_its_word_under_every_way_to_play(data_dir: Path) -> None:
    """One after the other on the same books: what came before is the next one's opening."""
    for options in (
        ("--max-output-tokens", "4096", "--retry", "3", "--limit", "300"),
        ("--overestimate", "0.3", "--callers", "200"),  # calls cost more than they had held
        ("--speed", "2000x", "--customers", "3"),
        ("--model", "gpt-4o-mini", "--key", "acme/two/c", "--key", "acme/two/d", "--limit", "200"),
    ):
        code, told = replayed(data_dir, CUT, *options)
        assert code == 0, (options, told["checks"])
        assert told["played"] == told["calls"]
        assert told["reservations"]["open"] == 0
        if "acme/two/d" in options:
            assert told["denied"]["KEY_DISABLED"] > 0


@pytest.mark.skipif(not WHOLE.exists(), reason=f"needs the whole trace: {WHOLE}")
def test_the_whole_trace_is_replayed_with_books_that_balance(data_dir: Path) -> None:
    code, told = replayed(data_dir, WHOLE, "--callers", "100", "--seed", "7")
    assert code == 0, told["checks"]
    assert told["played"] == 8819
