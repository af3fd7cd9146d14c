"""Refusals are summed, the sums are bounded, and what cannot be written is kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from limiter.domain.errors import Unavailable
from limiter.domain.rows import RowKind
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason, Denied
from limiter.domain.windows import TOTAL_END
from limiter.service import refusals as subject
from limiter.service.refusals import Refusals
from tests.rules.desk import BOT, Limiter, usd

POLICY = """
    version: 1
    organizations:
      acme:
        limits: [{id: day, spend: 1, per: day}]
        teams: {search: {keys: {bot: {limits: [{id: mine, spend: 0.5, per: day}]}}}}
"""


async def sums(limiter: Limiter) -> list[dict[str, Any]]:
    """What the ledger's rows of refusals say."""
    rows = [row for row in await limiter.rows() if row.kind is RowKind.REFUSALS]
    return [entry for row in rows for entry in json.loads(row.call)["refusals"]]


async def test_refusals_are_summed_by_minute_scope_limit_reason_model_and_customer(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    minute = limiter.clock.now_ms // 60_000 * 60_000
    for _ in range(3):
        await limiter.refusal(cost="2", tags={"customer": "a", "feature": "x"})
    await limiter.refusal(cost="0.6", tags={"customer": "b"})
    await limiter.refusal(tokens=(1, 1), model="unheard-of")
    limiter.tick("1 minute")
    await limiter.refusal(cost="2", tags={"customer": "a"})
    await limiter.service.flush_refusals()
    names = ("minute_ms", "scope", "limit", "reason", "model", "customer")
    found = {tuple(entry[name] for name in names): entry["count"] for entry in await sums(limiter)}
    ceiling = "SPEND_CEILING"
    assert found == {
        (minute, "acme", "day", ceiling, "m", "a"): 3,
        (minute, BOT, "mine", ceiling, "m", "a"): 3,
        (minute, BOT, "mine", ceiling, "m", "b"): 1,
        (minute, BOT, "", "MODEL_UNPRICED", "unheard-of", ""): 1,
        (minute + 60_000, "acme", "day", ceiling, "m", "a"): 1,
        (minute + 60_000, BOT, "mine", ceiling, "m", "a"): 1,
    }


async def test_a_call_that_several_limits_refused_is_one_call(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    for _ in range(3):
        await limiter.refusal(cost="2")
    await limiter.refusal(cost="0.6")
    await limiter.refusal(tokens=(1, 1), model="unheard-of")
    await limiter.service.flush_refusals()
    found = await sums(limiter)
    assert sum(entry["calls"] for entry in found) == 5
    assert {entry["limit"]: entry["count"] for entry in found} == {"day": 3, "mine": 4, "": 1}


async def test_a_sum_at_a_spend_limit_says_when_its_window_ends(limiter: Limiter) -> None:
    await limiter.apply(
        """
        version: 1
        organizations:
          acme:
            limits:
              - {id: day, spend: 1, per: day}
              - {id: ever, spend: 1, per: total}
              - {id: rpm, requests: 1, per: minute}
            teams: {search: {keys: {bot: {}}}}
        """
    )
    await limiter.grant(cost="1", consume=True)
    await limiter.refusal(cost="2")
    await limiter.service.flush_refusals()
    found = {entry["limit"]: entry for entry in await sums(limiter)}
    day = 24 * 3_600_000
    midnight = (limiter.clock.now_ms // day + 1) * day
    of_window = ("resets_at_ms", "window", "ceiling_nanousd")
    assert [found["day"].get(name) for name in of_window] == [midnight, "day", usd("1")]
    assert [found["ever"].get(name) for name in of_window] == [TOTAL_END, "total", usd("1")]
    assert [found["rpm"].get(name) for name in of_window] == [None, None, None]


async def test_sums_move_no_counter_and_are_written_once(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="0.1", consume=True)
    await limiter.refusal(cost="2")
    await limiter.service.flush_refusals()
    await limiter.service.flush_refusals()
    assert len([row for row in await limiter.rows() if row.kind is RowKind.REFUSALS]) == 1
    assert (await limiter.limits())["acme day"].settled == usd("0.1")


async def test_sums_are_written_when_the_service_stops(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.refusal(cost="2")
    await limiter.service.stop()
    assert len(await sums(limiter)) == 2


async def test_dry_runs_and_strangers_are_not_summed(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.refusal(cost="2", dry_run=True)
    await limiter.refusal("lk-nobody", cost="2")
    await limiter.service.flush_refusals()
    assert await sums(limiter) == []


async def test_what_cannot_be_written_is_kept_for_the_next_time(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    await limiter.apply(POLICY)
    await limiter.refusal(cost="2")

    async def away(*_: object) -> None:
        raise Unavailable("the store is away")

    with monkeypatch.context() as trouble:
        trouble.setattr(limiter.store, "append_refusals", away)
        await limiter.service.flush_refusals()
        await limiter.refusal(cost="2")
        await limiter.service.flush_refusals()
    await limiter.service.flush_refusals()
    assert [entry["count"] for entry in await sums(limiter)] == [2, 2]
    assert sum(entry["calls"] for entry in await sums(limiter)) == 2


async def test_sums_are_bounded_and_the_rest_is_counted_as_other(
    limiter: Limiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "_SUMS_MAX", 10)
    refusals = Refusals(limiter.store)
    denied = Denied(DenialReason.MODEL_UNPRICED, "")
    for number in range(1_000):
        refusals.add(Scope.parse(BOT), f"model-{number}", denied, (), 60_000)
    assert len(refusals._sums) == 11
    assert sum(counted.calls for counted in refusals._sums.values()) == 1_000
    await refusals.flush()
    counts = {entry["model"]: entry["count"] for entry in await sums(limiter)}
    assert (counts.pop("(other)"), set(counts.values()), len(counts)) == (990, {1}, 10)
