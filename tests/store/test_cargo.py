"""What a batch carries: each thing once."""

from __future__ import annotations

from dataclasses import replace

from limiter.domain.limits import Limit, LimitKind
from limiter.domain.scopes import Scope
from limiter.store.cargo import Cargo
from limiter.store.port import Plan, PlanLimit, PlanScope

DAILY = PlanLimit(Limit("daily", LimitKind.SPEND, 10**9, "day"), applies=True, window=(0, 1, 2))
SLOTS = PlanLimit(Limit("slots", LimitKind.CONCURRENCY, 5), applies=True)


def plan(organization: str, *limits: tuple[PlanLimit, ...]) -> Plan:
    key = Scope(organization, "search", "bot")
    scopes = tuple(PlanScope(scope, of_scope) for scope, of_scope in zip(key.lineage(), limits, strict=True))
    return Plan(organization, 1, key, 0, 0, scopes)


def test_rules_that_many_scopes_have_are_sent_once() -> None:
    cargo = Cargo(0)
    plans = [plan(f"org{number}", (DAILY,), (DAILY, SLOTS), (DAILY,)) for number in range(20)]
    assert [cargo.plan_index(one) for one in plans] == list(range(20))
    assert len(cargo.blobs()) == 2 + 20


def test_a_rule_that_differs_in_anything_is_sent_by_itself() -> None:
    cargo = Cargo(0)
    for number, other in enumerate(
        [
            DAILY,
            replace(DAILY, window=(0, 1, 3)),
            replace(DAILY, applies=False),
            replace(DAILY, lesser=1),
            replace(DAILY, limit=replace(DAILY.limit, amount=10**9 + 1)),
            replace(DAILY, limit=replace(DAILY.limit, shadow=True)),
            replace(DAILY, limit=replace(DAILY.limit, warn_at=(500_000,))),
            replace(DAILY, limit=replace(DAILY.limit, id="weekly")),
        ]
    ):
        cargo.plan_index(plan("acme", (DAILY,), (other,), ()))
        assert len(cargo.blobs()) == (number + 2) + (number + 1)


def test_a_plan_that_comes_again_is_not_added_again() -> None:
    cargo = Cargo(0)
    one = plan("acme", (DAILY,), (), ())
    assert cargo.plan_index(one) == cargo.plan_index(one) == 0
    assert len(cargo.blobs()) == 2 + 1
