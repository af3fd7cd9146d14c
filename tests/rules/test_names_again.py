"""What happens when a name is asked for again: after a change of policy, elsewhere, or by two callers."""

from __future__ import annotations

from limiter.domain.calls import Usage
from tests.rules.desk import Limiter, name_of, usd

POLICY = """
    version: 1
    organizations:
      acme:
        teams:
          search:
            limits: [{id: day, spend: 10, per: day}]
            keys: {bot: {}}
"""
USED = Usage(input_tokens=1000, output_tokens=500)


def free(pattern: str) -> str:
    return POLICY.replace("version: 1", f'version: 1\n    settings: {{free: ["{pattern}"]}}')


async def test_a_repeated_reserve_does_not_change_what_an_open_hold_is_priced_as(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(tokens=(1000, 500), id="a")
    await limiter.apply(free("m"))
    assert (await limiter.grant(tokens=(1000, 500), id="a")).repeated_call
    settled = await limiter.settle(hold, USED)
    assert settled.cost_nanousd == hold.held_nanousd > 0


async def test_a_settlement_is_priced_by_the_hold_that_has_the_name_now(limiter: Limiter, second: Limiter) -> None:
    await limiter.apply(free("local-*"))
    gone = await limiter.grant(tokens=(1000, 500), model="local-x", id="a")
    limiter.service.give_back(name_of(gone))
    await limiter.service.give_backs.drain()
    limiter.tick("1 second")
    hold = await second.grant(tokens=(1000, 500), id="a")
    assert hold.reservation == gone.reservation
    settled = await limiter.settle(hold, USED)
    assert settled.cost_nanousd == hold.held_nanousd > 0


async def test_a_grant_that_one_of_two_callers_received_stays_charged_after_expiry(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    hold = await limiter.grant(cost="1", id="a", ttl="1 minute")
    await limiter.grant(cost="1", id="a", ttl="1 minute")
    limiter.tick("1 minute")
    await limiter.service.sweep()
    limiter.service.give_back(name_of(hold))
    await limiter.service.give_backs.drain()
    assert (await limiter.record(hold)).cost == usd("1")
