"""`what-if`: books and a policy in, refusals and money out; nothing else is touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from limiter.domain.reservations import RowFlag
from limiter.domain.rows import RowKind
from limiter.ledger.booking import Booking
from limiter.ledger.database import Database, sqlite_url
from tests.cli.conftest import CommandLine
from tests.ledger.rows import DAY, HOUR, NOVEMBER, Ledger

POLICY = """\
version: 1
organizations:
  acme:
    timezone: America/New_York
    limits: [{id: monthly, spend: 3, per: month}]
    teams:
      search:
        key_defaults: {limits: [{id: trial, spend: 0.5, per: day, mode: shadow}, {id: rpm, requests: 60, per: minute}]}
        keys: {bot: {}}
"""

NOVEMBER_IN_FULL = ("--from", "2026-11-01", "--to", "2026-12-01")


@pytest.fixture
def database(directory: Path) -> Iterator[Database]:
    """Empty books, where the command looks for them."""
    (directory / "data").mkdir()
    (directory / "new.yaml").write_text(POLICY)
    database = Database(sqlite_url(directory / "data" / "books.db"))
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def november(database: Database) -> None:
    """A call of 0.10 USD in each hour of two days, by turns of a declared and of a minted key, and one of beta."""
    book = Ledger()
    for hour in range(48):
        book.row(
            at_ms=NOVEMBER + hour * HOUR,
            cost=10**8,
            held=15 * 10**7,
            key=f"acme/search/{('bot', 'ant')[hour % 2]}",
            tags=(("customer", ("globex", "initech")[hour % 2]),),
        )
    book.row(at_ms=NOVEMBER + 49 * HOUR, cost=2 * 10**8, held=0, kind=RowKind.CHARGE)
    book.row(at_ms=NOVEMBER, key="beta/search/bot")
    book.book(Booking(database))


@pytest.mark.usefixtures("november")
def test_it_tells_what_would_have_been_refused_and_saved(limiter: CommandLine) -> None:
    output = limiter.run("what-if", "--policy", "new.yaml", *NOVEMBER_IN_FULL)

    # In New York the first 4 calls are of October. Of November, 28 that cost 0.10 and a hold of 0.15 fit into 3.00, and
    # 29 with a hold do not: 48 - 4 - 29 are refused. Then comes a charge of 0.20.
    assert "49 calls that cost 5.00 USD" in output.out
    assert "15 would have been refused (30.6 % of the calls), which would have saved 1.50 USD" in output.out
    assert output.row("acme ", "SPEND_CEILING") == [
        "acme",
        "monthly",
        "SPEND_CEILING",
        "15",
        "1.50",
        "2026-11-02 09:00:00",
    ]
    assert output.row("initech")[1:] == ["8", "0.80"]
    assert output.row("monthly", "USD/month") == [
        "acme",
        "monthly",
        "3.00 USD/month",
        "3.10",
        "103.3 %",
        "2026-11-03 01:00:02",
    ]
    assert "refused at the time are not in the books, and so not in this answer" in output.out
    assert "1 key that the policy does not name had the key_defaults" in output.out
    assert "charges, which had no hold, are never refused: 1 of the calls" in output.out
    assert "that the policy does not name are left out: beta (1)" in output.out


@pytest.mark.usefixtures("november")
def test_programs_get_every_limit_in_nano_usd_and_usd(limiter: CommandLine) -> None:
    found = limiter.run("what-if", "--policy", "new.yaml", *NOVEMBER_IN_FULL, "--format", "json").json

    assert (found["calls"], found["charges"], found["cost_usd"]) == (48, 1, "5.00")
    assert found["refused"]["cost_nanousd"] == 1_500_000_000
    assert found["refused"]["reasons"][0]["reason"] == "SPEND_CEILING"
    limits = {(limit["scope"], limit["limit"]): limit for limit in found["limits"]}
    assert limits["acme", "monthly"]["refused"]["first_at"] == "2026-11-02T09:00:00+00:00"
    assert limits["acme", "monthly"]["highest_usd"] == "3.10"
    assert limits["acme/search/bot", "rpm"]["highest"] == 1
    assert limits["acme/search/ant", "trial"]["shadowed"]["calls"] > 0
    assert found["keys_not_named"] == ["acme/search/ant"]
    assert found["organizations_left_out"] == {"beta": 1}


@pytest.mark.usefixtures("november")
def test_a_period_that_begins_in_the_middle_starts_from_what_was_spent(limiter: CommandLine) -> None:
    # From 13:00 on the second day, 33 calls of November in New York have cost 3.30 before.
    output = limiter.run("what-if", "--policy", "new.yaml", "--from", "2026-11-02T13:00", "--to", "2026-12-01")

    assert "12 calls that cost 1.30 USD" in output.out
    assert "11 would have been refused" in output.out
    assert "in their windows before the beginning: 3.30 USD in all" in output.out


@pytest.mark.usefixtures("november")
def test_dates_are_read_in_the_time_zone(limiter: CommandLine) -> None:
    words = ("what-if", "--policy", "new.yaml", "--from", "2026-11-02", "--to", "2026-11-03", "--format", "json")

    found = limiter.run(*words, "--timezone", "America/New_York").json

    assert found["from"] == "2026-11-02T00:00:00-05:00"
    assert found["calls"] == 48 - 29


@pytest.mark.usefixtures("november")
def test_a_whole_month_is_that_of_the_time_zone(limiter: CommandLine) -> None:
    words = ("what-if", "--policy", "new.yaml", "--format", "json")

    utc, new_york = "UTC", "America/New_York"
    assert limiter.run(*words, "--month", "2026-11").json == limiter.run(*words, *NOVEMBER_IN_FULL).json
    found = {zone: limiter.run(*words, "--month", "2026-11", "--timezone", zone).json for zone in (utc, new_york)}
    assert {zone: one["calls"] for zone, one in found.items()} == {utc: 48, new_york: 44}
    assert (found[new_york]["from"], found[new_york]["to"]) == (
        "2026-11-01T00:00:00-04:00",
        "2026-12-01T00:00:00-05:00",
    )


@pytest.mark.usefixtures("november")
def test_an_answer_is_the_same_every_time_and_touches_nothing(limiter: CommandLine, directory: Path) -> None:
    words = ("what-if", "--policy", "new.yaml", *NOVEMBER_IN_FULL, "--format", "json")

    assert limiter.run(*words).json == limiter.run(*words).json
    assert {path.name.partition("-")[0] for path in (directory / "data").iterdir()} == {"books.db"}


@pytest.mark.usefixtures("november")
def test_no_calls_are_said_to_be_none(limiter: CommandLine) -> None:
    assert (
        "Nothing: the books have no call of this time"
        in limiter.run("what-if", "--policy", "new.yaml", "--from", "2026-10-01", "--to", "2026-11-01").out
    )
    found = limiter.run(
        "what-if", "--policy", "new.yaml", "--from", "2026-10-01", "--to", "2026-11-01", "--format", "json"
    ).json
    assert (found["calls"], found["limits"]) == (0, [])


@pytest.mark.usefixtures("november")
def test_one_organization_of_several_can_be_asked_for(limiter: CommandLine, directory: Path) -> None:
    (directory / "new.yaml").write_text(POLICY + "  beta: {limits: [{id: none, spend: 0, per: day}]}\n")
    words = ("what-if", "--policy", "new.yaml", *NOVEMBER_IN_FULL, "--format", "json")

    assert limiter.run(*words).json["refused"]["calls"] == 16
    beta = limiter.run(*words, "--organization", "beta").json
    assert (beta["calls"], beta["refused"]["calls"], beta["organizations_left_out"]) == (1, 1, {})
    assert "the policy names acme, beta" in limiter.run(*words, "--organization", "gamma", exit_code=2).err


@pytest.mark.usefixtures("november")
def test_mistakes_in_the_policy_are_told_as_check_tells_them(limiter: CommandLine, directory: Path) -> None:
    (directory / "new.yaml").write_text(POLICY.replace("spend: 3", "spend: much"))

    told = limiter.run("what-if", "--policy", "new.yaml", *NOVEMBER_IN_FULL, exit_code=1)

    assert str(told) == str(limiter.run("check", "new.yaml", exit_code=1))
    assert "organizations.acme.limits[0].spend" in told.out


@pytest.mark.usefixtures("november")
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--from", "2026-12-01", "--to", "2026-11-01"), "--to: '2026-11-01'"),
        (("--from", "yesterday"), "--from: 'yesterday'"),
        (("--month", "2026-13"), "--month: '2026-13'"),
        (("--month", "2026-11", "--to", "2026-11-15"), "--month: '2026-11' is not valid; use it, or --from and --to"),
        (("--month", "2026-11", "--from", "2026-11-15"), "not both"),
        (("--timezone", "Mars"), "timezone: 'Mars'"),
        (("--policy", "absent.yaml"), "--policy: 'absent.yaml'"),
    ],
)
def test_options_that_mean_nothing_are_refused(limiter: CommandLine, words: tuple[str, ...], says: str) -> None:
    assert says in limiter.run("what-if", "--policy", "new.yaml", *words, exit_code=2).err


def test_consumed_and_released_calls_are_played_as_they_were(limiter: CommandLine, database: Database) -> None:
    book = Ledger()
    for day in range(4):
        book.row(at_ms=NOVEMBER + day * DAY, cost=10**9, held=10**9, flags=RowFlag.CONSUMED)
    book.book(Booking(database))

    found = json.loads(limiter.run("what-if", "--policy", "new.yaml", *NOVEMBER_IN_FULL, "--format", "json").out)

    # The first is of October in New York.
    assert found["refused"]["calls"] == 0
    assert found["limits"][0]["highest_usd"] == "3.00"
