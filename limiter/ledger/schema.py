"""The tables of the books: see docs/books.md. Made and changed by the migrations, never by create_all.

Money is whole nano-USD. Times are ms since 1970, in UTC. Text that comes again and again (tags, counters, prices,
places) stands once in `texts` and is referred to by an id that follows from the text itself.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

metadata = MetaData()

#: The counts that rows and hours have in common and that add up.
COUNTS: Final = (
    "calls",
    "released",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)

#: What `hours` and `months` add up: calls and tokens, and money.
SUMS: Final = (*COUNTS, "held_nanousd", "amount_nanousd")

#: One row: whose books these are, so that a store is never drained into two.
books = Table(
    "books",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("created_ms", BigInteger, nullable=False),
)

#: A text and its id (limiter.ledger.texts): JSON with sorted keys.
texts = Table(
    "texts",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("text", Text, nullable=False),
)

#: The rows, for ever as they were written. `calls`, `released` and the counts of tokens are what a row adds, as
#: `amount_nanousd` is: sums over rows are right whatever was corrected.
ledger = Table(
    "ledger",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, primary_key=True, autoincrement=False),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),  # limiter.domain.rows.RowKind
    Column("state", SmallInteger, nullable=False),  # limiter.domain.reservations.State; 0: none
    Column("basis", SmallInteger, nullable=False),  # limiter.domain.reservations.Basis; 0: none
    Column("flags", Integer, nullable=False),  # limiter.domain.reservations.RowFlag
    Column("organization", Text, nullable=False),
    Column("team", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("reservation", String(32), nullable=False),  # the id; "" of events and sums
    Column("corrects_epoch", BigInteger),  # of a correction: the first row of its reservation, in the same shard
    Column("corrects_seq", BigInteger),
    Column("request_id", Text, nullable=False),
    Column("provider_request_id", Text, nullable=False),
    Column("model_asked", Text, nullable=False),
    Column("model", Text, nullable=False),  # after the policy's aliases
    Column("model_served", Text, nullable=False),  # as the provider said; "": it did not
    Column("provider", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("tags", BigInteger, nullable=False),  # texts: [[name, value], …], sorted
    Column("charged", BigInteger, nullable=False),  # texts: [[scope, counter, period_ms], …]
    Column("price", BigInteger, nullable=False),  # texts: {unit: USD, …}; the text "" where there is none
    Column("price_version", Text, nullable=False),
    Column("reserved_ms", BigInteger, nullable=False),  # of a charge: when it was spent
    Column("expires_ms", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),  # when the row was written
    Column("amount_nanousd", BigInteger, nullable=False),  # what the row adds
    Column("held_nanousd", BigInteger, nullable=False),
    Column("cost_nanousd", BigInteger, nullable=False),  # what the call costs after this row
    Column("bucket_tokens", BigInteger, nullable=False),  # what the hold took of token buckets
    Column("calls", SmallInteger, nullable=False),
    Column("released", SmallInteger, nullable=False),  # holds that were given back: calls that did not take place
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("detail", Text, nullable=False),  # JSON: what else the call and its end say
    Column("checksum", LargeBinary(16), nullable=False),  # limiter.ledger.entries.checksum of all columns before
)
Index("ledger_reservation", ledger.c.reservation)
Index("ledger_reserved", ledger.c.reserved_ms)
Index(
    "ledger_provider_request",
    ledger.c.provider_request_id,
    sqlite_where=ledger.c.provider_request_id != "",
    postgresql_where=ledger.c.provider_request_id != "",
)

#: Up to which row each shard is in the books.
cursors = Table(
    "cursors",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),  # when that row was written
)

#: What an hour's rows add up to, by the hour in which the calls were reserved (hours since 1970, UTC), the place
#: (texts: [organization, team, key, model, provider, operation]) and the tags. Follows from `ledger`.
hours = Table(
    "hours",
    metadata,
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    Column("tags", BigInteger, primary_key=True, autoincrement=False),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    sqlite_with_rowid=False,
)

#: What the hours of a month add up to, so that a month of ten million calls is quick to report: by the month in UTC
#: (months since 1970), by tags first, so that a month by customer is read in order. Follows from `hours`.
months = Table(
    "months",
    metadata,
    Column("month", Integer, primary_key=True, autoincrement=False),
    Column("tags", BigInteger, primary_key=True, autoincrement=False),
    Column("place", BigInteger, primary_key=True, autoincrement=False),
    *(Column(name, BigInteger, nullable=False) for name in SUMS),
    sqlite_with_rowid=False,
)

#: What was charged to each set of counters (texts: as ledger.charged). Follows from `ledger`.
charges = Table(
    "charges",
    metadata,
    Column("charged", BigInteger, primary_key=True, autoincrement=False),
    Column("amount_nanousd", BigInteger, nullable=False),
)

#: Refusals, summed by the hour. A call that several limits refused counts in `refusals` of each, in `calls` once.
refusals = Table(
    "refusals",
    metadata,
    Column("hour", Integer, primary_key=True, autoincrement=False),
    Column("organization", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("limit_id", Text, primary_key=True),
    Column("reason", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("customer", Text, primary_key=True),
    Column("refusals", BigInteger, nullable=False),
    Column("calls", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

#: What is to be told to people, once: the id is the same whoever finds it.
alerts = Table(
    "alerts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("data", Text, nullable=False),  # JSON
)

Index("alerts_at", alerts.c.at_ms)

#: What became of an alert at an endpoint. `done_ms` null: it is to be tried again at `next_ms`.
deliveries = Table(
    "deliveries",
    metadata,
    Column("alert", Text, primary_key=True),
    Column("endpoint", Text, primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("next_ms", BigInteger, nullable=False),
    Column("done_ms", BigInteger),
    Column("outcome", Text, nullable=False),
)

Index(
    "deliveries_due",
    deliveries.c.endpoint,
    deliveries.c.next_ms,
    sqlite_where=deliveries.c.done_ms.is_(None),
    postgresql_where=deliveries.c.done_ms.is_(None),
)

#: Issued invoices, frozen.
invoices = Table(
    "invoices",
    metadata,
    Column("number", Text, primary_key=True),
    Column("organization", Text, nullable=False),  # "": the calls of all
    Column("customer", Text, nullable=False),
    Column("month", String(7), nullable=False),  # 2026-11
    Column("issued_ms", BigInteger, nullable=False),
    Column("positions", Text, nullable=False),  # JSON: {shard: [epoch, seq]}, the rows that it rests on
    Column("plan", Text, nullable=False),  # JSON: the price plan as it was
    Column("document", Text, nullable=False),  # JSON: the invoice
    Column("checksum", LargeBinary(16), nullable=False),
)
Index("invoices_customer_month", invoices.c.customer, invoices.c.organization, invoices.c.month, unique=True)
