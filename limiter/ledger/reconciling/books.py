"""Reads of the books what a bill is compared with: sums by bucket and model, or the calls themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from typing import Any, Final, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, select

from limiter.domain.reservations import Basis
from limiter.domain.rows import SPENDING, RowKind
from limiter.ledger.reconciling.bills.names import key_of
from limiter.ledger.reconciling.cells import Straddler
from limiter.ledger.reconciling.results import Bucket, Counts
from limiter.ledger.schema import ledger

_PAGE: Final = 10_000
_TOKENS: Final = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


class Keys:
    """Which model of the bill a row is about: as the provider served it, else as it was asked for.

    A row that names no provider belongs to the bill if the bill has its model.
    """

    def __init__(self, providers: Collection[str], known: Collection[str], one: str = "") -> None:
        self.providers = providers
        self.names: dict[str, str] = {}
        self._known = frozenset(known)
        self._one = one

    def of(self, row: Any) -> str | None:  # noqa: ANN401 - a row of SQL
        """The key of a row with provider, model and model_served; None: it is not of this provider."""
        served, asked = key_of(row.model_served), key_of(row.model)
        key = served or asked
        if key not in self._known and asked in self._known:
            key = asked
        if not row.provider and key not in self._known and not self._one:
            return None
        self.names.setdefault(key, row.model_served or row.model)
        return self._one or key

    def chosen(self) -> ColumnElement[bool]:
        """The rows of these providers, and those without one."""
        return ledger.c.provider.in_([*self.providers, ""])


class Part(NamedTuple):
    """What some rows of one bucket and model add up to; `sign` -1: to be taken off."""

    at_ms: int
    key: str
    nanousd: int
    counts: Counts
    basis: int
    price: int
    sign: int = 1


def read_sums(connection: Connection, keys: Keys, span: Bucket, granule: int) -> Iterator[Part]:
    """What the books add up to by time, model, basis and price.

    A corrected call stands whole where its last correction puts it: by the model and the basis that are known then.
    """
    start = (ledger.c.reserved_ms - ledger.c.reserved_ms % granule).label("start_ms")
    by = (start, ledger.c.provider, ledger.c.model, ledger.c.model_served, ledger.c.basis, ledger.c.price)
    sums = [func.sum(ledger.c[name]).label(name) for name in ("amount_nanousd", "calls", *_TOKENS)]
    query = select(*by, *sums).where(*_spending(span), keys.chosen()).group_by(*by)
    for row in _stream(connection, query):
        if (key := keys.of(row)) is not None:
            yield Part(row.start_ms, key, int(row.amount_nanousd), _counts(row), row.basis, row.price)
    for rows in _corrected(connection, keys, span):
        yield from _moved(rows, keys)


def read_straddlers(
    connection: Connection, keys: Keys, span: Bucket, granule: int
) -> Iterator[tuple[int, int, str, Straddler]]:
    """Calls that ended in another granule of time than they began in: begin, end, model and what they cost."""
    table = ledger.c
    columns = [table[name] for name in ("reserved_ms", "at_ms", "amount_nanousd", "calls", *_TOKENS)]
    query = select(*columns, table.provider, table.model, table.model_served).where(
        *_spending(span),
        keys.chosen(),
        table.kind == int(RowKind.SETTLEMENT),
        table.basis > int(Basis.RELEASED),
        table.at_ms - table.at_ms % granule != table.reserved_ms - table.reserved_ms % granule,
    )
    for row in _stream(connection, query):
        if (key := keys.of(row)) is not None and row.amount_nanousd > 0:
            yield row.reserved_ms, row.at_ms, key, Straddler(row.amount_nanousd, _counts(row))


def read_calls(connection: Connection, keys: Keys, span: Bucket) -> Iterator[tuple[Any, ...]]:
    """The rows of calls, for the table `ours` of what was gathered."""
    table = ledger.c
    names = (
        *("organization", "reservation", "reserved_ms", "at_ms", "expires_ms", "epoch", "seq"),
        *("provider_request_id", "basis", "state", "amount_nanousd", "calls", "input_tokens", "output_tokens"),
    )
    query = select(*(table[name] for name in names), table.provider, table.model, table.model_served).where(
        *_spending(span), keys.chosen()
    )
    for row in _stream(connection, query):
        key = keys.of(row)
        if key is None and not row.provider_request_id:
            continue
        yield (*row[:7], key or key_of(row.model_served or row.model), *row[7:14], bool(row.model_served))


def read_costs(connection: Connection, keys: Keys, bucket: Bucket) -> Iterator[tuple[str, str, str, int]]:
    """What each call of a bucket costs: model, organization, reservation, nano-USD; none that costs nothing."""
    table = ledger.c
    cost = func.sum(table.amount_nanousd)
    columns = (
        func.max(table.provider).label("provider"),
        func.max(table.model).label("model"),
        func.max(table.model_served).label("model_served"),
    )
    by = (table.organization, table.reservation)
    query = (
        select(*by, *columns, cost.label("cost"))
        .where(*_spending(bucket), keys.chosen())
        .group_by(*by, table.reserved_ms)
        .having(cost > 0)
        .order_by(*by, table.reserved_ms)
    )
    for row in _stream(connection, query):
        if (key := keys.of(row)) is not None:
            yield key, row.organization, row.reservation, int(row.cost)


def read_largest(connection: Connection, keys: Keys, span: Bucket, basis: Basis, most: int) -> list[Any]:
    """The dearest calls that still rest on a basis: key, organization, reservation, cost."""
    table = ledger.c
    last = table.basis == int(basis)
    query = (
        select(
            table.organization, table.reservation, table.cost_nanousd, table.provider, table.model, table.model_served
        )
        .where(*_spending(span), keys.chosen(), last, table.kind != int(RowKind.CORRECTION), table.cost_nanousd > 0)
        .order_by(table.cost_nanousd.desc())
        .limit(most)
    )
    return [(keys.of(row), *row[:3]) for row in connection.execute(query)]


def _spending(span: Bucket) -> tuple[ColumnElement[bool], ...]:
    kinds = [int(kind) for kind in SPENDING]
    return (
        ledger.c.reserved_ms >= span.start_ms,
        ledger.c.reserved_ms < span.end_ms,
        ledger.c.kind.in_(kinds),
    )


def _stream(connection: Connection, query: Any) -> Iterable[Any]:  # noqa: ANN401 - any select
    return connection.execution_options(yield_per=_PAGE).execute(query)


def _counts(row: Any) -> Counts:  # noqa: ANN401 - a row of SQL
    return Counts(int(row.calls), *(int(getattr(row, name)) for name in _TOKENS))


def _corrected(connection: Connection, keys: Keys, span: Bucket) -> Iterator[list[Any]]:
    """The rows of each call that was corrected, in order."""
    first = ledger.alias("first")
    fix = ledger.c
    subjects = (
        select(fix.shard, fix.corrects_epoch, fix.corrects_seq)
        .where(*_spending(span), keys.chosen(), fix.corrects_seq.is_not(None))
        .distinct()
        .subquery("subjects")
    )
    names = ("provider", "model", "model_served", "basis", "price", "reserved_ms", "amount_nanousd", "calls", *_TOKENS)
    place = (first.c.shard, first.c.epoch, first.c.seq)
    own = first.c.shard == subjects.c.shard
    begins = (first.c.epoch == subjects.c.corrects_epoch) & (first.c.seq == subjects.c.corrects_seq)
    follows = (first.c.corrects_epoch == subjects.c.corrects_epoch) & (first.c.corrects_seq == subjects.c.corrects_seq)
    of = (subjects.c.shard, subjects.c.corrects_epoch, subjects.c.corrects_seq)
    chosen = (first.c.reserved_ms >= span.start_ms) & (first.c.reserved_ms < span.end_ms)
    columns = [first.c[name] for name in names]
    parts = [
        select(*of, *place[1:], *columns).join_from(subjects, first, own & begins),
        select(*of, *place[1:], *columns).join_from(subjects, first, own & follows & chosen),
    ]
    union = parts[0].union_all(parts[1]).subquery("rows_of")
    ordered = select(union).order_by(*list(union.c)[:5])
    for _, rows in groupby(_stream(connection, ordered), key=lambda row: tuple(row[:3])):
        yield list(rows)


def _moved(rows: list[Any], keys: Keys) -> Iterator[Part]:
    last = next((row for row in reversed(rows) if row.model_served), rows[-1])
    to = keys.of(last)
    final = rows[-1]
    for row in rows:
        key = keys.of(row)
        if (key, row.basis) == (to, final.basis):
            continue
        parts = (row.reserved_ms, int(row.amount_nanousd), _counts(row))
        if key is not None:
            yield Part(parts[0], key, parts[1], parts[2], row.basis, row.price, -1)
        if to is not None:
            yield Part(parts[0], to, parts[1], parts[2], final.basis, final.price)
