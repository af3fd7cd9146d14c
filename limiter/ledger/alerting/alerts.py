"""What of the rows people are told: found while they are written into the books, so that it is told once.

An alert's id follows from what it is about: whoever finds it again gives it the same, and `alerts` keeps the first.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection

from limiter.domain.money import format_usd
from limiter.domain.reservations import Basis
from limiter.domain.rows import Position, RowKind
from limiter.domain.windows import TOTAL_END
from limiter.ledger.database import Database
from limiter.ledger.entries import HOUR_MS, Entry
from limiter.ledger.schema import alerts
from limiter.ledger.texts import canonical
from limiter.ledger.upserts import insert_new

THRESHOLD: Final = "budget.threshold"
REFUSALS: Final = "budget.refusals"
EXPIRED: Final = "hold.expired"
DRIFT: Final = "books.drift"
GAP: Final = "books.gap"
ROLLED_BACK: Final = "store.rolled_back"
TEST: Final = "alert.test"

#: What a row of refusals says of a model where it counts what it has no room to name.
_OTHER: Final = "(other)"


class Alert(NamedTuple):
    """One thing to tell. `id` says what it is about: whoever finds it again gives it the same."""

    id: str
    type: str
    at_ms: int
    data: Mapping[str, Any]

    @classmethod
    def about(cls, kind: str, subject: tuple[object, ...], *, at_ms: int, data: Mapping[str, Any]) -> Alert:
        """Make an alert whose id follows from its type and subject; receivers get the id, which has no full stop."""
        digest = blake2b(canonical([kind, *subject]).encode(), digest_size=12).hexdigest()
        return cls(f"{kind.replace('.', '_')}_{digest}", kind, at_ms, data)

    def row(self) -> dict[str, Any]:
        """As a row of `alerts`."""
        return {"id": self.id, "type": self.type, "at_ms": self.at_ms, "data": canonical(with_usd(self.data))}


def with_usd(data: Mapping[str, Any]) -> dict[str, Any]:
    """Put the same in USD, as a decimal text, beside every amount in nano-USD."""
    told = dict(data)
    for name, value in data.items():
        if name.endswith("_nanousd") and isinstance(value, int):
            told[f"{name.removesuffix('nanousd')}usd"] = format_usd(value)
    return told


def instant(at_ms: int) -> str:
    """Write a time in ISO 8601, in UTC, to the ms."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def write_alert(connection: Connection, alert: Alert) -> None:
    """Write an alert, unless it is there."""
    insert_new(connection, alerts, [alert.row()])


def tell(database: Database, alert: Alert) -> None:
    """Write an alert into the books, from where it goes out; once, however often it is found."""
    with database.write() as connection:
        write_alert(connection, alert)


def alerts_in(entry: Entry) -> Iterator[Alert]:
    """The alerts that a row gives cause for."""
    kind = entry.values["kind"]
    if kind == RowKind.SETTLEMENT:
        if entry.values["basis"] == Basis.EXPIRED and entry.values["amount_nanousd"]:
            yield _expired(entry.values)
    elif kind == RowKind.EVENT:
        yield from _passed(entry.values)
    elif kind == RowKind.REFUSALS:
        yield from _refused(entry.values)


def gap_alert(shard: int, after: Position, before: Position, *, at_ms: int) -> Alert:
    """Rows of a shard that nobody can have any more: none came between these two."""
    data = {
        "shard": shard,
        "after": {"epoch": after.epoch, "seq": after.seq},
        "before": {"epoch": before.epoch, "seq": before.seq},
    }
    return Alert.about(GAP, (shard, *after, *before), at_ms=at_ms, data=data)


def _passed(values: Mapping[str, Any]) -> Iterator[Alert]:
    """Of a threshold; the scripts write one row for each that is passed, once in a window."""
    event = json.loads(values["detail"]).get("call", {})
    if event.pop("event", "") != "threshold":
        return
    row = values["shard"], values["epoch"], values["seq"]
    data = {"organization": values["organization"], "row": "-".join(map(str, row)), **_with_instants(event)}
    yield Alert.about(THRESHOLD, row, at_ms=values["at_ms"], data=data)


def _with_instants(facts: dict[str, Any]) -> dict[str, Any]:
    """Tell when a window begins and ends as far as the row says it; a limit in `total` has neither."""
    told = dict(facts)
    start_ms, ends_ms = told.pop("window_start_ms", 0), told.pop("resets_at_ms", TOTAL_END)
    if start_ms:
        told["window_start"] = instant(start_ms)
    if ends_ms != TOTAL_END:
        told["resets_at"] = instant(ends_ms)
    return told


def _refused(values: Mapping[str, Any]) -> Iterator[Alert]:
    """Of limits that begin to refuse: the first refusal of a window, or of an hour where there is no window."""
    told: set[tuple[object, ...]] = set()
    for refused in json.loads(values["detail"]).get("call", {}).get("refusals", ()):
        if not refused["limit"] or refused["model"] == _OTHER:
            continue
        ends_ms = refused.get("resets_at_ms", 0)
        until = ends_ms or f"hour {refused['minute_ms'] // HOUR_MS}"
        subject = values["organization"], refused["scope"], refused["limit"], refused["reason"], until
        if subject in told:
            continue
        told.add(subject)
        data = {"organization": values["organization"], **_with_instants(refused)}
        del data["minute_ms"]
        yield Alert.about(REFUSALS, subject, at_ms=values["at_ms"], data=data)


def _expired(values: Mapping[str, Any]) -> Alert:
    """Of a hold that nobody settled; once for a key and hour, whatever else expires then."""
    key = "/".join((values["organization"], values["team"], values["key"]))
    data = {
        "organization": values["organization"],
        "key": key,
        "model": values["model"],
        "provider": values["provider"],
        "reservation": f"organizations/{values['organization']}/reservations/{values['reservation']}",
        "amount_nanousd": values["amount_nanousd"],
    }
    return Alert.about(EXPIRED, (key, values["at_ms"] // HOUR_MS), at_ms=values["at_ms"], data=data)
