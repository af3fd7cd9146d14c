"""One organization, several sidecars on one store, and callers that judge every answer."""

from __future__ import annotations

import asyncio
from collections import Counter as Tally
from random import Random
from typing import Final

from limiter.domain.limits import Limit, LimitKind
from limiter.domain.reservations import Basis, OnExpiry, ReservationName, RowFlag
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason
from limiter.store.port import (
    ChargeCall,
    Code,
    EndCall,
    HoldCall,
    HoldReply,
    Plan,
    PlanLimit,
    PlanScope,
    StoredPolicy,
    Why,
)
from limiter.store.redis_store import RedisStore
from tests.fakes.plugin import OpenClient, StoreClock

NANO: Final = 10**9
DAY_MS: Final = 86_400_000
SIDECARS: Final = 3
KEYS: Final = tuple(Scope("acme", team, key) for team in ("search", "ads") for key in ("ant", "bot"))
NO_FLAG: Final = RowFlag(0)


class City:
    """One organization, its sidecars, and everything that was answered to anybody."""

    def __init__(
        self, open_client: OpenClient, clock: StoreClock, ceilings: dict[Scope, int], *, mixed: bool = False
    ) -> None:
        self.clock = clock
        self.ceilings = ceilings
        #: The team takes the first lesser amount of a hold, the key the second.
        self.mixed = mixed
        self.sidecars = [RedisStore(open_client(), clock_ms=clock, abandoned=self._abandoned) for _ in range(SIDECARS)]
        self.client = open_client()
        self.granted: set[str] = set()
        self.lost: list[ReservationName] = []
        self.denied: Tally[DenialReason] = Tally()
        # One for each sidecar: each has a cache of its own.
        self._plans = [{key: self._plan(key) for key in KEYS} for _ in range(SIDECARS)]

    def _plan(self, key: Scope) -> Plan:
        start_ms = self.clock.now_ms - DAY_MS
        window = (start_ms, start_ms + 31 * DAY_MS, start_ms + 62 * DAY_MS)
        scopes = tuple(
            PlanScope(
                scope,
                (
                    PlanLimit(
                        Limit("cap", LimitKind.SPEND, self.ceilings[scope], "month"),
                        applies=True,
                        window=window,
                        lesser=level if self.mixed else 0,
                    ),
                    PlanLimit(Limit("slots", LimitKind.CONCURRENCY, 20), applies=True),
                    PlanLimit(Limit("tpm", LimitKind.TOKENS, 60_000, "minute", 5_000), applies=True),
                ),
            )
            for level, scope in enumerate(key.lineage())
        )
        return Plan("acme", 1, key, 0, 0, scopes)

    def _abandoned(self, call: HoldCall, reply: HoldReply | None) -> None:
        assert reply is not None
        if reply.code == Code.GRANTED:
            self.granted.add(call.name.id)
            self.lost.append(call.name)

    async def open(self) -> None:
        await self.client.flushall()
        await self.sidecars[0].replace_policy(StoredPolicy("acme", 1, "{}"))

    async def close(self) -> None:
        for sidecar in self.sidecars:
            await sidecar.close()
        await self.client.aclose()

    async def reserve(self, choose: Random, cost: int, *, hurry: bool = False) -> ReservationName | None:
        """Ask a sidecar for a hold; `hurry`: be gone before the answer comes, perhaps."""
        number = choose.randrange(SIDECARS)
        key = choose.choice(KEYS)
        consume = choose.random() < 0.1
        lesser = None
        if self.mixed and not consume and choose.random() < 0.8:
            lesser = (cost * choose.randrange(50, 101) // 100, cost * choose.randrange(51) // 100)
        call = HoldCall(
            plan=self._plans[number][key],
            name=ReservationName("acme", choose.randbytes(16).hex()),
            fingerprint=b"f" * 16,
            cost=cost,
            tokens=choose.randrange(200),
            requests=1,
            ttl_ms=choose.choice([500, 5_000, 60_000]),
            lifetime_ms=DAY_MS,
            retention_ms=DAY_MS,
            key_expires_ms=0,
            secret_expires_ms=0,
            output_max=-1,
            on_expiry=choose.choice(list(OnExpiry)),
            dry_run=False,
            all_limits=True,
            consume=consume,
            own_id=False,
            call=b'{"model":"m"}',
            lesser=lesser,
        )
        asking = asyncio.create_task(self.sidecars[number].reserve(call, deadline=None))
        if hurry:
            for _ in range(choose.randrange(8)):
                await asyncio.sleep(0)
            asking.cancel()
        try:
            reply = await asking
        except asyncio.CancelledError:
            return None
        self._judge(call, reply)
        return call.name if reply.code == Code.GRANTED else None

    def _judge(self, call: HoldCall, reply: HoldReply) -> None:
        """A grant left every counter within its limit; a refusal is justified by the numbers that it tells."""
        assert reply.code in (Code.GRANTED, Code.DENIED)
        reasons = []
        for status in reply.statuses:
            rule = call.plan.scopes[status.scope].limits[status.limit]
            limit = rule.limit
            if limit.kind is LimitKind.SPEND:
                settled, held = status.b * NANO + status.c, status.d * NANO + status.e
                used, asked = settled + held, call.amount(rule)
                reason = DenialReason.SPEND_CEILING if settled + asked > limit.amount else DenialReason.SPEND_HELD
            elif limit.kind is LimitKind.CONCURRENCY:
                used, asked, reason = status.a, 1, DenialReason.CONCURRENCY
            else:
                # Free tokens, rounded down, count as room.
                used, asked = limit.amount - status.b // status.e, call.tokens
                reason = DenialReason.TOKEN_RATE
            # A call that costs nothing needs no room: it is granted even where an overrun has passed the ceiling.
            needs_room = limit.kind is LimitKind.CONCURRENCY or (
                limit.kind is LimitKind.SPEND and call.amount(rule) > 0
            )
            if reply.code == Code.GRANTED and needs_room:
                assert used <= limit.amount
            if status.why == Why.REFUSES:
                assert used + asked > limit.amount
                reasons.append(reason)
        if reply.code == Code.GRANTED:
            assert not reasons
            self.granted.add(call.name.id)
        else:
            assert reply.state == min(reasons)
            self.denied[min(reasons)] += 1

    async def end(
        self, choose: Random, name: ReservationName, basis: Basis, cost: int, flag: RowFlag = NO_FLAG
    ) -> None:
        """Settle or release through any sidecar."""
        call = EndCall(name, basis, cost, choose.randrange(-1, 400), flag, DAY_MS, b"{}")
        sidecar = choose.choice(self.sidecars)
        reply = await (sidecar.release(call) if basis is Basis.RELEASED else sidecar.settle(call))
        assert reply.found

    async def charge(self, choose: Random, cost: int) -> None:
        number, key = choose.randrange(SIDECARS), choose.choice(KEYS)
        name = ReservationName("acme", choose.randbytes(16).hex())
        call = ChargeCall(self._plans[number][key], name, b"c" * 16, cost, 0, DAY_MS, b"{}", b"{}")
        reply = await self.sidecars[number].charge(call)
        assert (reply.code, reply.repeated) == (0, False)

    async def sweep(self, choose: Random, *, limit: int = 50) -> None:
        await choose.choice(self.sidecars).expire_due(["acme"], limit=limit, retention_ms=7 * DAY_MS)

    async def give_back_lost(self, choose: Random) -> None:
        while self.lost:
            await self.end(choose, self.lost.pop(), Basis.RELEASED, 0, RowFlag.UNCLAIMED)
