"""`python -m bench.books_report`: how long reports take over large books; prints a table, writes JSON.

The books hold a month of calls: each is drawn at random, one by one, by key, model and feature (few of them make most
of the calls), and added to its hour. What is written is `hours` and `months`, the sums that the drain would have kept
of these calls; the rows themselves are not made, since these reports do not read them. Whether the sums are those of
the rows is for the tests: tests/ledger/test_report.py. Here the totals are compared with those of the calls drawn.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from sqlalchemy import BigInteger, Connection, Integer, cast, func, literal, select

from bench.machine import description
from bench.run import console_for_people, write
from limiter.domain.zones import zone
from limiter.ledger.database import Database, sqlite_url
from limiter.ledger.periods import month_of
from limiter.ledger.reports.questions import Question, grouping
from limiter.ledger.reports.report import make_report
from limiter.ledger.schema import SUMS, hours, months, texts
from limiter.ledger.texts import canonical, text_id

#: November 2026 in UTC, in hours since 1970.
_FIRST, _HOURS = 498_192, 720
_HOUR_MS = 3_600_000
_INPUT, _OUTPUT, _COST, _HELD = 1_200, 300, 6_000_000, 14_000_000

_FIRST_ASKED = "month by customer"
#: What is asked, and the goal in seconds for ten million rows.
QUESTIONS: dict[str, tuple[str, str, float | None]] = {
    _FIRST_ASKED: ("customer", "UTC", 1.0),
    "month by customer, in Berlin": ("customer", "Europe/Berlin", None),
    "month in one line": ("", "UTC", None),
    "customer,model by day": ("customer,model,day", "UTC", None),
    "key": ("key", "UTC", None),
    "hour": ("hour", "UTC", None),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How many calls there are, and of what."""

    rows: int
    keys: int
    customers: int
    models: int
    features: int


@dataclass(frozen=True, slots=True)
class Asked:
    """How long a report took, the best and the usual time, and how many lines it has."""

    question: str
    best_s: float
    median_s: float
    lines: int
    goal_s: float | None


def main(arguments: list[str] | None = None) -> None:
    """Measure as the arguments say."""
    options = _parser().parse_args(arguments)
    shape = Shape(options.rows, options.keys, options.customers, options.models, options.features)
    console = console_for_people()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="limiter-bench-"))
        database = Database(options.books or sqlite_url(Path(directory) / "books.db"))
        stack.callback(database.close)
        database.migrate()
        started = time.perf_counter()
        cells = make(database, shape)
        made_s = time.perf_counter() - started
        console.print(
            f"{shape.rows:,} calls drawn over {_HOURS} hours, {cells:,} sums in `hours`, made in {made_s:.0f} s: "
            f"{shape.keys:,} keys, {shape.customers:,} customers, {shape.models} models, {shape.features} features",
            highlight=False,
        )
        results = [ask(database, name, shape, options.rounds) for name in QUESTIONS]
        backend = "SQLite" if database.is_sqlite else "PostgreSQL"
    table = Table("report", "best", "median", "lines", "goal", box=box.SIMPLE_HEAD, title=backend)
    for one in results:
        goal = "" if one.goal_s is None else f"{one.goal_s:g} s"
        table.add_row(one.question, f"{one.best_s:.2f} s", f"{one.median_s:.2f} s", f"{one.lines:,}", goal)
    console.print(table)
    figures: dict[str, object] = {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "limiter": version("limiter"),
        "machine": description(),
        "database": backend,
        "made": "sums of calls drawn at random, written to `hours` and `months` in bulk; no rows in `ledger`",
        "shape": asdict(shape) | {"hours": _HOURS, "sums": cells},
        "reports": [asdict(one) for one in results],
    }
    console.print(f"written: {write(options.json, figures, name='books_report.json')}", highlight=False, soft_wrap=True)


def ask(database: Database, name: str, shape: Shape, rounds: int) -> Asked:
    """Make a report several times."""
    by, timezone, goal_s = QUESTIONS[name]
    start_ms, end_ms = _FIRST * _HOUR_MS, (_FIRST + _HOURS) * _HOUR_MS
    question = Question(start_ms, end_ms, zone(timezone), grouping([by] if by else [], field="by"))
    if timezone != "UTC":
        question = Question(start_ms + _HOUR_MS, end_ms - _HOUR_MS, question.zone, question.by)
    took = []
    for _ in range(rounds):
        started = time.perf_counter()
        report = make_report(database, question)
        took.append(time.perf_counter() - started)
        calls = sum(line.calls for line in report.lines)
        if calls != report.total.calls or (timezone == "UTC" and calls != shape.rows):
            raise SystemExit(f"{name}: {calls} calls in the lines, {report.total.calls} in all, {shape.rows} drawn")
    return Asked(name, min(took), statistics.median(took), len(report.lines), goal_s)


def make(database: Database, shape: Shape) -> int:
    """Write the month's sums; returns how many there are."""
    chance = random.Random(1)
    models = [f"model-{i}" for i in range(shape.models)]
    places: dict[tuple[int, int], int] = {}
    tags: dict[tuple[int, int], int] = {}
    known: set[int] = set()
    cells = 0
    per_hour = [shape.rows * (i + 1) // _HOURS - shape.rows * i // _HOURS for i in range(_HOURS)]
    with database.write() as connection:
        for i, count in enumerate(per_hour):
            counts = _drawn(chance, shape, count)
            new: dict[int, str] = {}
            values = []
            for (key, model, feature), calls in counts.items():
                customer = key % shape.customers
                if (key, model) not in places:
                    path = ["acme", f"team-{key % 40}", f"key-{key}", models[model], "openai", "chat"]
                    places[key, model] = _text(new, canonical(path))
                if (customer, feature) not in tags:
                    pairs = [["customer", f"customer-{customer}"], ["feature", f"feature-{feature}"]]
                    tags[customer, feature] = _text(new, canonical(pairs))
                sums = (calls, 0, calls * _INPUT, calls * _OUTPUT, 0, 0, 0, calls * _HELD, calls * _COST)
                values.append((_FIRST + i, places[key, model], tags[customer, feature], *sums))
            _write(connection, "texts", [(number, text) for number, text in new.items() if number not in known])
            known |= new.keys()
            _write(connection, "hours", sorted(values))
            cells += len(values)
        _write_months(connection)
    return cells


def _write_months(connection: Connection) -> None:
    """Add up the hours; all are of one month."""
    sums: list[Any] = [cast(func.sum(hours.c[name]), BigInteger) for name in SUMS]
    found = select(literal(month_of(_FIRST), Integer), hours.c.tags, hours.c.place, *sums)
    found = found.group_by(hours.c.tags, hours.c.place)
    connection.execute(months.insert().from_select(months.columns.keys(), found))


def _text(new: dict[int, str], text: str) -> int:
    number = text_id(text)
    new[number] = text
    return number


def _drawn(chance: random.Random, shape: Shape, count: int) -> Counter[tuple[int, int, int]]:
    names = (shape.keys, shape.models, shape.features)
    drawn = (chance.choices(range(n), cum_weights=_weights(n), k=count) for n in names)
    return Counter(zip(*drawn, strict=True))


_WEIGHTS: dict[int, list[float]] = {}


def _weights(count: int) -> list[float]:
    """The n-th makes 1/n of the calls of the first."""
    return _WEIGHTS.setdefault(count, list(accumulate(1 / (i + 1) for i in range(count))))


def _write(connection: Connection, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if not rows:
        return
    columns = {"texts": texts, "hours": hours}[table].columns.keys()
    raw = connection.connection.cursor()
    if connection.dialect.name == "postgresql":
        with raw.copy(f"COPY {table} ({','.join(columns)}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)
    else:
        raw.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(columns))})", rows)  # noqa: S608 - our names
    raw.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000, help="calls of the month; 10000000 for the full measure")
    parser.add_argument("--keys", type=int, default=1_000)
    parser.add_argument("--customers", type=int, default=500)
    parser.add_argument("--models", type=int, default=8)
    parser.add_argument("--features", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--books", help="URL of empty books; otherwise SQLite in a temporary file")
    parser.add_argument("--json", type=Path, help="where the figures go")
    return parser


if __name__ == "__main__":
    main()
