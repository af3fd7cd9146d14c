"""Grants are remembered by Envoy's id of the request, for the case that nobody waited for them."""

from __future__ import annotations

from limiter.domain.reservations import ReservationName
from limiter.envoy.deliveries import Deliveries

ONE, TWO, THREE = (ReservationName.parse(f"organizations/acme/reservations/{number * 32}") for number in "abc")


def test_a_grant_is_found_once_by_the_id_of_its_request() -> None:
    deliveries = Deliveries()
    deliveries.sent("id-1", ONE)
    assert deliveries.undelivered("id-2") is None
    assert deliveries.undelivered("id-1") == ONE
    assert deliveries.undelivered("id-1") is None


def test_a_request_without_an_id_is_not_remembered() -> None:
    deliveries = Deliveries()
    deliveries.sent("", ONE)
    assert deliveries.undelivered("") is None


def test_the_oldest_is_forgotten_first() -> None:
    deliveries = Deliveries(remembered_max=2)
    for number, name in enumerate((ONE, TWO, THREE)):
        deliveries.sent(f"id-{number}", name)
    assert [deliveries.undelivered(f"id-{number}") for number in range(3)] == [None, TWO, THREE]
