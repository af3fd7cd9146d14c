"""Beside the calls: sweeps that share their work, and grants given back however long the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from limiter.domain.errors import Overloaded, Unavailable
from limiter.domain.reservations import State
from limiter.service import upkeep as subject
from limiter.service.upkeep import repeat
from limiter.store.port import EndCall, EndReply
from tests.rules.desk import Limiter, name_of
from tests.service.conftest import Watch

POLICY = """
    version: 1
    organizations:
      acme:
        settings: {on_expiry: release}
        limits: [{id: day, spend: 1, per: day}]
        teams: {search: {keys: {bot: {}}}}
"""


class Counted:
    """Counts sweeps of the store."""

    def __init__(self, limiter: Limiter) -> None:
        self.number = 0
        self._expire = limiter.store.expire_due
        limiter.store.expire_due = self.expire  # type: ignore[method-assign]  # the same, counted

    async def expire(self, organizations: Sequence[str], *, limit: int, retention_ms: int) -> list[EndReply]:
        self.number += 1
        return await self._expire(organizations, limit=limit, retention_ms=retention_ms)


@pytest.fixture(autouse=True)
def _stopped_watch(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "time", watch)


async def test_a_refusal_too_soon_after_a_sweep_waits_for_the_next_one(limiter: Limiter, watch: Watch) -> None:
    await limiter.apply(POLICY)
    counted = Counted(limiter)
    await limiter.grant(cost="1", ttl="1 minute")
    limiter.tick("1 minute")
    await limiter.grant(cost="1", ttl="1 minute")
    assert counted.number == 1
    limiter.tick("1 minute")
    watch.now_s += 0.09
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await limiter.grant(cost="1")
    assert loop.time() - began_s >= 0.009
    assert counted.number == 2


async def test_refusals_that_come_together_share_one_sweep(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="1", ttl="1 minute")
    limiter.tick("1 minute")
    counted = Counted(limiter)
    await asyncio.gather(*(limiter.grant(cost="0.1") for _ in range(10)))
    assert counted.number == 1


async def test_a_refusal_without_due_holds_sweeps_nothing(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="1")
    counted = Counted(limiter)
    await limiter.refusal(cost="1")
    assert counted.number == 0


async def test_a_dry_run_sweeps_nothing(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="1", ttl="1 minute")
    limiter.tick("1 minute")
    counted = Counted(limiter)
    await limiter.refusal(cost="1", dry_run=True)
    assert counted.number == 0


async def test_a_sweep_reaches_every_organization_that_has_a_policy(limiter: Limiter, watch: Watch) -> None:
    await limiter.apply(POLICY)
    await limiter.service.sweep()
    await limiter.apply(POLICY.replace("acme", "other"))
    await limiter.grant("other/search/bot", cost="1", ttl="1 minute")
    limiter.tick("1 minute")
    watch.now_s += subject.ORGANIZATIONS_EVERY_S + 0.1
    assert await limiter.service.sweep() == 1


class Away:
    """A store whose releases fail a number of times; `lost` ones were done although nobody was told."""

    def __init__(self, limiter: Limiter, errors: list[Exception]) -> None:
        self.calls = 0
        self._errors = errors
        self._release = limiter.store.release
        limiter.store.release = self.release  # type: ignore[method-assign]  # the same, at times away

    async def release(self, call: EndCall) -> EndReply:
        self.calls += 1
        if self._errors:
            raise self._errors.pop(0)
        return await self._release(call)


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_GIVE_BACK_AGAIN_S", (0.0,) * 6)


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("trouble", [Unavailable("away"), Overloaded("too many")])
async def test_a_grant_is_given_back_as_soon_as_the_store_is_there_again(limiter: Limiter, trouble: Exception) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="1")
    away = Away(limiter, [trouble] * 5)
    limiter.service.give_back(name_of(hold))
    await limiter.service.give_backs.drain()
    assert away.calls == 6
    assert (await limiter.record(hold)).state is State.RELEASED
    assert await limiter.count("limiter_unclaimed_total") == 1


@pytest.mark.usefixtures("_at_once")
async def test_a_grant_that_cannot_be_given_back_is_left_to_expiry(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="1", ttl="1 minute")
    Away(limiter, [Unavailable("away")] * 50)
    limiter.service.give_back(name_of(hold))
    await limiter.service.give_backs.drain()
    assert (await limiter.record(hold)).state is State.HELD
    limiter.tick("1 minute")
    assert await limiter.service.sweep() == 1


async def test_grants_to_be_given_back_are_bounded(limiter: Limiter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_GIVE_BACK_MAX", 3)
    await limiter.apply(POLICY)
    holds = [await limiter.grant(cost="0.1") for _ in range(5)]
    for hold in holds:
        limiter.service.give_back(name_of(hold))
    assert len(limiter.service.give_backs._tasks) == 3
    await limiter.service.give_backs.drain()
    states = [(await limiter.record(hold)).state for hold in holds]
    assert states == [State.RELEASED] * 3 + [State.HELD] * 2


async def test_work_that_fails_is_done_again(capsys: pytest.CaptureFixture[str]) -> None:
    done = asyncio.Event()
    errors = [Unavailable("away"), ValueError("a bug"), None]

    async def work() -> None:
        error = errors.pop(0)
        if error is not None:
            raise error
        done.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(repeat(work, every_s=0.0, what="sweep"))
    async with asyncio.timeout(5):
        await done.wait()
    task.cancel()
    await asyncio.wait([task])
    told = capsys.readouterr().out
    assert "sweep.failed" in told
    assert "a bug" in told


async def test_a_service_that_stops_ends_its_upkeep(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    limiter.service.start_upkeep()
    tasks = list(limiter.service._upkeep)
    await limiter.service.stop()
    assert all(task.cancelled() for task in tasks)
