"""A new or returning spend limit starts from what the books say was spent in its window before it was there."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from random import Random

import pytest

from limiter.domain.errors import LimiterError
from limiter.domain.money import CALL_MAX_NANOUSD, format_usd
from limiter.domain.rows import SPENDING, RowKind
from limiter.domain.scopes import Scope
from limiter.domain.verdicts import DenialReason, Granted
from limiter.ledger.database import Database, sqlite_url
from limiter.ledger.draining import Drain
from limiter.observability.metrics import Metrics
from limiter.policy.document import parse_limits
from limiter.service import openings
from limiter.service.openings import FOLLOWED_MS, Opening
from tests.ledger.plugin import OpenBooks
from tests.rules.conftest import OpenLimiter
from tests.rules.desk import Limiter, usd

MONTHLY = "{id: monthly, spend: 100, per: month}"
DOG = "acme/search/dog"
CAT = "acme/ads/cat"


def policy(*limits: str, team: str = "", key: str = "", defaults: str = "", zone: str = "UTC") -> str:
    """A policy with limits of the organization, of its team search, of the key bot, of the other keys of search."""
    keys = f"bot: {{limits: [{key}]}}, dog: {{}}" if key else "bot: {}, dog: {}"
    return f"""
        version: 1
        aliases: {{nick: dear}}
        organizations:
          acme:
            timezone: {zone}
            limits: [{", ".join(limits)}]
            teams:
              search: {{limits: [{team}], key_defaults: {{limits: [{defaults}]}}, keys: {{{keys}}}}}
              ads: {{keys: {{cat: {{}}}}}}
    """


class Sidecar(Limiter):
    """A limiter whose books take in rows only when they are told to."""

    drain: Drain

    async def book(self) -> None:
        """Have the books take in all rows, and openings look."""
        await self.drain.drain()
        await self.service.openings.look()

    async def spend(self, cost: str, key: str = "acme/search/bot", **options: object) -> None:
        await self.settle(await self.grant(key, cost=cost, **options), cost)

    async def settled(self, where: str, **options: str) -> str:
        return (await self.money(where, **options)).settled


@pytest.fixture
def books(tmp_path: Path, open_books: OpenBooks) -> Database:
    return open_books(sqlite_url(tmp_path / "books.db"))


@pytest.fixture
async def limiter(open_limiter: OpenLimiter, books: Database) -> Sidecar:
    """One sidecar that has the books. Whatever a test did, its store is sound at the end."""
    found = await with_books(open_limiter, books)
    found.clock.now_ms = 1_790_000_000_000
    await found.apply(policy())
    return found


async def with_books(open_limiter: OpenLimiter, books: Database) -> Sidecar:
    found = open_limiter(books=books)
    found.__class__ = Sidecar
    assert isinstance(found, Sidecar)
    found.drain = Drain(found.store, books, Metrics())
    await found.drain.open()
    return found


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An apply does not wait for the books."""
    monkeypatch.setattr(openings, "_SHOWN_WITHIN_S", 0.05)


async def opening_rows(limiter: Limiter) -> list[int]:
    return [row.amount for row in await limiter.rows() if row.kind is RowKind.OPENING]


async def test_a_limit_added_mid_month_starts_at_what_was_spent_to_the_nano_dollar(limiter: Sidecar) -> None:
    await limiter.spend("12.345678901")
    limiter.tick("3 days")
    await limiter.spend("7.000000001", DOG)
    await limiter.spend("1", CAT)
    await limiter.charge(id="c", actual="0.5")
    await limiter.drain.drain()
    applied = await limiter.apply(policy(MONTHLY, team="{id: team, spend: 20, per: month}"))
    assert applied.notes == ()
    assert applied.openings == (
        Opening("acme", "monthly", "month", usd("20.845678902"), pending=False),
        Opening("acme/search", "team", "month", usd("19.845678902"), pending=False),
    )
    assert await limiter.settled("acme monthly") == "20.845678902"
    await limiter.grant(cost="0.154321098")
    assert (await limiter.refusal(cost="0.000000001")).reason is DenialReason.SPEND_HELD


async def test_what_was_spent_before_the_window_began_does_not_count(limiter: Sidecar) -> None:
    limiter.at("2026-09-30 23:59:59.999")
    await limiter.spend("5")
    limiter.at("2026-10-01 00:00:00")
    await limiter.spend("3")
    limiter.at("2026-10-14 11:59:59.999")
    await limiter.spend("2")
    limiter.at("2026-10-14 12:00:00")
    await limiter.drain.drain()
    await limiter.apply(policy(MONTHLY, "{id: all, spend: 100, per: total}", "{id: hour, spend: 9, per: hour}"))
    limits = {where: status.settled for where, status in (await limiter.limits()).items()}
    assert limits == {"acme monthly": usd("5"), "acme all": usd("10"), "acme hour": 0}


async def test_windows_are_those_of_the_organizations_zone(limiter: Sidecar) -> None:
    await limiter.apply(policy(zone="Asia/Kolkata"))
    limiter.at("2026-10-14 00:29:59.999", "Asia/Kolkata")
    limiter.at("2026-10-13 23:59:59.999", "Asia/Kolkata")
    await limiter.spend("5")
    limiter.at("2026-10-14 00:00:00", "Asia/Kolkata")
    await limiter.spend("3")
    limiter.tick("4 hours")
    await limiter.drain.drain()
    await limiter.apply(policy("{id: daily, spend: 9, per: day}", zone="Asia/Kolkata"))
    assert await limiter.settled("acme daily") == "3.00"


async def test_a_hold_that_was_open_is_added_once_when_it_settles(limiter: Sidecar) -> None:
    await limiter.spend("10")
    hold, long = await limiter.grant(cost="5", ttl="20 hours"), await limiter.grant(cost="5")
    limiter.tick("5 minutes")
    await limiter.drain.drain()
    await limiter.apply(policy(MONTHLY))
    assert await limiter.settled("acme monthly") == "10.00"
    await limiter.grant(cost="3", id="after", ttl="20 hours")
    await limiter.settle(hold, "2.5")
    limiter.tick("1 hour")
    await limiter.service.sweep()  # the other one expires, and is charged in full
    for _ in range(3):
        await limiter.book()
    assert await limiter.settled("acme monthly") == "17.50"
    await limiter.settle(long, "1")
    await limiter.book()
    assert await limiter.money("acme monthly") == await limiter.money("acme monthly")
    assert await limiter.settled("acme monthly") == "13.50"
    assert await opening_rows(limiter) == [usd("10"), usd("7.5"), usd("-4")]


async def test_a_correction_after_the_opening_moves_it(limiter: Sidecar) -> None:
    hold = await limiter.grant(cost="5")
    await limiter.settle(hold, "4", estimated=True)
    await limiter.drain.drain()
    await limiter.apply(policy(MONTHLY))
    await limiter.settle(hold, "1.5")
    await limiter.book()
    assert await limiter.settled("acme monthly") == "1.50"
    await limiter.adjust(hold, "2")
    await limiter.book()
    assert await limiter.settled("acme monthly") == "2.00"


async def test_calls_after_the_limit_came_are_not_counted_twice(limiter: Sidecar) -> None:
    await limiter.spend("10")
    await limiter.drain.drain()
    await limiter.apply(policy(MONTHLY))
    await limiter.spend("3")
    await limiter.charge(id="c", actual="1", occurred=limiter.clock.now_ms - 3_600_000)
    await limiter.grant(cost="2", consume=True)
    hold = await limiter.grant(cost="5")
    await limiter.settle(hold, "4", estimated=True)
    await limiter.settle(hold, "5")
    await limiter.book()
    assert await limiter.settled("acme monthly") == "21.00"
    assert await opening_rows(limiter) == [usd("10")]


async def test_a_shadow_limit_is_opened_but_not_with_what_it_would_have_refused(limiter: Sidecar) -> None:
    await limiter.spend("10")
    await limiter.drain.drain()
    await limiter.apply(policy("{id: monthly, spend: 12, per: month, mode: shadow}"))
    limiter.tick("1 second")
    await limiter.spend("5")
    await limiter.charge(id="c", actual="5", occurred=limiter.clock.now_ms - 3_600_000)
    await limiter.grant(cost="5", consume=True)
    await limiter.book()
    assert await limiter.settled("acme monthly") == "10.00"


async def test_two_sidecars_at_once_open_once(open_limiter: OpenLimiter, books: Database, limiter: Sidecar) -> None:
    second = await with_books(open_limiter, books)
    hold = await limiter.grant(cost="5")
    await limiter.spend("10")
    await limiter.drain.drain()
    plain = open_limiter()
    applied = await plain.apply(policy(MONTHLY, team="{id: team, spend: 50, per: day}"))
    assert [note for note in applied.notes if "starts at 0: no SQL ledger" in note]
    await asyncio.gather(*(one.service.openings.look() for one in (limiter, second) * 3))
    await limiter.settle(hold, "3")
    await limiter.drain.drain()
    await asyncio.gather(*(one.service.openings.look() for one in (limiter, second) * 3))
    assert await limiter.settled("acme monthly") == await limiter.settled("acme/search team") == "13.00"
    assert sorted(await opening_rows(limiter)) == [usd("3"), usd("3"), usd("10"), usd("10")]


async def test_a_sidecar_that_starts_later_goes_on_where_another_was(
    open_limiter: OpenLimiter, books: Database, limiter: Sidecar
) -> None:
    hold, other = await limiter.grant(cost="5"), await limiter.grant(cost="5")
    await limiter.spend("10")
    await limiter.drain.drain()
    await limiter.apply(policy(MONTHLY))
    await limiter.settle(hold, "3")
    await limiter.book()
    await limiter.settle(other, "2")
    await limiter.drain.drain()
    second = await with_books(open_limiter, books)
    await second.service.openings.look()
    await limiter.service.openings.look()
    assert await limiter.settled("acme monthly") == "15.00"
    assert await opening_rows(limiter) == [usd("10"), usd("3"), usd("2")]


async def test_changing_an_amount_opens_nothing(limiter: Sidecar) -> None:
    await limiter.spend("10")
    await limiter.drain.drain()
    await limiter.apply(policy(MONTHLY))
    await limiter.spend("1")
    await limiter.drain.drain()
    applied = await limiter.apply(policy("{id: monthly, spend: 200, per: month, models: [m]}"))
    await limiter.book()
    assert applied.openings == ()
    assert await limiter.settled("acme monthly") == "11.00"


@pytest.mark.parametrize("asked_meanwhile", [True, False])
async def test_a_limit_that_was_away_returns_with_all_that_was_spent(
    limiter: Sidecar, *, asked_meanwhile: bool
) -> None:
    await limiter.spend("10")
    await limiter.drain.drain()
    await limiter.apply(policy(MONTHLY))
    await limiter.spend("1")
    held = await limiter.grant(cost="3")
    await limiter.apply(policy())
    if asked_meanwhile:
        await limiter.spend("2")
    await limiter.drain.drain()
    shown = (await limiter.apply(policy(MONTHLY), dry_run=True)).openings
    applied = await limiter.apply(policy(MONTHLY))
    assert shown == applied.openings
    await limiter.spend("0.5")
    await limiter.settle(held, "3")
    await limiter.book()
    assert [opening.amount for opening in applied.openings] == ([usd("13")] if asked_meanwhile else [])
    assert await limiter.settled("acme monthly") == ("16.50" if asked_meanwhile else "14.50")


async def test_a_limit_of_some_models_starts_from_the_calls_of_those(limiter: Sidecar) -> None:
    await limiter.spend("10")
    await limiter.spend("2", model="dear")
    await limiter.spend("1", model="nick")  # an alias of dear
    await limiter.charge(id="c", actual="0.5", model="")
    hold = await limiter.grant(cost="4", model="nick")
    await limiter.drain.drain()
    await limiter.apply(policy("{id: dear, spend: 50, per: month, models: [de*]}", MONTHLY))
    await limiter.settle(hold, "4")
    await limiter.book()
    assert await limiter.settled("acme dear", model="dear") == "7.00"
    assert await limiter.settled("acme monthly") == "17.50"


async def test_every_key_under_key_defaults_starts_from_what_it_spent_itself(limiter: Sidecar) -> None:
    own, plain, idle = (Scope("acme", "search", name) for name in ("own", "plain", "idle"))
    await limiter.service.keyring.create(own, limits=parse_limits("[{id: mine, spend: 9, per: day}]"), expires_ms=0)
    for key in (plain, idle):
        await limiter.service.keyring.create(key, limits=None, expires_ms=0)
    for path, cost in (("acme/search/bot", "3"), (own.path, "5"), (plain.path, "2"), (CAT, "7")):
        await limiter.spend(cost, path)
    hold = await limiter.grant(DOG, cost="1")
    await limiter.drain.drain()
    applied = await limiter.apply(policy(defaults="{id: daily, spend: 9, per: day}"))
    assert applied.openings == (Opening("acme/search/*", "daily", "day", usd("5"), pending=False),)
    await limiter.settle(hold, "1")
    await limiter.book()
    for path, spent in (("acme/search/bot", "3.00"), (plain.path, "2.00"), (DOG, "1.00"), (idle.path, "0.00")):
        assert await limiter.settled(f"{path} daily", key=path) == spent
    assert "acme/search/own daily" not in await limiter.limits(own.path)


async def test_a_key_that_gets_limits_of_its_own_or_loses_them_starts_from_what_it_spent(limiter: Sidecar) -> None:
    await limiter.apply(policy(defaults="{id: daily, spend: 9, per: day}"))
    key = Scope("acme", "search", "plain")
    await limiter.service.keyring.create(key, limits=None, expires_ms=0)
    await limiter.spend("2", key.path)
    await limiter.drain.drain()

    async def update(limits: str | None) -> None:
        own = parse_limits(limits) if limits is not None else None
        await limiter.service.keyring.update(
            key, enabled=None, expires_ms=None, limits=own, clear_limits=limits is None
        )
        await limiter.book()

    await update("[{id: daily, spend: 8, per: day}, {id: hourly, spend: 8, per: hour}]")
    assert await limiter.settled("acme/search/plain hourly", key=key.path) == "2.00"
    assert await limiter.settled("acme/search/plain daily", key=key.path) == "2.00"
    await update("[{id: hourly, spend: 8, per: hour}]")
    await limiter.spend("1", key.path)
    await limiter.drain.drain()
    await update(None)
    assert await limiter.settled("acme/search/plain daily", key=key.path) == "3.00"


DAILY = "{id: daily, spend: 9, per: day}"


@pytest.mark.parametrize("secret", ["", "a secret of another system"])
@pytest.mark.parametrize("limits", [f"[{DAILY}]", None])
@pytest.mark.parametrize("own", ["{id: mine, spend: 9, per: day}", ""])
async def test_a_key_that_spent_as_one_of_the_policy_and_is_minted_starts_from_that(
    limiter: Sidecar, own: str, limits: str | None, secret: str
) -> None:
    bot = Scope("acme", "search", "bot")
    await limiter.apply(policy(key=own))
    await limiter.spend("2")
    hold = await limiter.grant(cost="3")
    without = policy(defaults="{id: hourly, spend: 9, per: hour}" if limits else DAILY).replace("bot: {}, ", "")
    await limiter.apply(without)
    await limiter.drain.drain()
    await limiter.service.keyring.create(
        bot, limits=parse_limits(limits) if limits else None, expires_ms=0, secret=secret
    )
    assert await limiter.settled("acme/search/bot daily") == "2.00"
    await limiter.spend("1")
    await limiter.settle(hold, "2.5")
    await limiter.book()
    assert await limiter.settled("acme/search/bot daily") == "5.50"
    limiter.clock.advance(FOLLOWED_MS)
    await limiter.book()
    assert await limiter.store.pending_openings("acme") == []


async def test_a_minted_key_goes_on_with_the_counter_that_it_had_in_the_policy(limiter: Sidecar) -> None:
    await limiter.apply(policy(key=DAILY))
    await limiter.spend("2")
    await limiter.apply(policy().replace("bot: {}, ", ""))
    await limiter.drain.drain()
    await limiter.service.keyring.create(
        Scope("acme", "search", "bot"), limits=parse_limits(f"[{DAILY}]"), expires_ms=0
    )
    await limiter.book()
    assert await limiter.settled("acme/search/bot daily") == "2.00"
    assert await opening_rows(limiter) == []


async def test_minting_a_key_that_the_policy_never_named_notes_nothing(limiter: Sidecar) -> None:
    await limiter.spend("2")
    await limiter.service.keyring.create(
        Scope("acme", "search", "new"), limits=parse_limits(f"[{DAILY}]"), expires_ms=0
    )
    assert await limiter.store.opening_organizations() == {}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("returns", [1, 3])
@pytest.mark.parametrize("later_ms", range(5))
async def test_what_was_spent_is_counted_once_however_soon_limits_of_a_key_and_of_its_team_follow_each_other(
    limiter: Sidecar, returns: int, later_ms: int
) -> None:
    own, none = "[{id: daily, spend: 100, per: day}]", "[]"
    key = Scope("acme", "search", "plain")
    await limiter.mint(key.path)
    for limits in (none, own) * returns:
        await limiter.service.keyring.update(
            key, enabled=None, expires_ms=None, limits=parse_limits(limits), clear_limits=False
        )
        await limiter.spend("1", key.path)
        await limiter.grant(key.path, cost="1", consume=True)
    limiter.clock.advance(later_ms)
    await limiter.apply(policy(defaults="{id: daily, spend: 50, per: day}"))
    await limiter.spend("1", key.path)
    await limiter.book()
    assert await limiter.settled(f"{key.path} daily", key=key.path) == f"{4 * returns + 1}.00"


@pytest.mark.usefixtures("impatient")
async def test_a_counter_whose_window_began_in_the_ms_in_which_its_team_got_such_a_limit_is_not_opened(
    limiter: Sidecar,
) -> None:
    limiter.at("2026-10-14 23:59:59.999")
    await limiter.apply(policy(key=DAILY))
    await limiter.spend("1")
    for end in ("2026-10-15", "2026-10-16"):  # what began in the last ms of a window, and what began long before
        limiter.at(f"{end} 00:00:00")
        await limiter.grant(cost="2", consume=True)
        await limiter.apply(policy(key=DAILY, defaults="{id: daily, spend: 50, per: day}"))
        await limiter.book()
        assert await limiter.settled("acme/search/bot daily") == "2.00"
        await limiter.apply(policy(key=DAILY))


async def test_a_declared_key_that_gets_limits_or_falls_back_to_the_defaults(limiter: Sidecar) -> None:
    await limiter.spend("2")
    await limiter.drain.drain()
    await limiter.apply(policy(key="{id: mine, spend: 9, per: day}", defaults="{id: daily, spend: 9, per: day}"))
    assert await limiter.settled("acme/search/bot mine") == "2.00"
    await limiter.spend("1")
    await limiter.drain.drain()
    applied = await limiter.apply(policy(defaults="{id: daily, spend: 9, per: day}"))
    assert applied.openings == (Opening("acme/search/bot", "daily", "day", usd("3"), pending=False),)
    assert await limiter.settled("acme/search/bot daily") == "3.00"


async def test_a_window_that_turns_meanwhile_begins_at_nothing(limiter: Sidecar) -> None:
    limiter.at("2026-10-14 23:59:00")
    hold = await limiter.grant(cost="5")
    await limiter.spend("10")
    await limiter.drain.drain()
    await limiter.apply(policy("{id: daily, spend: 100, per: day}"))
    assert await limiter.settled("acme daily") == "10.00"
    limiter.at("2026-10-15 00:01:00")
    await limiter.settle(hold, "5")
    await limiter.book()
    assert await limiter.settled("acme daily") == "0.00"
    assert await limiter.store.opening_organizations() == {}


@pytest.mark.usefixtures("impatient")
async def test_while_the_books_are_behind_an_opening_is_pending(limiter: Sidecar) -> None:
    await limiter.spend("10")
    await limiter.drain.drain()
    await limiter.spend("2")
    shown = (await limiter.apply(policy(MONTHLY), dry_run=True)).openings
    applied = await limiter.apply(policy(MONTHLY))
    assert applied.openings == shown == (Opening("acme", "monthly", "month", usd("10"), pending=True),)
    await limiter.spend("1")
    assert await limiter.settled("acme monthly") == "11.00"
    await limiter.book()
    assert await limiter.settled("acme monthly") == "13.00"


async def test_an_apply_waits_a_little_for_the_books(limiter: Sidecar) -> None:
    await limiter.spend("10")
    applying = asyncio.create_task(limiter.apply(policy(MONTHLY)))
    await asyncio.sleep(0)
    await limiter.drain.drain()
    assert [opening.amount for opening in (await applying).openings] == [usd("10")]


async def test_a_dry_run_shows_the_amount_and_changes_nothing(limiter: Sidecar) -> None:
    await limiter.spend("10")
    await limiter.drain.drain()
    before = (await limiter.dump()).raw
    applied = await limiter.apply(
        policy(MONTHLY, key="{id: mine, spend: 9, per: day}", defaults="{id: daily, spend: 9, per: day}"), dry_run=True
    )
    assert [(opening.scope, opening.amount, opening.pending) for opening in applied.openings] == [
        ("acme", usd("10"), False), ("acme/search/*", 0, False), ("acme/search/bot", usd("10"), False),
    ]  # fmt: skip
    assert (await limiter.dump()).raw == before


@pytest.mark.usefixtures("impatient")
async def test_with_the_books_away_a_policy_is_applied_and_opened_later(
    limiter: Sidecar, books: Database, tmp_path: Path
) -> None:
    await limiter.spend("10")
    await limiter.drain.drain()
    file = tmp_path / "books.db"
    books.close()
    file.rename(tmp_path / "away.db")
    for part in ("-wal", "-shm"):
        (tmp_path / f"books.db{part}").unlink(missing_ok=True)
    applied = await limiter.apply(policy(MONTHLY))
    assert applied.openings == (Opening("acme", "monthly", "month", 0, pending=True),)
    await limiter.spend("1")
    books.close()
    (tmp_path / "away.db").rename(file)
    await limiter.book()
    assert await limiter.settled("acme monthly") == "11.00"


async def test_a_store_that_begins_anew_takes_what_the_books_know(
    open_limiter: OpenLimiter, books: Database, limiter: Sidecar
) -> None:
    await limiter.spend("10")
    await limiter.drain.drain()
    await limiter.client.flushall()
    limiter.tick("1 second")
    second = await with_books(open_limiter, books)
    applied = await second.apply(policy(MONTHLY, "{id: day, spend: 50, per: day}"))
    assert sorted(opening.amount for opening in applied.openings) == [usd("10"), usd("10")]
    assert await second.settled("acme monthly") == "10.00"
    assert await limiter.store.opening_organizations() == {}


async def test_a_new_organization_has_nothing_to_be_opened(limiter: Sidecar) -> None:
    applied = await limiter.apply(policy(MONTHLY, key="{id: mine, spend: 9, per: day}").replace("acme", "globex"))
    assert (applied.openings, applied.notes) == ((), ())
    assert await limiter.store.opening_organizations() == {}


async def test_notes_go_when_nothing_can_come_any_more(limiter: Sidecar) -> None:
    await limiter.spend("10")
    await limiter.drain.drain()
    await limiter.apply(policy("{id: all, spend: 100, per: total}", MONTHLY))
    limiter.tick("7 days")
    await limiter.book()
    assert len(await limiter.store.pending_openings("acme")) == 2
    limiter.clock.advance(FOLLOWED_MS)
    await limiter.book()
    assert await limiter.store.pending_openings("acme") == []
    assert await limiter.settled("acme all") == "10.00"


async def test_a_limit_that_went_is_not_opened_and_goes_on_where_it_was_if_nobody_asked_meanwhile(
    limiter: Sidecar,
) -> None:
    hold, other = await limiter.grant(cost="5"), await limiter.grant(cost="5")
    await limiter.spend("10")
    await limiter.drain.drain()
    await limiter.apply(policy(MONTHLY))
    await limiter.apply(policy())
    await limiter.settle(hold, "5")
    await limiter.book()
    assert await opening_rows(limiter) == [usd("10")]
    await limiter.apply(policy(MONTHLY))
    await limiter.settle(other, "4")
    await limiter.book()
    assert await limiter.settled("acme monthly") == "19.00"


async def test_an_apply_that_was_interrupted_is_found_by_the_next_sidecar(
    open_limiter: OpenLimiter, books: Database, limiter: Sidecar
) -> None:
    await limiter.spend("10")
    await limiter.drain.drain()
    await open_limiter().apply(policy(MONTHLY))
    await limiter.client.delete("lim1:openings")
    second = await with_books(open_limiter, books)
    await second.service.openings.look()
    assert await limiter.settled("acme monthly") == "10.00"
    assert list(await limiter.store.opening_organizations()) == ["acme"]


async def test_sums_beyond_2_to_the_53rd_are_opened_to_the_nano_dollar(limiter: Sidecar) -> None:
    largest = format_usd(CALL_MAX_NANOUSD)
    for _ in range(5):
        await limiter.grant(cost=largest, consume=True)
    hold = await limiter.grant(cost="3000000.000000001")
    await limiter.settle(hold, "3000000.000000001", estimated=True)
    await limiter.drain.drain()
    await limiter.apply(policy("{id: all, spend: 9223372036.854775807, per: total}"))
    expected = 5 * CALL_MAX_NANOUSD + usd("3000000.000000001")
    assert (await limiter.limits())["acme all"].settled == expected
    await limiter.settle(hold, "0.000000003")
    await limiter.book()
    assert (await limiter.limits())["acme all"].settled == 5 * CALL_MAX_NANOUSD + 3
    assert all(abs(amount) <= CALL_MAX_NANOUSD for amount in await opening_rows(limiter))


SPEND = {"tot": "total", "mon": "month", "hou": "hour"}
MINTED = "acme/search/minted"
KEYS = ("acme/search/bot", DOG, MINTED, CAT)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("pause_ms", [600_000, 2])
@pytest.mark.parametrize("seed", range(4))
async def test_every_limit_counts_all_that_was_spent_in_its_window_whenever_it_came(
    open_limiter: OpenLimiter, books: Database, limiter: Sidecar, seed: int, pause_ms: int
) -> None:
    """Limits come, go and return while calls are made, settled late and corrected, and two sidecars look.

    With short pauses much of that is in the same ms.
    """
    chance = Random(seed)
    await limiter.mint(MINTED)
    sidecars = [limiter, await with_books(open_limiter, books), open_limiter()]
    holds: list[Granted] = []
    for number in range(120):
        limiter.clock.advance(chance.randrange(pause_ms))
        await do_something(chance, chance.choice(sidecars), limiter, holds, number)
    limiter.clock.advance(1)
    for one in sidecars[:2]:
        await limiter.drain.drain()
        await one.service.openings.look()
    spent = await spending(limiter)
    for key in KEYS:
        for status in (await sidecars[2].limits(key)).values():
            since_ms = limiter.clock.now_ms // 3_600_000 * 3_600_000 if status.limit.per == "hour" else 0
            under = f"{status.scope.path}/"
            expected = sum(cost for path, at_ms, cost in spent if f"{path}/".startswith(under) and at_ms >= since_ms)
            assert status.settled == expected, f"{key} {status.scope.path} {status.limit.id}"


async def do_something(chance: Random, sidecar: Limiter, drained: Sidecar, holds: list[Granted], number: int) -> None:
    key, cost = chance.choice(KEYS), f"{chance.randrange(9)}.{chance.randrange(10**9):09d}"
    what = ["reserve", "reserve", "settle", "settle", "charge", "consume", "policy", "limits", "drain", "look", "sweep"]
    match chance.choice(what):
        case "reserve":
            holds.append(await sidecar.grant(key, cost=cost, ttl=f"{chance.randrange(1, 300)} minutes"))
        case "settle" if holds:
            hold = chance.choice(holds)
            with contextlib.suppress(LimiterError):
                await sidecar.settle(hold, cost, estimated=chance.random() < 0.5)
        case "charge":
            ago_ms = chance.randrange(3_600_000)
            with contextlib.suppress(LimiterError):  # this sidecar may have heard of no time so late
                await sidecar.charge(key, id=f"c{number}", actual=cost, occurred=sidecar.clock.now_ms - ago_ms)
        case "consume":
            await sidecar.grant(key, cost=cost, consume=True)
        case "policy":
            applied = await sidecar.apply(some_policy(chance), dry_run=chance.random() < 0.2)
            assert all(opening.amount >= 0 for opening in applied.openings)
        case "limits":
            own = parse_limits(f"[{some_limits(chance)}]") if chance.random() < 0.6 else None
            await sidecar.service.keyring.update(
                Scope.parse(MINTED), enabled=None, expires_ms=None, limits=own, clear_limits=own is None
            )
        case "drain":
            await drained.drain.drain()
        case "look":
            await sidecar.service.openings.look()
        case "sweep":
            await sidecar.service.sweep()


def some_limits(chance: Random) -> str:
    names = [name for name in SPEND if chance.random() < 0.5]
    return ", ".join(f"{{id: {name}, spend: {10**6 + chance.randrange(9)}, per: {SPEND[name]}}}" for name in names)


def some_policy(chance: Random) -> str:
    own = some_limits(chance) if chance.random() < 0.5 else ""
    return policy(some_limits(chance), team=some_limits(chance), key=own, defaults=some_limits(chance))


async def spending(limiter: Limiter) -> list[tuple[str, int, int]]:
    """The key, the time and the cost of every row that spends."""
    return [
        (json.loads(row.call)["key"], row.reserved_ms, row.amount)
        for row in await limiter.rows()
        if row.kind in SPENDING
    ]
