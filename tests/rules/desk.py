"""A limiter in the words of its rules: keys by their path, money as text in USD, time as text."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from textwrap import dedent
from typing import Any
from zoneinfo import ZoneInfo

from redis.asyncio import Redis

from limiter.domain.calls import Outcome, ProviderRequest, ProviderResponse, Usage
from limiter.domain.money import format_usd, parse_usd
from limiter.domain.reservations import ReservationName
from limiter.domain.rows import Row
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import Denied, Granted, LimitStatus, Verdict
from limiter.ledger.database import Database
from limiter.observability.metrics import Metrics
from limiter.policy.document import parse_policy
from limiter.pricing.book import PriceBook
from limiter.rpc.requests import book_call, reserve_call, settle_call
from limiter.service.administration import Applied
from limiter.service.calls import Principal, ReserveCall, Settled
from limiter.service.secrets import Pepper
from limiter.service.service import Service
from limiter.store.cargo import Cargo
from limiter.store.port import ExtendReply, HoldCall, HoldRecord, HoldReply
from limiter.store.redis_store import RedisStore
from limiter.v1 import limiter_pb2 as pb
from tests.fakes.plugin import StoreClock
from tests.model.invariants import Dump, check, dump

BOT = "acme/search/bot"
PEPPER = Pepper({"1": b"a pepper for tests only"})

_UNITS_MS = {"ms": 1, "second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000}


def usd(text: str) -> int:
    """Nano-USD of an amount in USD."""
    return parse_usd(text, field="usd")


def ms(text: str) -> int:
    """Milliseconds of `90 seconds` or `1 hour`."""
    number, _, unit = text.partition(" ")
    return int(number) * _UNITS_MS[unit if unit == "ms" else unit.removesuffix("s")]


def instant(text: str, zone: str = "UTC", *, fold: int = 0) -> int:
    """Ms since the epoch of a wall clock's reading."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


@cache
def prices() -> PriceBook:
    """The price book of these tests: `m` costs 1 USD per million tokens in, 2 out."""
    return PriceBook.load(Path(__file__).parent / "prices.yaml")


@dataclass(frozen=True, slots=True)
class Money:
    """What a spend limit has counted in its present window, in USD."""

    settled: str
    held: str


class Limiter:
    """One sidecar on a store whose time only the test moves."""

    def __init__(
        self,
        client: Redis,
        clock: StoreClock,
        *,
        max_backlog: int = 0,
        pepper: Pepper = PEPPER,
        metrics: Metrics | None = None,
        books: Database | None = None,
    ) -> None:
        self.client = client
        self.clock = clock
        self.metrics = metrics or Metrics()
        self.store = RedisStore(client, clock_ms=clock, max_backlog=max_backlog, abandoned=self._abandoned)
        self.service = Service(self.store, pepper=pepper, prices=prices(), metrics=self.metrics, books=books)

    def _abandoned(self, call: HoldCall, reply: HoldReply | None) -> None:
        self.service.give_backs.abandoned(call, reply)

    async def close(self) -> None:
        await self.service.stop()
        await self.store.close()

    # ------------------------------------------------------------------ time

    def tick(self, text: str) -> None:
        """Let time pass."""
        self.clock.advance(ms(text))

    def at(self, text: str, zone: str = "UTC", *, fold: int = 0) -> None:
        """Let it be that time."""
        self.clock.now_ms = instant(text, zone, fold=fold)

    # ------------------------------------------------------------------ calls

    async def reserve(
        self,
        key: str = BOT,
        *,
        cost: str | None = None,
        tokens: tuple[int, int | None] | None = None,
        units: Mapping[str, int] | None = None,
        request: ProviderRequest | None = None,
        model: str = "m",
        provider: str = "",
        id: str = "",  # noqa: A002 - the word of the rules
        tags: Mapping[str, str] | None = None,
        ttl: str = "",
        dry_run: bool = False,
        all_limits: bool = False,
        consume: bool = False,
        deadline: float | None = None,
    ) -> Verdict:
        """Ask for a hold of `cost`, of `tokens` (in, out), or for a provider's own request.

        `key` is a path, believed as on a trusted listener, or a secret.
        """
        message = pb.ReserveRequest(
            request_id=id, model=model, provider=provider, dry_run=dry_run, all_limits=all_limits, consume=consume
        )
        _set_principal(message, key)
        if tokens is not None:
            message.estimate.input_tokens = tokens[0]
            if tokens[1] is not None:
                message.estimate.max_output_tokens = tokens[1]
            message.estimate.units.update(units or {})
        elif request is not None:
            message.provider_request.host, message.provider_request.path = request.host, request.path
            message.provider_request.body = request.body
        elif cost is not None:
            message.cost_nanousd = usd(cost)
        message.tags.extend(pb.Tag(name=name, value=value) for name, value in (tags or {}).items())
        if ttl:
            message.ttl.FromMilliseconds(ms(ttl))
        return await self.send(message, deadline=deadline)

    async def send(self, message: pb.ReserveRequest, *, deadline: float | None = None) -> Verdict:
        """Send a request as it came by the wire."""
        call: ReserveCall = reserve_call(message, trusted=True, remaining_s=None)
        call.deadline = deadline
        return await self.service.reserve(call)

    async def grant(self, *arguments: str, **options: object) -> Granted:
        """Reserve what must be granted."""
        verdict = await self.reserve(*arguments, **options)  # type: ignore[arg-type]  # the options of reserve
        assert isinstance(verdict, Granted), verdict
        return verdict

    async def refusal(self, *arguments: str, **options: object) -> Denied:
        """Reserve what must be refused."""
        verdict = await self.reserve(*arguments, **options)  # type: ignore[arg-type]  # the options of reserve
        assert isinstance(verdict, Denied), verdict
        return verdict

    async def settle(
        self,
        hold: Granted | str,
        actual: str | Usage | ProviderResponse,
        *,
        estimated: bool = False,
        outcome: Outcome = Outcome.COMPLETED,
        model: str = "",
    ) -> Settled:
        """Settle with a cost in USD, a usage or the provider's own answer."""
        message = pb.SettleRequest(
            reservation=str(name_of(hold)), estimated=estimated, model=model, outcome=outcome.name
        )
        _set_actual(message, actual)
        return await self.service.settle(settle_call(message))

    async def release(self, hold: Granted | str, reason: str = "") -> Settled:
        return await self.service.release(name_of(hold), reason=reason)

    async def extend(self, hold: Granted | str, ttl: str) -> ExtendReply:
        return await self.service.extend(name_of(hold), ms(ttl))

    async def charge(
        self,
        key: str = BOT,
        *,
        id: str,  # noqa: A002 - the word of the rules
        actual: str | Usage | ProviderResponse,
        model: str = "m",
        occurred: int = 0,
        tags: Mapping[str, str] | None = None,
    ) -> Settled:
        """Book spend that had no hold."""
        message = pb.ChargeRequest(request_id=id, model=model)
        _set_principal(message, key)
        _set_actual(message, actual)
        message.tags.extend(pb.Tag(name=name, value=value) for name, value in (tags or {}).items())
        if occurred:
            message.occurred_at.FromMilliseconds(occurred)
        return await self.service.charge(book_call(message, trusted=True))

    # ------------------------------------------------------------------ administration

    async def apply(self, text: str, *, dry_run: bool = False) -> Applied:
        """Apply a policy file."""
        return await self.service.administration.apply(parse_policy(dedent(text)), dry_run=dry_run)

    async def adjust(self, hold: Granted | str, cost: str, *, reason: str = "said so", by: str = "pat") -> Settled:
        """Say what an ended call cost."""
        return await self.service.administration.adjust(name_of(hold), cost=usd(cost), reason=reason, by=by)

    async def mint(self, key: str, *, expires_ms: int = 0, secret: str = "") -> str:
        """Mint a key, or import one that has `secret`; answers the secret."""
        _, shown = await self.service.keyring.create(
            Scope.parse_key(key), limits=None, expires_ms=expires_ms, secret=secret
        )
        return shown or secret

    async def enable(self, key: str, *, enabled: bool) -> None:
        await self.service.keyring.update(
            Scope.parse_key(key), enabled=enabled, expires_ms=None, limits=None, clear_limits=False
        )

    # ------------------------------------------------------------------ looking

    async def limits(self, key: str = BOT, *, model: str = "m") -> dict[str, LimitStatus]:
        """Every limit on a key's path as it is now, by `scope id`."""
        principal = Principal(key=Scope.parse_key(key))
        return {place(status): status for status in await self.service.headroom(principal, model, "")}

    async def money(self, where: str, *, key: str = BOT, model: str = "m") -> Money:
        """What the spend limit at `acme/search daily` has counted."""
        status = (await self.limits(key, model=model))[where]
        return Money(format_usd(status.settled), format_usd(status.held))

    async def overage(self, where: str, *, key: str = BOT) -> str:
        """What the spend limit at `acme/search daily` was charged above the holds in its present window, in USD."""
        return format_usd((await self.limits(key))[where].overage)

    async def left(self, where: str, *, key: str = BOT, model: str = "m") -> int:
        """What is left of the rate or of the slots at `acme/search rpm`."""
        return (await self.limits(key, model=model))[where].remaining

    async def rows(self, organization: str = "acme") -> list[Row]:
        """All ledger rows of an organization's shard."""
        return await self.store.rows(self.store.shard_of(organization), after=None, count=10_000)

    async def record(self, hold: Granted | str) -> HoldRecord:
        record = await self.store.hold(name_of(hold))
        assert record is not None
        return record

    async def dump(self) -> Dump:
        """Everything that the store holds; whatever was done to it, its invariants hold."""
        everything: Any = _WithoutDigests(self.client)
        found = await dump(everything)
        check(found)
        for key in await self.client.keys("lim1:digest:*"):
            found.raw[str(key)] = await self.client.get(key)
        return found

    async def count(self, metric: str) -> float:
        """A metric's value, as it is scraped: `limiter_late_total` or `limiter_expired_total{on_expiry="CHARGE"}`."""
        text = self.metrics.render()[0].decode()
        found = re.search(rf"^{re.escape(metric)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0


class Gate:
    """Holds back the answers of a store that has decided, until they are let through."""

    def __init__(self, limiter: Limiter) -> None:
        self.decided = asyncio.Event()
        self._open = asyncio.Event()
        run = limiter.store._run

        async def run_and_wait(verb: str, cargo: Cargo, items: Sequence[bytes], count: int) -> list[Any]:
            reply = await run(verb, cargo, items, count)
            self.decided.set()
            await self._open.wait()
            return reply

        limiter.store._run = run_and_wait  # type: ignore[method-assign]  # a slow network, as seen from here

    def open(self) -> None:
        """Let every answer through."""
        self._open.set()


class _WithoutDigests:
    """A client that does not list the digests of secrets: they belong to no shard."""

    def __init__(self, client: Redis) -> None:
        self._client = client

    async def keys(self, pattern: str) -> list[Any]:
        return [key for key in await self._client.keys(pattern) if "lim1:digest:" not in str(key)]

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a client has
        return getattr(self._client, name)


def _set_principal(message: pb.ReserveRequest | pb.ChargeRequest, key: str) -> None:
    if "/" in key:
        message.key_id = key
    else:
        message.api_key = key


def _set_actual(message: pb.SettleRequest | pb.ChargeRequest, actual: str | Usage | ProviderResponse) -> None:
    if isinstance(actual, str):
        message.cost_nanousd = usd(actual)
    elif isinstance(actual, ProviderResponse):
        message.provider_response.status = actual.status
        message.provider_response.content_type = actual.content_type
        message.provider_response.body = actual.body
    else:
        for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"):
            setattr(message.usage, name, getattr(actual, name))
        message.usage.units.update(actual.units)


def name_of(hold: Granted | str) -> ReservationName:
    """The name of a reservation."""
    return ReservationName.parse(hold if isinstance(hold, str) else hold.reservation)


def place(status: LimitStatus) -> str:
    """`acme/search daily`: where a limit is."""
    return f"{status.scope.path} {status.limit.id}"


def places(statuses: tuple[LimitStatus, ...]) -> list[str]:
    """Where limits are, in the order of the answer."""
    return [place(status) for status in statuses]
