"""Rule 9: nothing is silent, and nobody decides without the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from limiter.domain.errors import NotFound, Unavailable
from limiter.domain.verdicts import DenialReason
from tests.fakes.plugin import StoreClock, valkey_client
from tests.rules.desk import Limiter
from tests.servers import StartServer, StoreServer, free_port

POLICY = """
    version: 1
    organizations:
      acme: {limits: [{id: day, spend: 1, per: day}], teams: {search: {keys: {bot: {}}}}}
"""


@pytest.fixture
def server(start_server: StartServer) -> StoreServer:
    return start_server("--appendonly", "yes", "--maxmemory-policy", "noeviction", port=free_port())


@pytest.fixture
async def alone(server: StoreServer) -> AsyncIterator[Limiter]:
    """A limiter on a server of its own, which may be stopped."""
    limiter = Limiter(valkey_client(f"unix://{server.directory}/s"), StoreClock())
    yield limiter
    await limiter.store.close()


CALLS: dict[str, Callable[[Limiter, str], Awaitable[object]]] = {
    "reserve": lambda limiter, _: limiter.reserve(cost="0.10"),
    "reserve of a stranger": lambda limiter, _: limiter.reserve("lk-nobody", cost="0.10"),
    "settle": lambda limiter, name: limiter.settle(name, "0.10"),
    "release": lambda limiter, name: limiter.release(name),
    "extend": lambda limiter, name: limiter.extend(name, "20 minutes"),
    "charge": lambda limiter, _: limiter.charge(id="c", actual="0.10"),
    "headroom": lambda limiter, _: limiter.limits(),
    "sweep": lambda limiter, _: limiter.service.sweep(),
    "apply": lambda limiter, _: limiter.apply(POLICY),
    "mint": lambda limiter, _: limiter.mint("acme/search/new"),
}


async def test_without_the_store_every_call_is_answered_unavailable(alone: Limiter, server: StoreServer) -> None:
    await alone.apply(POLICY)
    hold = await alone.grant(cost="0.10")
    server.stop()
    for what, call in CALLS.items():
        with pytest.raises(Unavailable) as error:
            await call(alone, hold.reservation)
        assert str(error.value), what


async def test_without_a_policy_a_key_gets_no_decision_and_a_stranger_none_of_the_money(limiter: Limiter) -> None:
    assert (await limiter.refusal(cost="0.10")).reason is DenialReason.KEY_UNKNOWN
    assert (await limiter.refusal("lk-nobody", cost="0.10")).reason is DenialReason.KEY_UNKNOWN
    with pytest.raises(NotFound, match="policy"):
        await limiter.limits()
    with pytest.raises(NotFound, match="policy"):
        await limiter.charge(id="c", actual="1")
    with pytest.raises(NotFound, match="limiter apply"):
        await limiter.mint("acme/search/bot")


async def test_a_key_whose_organization_lost_its_policy_is_told_so(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    secret = await limiter.mint("acme/search/bot")
    await limiter.grant(secret, cost="0", consume=True)
    await limiter.client.delete(*await limiter.client.keys("*:org:*"))
    with pytest.raises(Unavailable, match="policy"):
        await limiter.reserve(secret, cost="0.10")
    assert await limiter.count('limiter_decisions_total{decision="DENIED",reason="KEY_UNKNOWN"}') == 0


async def test_every_decision_is_counted_with_its_reason(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.grant(cost="0.60")
    await limiter.refusal(cost="0.60")
    await limiter.refusal(tokens=(1, 1), model="unheard-of")
    await limiter.refusal("lk-nobody", cost="1")
    for labels, number in {
        'decision="GRANTED",reason="NONE"': 1,
        'decision="DENIED",reason="SPEND_HELD"': 1,
        'decision="DENIED",reason="MODEL_UNPRICED"': 1,
        'decision="DENIED",reason="KEY_UNKNOWN"': 1,
    }.items():
        assert await limiter.count(f"limiter_decisions_total{{{labels}}}") == number


async def test_settlements_are_counted_by_what_they_rest_on(limiter: Limiter) -> None:
    await limiter.apply(POLICY)
    await limiter.settle(await limiter.grant(cost="0.10"), "0.10")
    await limiter.settle(await limiter.grant(cost="0.10"), "0.10", estimated=True)
    hold = await limiter.grant(cost="0.10")
    await limiter.release(hold)
    await limiter.release(hold)
    for basis in ("USAGE", "ESTIMATED", "RELEASED"):
        assert await limiter.count(f'limiter_settled_total{{basis="{basis}"}}') == 1
