"""What must be true of a store at every moment, read from its keys alone."""

from __future__ import annotations

import struct
from collections import Counter as Tally
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from limiter.domain.reservations import RowFlag, State
from limiter.domain.rows import Row, RowKind, Taken
from limiter.domain.scopes import Scope
from limiter.store import replies
from limiter.store.keys import name_of_member, scope_of_field
from limiter.store.port import HoldRecord

RETENTION_MAX_MS = 7 * 86_400_000


@dataclass(slots=True)
class Dump:
    """Everything in a store.

    `scopes` is decoded: per scope, last write and the seven integers of each counter. `overages` and `openings` are
    kept for the period that they name, which may be over.
    """

    raw: dict[str, Any] = field(default_factory=dict)
    scopes: dict[Scope, tuple[int, dict[str, tuple[int, ...]]]] = field(default_factory=dict)
    overages: dict[Taken, int] = field(default_factory=dict)
    openings: dict[Taken, int] = field(default_factory=dict)
    holds: dict[str, HoldRecord] = field(default_factory=dict)
    lifetimes_ms: dict[str, int] = field(default_factory=dict)
    due: dict[str, int] = field(default_factory=dict)
    rows: dict[int, list[Row]] = field(default_factory=dict)

    @property
    def open_holds(self) -> dict[str, HoldRecord]:
        return {member: hold for member, hold in self.holds.items() if hold.state is State.HELD}


async def dump(client: Any) -> Dump:  # noqa: ANN401 - redis types replies as str or bytes, these are bytes
    """Read every key; a key of no known kind is a leak."""
    found = Dump()
    for key in sorted(raw_key.decode() for raw_key in await client.keys("*")):
        await _read(client, key, found)
    return found


async def _read(client: Any, key: str, found: Dump) -> None:  # noqa: ANN401 - as in dump
    parts = key.split(":")
    match parts:
        case ["lim1", "orgs"]:
            found.raw[key] = await client.smembers(key)
        case ["lim1", "meta"] | ["lim1", "openings"] | ["lim1", _, "openings", _]:
            found.raw[key] = await client.hgetall(key)
        case ["lim1", _, "org", organization]:
            found.raw[key] = fields = await client.hgetall(key)
            _read_fields(organization, fields, found)
        case ["lim1", _, "hold", organization, hold_id]:
            found.raw[key] = value = await client.get(key)
            member = f"{organization}/{hold_id}"
            found.holds[member] = replies.hold_record(name_of_member(member), value)
            found.lifetimes_ms[member] = await client.pttl(key)
        case ["lim1", _, "due"]:
            found.raw[key] = entries = await client.zrange(key, 0, -1, withscores=True)
            found.due.update({member.decode(): int(score) for member, score in entries})
        case ["lim1", shard, "ledger"]:
            entries = await client.execute_command("XRANGE", key, "-", "+")
            number = int(shard.strip("{}"))
            found.raw[key] = found.rows[number] = [_row(number, entry, fields) for entry, fields in entries]
        case ["lim1", _, "epoch" | "learner"] | ["lim1", _, "learned", _]:
            found.raw[key] = await client.get(key)
        case _:
            raise AssertionError(f"a key that nobody answers for: {key}")


def _read_fields(organization: str, fields: Mapping[bytes, bytes], found: Dump) -> None:
    for name, value in fields.items():
        if name == b"scope" or name.startswith(b"scope:"):
            found.scopes[scope_of_field(organization, name.decode())] = _counters(value)
        elif name.startswith(b"overage:"):
            taken, amount = _overage(organization, name.decode(), value)
            found.overages[taken] = amount
        elif name.startswith(b"opening:"):
            taken, amount = _overage(organization, name.decode(), value[:-16])  # then the position that it rests on
            found.openings[taken] = amount


def _row(shard: int, entry: bytes, fields: dict[bytes, bytes] | list[bytes]) -> Row:
    return replies.row(shard, entry, fields[b"r"] if isinstance(fields, dict) else fields[1])


def _counters(raw: bytes) -> tuple[int, dict[str, tuple[int, ...]]]:
    version, last_ms = struct.unpack_from("<BQ", raw)
    assert version == 1
    end = raw.index(b"\0", 9)
    names = raw[9:end].decode().split(",") if end > 9 else []
    return last_ms, dict(zip(names, struct.iter_unpack("<7q", raw[end + 1 :]), strict=True))


def _overage(organization: str, name: str, raw: bytes) -> tuple[Taken, int]:
    _, path, counter = name.split(":", 2)
    version, period_ms, usd, nano = struct.unpack("<BQqq", raw)
    assert version == 1
    assert 0 <= nano < 10**9, name
    return Taken(scope_of_field(organization, f"scope:{path}"), counter, period_ms), usd * 10**9 + nano


def check(found: Dump, *, forgotten: Mapping[str, int] | None = None) -> None:
    """Check all invariants that need no knowledge of the calls.

    `forgotten` is how often the record of an ended hold has gone, so that its id could be used again.
    """
    _check_conservation(found)
    _check_overages(found)
    _check_openings(found)
    _check_buckets(found)
    _check_ends(found, forgotten or {})
    _check_due_index(found)
    _check_sequences(found)
    _check_lifetimes(found)


def money(numbers: tuple[int, ...]) -> tuple[int, int]:
    """Settled and held of a spend counter."""
    assert all(0 <= nano < 10**9 for nano in (numbers[3], numbers[5])), numbers
    return numbers[2] * 10**9 + numbers[3], numbers[4] * 10**9 + numbers[5]


def _check_conservation(found: Dump) -> None:
    """Settled = sum of the ledger rows, held = sum of the open holds, slots = their number. To the nano-dollar.

    What a counter was opened with has rows, too.
    """
    settled = _sums((taken, row.amount) for rows in found.rows.values() for row in rows for taken in row.taken)
    held = _sums((taken, taken.held) for hold in found.open_holds.values() for taken in hold.taken)
    slots = _sums((taken, 1) for hold in found.open_holds.values() for taken in hold.taken)
    for scope, (_, counters) in found.scopes.items():
        for name, numbers in counters.items():
            taken = Taken(scope, name, numbers[0])
            if ":spend:" in name:
                assert money(numbers) == (settled[taken], held[taken]), f"conservation of {taken}"
                assert min(money(numbers)) >= 0, f"below zero: {taken}"
            elif ":concurrency:" in name:
                assert numbers[1] == slots[taken], f"slots of {taken}"


def _check_overages(found: Dump) -> None:
    """Overage = what the holds of the present period cost by their last rows above what the counter held."""
    expected: Tally[Taken] = Tally()
    for rows in found.rows.values():
        costs: dict[str, int] = {}
        unheld: set[str] = set()  # neither a charge nor a consumed call had a hold
        for row in rows:
            if row.kind is RowKind.SETTLEMENT and RowFlag.CONSUMED not in row.flags:
                unheld.discard(row.member)
            elif row.kind is not RowKind.CORRECTION:
                unheld.add(row.member)
            if row.member in unheld:
                continue
            before = costs.get(row.member, 0) if row.kind is RowKind.CORRECTION else 0
            costs[row.member] = row.cost
            for taken in row.taken:
                expected[taken._replace(held=0)] += max(row.cost - taken.held, 0) - max(before - taken.held, 0)
    for scope, (_, counters) in found.scopes.items():
        for name, numbers in counters.items():
            if ":spend:" in name:
                taken = Taken(scope, name, numbers[0])
                assert found.overages.get(taken, 0) == expected[taken], f"overage of {taken}"
                assert expected[taken] >= 0, f"below zero: {taken}"


def _check_openings(found: Dump) -> None:
    """What a counter was opened with = the sum of its OPENING rows."""
    opened = _sums(
        (taken, row.amount)
        for rows in found.rows.values()
        for row in rows
        if row.kind is RowKind.OPENING
        for taken in row.taken
    )
    for taken, amount in found.openings.items():
        assert amount == opened[taken], f"opening of {taken}"
    assert {taken._replace(period_ms=0) for taken in opened} <= {t._replace(period_ms=0) for t in found.openings}


def _sums(parts: Iterable[tuple[Taken, int]]) -> Tally[Taken]:
    sums: Tally[Taken] = Tally()
    for taken, amount in parts:
        sums[taken._replace(held=0)] += amount
    return sums


def _check_buckets(found: Dump) -> None:
    for scope, (_, counters) in found.scopes.items():
        for name, (_, _, level, _, burst, ticks, _) in counters.items():
            if ":requests:" in name or ":tokens:" in name:
                assert -burst * ticks <= level <= burst * ticks, f"level of {scope} {name}"


def _check_ends(found: Dump, forgotten: Mapping[str, int]) -> None:
    """Each hold ends once; only one that nobody received, or remembers, may be granted, and end, again."""
    ends: Tally[str] = Tally()
    never_given: Tally[str] = Tally()
    for rows in found.rows.values():
        for row in rows:
            if row.kind in (RowKind.SETTLEMENT, RowKind.CHARGE):
                ends[row.member] += 1
            never_given[row.member] += row.state is State.RELEASED and RowFlag.UNCLAIMED in row.flags
    for member, count in ends.items():
        again = never_given[member] + forgotten.get(member, 0)
        assert count <= again + (member not in found.open_holds), f"{member} ended {count} times"


def _check_due_index(found: Dump) -> None:
    assert found.due == {member: hold.expires_ms for member, hold in found.open_holds.items()}


def _check_sequences(found: Dump) -> None:
    for shard, rows in found.rows.items():
        assert [row.seq for row in rows] == list(range(len(rows))), f"gap in shard {shard}"
        assert len({row.epoch for row in rows}) <= 1, f"epochs of shard {shard}"


def _check_lifetimes(found: Dump) -> None:
    """An open hold stays until it ends; an ended one goes by itself."""
    for member, hold in found.holds.items():
        lifetime_ms = found.lifetimes_ms[member]
        if hold.state is State.HELD:
            assert lifetime_ms == -1, f"the open hold {member} would vanish"
        else:
            assert 0 < lifetime_ms <= RETENTION_MAX_MS, f"the ended hold {member} stays for ever"
