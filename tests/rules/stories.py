"""Stories: one event per line, its answer after the arrow; time passes only where a line says so.

::

    reserve a 0.50                    -> granted
    reserve b 0.60 by acme/search/dog -> SPEND_HELD acme/search day
    tick 11 minutes
    sweep                             -> 1 ended
    settle a 0.20                     -> SETTLED 0.20 USAGE late
    money acme/search day             -> 0.20 settled, 0.00 held
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from textwrap import dedent

from limiter.domain.errors import LimiterError
from limiter.domain.money import format_usd
from limiter.domain.reservations import RowFlag, State
from limiter.domain.verdicts import Granted
from limiter.service.calls import Settled
from tests.rules.desk import BOT, Limiter, ms, places


async def tell(limiter: Limiter, story: str, *, key: str = BOT) -> None:
    """Let the story happen; its answers must be those that it tells."""
    teller = _Teller(limiter, key)
    told, happened = [], []
    for line in filter(None, map(str.strip, dedent(story).splitlines())):
        event, _, answer = (part.strip() for part in line.partition("->"))
        told.append(f"{event} -> {answer}")
        happened.append(f"{event} -> {await teller.happen(event.split())}")
    assert "\n".join(happened) == "\n".join(told)
    await limiter.dump()


class _Teller:
    """Makes events happen. Holds are named by their request ids."""

    def __init__(self, limiter: Limiter, key: str) -> None:
        self._limiter = limiter
        self._key = key
        self._holds: dict[str, str] = {}

    async def happen(self, words: list[str]) -> str:
        verb: Callable[..., Awaitable[str]] = getattr(self, f"_{words[0]}")
        try:
            return await verb(*words[1:])
        except LimiterError as error:
            state = next((state.name for state in State if f"is {state.name}" in str(error)), "")
            return f"{type(error).__name__} {state}".strip()

    async def _reserve(self, name: str, cost: str, *words: str) -> str:
        options = dict(zip(words[::2], words[1::2], strict=True))
        verdict = await self._limiter.reserve(
            options.get("by", self._key), id=name, cost=cost, model=options.get("model", "m"),
            ttl=f"{options['ttl']} minutes" if "ttl" in options else "",
        )  # fmt: skip
        if isinstance(verdict, Granted):
            self._holds[name] = verdict.reservation
            return "granted again" if verdict.repeated_call else "granted"
        return " ".join([verdict.reason.name, ", ".join(places(verdict.violations))]).strip()

    async def _settle(self, name: str, cost: str, *words: str) -> str:
        return _ended(await self._limiter.settle(self._holds[name], cost, estimated="estimated" in words))

    async def _release(self, name: str) -> str:
        return _ended(await self._limiter.release(self._holds[name]))

    async def _charge(self, name: str, cost: str) -> str:
        return _ended(await self._limiter.charge(self._key, id=name, actual=cost))

    async def _extend(self, name: str, *time: str) -> str:
        reply = await self._limiter.extend(self._holds[name], " ".join(time))
        return f"{(reply.expires_ms - self._limiter.clock.now_ms) // 60_000} minutes left" + " again" * reply.repeated

    async def _sweep(self) -> str:
        return f"{await self._limiter.service.sweep()} ended"

    async def _tick(self, *time: str) -> str:
        self._limiter.clock.advance(ms(" ".join(time)))
        return ""

    async def _at(self, day: str, time: str, zone: str = "UTC") -> str:
        self._limiter.at(f"{day} {time}", zone)
        return ""

    async def _money(self, *where: str) -> str:
        money = await self._limiter.money(" ".join(where), key=self._key)
        return f"{money.settled} settled, {money.held} held"

    async def _overage(self, *where: str) -> str:
        return await self._limiter.overage(" ".join(where), key=self._key)

    async def _left(self, *where: str) -> str:
        return f"{await self._limiter.left(' '.join(where), key=self._key)}"


def _ended(settled: Settled) -> str:
    words = [settled.state.name, format_usd(settled.cost_nanousd), settled.basis.name if settled.basis else ""]
    if settled.overage_nanousd:
        words.append(f"overage {format_usd(settled.overage_nanousd)}")
    if RowFlag.LATE in settled.flags:
        words.append("late")
    if RowFlag.WINDOW_CLOSED in settled.flags:
        words.append("closed")
    if settled.repeated_call:
        words.append("unchanged")
    return " ".join(words)
