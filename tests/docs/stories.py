"""The worked tables of docs/concepts.md, played against a real store whose clock the table sets.

A table follows a block of YAML, which is the part of an organization. Its columns are `at`, `call`, `answer`
and then numbers of limits, such as `daily left`. Calls are written as in `reserve a $0.60 as search/web`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from limiter.domain.calls import Estimate, Outcome, Usage
from limiter.domain.errors import LimiterError
from limiter.domain.limits import LimitKind
from limiter.domain.money import format_usd, parse_usd
from limiter.domain.reservations import ReservationName, RowFlag, State
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import Denied, LimitStatus, Verdict
from limiter.observability.metrics import Metrics
from limiter.policy.document import parse_policy
from limiter.pricing.book import PriceBook
from limiter.rpc.statuses import status_of
from limiter.service.calls import BookCall, Principal, ReserveCall, SettleCall, Settled
from limiter.service.secrets import Pepper
from limiter.service.service import Service
from limiter.store.connection import Client
from limiter.store.redis_store import RedisStore

_PEPPER: Final = {"1": b"the stories' own pepper"}
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
_PRICES: Final = PriceBook.load()


class Story:
    """One table being played; `zone` is that of the times in its first column."""

    def __init__(self, client: Client, part: str) -> None:
        self._now_ms = 0
        self._store = RedisStore(client, clock_ms=lambda: self._now_ms)
        self._service = Service(self._store, pepper=Pepper(_PEPPER), prices=_PRICES, metrics=Metrics())
        self._part = part
        zone = re.search(r"^timezone: (\S+)", part, re.MULTILINE)
        self._zone = ZoneInfo(zone[1] if zone else "UTC")
        self._day = "2026-03-02"
        self._names: dict[str, ReservationName] = {}
        self._verbs: dict[str, Callable[[str, str], Coroutine[Any, Any, str]]] = {
            "reserve": self._reserve,
            "settle": self._settle,
            "release": self._release,
            "extend": self._extend,
            "charge": self._charge,
            "lost": self._lost,
            "set": self._set,
            "look": self._look,
        }

    async def apply(self) -> None:
        """Put the table's policy in force."""
        lines = "".join(f"    {line}\n" for line in self._part.splitlines())
        policy = parse_policy(f"version: 1\norganizations:\n  acme:\n{lines}")
        await self._service.administration.apply(policy, dry_run=False)

    async def step(self, at: str, call: str) -> str:
        """Set the clock, let what is due expire, make the call; what it answered in words."""
        if at:
            day, _, time = at.rpartition(" ")
            self._day = day or self._day
            self._now_ms = (
                int(datetime.fromisoformat(f"{self._day} {time}").replace(tzinfo=self._zone).timestamp()) * 1000
            )
        await self._service.sweep()
        verb, _, rest = call.partition(" ")
        name, _, rest = rest.partition(" ")
        try:
            answer: str = await self._verbs[verb](name, rest)
        except LimiterError as error:
            answer = status_of(error).name
        return answer

    async def number(self, column: str, principal: Scope = Scope("acme", "search", "bot")) -> str:  # noqa: B008 - immutable
        """A number of a limit: `daily left`."""
        limit_id, field = column.split(" ")
        limits = await self._service.headroom(Principal(key=principal), "", "")
        (status,) = (status for status in limits if status.limit.id == limit_id)
        value = {"settled": status.settled, "held": status.held, "left": status.remaining}[field]
        return _usd(value) if status.limit.kind is LimitKind.SPEND else str(value)

    async def _reserve(self, name: str, text: str) -> str:
        words = re.fullmatch(
            r"(?:\$(?P<cost>\S+)|(?P<model>\S+) (?P<input>\d+)\+(?P<output>\d+))"
            r"(?: as (?P<key>\S+))?(?: for (?P<ttl>\S+))?(?P<dry> as a dry run)?",
            text,
        )
        assert words is not None, text
        cost, model = words["cost"], words["model"]
        call = ReserveCall(
            principal=Principal(key=Scope.parse(f"acme/{words['key'] or 'search/bot'}")),
            request_id=name,
            model=model or "gpt-4o",
            provider="",
            size=parse_usd(cost, field="cost") if cost else Estimate(int(words["input"]), int(words["output"])),
            tags=(),
            ttl_ms=_ms(words["ttl"]) if words["ttl"] else None,
            dry_run=words["dry"] is not None,
            all_limits=False,
            consume=False,
            fingerprint=hashlib.md5(text.encode(), usedforsecurity=False).digest(),
            deadline=None,
        )
        return self._answer(name, await self._service.reserve(call))

    def _answer(self, name: str, verdict: Verdict) -> str:
        if isinstance(verdict, Denied):
            text = f"{verdict.reason.name}, {verdict.reason.http_status}"
            if verdict.retry_after_ms is not None:
                text += f", again in {verdict.retry_after_ms / 1000:g} s"
            if verdict.fits_max_output_tokens is not None:
                text += f", {verdict.fits_max_output_tokens} output tokens would fit"
            return text
        if verdict.reservation:
            self._names[name] = ReservationName.parse(verdict.reservation)
        text = f"granted, holds {_usd(verdict.held_nanousd)}"
        if verdict.repeated_call:
            text += " (repeated_call)"
        if verdict.dry_run:
            text += " (dry_run)"
        return text + "".join(f", warns of {_warning(status)}" for status in verdict.warnings)

    async def _settle(self, name: str, text: str) -> str:
        words = re.fullmatch(r"(?:\$(?P<cost>\S+)|(?P<input>\d+)\+(?P<output>\d+))(?P<estimated> estimated)?", text)
        assert words is not None, text
        cost = words["cost"]
        call = SettleCall(
            name=self._names[name],
            actual=parse_usd(cost, field="cost") if cost else Usage(int(words["input"]), int(words["output"])),
            outcome=Outcome.COMPLETED,
            estimated=words["estimated"] is not None,
            model="",
            provider_request_id="",
        )
        return _booked(await self._service.settle(call))

    async def _release(self, name: str, _: str) -> str:
        return _booked(await self._service.release(self._names[name]))

    async def _extend(self, name: str, text: str) -> str:
        reply = await self._service.extend(self._names[name], _ms(text))
        until = datetime.fromtimestamp(reply.expires_ms / 1000, self._zone)
        return f"open until {until:%H:%M}" + (" (repeated_call)" if reply.repeated else "")

    async def _charge(self, name: str, text: str) -> str:
        call = BookCall(
            principal=Principal(key=Scope("acme", "search", "bot")),
            request_id=name,
            model="gpt-4o",
            provider="",
            actual=parse_usd(text.removeprefix("$"), field="cost"),
            tags=(),
            occurred_ms=0,
            provider_request_id="",
            fingerprint=text.encode().ljust(16, b"."),
        )
        return _booked(await self._service.charge(call))

    async def _lost(self, name: str, _: str) -> str:
        """The caller was gone before the grant was written."""
        self._service.give_back(self._names[name])
        await self._service.give_backs.drain()
        record = await self._store.hold(self._names[name])
        assert record is not None
        return f"{record.state.name}, {', '.join(flag.name or '' for flag in RowFlag if flag in record.flags)}"

    async def _set(self, limit: str, text: str) -> str:
        """`set daily spend: 2`: change one field of a limit and apply."""
        field, _, value = text.partition(": ")
        self._part, changed = re.subn(rf"(id: {limit}, .*?\b{field}: )[^,}}]+", rf"\g<1>{value}", self._part)
        assert changed == 1
        await self.apply()
        return "applied"

    async def _look(self, name: str, _: str) -> str:
        """What became of a reservation."""
        record = await self._store.hold(self._names[name])
        if record is None:
            return "no record"
        cost = "" if record.state is State.HELD else f", costs {_usd(record.cost)}"
        return record.state.name + cost


def _usd(nanousd: int) -> str:
    return f"${format_usd(nanousd)}"


def _ms(text: str) -> int:
    return int(text[:-1]) * _SECONDS[text[-1]] * 1000


def _warning(status: LimitStatus) -> str:
    return f"{status.limit.id} (shadow)" if status.limit.shadow else status.limit.id


def _booked(settled: Settled) -> str:
    text = f"{settled.state.name} by {settled.basis.name if settled.basis else '?'}, costs {_usd(settled.cost_nanousd)}"
    if settled.repeated_call:
        return f"{text} (repeated_call)"
    if settled.overage_nanousd:
        text += f", overage {_usd(settled.overage_nanousd)}"
    if RowFlag.LATE in settled.flags:
        text += ", late"
    if RowFlag.WINDOW_CLOSED in settled.flags:
        text += ", window closed"
    return text
