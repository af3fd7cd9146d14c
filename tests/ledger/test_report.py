"""What a report says is what plain Python makes of the rows."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from fnmatch import fnmatchcase
from itertools import product
from typing import NamedTuple

import pytest

from limiter.domain.reservations import Basis, State
from limiter.domain.rows import SPENDING, Row, RowKind
from limiter.domain.windows import window_bounds
from limiter.domain.zones import zone
from limiter.ledger.booking import Booking, Page
from limiter.ledger.database import Database
from limiter.ledger.periods import instant, month, month_hours
from limiter.ledger.reports.covering import cover
from limiter.ledger.reports.questions import PLACES, Question, condition, grouping
from limiter.ledger.reports.report import Group, Report, make_report
from limiter.ledger.schema import COUNTS, SUMS
from tests.ledger.rows import DAY, HOUR, NOVEMBER, Ledger

KEYS = ("acme/search/bot", "acme/search/other", "acme/ads/bot", "beta/search/bot")
MODELS = ("gpt-4o", "gpt-5", "claude-x")
ALL = NOVEMBER - 40 * DAY, NOVEMBER + 40 * DAY

ZONES = ("UTC", "Asia/Kolkata", "Australia/Lord_Howe", "America/New_York", "Asia/Kathmandu")
GROUPINGS = (
    "",
    "customer",
    "organization",
    "team",
    "key",
    "provider,operation",
    "model,customer",
    "customer,feature",
    "hour",
    "day,customer",
    "model,week",
    "month",
    "tag:region,month,day",
)
FILTERS: tuple[tuple[str, ...], ...] = (
    (),
    ("team=search",),
    ("team=acme/search,ads", "model=gpt-*"),
    ("customer=globex",),
    ("customer=",),
    ("tag:customer=initech,", "feature=a?sistant"),
    ("customer=globex", "customer=initech"),
)


def ledger(seed: int, *, around: int, calls: int = 200) -> Ledger:
    """Random calls in the days around an instant, many of them at its very hour; with corrections."""
    chance = random.Random(seed)
    book = Ledger()
    for _ in range(calls):
        near = chance.random() < 0.4
        at_ms = around + (chance.randrange(-3 * HOUR, 3 * HOUR) if near else chance.randrange(-33 * DAY, 33 * DAY))
        at_ms -= at_ms % chance.choice((1, 60_000, 1_800_000))
        tags = [("customer", name) for name in ("globex", "initech") if chance.random() < 0.5]
        tags += [("feature", name) for name in ("assistant", "search") if chance.random() < 0.4]
        facts = {
            "key": chance.choice(KEYS),
            "model": chance.choice(MODELS),
            "at_ms": at_ms,
            "tags": tags + tags[:1],
            "operation": chance.choice(("chat", "")),
            "usage": {"input_tokens": chance.randrange(99), "cache_read_tokens": chance.randrange(9)},
            "cost": chance.choice((0, 1, chance.randrange(10**6), chance.randrange(2**53 - 1))),
        }
        ends = chance.random()
        if ends < 0.1:
            book.row(**facts | {"cost": 0, "usage": {}}, held=5, state=State.RELEASED, basis=Basis.RELEASED)  # type: ignore[arg-type]
        elif ends < 0.2:
            book.row(**facts, kind=RowKind.CHARGE, held=0)  # type: ignore[arg-type]
        else:
            book.row(**facts)  # type: ignore[arg-type]
        if ends < 0.3:
            cost, first = chance.randrange(10**9), book.made[-1]
            name = first.member.partition("/")[2]
            late = {"kind": RowKind.CORRECTION, "reservation": name, "took_ms": 5 * HOUR, "amount": cost - first.cost}
            book.row(**facts | late | {"cost": cost})  # type: ignore[arg-type]
        if ends > 0.97:
            book.note(RowKind.EVENT, {"event": "threshold"}, at_ms=at_ms)
    return book


class Fact(NamedTuple):
    """A row as the oracle sees it: when, with which values of each name, and what it adds."""

    reserved_ms: int
    values: dict[str, set[str]]
    sums: list[int]


def facts(rows: Sequence[Row]) -> list[Fact]:
    """The rows that say what was spent; a correction adds what it says less what was said before."""
    found: list[Fact] = []
    before: dict[str, list[int]] = {}
    for row in rows:
        if row.kind not in SPENDING:
            continue
        call, end = json.loads(row.call), json.loads(row.ending)
        values: defaultdict[str, set[str]] = defaultdict(set)
        for name, value in zip(PLACES[:3], call["key"].split("/"), strict=True):
            values[name].add(value)
        for name in PLACES[3:]:
            values[name] |= {call[name]} if call.get(name) else set()
        for name, value in call.get("tags", ()):
            values[name].add(value)
        released = row.state is State.RELEASED
        said = [int(not released), int(released), *(end["usage"].get(name, 0) for name in COUNTS[2:])]
        counts = [now - then for now, then in zip(said, before.get(row.member, [0] * len(said)), strict=True)]
        before[row.member] = said
        found.append(Fact(row.reserved_ms, values, [*counts, row.held * counts[0], row.amount]))
    return found


class Oracle:
    """Adds up rows by themselves, one at a time."""

    def __init__(self, rows: Sequence[Fact], question: Question) -> None:
        self.total = [0] * len(SUMS)
        self.lines: defaultdict[Group, list[int]] = defaultdict(lambda: [0] * len(SUMS))
        for fact in rows:
            if question.start_ms <= fact.reserved_ms < question.end_ms and all(wanted(fact, question)):
                self.total = [one + other for one, other in zip(self.total, fact.sums, strict=True)]
                for group in groups(fact, question):
                    sums = self.lines[group]
                    sums[:] = [one + other for one, other in zip(sums, fact.sums, strict=True)]


def wanted(fact: Fact, question: Question) -> Iterator[bool]:
    """Whether each condition holds."""
    for one in question.where:
        found = set(fact.values[one.dimension.name])
        if one.dimension.name == "team":
            found |= {f"{organization}/{team}" for organization in fact.values["organization"] for team in found}
        yield any(fnmatchcase(value, pattern) for value in found or {""} for pattern in one.patterns)


def groups(fact: Fact, question: Question) -> Iterator[Group]:
    """The lines that a row belongs to."""
    columns: list[set[str | None]] = []
    for dimension in question.by:
        if dimension.is_time:
            columns.append({period(dimension.name, fact.reserved_ms, question.zone)})
            continue
        found: set[str | None] = set(fact.values[dimension.name])
        patterns = [p for one in question.where if one.dimension == dimension for p in one.patterns]
        if patterns and dimension.is_tag:
            found = {value for value in found if any(fnmatchcase(str(value), pattern) for pattern in patterns)}
        columns.append(found or {None})
    yield from product(*columns)


def period(kind: str, at_ms: int, at: tzinfo) -> str:
    """What a period is called."""
    start = datetime.fromtimestamp(window_bounds(kind, at_ms, at)[0] / 1000, at)
    return {
        "hour": start.isoformat(timespec="minutes"),
        "day": f"{start:%Y-%m-%d}",
        "week": f"{start:%G-W%V}",
        "month": f"{start:%Y-%m}",
    }[kind]


def asked(by: str, where: Sequence[str] = (), *, time: tuple[int, int] = ALL, at: str = "UTC") -> Question:
    dimensions = grouping([by] if by else [], field="by")
    return Question(*time, zone(at), dimensions, tuple(condition(text, field="where") for text in where))


def lines(report: Report) -> dict[Group, list[int]]:
    found = {line.group: line.sums for line in report.lines}
    assert len(found) == len(report.lines)
    return found


def compare(database: Database, rows: Sequence[Fact], question: Question) -> None:
    """A report says what the rows add up to."""
    report, oracle = make_report(database, question), Oracle(rows, question)
    assert report.total.sums == oracle.total
    assert lines(report) == {group: sums for group, sums in oracle.lines.items() if any(sums)}


#: Where clocks change: New York on 1 November 2026, Lord Howe on 4 October 2026.
CHANGES = {"America/New_York": "2026-11-01", "Australia/Lord_Howe": "2026-10-04"}


@pytest.mark.parametrize("at", ZONES)
def test_sums_of_any_grouping_in_any_zone_are_those_of_the_rows(database: Database, booking: Booking, at: str) -> None:
    around = instant(CHANGES.get(at, "2026-11-01"), zone(at), field="at")
    book = ledger(ZONES.index(at), around=around)
    book.book(booking)
    rows = facts(book.made)
    for i, by in enumerate(GROUPINGS):
        for where in (FILTERS[i % len(FILTERS)], ()):
            compare(database, rows, asked(by, where, at=at))


def test_stretches_of_months_say_the_same_whatever_comes_late(database: Database, booking: Booking) -> None:
    book = ledger(4, around=NOVEMBER)
    some = len(book.made) // 2
    booking.book({book.shard: Page(None, book.made[:some])})
    booking.book({book.shard: Page(book.made[some - 1].position, book.made[some:])})
    rows = facts(book.made)
    for at in ("UTC", "Asia/Kolkata", "America/New_York"):
        for by in ("", "customer", "month,model", "week,key"):
            compare(database, rows, asked(by, at=at))
        for month_ms in (NOVEMBER - DAY, NOVEMBER + DAY):
            start, end, _ = window_bounds("month", month_ms, zone(at))
            compare(database, rows, asked("customer,model", ["team=search"], time=(start, end), at=at))
            compare(database, rows, asked("customer", time=(start + 3 * DAY + 1, end - DAY), at=at))


def test_what_is_added_up_for_some_hours_is_those_hours() -> None:
    chance = random.Random(3)
    for _ in range(500):
        first = chance.randrange(400_000, 420_000)
        end = first + chance.randrange(1, 3_000)
        found = [0] * 30_000
        for piece in cover(first, end):
            begins, ends = (piece.first, piece.end) if piece.month is None else month_hours(piece.month)
            for hour in range(begins, ends):
                found[hour - 395_000] += piece.sign
        assert [i + 395_000 for i, times in enumerate(found) if times == 1] == list(range(first, end))
        assert set(found) <= {0, 1}


def test_times_in_the_middle_of_an_hour_are_kept_to_the_millisecond(database: Database, booking: Booking) -> None:
    book = ledger(5, around=NOVEMBER)
    book.book(booking)
    rows = facts(book.made)
    times = sorted(row.reserved_ms for row in book.made)
    chance = random.Random(6)
    for by in ("", "customer", "hour,model", "week"):
        for _ in range(6):
            start, end = sorted(chance.sample(times, 2))
            shift = chance.choice((0, 1))
            compare(database, rows, asked(by, time=(start + shift, end + 1), at="Asia/Kolkata"))
            compare(database, rows, asked(by, time=(start, start + shift + 1)))


@pytest.mark.parametrize("where", FILTERS)
def test_filters_choose_the_calls_that_they_say(database: Database, booking: Booking, where: tuple[str, ...]) -> None:
    book = ledger(7, around=NOVEMBER)
    book.book(booking)
    rows = facts(book.made)
    for by in ("", "team", "customer", "feature,customer"):
        compare(database, rows, asked(by, where, time=(NOVEMBER - DAY, NOVEMBER + DAY + 1)))


def test_a_call_with_two_customers_stands_on_both_lines_and_counts_once(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.row(cost=5, tags=[("customer", "a"), ("customer", "b")])
    book.row(cost=7, tags=[("customer", "b")])
    book.row(cost=11, tags=())
    book.book(booking)
    report = make_report(database, asked("customer"))
    costs = {line.group: line.cost_nanousd for line in report.lines}
    assert costs == {("a",): 5, ("b",): 12, (None,): 11}
    assert report.total.cost_nanousd == 23
    assert "the lines add up to 1 calls and 0.000000005 USD more" in report.notes[0]


def test_a_filter_by_customer_gives_no_lines_to_the_other_customers_of_its_calls(
    database: Database, booking: Booking
) -> None:
    book = Ledger()
    book.row(cost=5, tags=[("customer", "a"), ("customer", "b")])
    book.book(booking)
    report = make_report(database, asked("customer", ["customer=a"]))
    assert [line.group for line in report.lines] == [("a",)]
    assert not report.notes


def test_a_correction_counts_in_the_hour_in_which_its_call_was_reserved(database: Database, booking: Booking) -> None:
    book = Ledger()
    first = book.row(cost=900, at_ms=NOVEMBER - 1)
    name = first.member.partition("/")[2]
    late = NOVEMBER - 1
    book.row(kind=RowKind.CORRECTION, reservation=name, cost=400, amount=-500, at_ms=late, took_ms=3 * DAY)
    book.book(booking)
    report = make_report(database, asked("day"))
    assert [(line.group, line.calls, line.cost_nanousd) for line in report.lines] == [(("2026-10-31",), 1, 400)]


def refusal(minute_ms: int, **facts: object) -> dict[str, object]:
    usual = {"scope": "acme/search", "limit": "monthly", "reason": "SPEND_CEILING", "model": "gpt-4o", "customer": "a"}
    return usual | {"minute_ms": minute_ms, "count": 1} | facts


def refused(report: Report) -> dict[Group, dict[str, int] | None]:
    return {line.group: None if line.refused is None else dict(line.refused) for line in report.lines}


@pytest.fixture
def refusing(booking: Booking) -> Ledger:
    """One call, and refusals: two of a team's limit, one of a key's, three of the organization's."""
    book = Ledger()
    book.row(tags=[("customer", "a")], at_ms=NOVEMBER + HOUR)
    ones = [
        refusal(NOVEMBER + HOUR, count=2),
        refusal(NOVEMBER + HOUR + 1_800_000, scope="acme/search/bot", limit="rpm", reason="REQUEST_RATE", customer=""),
        refusal(NOVEMBER + 2 * HOUR, scope="acme", count=6, calls=3, model="(other)", customer="(other)"),
    ]
    book.note(RowKind.REFUSALS, {"refusals": ones}, at_ms=NOVEMBER + 2 * HOUR + 5_000)
    book.book(booking)
    return book


@pytest.mark.usefixtures("refusing")
def test_refused_calls_count_once_by_reason_and_each_limits_refusals_are_told(database: Database) -> None:
    report = make_report(database, asked(""))
    assert report.total.refused == {"SPEND_CEILING": 5, "REQUEST_RATE": 1}
    assert report.limits == {
        ("acme", "monthly", "SPEND_CEILING"): 6,
        ("acme/search", "monthly", "SPEND_CEILING"): 2,
        ("acme/search/bot", "rpm", "REQUEST_RATE"): 1,
    }


@pytest.mark.usefixtures("refusing")
def test_customers_of_refused_calls_have_lines_and_those_that_are_not_known_are_told(database: Database) -> None:
    report = make_report(database, asked("customer"))
    assert refused(report) == {("a",): {"SPEND_CEILING": 2}, (None,): {"REQUEST_RATE": 1}}
    assert report.total.refusals == 6
    assert report.notes == [
        "it is not known of 3 refused calls which customer they had: they are counted in the total only"
    ]


@pytest.mark.usefixtures("refusing")
def test_refusals_of_a_team_are_those_at_its_limits(database: Database) -> None:
    assert refused(make_report(database, asked("team"))) == {
        ("acme", "search"): {"SPEND_CEILING": 2, "REQUEST_RATE": 1},
    }
    report = make_report(database, asked("", ["team=search"]))
    assert report.total.refusals == 3
    assert "not known of 3 refused calls which team" in report.notes[0]
    assert make_report(database, asked("", ["team=ads"])).total.refusals == 0


@pytest.mark.usefixtures("refusing")
def test_what_is_not_known_of_refusals_is_said(database: Database) -> None:
    report = make_report(database, asked("operation"))
    assert refused(report) == {("chat",): None}
    assert report.total.refusals == 6
    assert "which operation they had" in report.notes[0]
    report = make_report(database, asked("", ["feature="]))
    assert report.total.refused is None
    assert report.notes == ["it is not known of refused calls which feature they had: none are counted"]


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize(
    ("by", "told"),
    [
        ("model", ["3 refused calls which model"]),
        ("customer,model", ["3 refused calls which customer, model"]),
        ("key,day", ["3 refused calls which team, key", "2 refused calls which key"]),
        ("key,model", ["3 refused calls which team, key, model", "2 refused calls which key"]),
        ("operation", ["6 refused calls which operation"]),
        ("tag:model", ["6 refused calls which tag:model"]),
        ("organization,day", []),
    ],
)
def test_a_note_on_refusals_names_what_is_not_known_of_them_and_nothing_else(
    database: Database, by: str, told: list[str]
) -> None:
    notes = [note for note in make_report(database, asked(by)).notes if "refused calls" in note]
    assert notes == [f"it is not known of {one} they had: they are counted in the total only" for one in told]


def test_of_refusals_whose_model_is_known_the_note_names_the_team_alone(database: Database, booking: Booking) -> None:
    book = Ledger()
    ones = [refusal(NOVEMBER, scope="acme", model=model) for model in ("gpt-4o", "o3", "")]
    book.note(RowKind.REFUSALS, {"refusals": [*ones, refusal(NOVEMBER, scope="acme", count=7, calls=0)]})
    book.book(booking)
    report = make_report(database, asked("team,model"))
    assert (report.lines, report.total.refusals) == ([], 3)
    assert report.notes == [
        "it is not known of 3 refused calls which team they had: they are counted in the total only"
    ]
    assert refused(make_report(database, asked("model"))) == {
        (model,): {"SPEND_CEILING": 1} for model in ("gpt-4o", "o3", None)
    }
    report = make_report(database, asked("", ["team=search", "model=o3"]))
    assert "1 refused calls which team they had: they are not counted" in report.notes[0]


@pytest.mark.usefixtures("refusing")
def test_refusals_of_an_hour_that_is_cut_are_told_by_the_minute(database: Database) -> None:
    middle = NOVEMBER + HOUR + 1_800_000
    assert make_report(database, asked("", time=(ALL[0], middle))).total.refused == {"SPEND_CEILING": 2}
    assert make_report(database, asked("", time=(middle, middle + 60_000))).total.refused == {"REQUEST_RATE": 1}
    report = make_report(database, asked("hour", at="Asia/Kolkata"))
    assert {line.group[0]: line.refusals for line in report.lines} == {
        "2026-11-01T06:00+05:30": 2,
        "2026-11-01T07:00+05:30": 4,
    }


def test_refusals_that_came_much_later_are_found(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.note(RowKind.REFUSALS, {"refusals": [refusal(NOVEMBER + 60_000)]}, at_ms=NOVEMBER + 9 * DAY)
    book.book(booking)
    assert make_report(database, asked("", time=(NOVEMBER, NOVEMBER + 120_000))).total.refusals == 1


def test_random_refusals_add_up(database: Database, booking: Booking) -> None:
    chance = random.Random(8)
    book = Ledger()
    by_day: Counter[Group] = Counter()
    for _ in range(40):
        at_ms = NOVEMBER + chance.randrange(5 * DAY // 60_000) * 60_000
        one = refusal(at_ms, customer=chance.choice("abc"), count=chance.randrange(1, 9))
        day = f"{datetime.fromtimestamp(at_ms / 1000, UTC) + timedelta(hours=5, minutes=45):%Y-%m-%d}"
        by_day[day, str(one["customer"])] += int(str(one["count"]))
        book.note(RowKind.REFUSALS, {"refusals": [one]}, at_ms=at_ms + 61_000)
    book.book(booking)
    report = make_report(database, asked("day,customer", at="Asia/Kathmandu"))
    assert {line.group: line.refusals for line in report.lines} == by_day


def test_a_report_over_nothing_is_empty_and_hints_at_what_there_is(database: Database, booking: Booking) -> None:
    assert make_report(database, asked("customer,day")).is_empty
    book = Ledger()
    book.row()
    book.book(booking)
    report = make_report(database, asked("", ["team=serach"]))
    assert report.is_empty
    assert report.notes == ["no call of this time has team=serach; there is 'search'"]


def test_held_is_told_beside_what_was_spent(database: Database, booking: Booking) -> None:
    book = Ledger()
    book.row(cost=1_000, held=3_000)
    book.book(booking)
    total = make_report(database, asked("")).total
    assert (total.held_nanousd, str(total.held_to_cost), str(total.share(total))) == (3_000, "3.000000", "1.000000")


def test_days_and_months_begin_in_their_zone() -> None:
    assert instant("2026-11-01", zone("Asia/Kolkata"), field="x") == NOVEMBER - 5 * HOUR - HOUR // 2
    assert month("2026-11", UTC, field="x") == (NOVEMBER, NOVEMBER + 30 * DAY)
    new_york = month("2026-11", zone("America/New_York"), field="x")
    assert new_york[1] - new_york[0] == 30 * DAY + HOUR
