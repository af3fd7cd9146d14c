"""A call that broke off costs what the policy's on_abort says, never more than its hold, until usage corrects it."""

from __future__ import annotations

import pytest

from limiter.domain.calls import Outcome, Usage
from limiter.domain.errors import NotFound
from limiter.domain.reservations import Basis, ReservationName, RowFlag, State
from limiter.domain.rows import RowKind
from limiter.domain.verdicts import Granted
from limiter.service.calls import BrokenOff, Settled
from tests.rules.desk import Limiter, name_of

POLICY = """
    version: 1
    organizations:
      acme:
        settings: {SETTINGS}
        limits: [{id: month, spend: 100, per: month}, {id: tpm, tokens: 100000, per: minute}, {id: slots, concurrency: 9}]
        teams: {search: {keys: {bot: {}}}}
"""  # noqa: E501 - an example stays on its line

#: A thousand tokens in and a thousand out: 1 USD per million in, 2 out.
HELD = 3_000_000
INPUT = 1_000_000


async def held(limiter: Limiter, settings: str = "", **options: object) -> Granted:
    await limiter.apply(POLICY.replace("SETTINGS", settings))
    return await limiter.grant(**({"tokens": (1_000, 1_000)} | options))


async def broken_off(limiter: Limiter, hold: Granted, **told: object) -> Settled:
    return await limiter.service.settle_broken_off(BrokenOff(name_of(hold), **told))  # type: ignore[arg-type] # its fields


async def test_a_call_that_never_reached_the_provider_costs_nothing(limiter: Limiter) -> None:
    hold = await held(limiter)
    settled = await broken_off(limiter, hold, reached_provider=False, output_bytes=400)
    assert (settled.state, settled.basis, settled.cost_nanousd) == (State.RELEASED, Basis.RELEASED, 0)


@pytest.mark.parametrize(
    ("settings", "told", "cost"),
    [
        ("", {}, INPUT),
        ("", {"output_bytes": 400}, INPUT + 100 * 2_000),
        ("", {"output_bytes": 401}, INPUT + 101 * 2_000),
        ("", {"output_bytes": 10**9}, HELD),
        ("", {"usage_seen": Usage(200, 30)}, 200 * 1_000 + 30 * 2_000),
        ("", {"usage_seen": Usage(200, 30), "output_bytes": 400}, 200 * 1_000 + 100 * 2_000),
        ("", {"usage_seen": Usage(200, 300), "output_bytes": 400}, 200 * 1_000 + 300 * 2_000),
        ("", {"usage_seen": Usage(0, 300)}, INPUT + 300 * 2_000),
        ("", {"usage_seen": Usage(90_000, 1)}, HELD),
        ("on_abort: estimate", {"output_bytes": 400}, INPUT + 100 * 2_000),
        ("on_abort: usage_seen", {}, INPUT),
        ("on_abort: usage_seen", {"output_bytes": 400}, INPUT),
        ("on_abort: usage_seen", {"usage_seen": Usage(200, 30), "output_bytes": 400}, 200 * 1_000 + 30 * 2_000),
        ("on_abort: full_hold", {"usage_seen": Usage(200, 30)}, HELD),
    ],
)
async def test_what_a_broken_off_call_costs(
    limiter: Limiter, settings: str, told: dict[str, object], cost: int
) -> None:
    hold = await held(limiter, settings)
    settled = await broken_off(limiter, hold, **told)
    assert (settled.state, settled.basis, settled.cost_nanousd) == (State.SETTLED, Basis.ESTIMATED, cost)
    assert settled.flags == RowFlag.ABORTED
    assert (await limiter.money("acme month")).held == "0.00"
    await limiter.dump()


async def test_an_answer_that_was_whole_but_told_no_usage_is_not_flagged_as_aborted(limiter: Limiter) -> None:
    settled = await broken_off(limiter, await held(limiter), outcome=Outcome.COMPLETED)
    assert (settled.flags, settled.cost_nanousd) == (RowFlag(0), INPUT)


async def test_the_buckets_get_back_what_the_estimate_leaves(limiter: Limiter) -> None:
    hold = await held(limiter)
    assert await limiter.left("acme tpm") == 98_000
    await broken_off(limiter, hold, output_bytes=400)
    assert await limiter.left("acme tpm") == 100_000 - 1_100


async def test_usage_that_comes_later_corrects_the_books_by_one_row(limiter: Limiter) -> None:
    hold = await held(limiter)
    await broken_off(limiter, hold, output_bytes=400)
    corrected = await limiter.settle(hold, Usage(10, 10))
    again = await limiter.settle(hold, Usage(500, 500))
    assert (corrected.cost_nanousd, corrected.repeated_call) == (30_000, False)
    assert (again.cost_nanousd, again.repeated_call) == (30_000, True)
    kinds = [row.kind for row in await limiter.rows() if row.kind in (RowKind.SETTLEMENT, RowKind.CORRECTION)]
    assert kinds == [RowKind.SETTLEMENT, RowKind.CORRECTION]
    assert (await limiter.money("acme month")).settled == "0.00003"


async def test_a_settled_call_is_left_as_it_is(limiter: Limiter) -> None:
    hold = await held(limiter)
    await limiter.settle(hold, Usage(10, 10))
    rows = len(await limiter.rows())
    settled = await broken_off(limiter, hold, output_bytes=400)
    assert (settled.cost_nanousd, settled.basis, settled.repeated_call) == (30_000, Basis.USAGE, True)
    assert len(await limiter.rows()) == rows


async def test_the_second_estimate_changes_nothing(limiter: Limiter) -> None:
    hold = await held(limiter)
    await broken_off(limiter, hold, output_bytes=400)
    settled = await broken_off(limiter, hold, output_bytes=800)
    assert (settled.cost_nanousd, settled.repeated_call) == (INPUT + 200_000, True)


async def test_an_estimate_corrects_an_expiry(limiter: Limiter) -> None:
    hold = await held(limiter)
    limiter.tick("11 minutes")
    await limiter.service.sweep()
    settled = await broken_off(limiter, hold, output_bytes=400)
    assert (settled.basis, settled.cost_nanousd) == (Basis.ESTIMATED, INPUT + 200_000)
    assert RowFlag.LATE in settled.flags


async def test_another_sidecar_books_the_same(limiter: Limiter, open_client: object, store_clock: object) -> None:
    hold = await held(limiter, "on_abort: usage_seen")
    other = Limiter(open_client(), store_clock)  # type: ignore[operator, arg-type] # fixtures
    try:
        settled = await broken_off(other, hold, usage_seen=Usage(200, 30), output_bytes=9_999)
        assert settled.cost_nanousd == 260_000
    finally:
        await other.close()


async def test_the_nearest_level_says_what_a_broken_off_call_costs(limiter: Limiter) -> None:
    policy = POLICY.replace("SETTINGS", "on_abort: usage_seen").replace("{}", "{settings: {on_abort: full_hold}}")
    await limiter.apply(policy)
    hold = await limiter.grant(tokens=(1_000, 1_000))
    assert (await broken_off(limiter, hold)).cost_nanousd == HELD


async def test_units_that_were_held_stay_with_the_input(limiter: Limiter) -> None:
    hold = await held(limiter, tokens=(1_000, 1_000), units={"images": 2}, model="pictures")
    assert hold.held_nanousd == HELD + 80_000_000
    assert (await broken_off(limiter, hold, output_bytes=40)).cost_nanousd == INPUT + 20_000 + 80_000_000


async def test_a_cost_that_the_caller_named_is_charged_in_full(limiter: Limiter) -> None:
    hold = await held(limiter, tokens=None, cost="0.50")
    assert (await broken_off(limiter, hold, output_bytes=4)).cost_nanousd == 500_000_000


async def test_a_free_model_stays_free(limiter: Limiter) -> None:
    hold = await held(limiter, 'free: ["local-*"]', model="local-1")
    settled = await broken_off(limiter, hold, output_bytes=400)
    assert (settled.cost_nanousd, settled.state) == (0, State.SETTLED)
    assert await limiter.left("acme tpm") == 100_000 - 1_100


async def test_counts_that_contradict_each_other_leave_the_hold_charged(limiter: Limiter) -> None:
    hold = await held(limiter, model="dear")
    settled = await broken_off(limiter, hold, usage_seen=Usage(10, 1, cache_read_tokens=500))
    assert settled.cost_nanousd == hold.held_nanousd


async def test_a_reservation_that_nobody_knows_is_not_found(limiter: Limiter) -> None:
    await held(limiter)
    with pytest.raises(NotFound):
        await limiter.service.settle_broken_off(BrokenOff(ReservationName("acme", "0" * 32)))


async def test_broken_off_calls_are_counted_by_policy(limiter: Limiter) -> None:
    await broken_off(limiter, await held(limiter), output_bytes=400)
    assert await limiter.count('limiter_broken_off_total{on_abort="ESTIMATE"}') == 1
