"""A ledger row as the books keep it: columns that SQL can ask for, and a checksum of all of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple

from limiter.domain.reservations import Basis, RowFlag, State
from limiter.domain.rows import SPENDING, Position, Row, RowKind, Taken
from limiter.domain.scopes import Scope
from limiter.ledger.schema import COUNTS, ledger
from limiter.ledger.texts import canonical, text_id

COLUMNS: Final = tuple(column.name for column in ledger.columns)
_SUMMED: Final = COLUMNS[:-1]
_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_USAGE: Final = COUNTS[2:]
HOUR_MS: Final = 3_600_000


class Earlier(NamedTuple):
    """What the rows before said of a reservation: where the first is, and what they add up to."""

    first: Position
    counts: tuple[int, ...]


@dataclass(slots=True)
class Entry:
    """A row of `ledger` by column, with the texts that it refers to. `place` is that of its hour's sums."""

    values: dict[str, Any]
    texts: dict[int, str] = field(default_factory=dict)
    place: int = 0

    @property
    def position(self) -> Position:
        """Where it stands in its shard."""
        return Position(self.values["epoch"], self.values["seq"])

    @property
    def counts(self) -> tuple[int, ...]:
        """What it adds to calls and tokens, in the order of COUNTS."""
        return tuple(self.values[name] for name in COUNTS)


def entry_of(row: Row, earlier: Earlier | None) -> Entry:
    """Write a row in columns. `earlier` is what the books say of its reservation so far; None: nothing."""
    call: dict[str, Any] = json.loads(row.call) if row.call else {}
    ending: dict[str, Any] = json.loads(row.ending) if row.ending else {}
    organization, _, reservation = row.member.partition("/")
    spends = row.kind in SPENDING
    path = str(call.pop("key", "")).split("/") if spends else []
    model_asked = call.pop("model", "") if spends else ""
    parts = (("call", call), ("end", ending), ("lesser", _lesser(row)))
    entry = Entry({})
    counts = _counts(row, ending.get("usage") or {}, earlier) if spends else (0,) * len(COUNTS)
    entry.values = {
        "shard": row.shard,
        "epoch": row.epoch,
        "seq": row.seq,
        "kind": int(row.kind),
        "state": int(row.state or 0),
        "basis": int(row.basis or 0),
        "flags": int(row.flags),
        "organization": organization,
        "team": path[1] if len(path) == 3 else "",
        "key": path[2] if len(path) == 3 else "",
        "reservation": reservation,
        "corrects_epoch": earlier.first.epoch if earlier is not None else None,
        "corrects_seq": earlier.first.seq if earlier is not None else None,
        "request_id": call.pop("request_id", ""),
        "provider_request_id": ending.pop("provider_request_id", ""),
        "model_asked": model_asked,
        "model": call.pop("alias_of", "") or model_asked,
        "model_served": ending.pop("model_served", ""),
        "provider": call.pop("provider", ""),
        "operation": call.pop("operation", ""),
        "tags": _refer(entry, canonical(sorted(call.pop("tags", ())))),
        "charged": _refer(entry, canonical([[_path(t.scope), t.counter, t.period_ms] for t in row.taken])),
        "price": _refer(entry, canonical(price) if (price := ending.pop("price", None)) is not None else ""),
        "price_version": ending.pop("price_version", ""),
        "reserved_ms": row.reserved_ms,
        "expires_ms": row.expires_ms,
        "at_ms": row.at_ms,
        "amount_nanousd": row.amount,
        "held_nanousd": row.held,
        "cost_nanousd": row.cost,
        "bucket_tokens": row.tokens,
        **dict(zip(COUNTS, counts, strict=True)),
        "detail": canonical({name: part for name, part in parts if part}),
    }
    entry.values["checksum"] = checksum(entry.values)
    if spends:
        entry.place = _refer(entry, place_of(entry.values))
    return entry


#: Every row names a few scopes, each several times.
_path = lru_cache(maxsize=16_384)(attrgetter("path"))


def place_of(values: Mapping[Any, Any]) -> str:
    """The text of the place that a row's sums stand under."""
    return _place(_PLACE(values))


#: Rows stand under few places.
_PLACE = itemgetter("organization", "team", "key", "model", "provider", "operation")
_place = lru_cache(maxsize=16_384)(canonical)


def checksum(values: Mapping[Any, Any]) -> bytes:
    """BLAKE2b, 16 bytes, of the columns before `checksum` as one compact JSON array in the order of the table."""
    return checksum_of([values[name] for name in _SUMMED])


def checksum_of(columns: Sequence[Any]) -> bytes:
    """The checksum of columns that are in order already. Raises TypeError for what is no JSON."""
    return blake2b(_encode(columns).encode(), digest_size=16).digest()


def _refer(entry: Entry, text: str) -> int:
    number = text_id(text)
    entry.texts[number] = text
    return number


def _counts(row: Row, usage: Mapping[str, int], earlier: Earlier | None) -> tuple[int, ...]:
    """What the row adds: what is so after it, less what the rows before have added."""
    called = 0 if row.state is State.RELEASED else 1
    said = [called, 1 - called, *(usage.get(name, 0) for name in _USAGE)]
    if row.flags & RowFlag.UNCLAIMED and row.state is State.RELEASED:
        said[1] = 0  # nobody ever had it
    if earlier is None:
        return tuple(said)
    if not usage and row.flags & RowFlag.ADJUSTED:
        said[2:] = earlier.counts[2:]  # an operator says what it cost, and no more
    return tuple(now - before for now, before in zip(said, earlier.counts, strict=True))


def _lesser(row: Row) -> dict[str, int]:
    """What counters held that held less than the row says, by their place in `charged`."""
    return {str(i): taken.held for i, taken in enumerate(row.taken) if taken.held not in (0, row.held)}


def _taken(charged: str, held: int, lesser: Mapping[str, int]) -> Iterator[Taken]:
    for i, (path, counter, period_ms) in enumerate(json.loads(charged)):
        most = held if ":spend:" in counter else 0
        yield Taken(Scope.parse(path), counter, period_ms, lesser.get(str(i), most))


def row_of(values: Mapping[Any, Any], texts: Mapping[int, str]) -> Row:
    """The row that columns were written from; the reverse of entry_of, but for the order of names in its JSON."""
    detail = json.loads(values["detail"])
    call, ending = detail.get("call", {}), detail.get("end", {})
    if values["kind"] in SPENDING:
        call |= {
            "key": "/".join(values[name] for name in ("organization", "team", "key")),
            "model": values["model_asked"],
            "request_id": values["request_id"],
        }
    if values["model"] != values["model_asked"]:
        call["alias_of"] = values["model"]
    call |= {name: values[name] for name in ("provider", "operation") if values[name]}
    if tags := json.loads(texts[values["tags"]]):
        call["tags"] = tags
    ending |= {name: values[name] for name in ("provider_request_id", "model_served", "price_version") if values[name]}
    if price := texts[values["price"]]:
        ending["price"] = json.loads(price)
    return Row(
        shard=values["shard"],
        epoch=values["epoch"],
        seq=values["seq"],
        kind=RowKind(values["kind"]),
        member=f"{values['organization']}/{values['reservation']}",
        state=State(values["state"]) if values["state"] else None,
        basis=Basis(values["basis"]) if values["basis"] else None,
        flags=RowFlag(values["flags"]),
        amount=values["amount_nanousd"],
        held=values["held_nanousd"],
        cost=values["cost_nanousd"],
        tokens=values["bucket_tokens"],
        reserved_ms=values["reserved_ms"],
        expires_ms=values["expires_ms"],
        at_ms=values["at_ms"],
        taken=tuple(_taken(texts[values["charged"]], values["held_nanousd"], detail.get("lesser", {}))),
        call=canonical(call).encode() if call else b"",
        ending=canonical(ending).encode() if ending else b"",
    )
