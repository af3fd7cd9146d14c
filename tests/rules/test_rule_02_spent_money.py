"""Rule 2: spent money is never lost, and never charged twice."""

from __future__ import annotations

import asyncio

import pytest

from limiter.domain.calls import Outcome, Usage
from limiter.domain.errors import LimiterError
from limiter.domain.reservations import Basis, RowFlag, State
from limiter.domain.rows import RowKind
from limiter.domain.verdicts import DenialReason
from tests.rules.desk import Limiter, usd
from tests.rules.stories import tell

POLICY = """
    version: 1
    organizations:
      acme:
        limits: [{id: month, spend: 100, per: month}]
        teams:
          search:
            settings: {on_expiry: ON_EXPIRY}
            limits: [{id: day, spend: 2, per: day}, {id: slots, concurrency: 1}]
            keys: {bot: {}}
"""
CHARGED = POLICY.replace("ON_EXPIRY", "charge")
GIVEN_BACK = POLICY.replace("ON_EXPIRY", "release")


async def test_a_call_that_cost_more_than_its_hold_is_charged_in_full_and_flagged(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    await tell(
        limiter,
        """
        reserve a 0.50        -> granted
        settle  a 3.00        -> SETTLED 3.00 USAGE overage 2.50
        money acme/search day -> 3.00 settled, 0.00 held
        money acme month      -> 3.00 settled, 0.00 held
        reserve b 0.01        -> SPEND_CEILING acme/search day
        """,
    )
    (row,) = await limiter.rows()
    assert (row.flags, row.amount, row.held) == (RowFlag.OVERAGE, usd("3.00"), usd("0.50"))
    assert await limiter.count("limiter_overage_nanousd_total") == usd("2.50")


async def test_a_call_that_is_settled_after_its_hold_expired_is_charged_and_late(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    await tell(
        limiter,
        """
        reserve a 0.50 ttl 5  -> granted
        tick 5 minutes        ->
        settle  a 0.20        -> SETTLED 0.20 USAGE late
        money acme/search day -> 0.20 settled, 0.00 held
        reserve b 0.50 ttl 5  -> granted
        tick 6 minutes        ->
        sweep                 -> 1 ended
        money acme/search day -> 0.70 settled, 0.00 held
        settle  b 0.10        -> SETTLED 0.10 USAGE late
        money acme/search day -> 0.30 settled, 0.00 held
        """,
    )
    assert await limiter.count("limiter_late_total") == 2


async def test_a_call_is_charged_after_its_ceiling_was_lowered_or_its_key_disabled(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    hold = await limiter.grant(cost="1.50")
    await limiter.apply(CHARGED.replace("spend: 2", "spend: 0.10").replace("keys: {bot: {}}", "enabled: false"))
    assert (await limiter.settle(hold, "1.25")).cost_nanousd == usd("1.25")
    await limiter.apply(CHARGED.replace("spend: 2", "spend: 0.10"))
    assert (await limiter.money("acme/search day")).settled == "1.25"


async def test_a_hold_that_nobody_settles_is_charged_in_full(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    await tell(
        limiter,
        """
        reserve a 0.50 ttl 5   -> granted
        tick 299999 ms         ->
        sweep                  -> 0 ended
        tick 1 ms              ->
        sweep                  -> 1 ended
        money acme/search day  -> 0.50 settled, 0.00 held
        left acme/search slots -> 1
        """,
    )
    (row,) = await limiter.rows()
    assert (row.state, row.basis, row.amount, row.flags) == (State.EXPIRED, Basis.EXPIRED, usd("0.50"), RowFlag(0))
    assert await limiter.count('limiter_expired_total{on_expiry="CHARGE"}') == 1


async def test_a_hold_that_nobody_settles_is_given_back_where_the_policy_says_so(limiter: Limiter) -> None:
    await limiter.apply(GIVEN_BACK)
    await tell(
        limiter,
        """
        reserve a 0.50 ttl 5   -> granted
        tick 5 minutes         ->
        sweep                  -> 1 ended
        money acme/search day  -> 0.00 settled, 0.00 held
        left acme/search slots -> 1
        """,
    )
    (row,) = await limiter.rows()
    assert (row.state, row.basis, row.amount) == (State.EXPIRED, Basis.EXPIRED, 0)
    assert await limiter.count('limiter_expired_total{on_expiry="RELEASE"}') == 1


async def test_what_a_hold_costs_at_expiry_is_settled_when_it_is_taken(limiter: Limiter) -> None:
    await limiter.apply(GIVEN_BACK)
    await limiter.grant(cost="0.50", ttl="5 minutes")
    await limiter.apply(CHARGED)
    limiter.tick("5 minutes")
    await limiter.service.sweep()
    assert (await limiter.money("acme/search day")).settled == "0.00"


#: First end, later end, and what the books then say: state, basis, cost, and whether the later one changed them.
LATTICE = """
    charged at expiry     release   | RELEASED RELEASED  0.00 corrected
    charged at expiry     estimated | SETTLED  ESTIMATED 0.30 corrected
    charged at expiry     usage     | SETTLED  USAGE     0.40 corrected
    given back at expiry  release   | RELEASED RELEASED  0.00 corrected
    given back at expiry  estimated | SETTLED  ESTIMATED 0.30 corrected
    given back at expiry  usage     | SETTLED  USAGE     0.40 corrected
    released              release   | RELEASED RELEASED  0.00 unchanged
    released              estimated | SETTLED  ESTIMATED 0.30 corrected
    released              usage     | SETTLED  USAGE     0.40 corrected
    settled as estimated  release   | SETTLED  ESTIMATED 0.25 unchanged
    settled as estimated  estimated | SETTLED  ESTIMATED 0.25 unchanged
    settled as estimated  usage     | SETTLED  USAGE     0.40 corrected
    settled by usage      release   | SETTLED  USAGE     0.35 unchanged
    settled by usage      estimated | SETTLED  USAGE     0.35 unchanged
    settled by usage      usage     | SETTLED  USAGE     0.35 unchanged
"""


@pytest.mark.parametrize("line", LATTICE.strip().splitlines())
async def test_a_later_settlement_corrects_the_books_once_if_its_basis_is_higher(limiter: Limiter, line: str) -> None:
    ends, _, books = line.strip().partition(" | ")
    first, later = ends.rsplit(None, 1)
    state, basis, cost, effect = books.split()
    await limiter.apply(GIVEN_BACK if first.startswith("given") else CHARGED)
    hold = await limiter.grant(cost="0.50", ttl="5 minutes")
    if first.endswith("expiry"):
        limiter.tick("5 minutes")
        assert await limiter.service.sweep() == 1
    elif first == "released":
        await limiter.release(hold)
    else:
        estimated = first.endswith("estimated")
        await limiter.settle(hold, "0.25" if estimated else "0.35", estimated=estimated)

    async def end_again() -> tuple[str, str, int, bool]:
        if later == "release":
            settled = await limiter.release(hold)
        else:
            settled = await limiter.settle(
                hold, "0.30" if later == "estimated" else "0.40", estimated=later == "estimated"
            )
        assert settled.basis is not None
        return settled.state.name, settled.basis.name, settled.cost_nanousd, settled.repeated_call

    expected = (state, basis, usd(cost))
    assert await end_again() == (*expected, effect == "unchanged")
    assert await end_again() == (*expected, True)
    record = await limiter.record(hold)
    assert (record.state.name, record.basis and record.basis.name, record.cost) == expected
    kinds = [row.kind for row in await limiter.rows()]
    assert kinds == [RowKind.SETTLEMENT] + [RowKind.CORRECTION] * (effect == "corrected")
    assert sum(row.amount for row in await limiter.rows()) == usd(cost)
    for where in ("acme month", "acme/search day"):
        assert (await limiter.money(where)).settled == cost
    assert RowFlag.LATE in record.flags or not (first.endswith("expiry") and effect == "corrected")


@pytest.mark.parametrize("first", ["release", "estimated", "usage"])
async def test_a_hold_that_has_ended_does_not_expire(limiter: Limiter, first: str) -> None:
    await limiter.apply(CHARGED)
    hold = await limiter.grant(cost="0.50", ttl="5 minutes")
    ended = (
        await limiter.release(hold)
        if first == "release"
        else await limiter.settle(hold, "0.1", estimated=first == "estimated")
    )
    limiter.tick("1 hour")
    assert await limiter.service.sweep() == 0
    assert (await limiter.record(hold)).cost == ended.cost_nanousd


async def test_a_correction_of_a_call_that_was_settled_in_time_is_not_late(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    hold = await limiter.grant(cost="0.50", ttl="5 minutes")
    await limiter.settle(hold, "0.60", estimated=True)
    limiter.tick("10 minutes")
    corrected = await limiter.settle(hold, "0.40")
    assert corrected.flags == RowFlag(0)
    assert [row.flags for row in await limiter.rows()] == [RowFlag.OVERAGE, RowFlag(0)]


async def test_fifty_settlements_at_once_charge_once(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    hold = await limiter.grant(cost="0.50")
    answers = await asyncio.gather(*(limiter.settle(hold, f"0.{20 + i}") for i in range(50)))
    assert sum(not answer.repeated_call for answer in answers) == 1
    assert {answer.cost_nanousd for answer in answers} == {(await limiter.record(hold)).cost}
    assert len(await limiter.rows()) == 1


async def test_settling_and_expiring_at_once_charges_once(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(CHARGED)
    for number in range(5):
        hold = await limiter.grant(cost="0.10", ttl="1 minute", id=f"r{number}")
        limiter.tick("1 minute")
        await asyncio.gather(second.service.sweep(), limiter.settle(hold, "0.05"), limiter.service.sweep())
        assert (await limiter.record(hold)).cost == usd("0.05")
    assert (await limiter.money("acme month")).settled == "0.25"


async def test_two_sidecars_that_sweep_at_once_end_each_hold_once(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(CHARGED.replace(", {id: slots, concurrency: 1}", ""))
    for _ in range(10):
        await limiter.grant(cost="0.10", ttl="1 minute")
    limiter.tick("2 minutes")
    ended = await asyncio.gather(limiter.service.sweep(), second.service.sweep())
    assert sum(ended) == 10
    assert (await limiter.money("acme month")).settled == "1.00"


@pytest.mark.parametrize(
    ("outcome", "flag"),
    [(Outcome.COMPLETED, RowFlag(0)), (Outcome.ABORTED, RowFlag.ABORTED), (Outcome.FAILED, RowFlag.FAILED)],
)
async def test_how_the_call_ended_is_in_its_row(limiter: Limiter, outcome: Outcome, flag: RowFlag) -> None:
    await limiter.apply(CHARGED)
    await limiter.settle(await limiter.grant(cost="0.50"), "0.10", outcome=outcome)
    assert [row.flags for row in await limiter.rows()] == [flag]


async def test_a_charge_is_booked_even_where_nothing_is_left_and_only_once(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    await tell(
        limiter,
        """
        charge c 5.00         -> SETTLED 5.00 USAGE
        charge c 5.00         -> SETTLED 5.00 USAGE unchanged
        charge c 6.00         -> AlreadyExists
        money acme/search day -> 5.00 settled, 0.00 held
        reserve a 0.01        -> SPEND_CEILING acme/search day
        """,
    )
    assert [row.kind for row in await limiter.rows()] == [RowKind.CHARGE]


async def test_a_charge_takes_no_request_no_tokens_and_no_slot(limiter: Limiter) -> None:
    await limiter.apply(
        CHARGED.replace(
            "concurrency: 1}", "concurrency: 1}, {id: tpm, tokens: 9, per: hour}, {id: rpm, requests: 9, per: hour}"
        )
    )
    await limiter.charge(id="c", actual=Usage(input_tokens=500))
    assert [await limiter.left(f"acme/search {name}") for name in ("slots", "tpm", "rpm")] == [1, 9, 9]


async def test_a_charge_in_a_closed_window_is_only_in_the_ledger(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    booked = await limiter.charge(id="c", actual="1", occurred=limiter.clock.now_ms - 86_400_000)
    assert RowFlag.WINDOW_CLOSED in booked.flags
    assert (await limiter.money("acme/search day")).settled == "0.00"
    assert (await limiter.money("acme month")).settled == "1.00"
    assert [row.amount for row in await limiter.rows()] == [usd("1")]


async def test_a_charge_for_the_id_of_a_hold_says_to_settle_that(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    hold = await limiter.grant(cost="0.50", id="r")
    with pytest.raises(LimiterError, match=r"HELD.*settle that if it is a hold"):
        await limiter.charge(id="r", actual="0.50")
    assert (await limiter.settle(hold, "0.50")).state is State.SETTLED


async def test_the_ledger_row_has_price_and_version_of_the_price_book(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    settled = await limiter.settle(await limiter.grant(tokens=(100, 100), model="dear"), Usage(100, 50))
    (row,) = await limiter.rows()
    assert settled.price_version.startswith("genai-prices ")
    assert settled.price_version in row.ending.decode()
    assert '"input_per_million":"10"' in row.ending.decode().replace(" ", "") or "10" in row.ending.decode()


async def test_a_free_call_can_be_made_when_all_is_spent(limiter: Limiter) -> None:
    await limiter.apply(CHARGED)
    await limiter.charge(id="c", actual="5.00")
    assert (await limiter.refusal(cost="0.01")).reason is DenialReason.SPEND_CEILING
    await limiter.grant(cost="0")
