"""`python -m bench.books_verify`: makes books of a million rows, verifies them, and damages them in three ways.

One digit is changed, one row is taken away and one is put in; the verification has to find each, and nothing else.
Prints a table; exits with 1 if it found less, or more.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from sqlalchemy import Connection, delete, select, update

from bench.run import console_for_people
from limiter.domain.reservations import NO_FLAG, Basis, State
from limiter.domain.rows import Position, Row, RowKind, Taken
from limiter.domain.scopes import Scope
from limiter.ledger.booking import Booking, Page
from limiter.ledger.database import Database, sqlite_url
from limiter.ledger.entries import checksum
from limiter.ledger.schema import ledger
from limiter.ledger.verifying.findings import Findings
from limiter.ledger.verifying.heads import make_heads
from limiter.ledger.verifying.verify import verify

_EPOCH = 1_793_491_200_000
_MONTH_MS = 30 * 86_400_000
_SHARDS = 16
_PAGE = 500
_CORRECTED = 0.01


def _rows(shard: int, count: int, total: int) -> Iterator[Row]:
    """Rows of a month in one shard: calls of four keys, three models and fifty customers; every hundredth corrected."""
    dice = random.Random(shard)
    organization = f"org{shard}"
    taken = (
        Taken(Scope(organization), "monthly:spend:month", _EPOCH, 0),
        Taken(Scope(organization), "rpm:requests:", 1),
    )
    last: Row | None = None
    for seq in range(count):
        at_ms = _EPOCH + (seq * _SHARDS + shard) * _MONTH_MS // total
        if last is not None and dice.random() < _CORRECTED:
            cost, fields = last.cost + 500, {name: getattr(last, name) for name in Row.__slots__}
            yield Row(**fields | {"seq": seq, "kind": RowKind.CORRECTION, "amount": 500, "cost": cost, "at_ms": at_ms})
            last = None
            continue
        cost = dice.randrange(10_000_000)
        call = (
            f'{{"key":"{organization}/team/key{dice.randrange(4)}","model":"model-{dice.randrange(3)}","provider":"p",'
            f'"request_id":"{shard}-{seq}","operation":"chat","tags":[["customer","customer-{dice.randrange(50)}"]]}}'
        )
        end = (
            f'{{"outcome":"COMPLETED","usage":{{"input_tokens":{dice.randrange(5000)},"output_tokens":{cost % 900}}}}}'
        )
        member = f"{organization}/{shard * total + seq:032x}"
        last = Row(
            shard=shard, epoch=_EPOCH, seq=seq, kind=RowKind.SETTLEMENT, member=member,
            state=State.SETTLED, basis=Basis.USAGE, flags=NO_FLAG, amount=cost, held=2 * cost, cost=cost, tokens=100,
            reserved_ms=at_ms - 3000, expires_ms=at_ms + 600_000, at_ms=at_ms, taken=taken, call=call.encode(),
            ending=end.encode(),
        )  # fmt: skip
        yield last


def _make(database: Database, count: int) -> None:
    booking = Booking(database)
    of_shards = [_rows(shard, count // _SHARDS, count) for shard in range(_SHARDS)]
    after: list[Position | None] = [None] * _SHARDS
    while True:
        pages: dict[int, Page] = {}
        for shard, rows in enumerate(of_shards):
            page = list(islice(rows, _PAGE))
            if page:
                pages[shard], after[shard] = Page(after[shard], page), page[-1].position
        if not pages:
            return
        booking.book(pages)


def _at(seq: int, shard: int = 3) -> tuple[Any, ...]:
    return ledger.c.shard == shard, ledger.c.epoch == _EPOCH, ledger.c.seq == seq


def _change_digit(connection: Connection, middle: int) -> None:
    connection.execute(update(ledger).where(*_at(middle)).values(input_tokens=ledger.c.input_tokens + 1))


def _remove(connection: Connection, middle: int) -> None:
    connection.execute(delete(ledger).where(*_at(middle)))


def _insert(connection: Connection, middle: int) -> None:
    """Before the first row of a shard, as if of an epoch before: no number is missing, and the checksum is right."""
    row = dict(connection.execute(select(ledger).where(*_at(middle))).mappings().one())
    row |= {"epoch": _EPOCH - 1, "seq": 0, "reservation": "f" * 32}
    connection.execute(ledger.insert().values(**row | {"checksum": checksum(row)}))


#: What is done to the books, and the checks that have to find it, each with one fault.
_DAMAGES: dict[str, tuple[Callable[[Connection, int], None] | None, set[str]]] = {
    "nothing": (None, set()),
    "one digit changed": (_change_digit, {"checksum", "hours"}),
    "one row removed": (_remove, {"sequence", "hours", "charges"}),
    "one row inserted": (_insert, {"hours", "charges"}),
}


def _verified(database: Database) -> tuple[Findings, float]:
    started = time.perf_counter()
    findings = verify(database, now_ms=int(time.time() * 1000))
    return findings, time.perf_counter() - started


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> int:
    """Run it; answers the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--books", help="the URL of empty books; default: SQLite in a temporary directory")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        database = Database(options.books or sqlite_url(Path(directory) / "books.db"))
        database.migrate()
        started = time.perf_counter()
        _make(database, options.rows)
        made_s = time.perf_counter() - started
        before = _peak_mib()
        shown = Table("done to the books", "seconds", "faults found", box=box.SIMPLE_HEAD)
        right = True
        for name, (damage, expected) in _DAMAGES.items():
            findings, took_s = _damaged(database, damage, options.rows // _SHARDS // 2)
            right = right and dict(findings.counts) == dict.fromkeys(expected, 1)
            told = ", ".join(f"{check} {count}" for check, count in sorted(findings.counts.items())) or "none"
            shown.add_row(name, f"{took_s:.1f}", told)
        started = time.perf_counter()
        days = len(make_heads(database, now_ms=int(time.time() * 1000)))
        shown.add_row(f"heads of {days} days", f"{time.perf_counter() - started:.1f}", "")
        console = console_for_people()
        console.print(shown)
        console.print(
            f"{options.rows} rows, booked in {made_s:.0f} s; peak memory {before} MiB, {_peak_mib()} MiB after"
        )
        database.close()
    return 0 if right else 1


def _damaged(
    database: Database, damage: Callable[[Connection, int], None] | None, middle: int
) -> tuple[Findings, float]:
    """Damage the books, verify them, and mend them again."""
    if damage is None:
        return _verified(database)
    with database.read() as connection:
        kept = dict(connection.execute(select(ledger).where(*_at(middle))).mappings().one())
    with database.write() as connection:
        damage(connection, middle)
    found = _verified(database)
    with database.write() as connection:
        connection.execute(delete(ledger).where(*_at(middle)))
        connection.execute(delete(ledger).where(ledger.c.epoch < _EPOCH))
        connection.execute(ledger.insert().values(kept))
    return found


if __name__ == "__main__":
    sys.exit(main())
