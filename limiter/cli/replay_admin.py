"""Reads the books through the Admin service: snapshots at rest, and the ledger while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import tzinfo
from functools import lru_cache
from typing import Any, Final

import grpc

from limiter.cli.replay_books import LedgerSums, OpenHold, Positions, Snapshot, SpendCounter, spend_counter
from limiter.cli.replay_checks import CounterName, counter_name
from limiter.client.contract import messages as pb
from limiter.domain.errors import InvalidArgument, Unavailable
from limiter.domain.limits import LimitKind
from limiter.domain.scopes import Scope
from limiter.domain.windows import TOTAL_END, window_bounds
from limiter.domain.zones import zone
from limiter.policy.document import Policy
from limiter.policy.matching import resolve

_PAGE: Final = 1_000
_TRIES: Final = 40
_PAUSE_S: Final = 0.1

#: So many rows of a shard are read again after a break; those that are known are left out.
_ROWS_AGAIN: Final = 100_000
_CATCH_UP_S: Final = 60.0


def enabled_keys(policy: Policy) -> list[str]:
    """Every key that a policy declares and does not disable, as organization/team/key."""
    found = []
    for organization in policy.organizations.values():
        for team, rules in organization.rules.teams.items():
            for name in rules.keys:
                key = Scope(organization.id, team, name)
                if resolve(organization, key=key, own_limits=None).enabled:
                    found.append(key.path)
    if not found:
        raise InvalidArgument("--key", "", "the policy in force declares no enabled key; name keys with --key")
    return found


def window_starts(policy: Policy) -> Callable[[CounterName, int], int]:
    """Answer a function: in which window of a counter is this instant (ms)? Its start."""
    zones: dict[str, tzinfo] = {
        Scope(name).name: zone(organization.rules.timezone) for name, organization in policy.organizations.items()
    }

    @lru_cache(maxsize=65_536)
    def start_of(organization: str, window: str, at_ms: int) -> int:
        return window_bounds(window, at_ms, zones[organization])[0]

    def start(name: CounterName, at_ms: int) -> int:
        return start_of("/".join(name.scope.split("/", 2)[:2]), name.window, at_ms)

    return start


class BookReader:
    """Reads the books of some organizations. `admin` is an AdminStub on an asyncio channel."""

    def __init__(
        self,
        admin: Any,  # noqa: ANN401 - generated without types
        organizations: Iterable[str],
        window_start: Callable[[CounterName, int], int],
        *,
        token: str | None = None,
    ) -> None:
        self._admin = admin
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._organizations = sorted(organizations)
        self._window_start = window_start

    async def snapshot(self) -> Snapshot:
        """Read counters, open holds and the ledger's end at one moment; raises Unavailable if they never rest."""
        for _ in range(_TRIES):
            before = await self._positions()
            counters = await self._counters()
            holds = await self._open_holds()
            again = await self._counters()
            if counters == again and before == await self._positions():
                return Snapshot(counters, holds, before)
            await asyncio.sleep(_PAUSE_S)
        raise Unavailable(
            f"the books of {', '.join(self._organizations)} do not rest: others spend there; replay alone"
        )

    async def _positions(self) -> Positions:
        rows = self._admin.ReadLedger(pb.ReadLedgerRequest(last=1), metadata=self._metadata)
        return {row.shard: (row.epoch, row.seq) async for row in rows}

    async def _counters(self) -> dict[CounterName, SpendCounter]:
        found: dict[CounterName, SpendCounter] = {}
        for organization in self._organizations:
            request = pb.ListScopesRequest(scope=organization)
            answer = await self._admin.ListScopes(request, metadata=self._metadata)
            for scope in answer.scopes:
                for status in scope.limits:
                    if status.kind == LimitKind.SPEND.value:
                        name = counter_name(status)
                        found[name] = self._counter(name, status)
        return found

    def _counter(self, name: CounterName, status: pb.LimitStatus) -> SpendCounter:
        ends_ms = status.resets_at.ToMilliseconds() if status.HasField("resets_at") else TOTAL_END
        starts_ms = 0 if ends_ms == TOTAL_END else self._window_start(name, ends_ms - 1)
        return SpendCounter(status.limit_value, status.settled, status.held, starts_ms, ends_ms, status.shadow)

    async def _open_holds(self) -> tuple[OpenHold, ...]:
        found: dict[str, OpenHold] = {}
        for organization in self._organizations:
            request = pb.ListReservationsRequest(scope=organization, page_size=_PAGE)
            while True:
                page = await self._admin.ListReservations(request, metadata=self._metadata)
                found |= {one.reservation: _open_hold(one) for one in page.reservations}
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
        return tuple(found.values())

    @asynccontextmanager
    async def following(self, sums: LedgerSums) -> AsyncIterator[None]:
        """Add up ledger rows as they are written, from before the block until all of its rows are in."""
        seen: Positions = {}
        reading = asyncio.get_running_loop().create_task(self._follow(sums, seen))
        try:
            await _until_seen(seen, sums.after, reading)
            yield
            await _until_seen(seen, await self._positions(), reading)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _follow(self, sums: LedgerSums, seen: Positions) -> None:
        # Of a shard that has rows, the last one comes first; so whoever has seen it misses none after it. In one that
        # had none, rows may have been written before the request was heard: it is told once more, from further back.
        request = pb.ReadLedgerRequest(last=1, follow=True)
        while True:
            stream = self._admin.ReadLedger(request, metadata=self._metadata)
            try:
                async for row in stream:
                    if request.last == 1 and sums.lacks_before(shard=row.shard, epoch=row.epoch, seq=row.seq):
                        break
                    sums.add(shard=row.shard, epoch=row.epoch, seq=row.seq, text=row.json)
                    seen[row.shard] = (row.epoch, row.seq)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            finally:
                stream.cancel()
            # Or the sidecar is stopping or gone: go on where the stream ended, if it comes back.
            request.last = _ROWS_AGAIN
            await asyncio.sleep(_PAUSE_S)


async def _until_seen(seen: Positions, wanted: Positions, reading: asyncio.Task[None]) -> None:
    """Wait until a stream has come as far as `wanted`; raises Unavailable if it ends or stalls."""
    give_up_s = asyncio.get_running_loop().time() + _CATCH_UP_S
    while any(seen.get(shard, (0, 0)) < position for shard, position in wanted.items()):
        if reading.done() or asyncio.get_running_loop().time() > give_up_s:
            cause = reading.exception() if reading.done() and not reading.cancelled() else None
            raise Unavailable("the sidecar's stream of ledger rows ended early; the books cannot be checked") from cause
        await asyncio.sleep(_PAUSE_S)


def _open_hold(reservation: pb.Reservation) -> OpenHold:
    charged = (spend_counter(*each.split(" ", 1)) for each in reservation.charged)
    return OpenHold(
        reservation.reservation,
        reservation.request_id,
        reservation.held_nanousd,
        reservation.reserved_at.ToMilliseconds(),
        tuple(name for name in charged if name is not None),
    )
