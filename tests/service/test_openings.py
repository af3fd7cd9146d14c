"""Openings beside calls: cheap while there is nothing to open, patient while books or policy are not to be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from limiter.domain.errors import Unavailable
from limiter.domain.rows import Position
from limiter.domain.scopes import Scope
from limiter.ledger.database import Database, sqlite_url
from limiter.ledger.draining import Drain
from limiter.ledger.openings import OpeningSums, Span, Spent
from limiter.observability.metrics import Metrics
from limiter.policy.document import parse_limits, parse_policy
from limiter.service.new_limits import new_limits
from limiter.service.openings import Openings
from limiter.store.port import EVERY_KEY, NewLimit
from tests.fakes.plugin import OpenClient, StoreClock
from tests.ledger.plugin import OpenBooks
from tests.rules.desk import Limiter, usd

POLICY = """
    version: 1
    organizations:
      acme: {{limits: [{limits}], teams: {{search: {{keys: {{bot: {{}}}}}}}}}}
"""
MONTHLY = "{id: monthly, spend: 100, per: month}"


class Sums(OpeningSums):
    """Counts what is read; `away`: nothing can be."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.read: list[str] = []
        self.away = False

    def positions(self) -> dict[int, Position]:
        self._note("positions")
        return super().positions()

    def spent(self, span: Span) -> Spent:
        self._note("spent")
        return super().spent(span)

    def further(self, span: Span, after: Position) -> Spent:
        self._note("further")
        return super().further(span, after)

    def _note(self, what: str) -> None:
        if self.away:
            raise Unavailable("books: away")
        self.read.append(what)


@pytest.fixture
def books(tmp_path: Path, open_books: OpenBooks) -> Database:
    return open_books(sqlite_url(tmp_path / "books.db"))


@pytest.fixture
async def drain(limiter: Limiter, books: Database) -> Drain:
    drain = Drain(limiter.store, books, Metrics())
    await drain.open()
    return drain


@pytest.fixture
def sums(books: Database, drain: Drain) -> Sums:
    del drain  # it makes the tables
    return Sums(books)


@pytest.fixture
def openings(limiter: Limiter, sums: Sums) -> Openings:
    return Openings(limiter.service._desk, sums)


async def spend(limiter: Limiter, cost: str) -> None:
    await limiter.settle(await limiter.grant(cost=cost), cost)


async def add_limit(limiter: Limiter, drain: Drain, *limits: str) -> None:
    """Add limits after ten dollars were spent."""
    await limiter.apply(POLICY.format(limits=""))
    await spend(limiter, "10")
    await drain.drain()
    limiter.tick("1 minute")
    await limiter.apply(POLICY.format(limits=", ".join(limits or (MONTHLY,))))


async def test_where_nothing_is_to_be_opened_the_books_are_not_read(
    limiter: Limiter, openings: Openings, sums: Sums
) -> None:
    await limiter.apply(POLICY.format(limits=MONTHLY))
    await openings.look()  # the first look reads whatever an earlier process left
    sums.read.clear()
    for _ in range(3):
        await spend(limiter, "1")
        await openings.look()
    assert sums.read == []


async def test_what_is_known_is_not_read_again(limiter: Limiter, openings: Openings, sums: Sums, drain: Drain) -> None:
    await add_limit(limiter, drain, MONTHLY, "{id: other, spend: 100, per: month}", "{id: day, spend: 99, per: day}")
    await openings.look()
    assert sums.read == ["positions", "spent", "spent"], "limits of one window are one question"
    await openings.look()
    assert sums.read[3:] == ["positions"]
    rows = len(await limiter.rows())
    await spend(limiter, "1")
    await drain.drain()
    await openings.look()
    assert sums.read[4:] == ["positions", "further", "further"]
    assert len(await limiter.rows()) == rows + 1, "a call of after the limits came says nothing of what was before"


async def test_books_that_are_away_are_asked_again(
    limiter: Limiter, openings: Openings, sums: Sums, drain: Drain
) -> None:
    await add_limit(limiter, drain)
    sums.away = True
    await openings.look()
    assert (await limiter.limits())["acme monthly"].settled == 0
    sums.away = False
    await openings.look()
    assert (await limiter.limits())["acme monthly"].settled == usd("10")


async def test_a_policy_that_another_sidecar_changed_is_read_again(
    limiter: Limiter, openings: Openings, drain: Drain, open_client: OpenClient, store_clock: StoreClock
) -> None:
    other = Limiter(open_client(), store_clock)
    await add_limit(limiter, drain)
    await openings.look()
    await other.apply(POLICY.format(limits=""))
    hold = await other.grant(cost="2")
    await other.settle(hold, "2", estimated=True)
    await other.apply(POLICY.format(limits=MONTHLY + ", {id: day, spend: 99, per: day}"))
    await other.settle(hold, "3")
    await drain.drain()
    await openings.look()
    assert {where: status.settled for where, status in (await other.limits()).items()} == {
        "acme monthly": usd("13"), "acme day": usd("13"),
    }  # fmt: skip
    await other.close()


async def test_a_key_that_another_sidecar_changed_is_read_again(
    limiter: Limiter, openings: Openings, drain: Drain, open_client: OpenClient, store_clock: StoreClock
) -> None:
    other, key = Limiter(open_client(), store_clock), Scope("acme", "search", "plain")
    await limiter.apply(POLICY.format(limits=""))
    await limiter.mint(key.path)
    hold = await limiter.grant(key.path, cost="5")
    await spend_at(limiter, key, "2")
    await drain.drain()
    for limits in (
        "[{id: mine, spend: 9, per: day}]",
        "[{id: mine, spend: 8, per: day}, {id: rpm, requests: 5, per: minute}]",
    ):
        await other.service.keyring.update(
            key, enabled=None, expires_ms=None, limits=parse_limits(limits), clear_limits=False
        )
        await openings.look()
    await other.service.keyring.update(key, enabled=None, expires_ms=9 * 10**12, limits=None, clear_limits=False)
    await limiter.settle(hold, "5")
    await drain.drain()
    await openings.look()
    assert (await limiter.limits(key.path))["acme/search/plain mine"].settled == usd("7")
    await other.close()


async def spend_at(limiter: Limiter, key: Scope, cost: str) -> None:
    await limiter.settle(await limiter.grant(key.path, cost=cost), cost)


async def test_while_the_clock_is_behind_openings_wait(limiter: Limiter, openings: Openings, drain: Drain) -> None:
    await add_limit(limiter, drain)
    await limiter.grant(cost="1")
    limiter.clock.advance(-120_000)
    await openings.look()
    assert (await limiter.limits())["acme monthly"].settled == 0
    limiter.clock.advance(120_000)
    await openings.look()
    assert (await limiter.limits())["acme monthly"].settled == usd("10")


async def test_a_clock_that_was_set_back_a_little_hides_no_opening(
    limiter: Limiter, openings: Openings, drain: Drain
) -> None:
    await add_limit(limiter, drain)
    limiter.clock.advance(-30_000)
    await openings.look()
    assert (await limiter.limits())["acme monthly"].settled == usd("10")


TEAM = """
    version: 1
    organizations:
      acme:
        limits: [{org}]
        teams:
          search: {{limits: [{team}], key_defaults: {{limits: [{defaults}]}}, keys: {{{keys}}}}}
"""


def team(**parts: str) -> str:
    given = {"org": "", "team": "", "defaults": "", "keys": ""} | parts
    return TEAM.format(**given)


LIMIT = "{id: a, spend: 1, per: day}"


@pytest.mark.parametrize("began_before", [True, False])
async def test_a_clock_that_was_set_back_a_little_does_not_hide_which_counters_are_older_than_a_limit(
    limiter: Limiter, openings: Openings, drain: Drain, *, began_before: bool
) -> None:
    own = "bot: {limits: [{id: a, spend: 9, per: day}]}" if began_before else "bot: {}"
    await limiter.apply(team(keys=own))
    await spend(limiter, "2")
    if began_before:
        limiter.clock.advance(-30_000)
    await limiter.apply(team(keys=own, defaults=LIMIT))
    if not began_before:
        limiter.clock.advance(-30_000)
    await drain.drain()
    await openings.look()
    assert (await limiter.limits())["acme/search/bot a"].settled == usd("2")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, {"org": LIMIT}, [("", "", "a")]),
        ({}, {"team": LIMIT}, [("search", "", "a")]),
        ({}, {"defaults": LIMIT}, [("search", EVERY_KEY, "a")]),
        ({}, {"keys": f"bot: {{limits: [{LIMIT}]}}"}, [("search", "bot", "a")]),
        ({"org": LIMIT}, {"org": LIMIT.replace("spend: 1", "spend: 2")}, []),
        ({"org": LIMIT}, {"org": LIMIT.replace("day", "week")}, [("", "", "a")]),
        ({}, {"org": "{id: rpm, requests: 1, per: minute}"}, []),
        # The counter that a key had from its team's defaults goes on, with limits of its own and without.
        ({"defaults": LIMIT, "keys": "bot: {}"}, {"defaults": LIMIT, "keys": f"bot: {{limits: [{LIMIT}]}}"}, []),
        ({"defaults": LIMIT, "keys": f"bot: {{limits: [{LIMIT}]}}"}, {"defaults": LIMIT, "keys": "bot: {}"}, []),
        (
            {"defaults": LIMIT, "keys": "bot: {limits: []}"},
            {"defaults": LIMIT, "keys": "bot: {}"},
            [("search", "bot", "a")],
        ),
        # A key that the policy names no more, and that nobody minted, is nobody's.
        ({"defaults": LIMIT, "keys": "bot: {limits: []}"}, {"defaults": LIMIT}, []),
    ],
)
async def test_which_limits_are_new(
    limiter: Limiter, before: dict[str, str], after: dict[str, str], expected: list[tuple[str, str, str]]
) -> None:
    old, new = (parse_policy(team(**parts)).organizations["acme"] for parts in (before, after))
    found = await new_limits(limiter.store, old, new, version=2)
    assert [(limit.scope.team, limit.scope.key, limit.counter.split(":")[0]) for limit in found] == expected


async def test_all_limits_of_a_new_organization_are_noted_as_such(limiter: Limiter) -> None:
    policy = parse_policy(team(org=LIMIT)).organizations["acme"]
    assert await new_limits(limiter.store, None, policy, version=1) == [
        NewLimit(Scope("acme"), "a:spend:day", "UTC", 1, fresh=True)
    ]


async def test_a_key_that_was_minted_with_limits_keeps_them_when_the_policy_names_others(limiter: Limiter) -> None:
    await limiter.apply(team())
    key = Scope("acme", "search", "bot")
    await limiter.service.keyring.create(key, limits=parse_limits(f"[{LIMIT}]"), expires_ms=0)
    plain, named = (
        parse_policy(team(keys=keys)).organizations["acme"]
        for keys in ("", f"bot: {{limits: [{LIMIT}, {LIMIT.replace('a,', 'b,')}]}}")
    )
    assert [limit.counter for limit in await new_limits(limiter.store, plain, named)] == ["b:spend:day"]
    assert await new_limits(limiter.store, named, plain) == []
