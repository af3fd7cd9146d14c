"""One call, however often and wherever it is sent, has one effect."""

from __future__ import annotations

import asyncio
import random

import grpc
import pytest

from limiter.v1 import limiter_pb2 as pb
from tests.integration.books import balanced_books
from tests.integration.connections import USD, Connection, eventually, ms, of_key

POLICY = """
version: 1
organizations:
  {organization}:
    limits:
      - {{id: all, spend: 100, per: total}}
      - {{id: open, concurrency: 50}}
      - {{id: rpm, requests: 1, per: day, burst: 60}}
    teams:
      search:
        limits: [{{id: all, spend: 100, per: total}}]
        keys:
          bot: {{limits: [{{id: all, spend: 50, per: total}}]}}
          other: {{limits: [{{id: all, spend: 50, per: total}}]}}
"""


@pytest.fixture
async def key(three: list[Connection], organization: str) -> str:
    """A key with money."""
    await three[0].apply(POLICY.format(organization=organization))
    return f"{organization}/search/bot"


async def test_the_same_reserve_from_fifty_callers_at_once_is_one_hold(
    three: list[Connection], organization: str, key: str
) -> None:
    request = of_key(key, 3 * USD, "call-1")
    answers = await asyncio.gather(*(three[i % 3].reserve(request) for i in range(50)))

    assert {answer.decision for answer in answers} == {pb.ReserveResponse.GRANTED}
    assert len({answer.reservation for answer in answers}) == 1
    assert len({answer.expires_at.ToNanoseconds() for answer in answers}) == 1
    assert [answer.repeated_call for answer in answers].count(False) == 1
    books = await balanced_books(three[1], organization)
    assert len(books.open_holds) == 1
    assert books.held(key) == books.held(organization) == 3 * USD
    assert books.others[organization, "open"].held == 1
    assert books.others[organization, "rpm"].remaining == 59


async def test_the_same_id_with_other_content_already_exists(
    three: list[Connection], organization: str, key: str
) -> None:
    await three[0].grant(of_key(key, 3 * USD, "call-1"))
    others = (
        of_key(key, 3 * USD + 1, "call-1"),
        of_key(key, 3 * USD, "call-1", model="gpt-4o"),
        of_key(key, 3 * USD, "call-1", ttl=ms(60_000)),
        of_key(key, 3 * USD, "call-1", tags=[pb.Tag(name="customer", value="a")]),
        of_key(key, 3 * USD, "call-1", consume=True),
    )
    for number, request in enumerate(others):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await three[number % 3].reserve(request)
        assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS, request
        assert "request_id" in str(caught.value.details())
    assert (await balanced_books(three[0], organization)).held(key) == 3 * USD


async def test_an_id_belongs_to_its_key(three: list[Connection], organization: str, key: str) -> None:
    mine = await three[0].grant(of_key(key, 3 * USD, "call-1"))
    theirs = await three[1].grant(of_key(f"{organization}/search/other", 4 * USD, "call-1"))
    assert mine.reservation != theirs.reservation
    assert (await balanced_books(three[0], organization)).held(organization) == 7 * USD


@pytest.mark.parametrize("ending", ["settled", "released", "expired"])
async def test_an_id_whose_hold_has_ended_is_refused_with_the_state(
    three: list[Connection], organization: str, key: str, ending: str
) -> None:
    request = of_key(key, 3 * USD, "call-1", ttl=ms(100 if ending == "expired" else 60_000))
    granted = await three[0].grant(request)
    if ending == "settled":
        await three[1].settle(granted.reservation, USD)
    elif ending == "released":
        await three[1].release(granted.reservation)
    else:
        await _until_ended(three[0], granted.reservation)
    for connection in three:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await connection.reserve(request)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert ending.upper() in str(caught.value.details())
    assert (await balanced_books(three[0], organization)).open_holds == []


async def test_a_refusal_is_not_remembered(three: list[Connection], key: str) -> None:
    in_the_way = await three[0].grant(of_key(key, 50 * USD, "call-0"))
    request = of_key(key, 3 * USD, "call-1")
    denial = await three[1].deny(request)
    assert denial.reason == pb.Denial.SPEND_HELD
    await three[0].release(in_the_way.reservation)
    assert not (await three[1].grant(request)).repeated_call


async def test_ten_settlements_in_parallel_charge_once(three: list[Connection], organization: str, key: str) -> None:
    dice = random.Random(2)
    granted = await three[0].grant(of_key(key, 3 * USD, "call-1"))
    costs = [dice.randrange(1, 3 * USD) for _ in range(10)]
    answers = await asyncio.gather(*(three[i % 3].settle(granted.reservation, cost) for i, cost in enumerate(costs)))

    (first,) = [i for i, answer in enumerate(answers) if not answer.repeated_call]
    assert {answer.cost_nanousd for answer in answers} == {costs[first]}
    assert {answer.state for answer in answers} == {pb.SETTLED}
    books = await balanced_books(three[1], organization)
    assert books.settled(key) == books.settled(organization) == costs[first]
    assert len(books.money_rows(granted.reservation)) == 1


async def test_of_settlements_in_parallel_the_best_basis_stands(
    three: list[Connection], organization: str, key: str
) -> None:
    for number in range(10):
        granted = await three[0].grant(of_key(key, 3 * USD, f"call-{number}"))
        name = granted.reservation
        await asyncio.gather(
            *(three[i % 3].settle(name, 2 * USD, estimated=True) for i in range(4)),
            *(three[i % 3].settle(name, USD + number) for i in range(4)),
            *(three[i % 3].release(name) for i in range(2)),
        )
        ended = await three[1].reservation(name)
        assert (ended.state, ended.basis, ended.cost_nanousd) == (pb.SETTLED, pb.Settlement.USAGE, USD + number)
        books = await balanced_books(three[1], organization)
        assert sum(row["amount_nanousd"] for row in books.money_rows(name)) == USD + number
        assert len(books.money_rows(name)) <= 3
    assert books.settled(organization) == 10 * USD + sum(range(10))


async def test_settlements_after_expiry_correct_the_books_once(
    three: list[Connection], organization: str, key: str
) -> None:
    granted = await three[0].grant(of_key(key, 3 * USD, "call-1", ttl=ms(200)))
    name = granted.reservation
    ended = await _until_ended(three[2], name)
    assert (ended.state, ended.basis, ended.cost_nanousd) == (pb.EXPIRED, pb.Settlement.EXPIRED, 3 * USD)
    assert (await balanced_books(three[0], organization)).settled(key) == 3 * USD

    answers = await asyncio.gather(*(three[i % 3].settle(name, USD) for i in range(10)))
    assert all(answer.late for answer in answers)
    assert [answer.repeated_call for answer in answers].count(False) == 1
    books = await balanced_books(three[0], organization)
    assert books.settled(key) == books.settled(organization) == USD
    assert [row["amount_nanousd"] for row in books.money_rows(name)] == [3 * USD, -2 * USD]


async def test_bases_correct_each_other_upwards_only(three: list[Connection], organization: str, key: str) -> None:
    granted = await three[0].grant(of_key(key, 3 * USD, "call-1", ttl=ms(100)))
    name = granted.reservation
    await _until_ended(three[0], name)
    released = await three[1].release(name)
    assert (released.cost_nanousd, released.basis, released.repeated_call) == (0, pb.Settlement.RELEASED, False)
    estimated = await three[2].settle(name, 2 * USD, estimated=True)
    assert (estimated.cost_nanousd, estimated.basis, estimated.repeated_call) == (
        2 * USD,
        pb.Settlement.ESTIMATED,
        False,
    )
    again = await three[0].release(name)
    assert (again.cost_nanousd, again.basis, again.repeated_call) == (2 * USD, pb.Settlement.ESTIMATED, True)
    used = await three[1].settle(name, 5 * USD)
    assert (used.cost_nanousd, used.overage_nanousd, used.repeated_call) == (5 * USD, 2 * USD, False)
    assert (await three[2].settle(name, 4 * USD)).repeated_call
    assert (await three[2].settle(name, 4 * USD, estimated=True)).cost_nanousd == 5 * USD

    books = await balanced_books(three[0], organization)
    assert books.settled(key) == 5 * USD
    assert [row["amount_nanousd"] for row in books.money_rows(name)] == [3 * USD, -3 * USD, 2 * USD, 3 * USD]
    assert [row["basis"] for row in books.money_rows(name)] == ["EXPIRED", "RELEASED", "ESTIMATED", "USAGE"]


async def test_the_same_charge_from_many_callers_is_booked_once(
    three: list[Connection], organization: str, key: str
) -> None:
    request = pb.ChargeRequest(request_id="bill-1", key_id=key, cost_nanousd=7 * USD)
    answers = await asyncio.gather(*(three[i % 3].limiter.Charge(request) for i in range(20)))
    assert [answer.repeated_call for answer in answers].count(False) == 1
    assert {answer.cost_nanousd for answer in answers} == {7 * USD}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await three[1].limiter.Charge(pb.ChargeRequest(request_id="bill-1", key_id=key, cost_nanousd=8 * USD))
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    books = await balanced_books(three[0], organization)
    assert books.settled(key) == 7 * USD
    assert [row["kind"] for row in books.money_rows()] == ["CHARGE"]


async def test_extending_twice_moves_the_expiry_once(three: list[Connection], key: str) -> None:
    granted = await three[0].grant(of_key(key, USD, "call-1", ttl=ms(60_000)))
    request = pb.ExtendRequest(reservation=granted.reservation, ttl=ms(120_000))
    first = await three[1].limiter.Extend(request)
    assert not first.repeated_call
    assert first.expires_at.ToMilliseconds() >= granted.expires_at.ToMilliseconds() + 60_000
    shorter = await three[2].limiter.Extend(pb.ExtendRequest(reservation=granted.reservation, ttl=ms(1_000)))
    assert shorter.repeated_call
    assert shorter.expires_at == first.expires_at


async def _until_ended(connection: Connection, name: str) -> pb.Reservation:
    async def ended() -> pb.Reservation | None:
        reservation = await connection.reservation(name)
        return reservation if reservation.state != pb.HELD else None

    return await eventually(ended, what="the end of the hold")
