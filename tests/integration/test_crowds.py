"""Many callers who come at the same moment are answered, not refused for want of connections."""

from __future__ import annotations

import asyncio

import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.integration.books import balanced_books
from tests.integration.conftest import Dial
from tests.integration.connections import USD, Connection, of_key, of_secret
from tests.integration.sidecars import Fleet
from tests.servers import StoreServer

CROWD = 400
ESTIMATE = pb.Estimate(input_tokens=100, max_output_tokens=10)
POLICY = """
version: 1
organizations:
  {organization}:
    limits: [{{id: all, spend: {usd}, per: total}}]
    teams: {{search: {{keys: {{bot: {{}}}}}}}}
"""


@pytest.fixture(params=["native", "grpcio"])
def newcomer(request: pytest.FixtureRequest, fleet: Fleet, books_store: StoreServer, dial: Dial) -> Connection:
    """A sidecar that has just started and remembers nothing."""
    return dial(fleet.start("--engine", request.param, store=books_store.url))


async def test_the_first_calls_of_one_key_come_all_at_once(
    three: list[Connection], newcomer: Connection, organization: str
) -> None:
    await three[0].apply(POLICY.format(organization=organization, usd=CROWD))
    secret = await three[0].mint(f"{organization}/search/bot")
    await asyncio.gather(*(newcomer.grant(of_secret(secret, USD)) for _ in range(CROWD)))
    assert (await balanced_books(three[0], organization)).held(organization) == CROWD * USD
    await three[0].apply(POLICY.format(organization=organization, usd=2 * CROWD))
    await asyncio.gather(*(newcomer.grant(of_secret(secret, USD)) for _ in range(CROWD)))


async def test_the_first_calls_of_many_keys_come_all_at_once(
    three: list[Connection], newcomer: Connection, organization: str
) -> None:
    await three[0].apply(POLICY.format(organization=organization, usd=CROWD))
    keys = [f"{organization}/search/customer-{number}" for number in range(CROWD)]
    secrets = await asyncio.gather(*(three[i % 3].mint(key) for i, key in enumerate(keys)))
    await asyncio.gather(*(newcomer.grant(of_secret(secret, USD)) for secret in secrets))
    assert (await balanced_books(three[0], organization)).held(organization) == CROWD * USD


async def test_usage_is_settled_all_at_once_by_a_sidecar_that_granted_nothing(
    three: list[Connection], newcomer: Connection, organization: str
) -> None:
    await three[0].apply(POLICY.format(organization=organization, usd=CROWD))
    request = pb.ReserveRequest(key_id=f"{organization}/search/bot", model="gpt-4o", estimate=ESTIMATE)
    grants = await asyncio.gather(*(three[i % 3].grant(request) for i in range(CROWD)))
    usage = pb.Usage(input_tokens=100, output_tokens=10)
    ends = await asyncio.gather(
        *(newcomer.limiter.Settle(pb.SettleRequest(reservation=one.reservation, usage=usage)) for one in grants)
    )
    assert {end.state for end in ends} == {pb.SETTLED}
    books = await balanced_books(three[0], organization)
    assert books.settled(organization) == sum(one.held_nanousd for one in grants) > 0
    # Told by its usage, a call costs the same as by the sidecar that granted it.
    mine = await three[0].grant(request)
    settled = await three[0].limiter.Settle(pb.SettleRequest(reservation=mine.reservation, usage=usage))
    assert {end.cost_nanousd for end in ends} == {settled.cost_nanousd}


async def test_a_crowd_that_leaves_disturbs_nobody_who_stays_on_other_connections(
    three: list[Connection], newcomer: Connection, organization: str, dial: Dial
) -> None:
    await three[0].apply(POLICY.format(organization=organization, usd=CROWD))
    staying = dial(newcomer.sidecar)
    key = f"{organization}/search/bot"
    leaving = [asyncio.create_task(newcomer.reserve(of_key(key, 1))) for _ in range(CROWD)]
    stay = [asyncio.create_task(staying.grant(of_key(key, USD))) for _ in range(50)]
    await asyncio.sleep(0)
    for call in leaving:
        call.cancel()
    await asyncio.gather(*leaving, return_exceptions=True)
    assert len({(await call).reservation for call in stay}) == 50
