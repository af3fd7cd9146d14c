"""Calendar windows tile time in every zone, and begin where people expect it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limiter.domain.errors import InvalidArgument
from limiter.domain.limits import SPEND_WINDOWS
from limiter.domain.windows import INSTANT_MAX, TOTAL_END, window_bounds
from limiter.domain.zones import zone, zone_names

HOUR = 3_600_000
ODD_ZONES = [
    "America/New_York",
    "America/Sao_Paulo",  # midnight skipped
    "America/St_Johns",  # changes at 00:01, offset of a half hour
    "America/Toronto",  # 1919: from 23:30 to 00:30
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Gaza",
    "Asia/Kathmandu",  # 1986: by 15 minutes
    "Australia/Lord_Howe",  # by 30 minutes
    "Pacific/Apia",  # without 30 December 2011
    "Pacific/Kwajalein",  # without 21 August 1993
    "Antarctica/Troll",  # by two hours
]
zones = st.sampled_from(ODD_ZONES) | st.sampled_from(sorted(zone_names()))
kinds = st.sampled_from(SPEND_WINDOWS)
instants = st.integers(0, 4_102_444_800_000)  # to the year 2100


def ms(text: str, zone_name: str = "UTC", *, fold: int = 0) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=zone(zone_name), fold=fold).timestamp() * 1000)


def wall_clock(at_ms: int, zone_name: str) -> datetime:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)).astimezone(zone(zone_name))


@given(kinds, instants, zones)
def test_a_window_contains_its_instant_and_ends_where_the_next_begins(kind: str, at_ms: int, zone_name: str) -> None:
    start, end, end_of_next = window_bounds(kind, at_ms, zone(zone_name))
    assert start <= at_ms < end <= end_of_next
    if kind != "total":
        assert window_bounds(kind, end, zone(zone_name))[:2] == (end, end_of_next)
    for inside in (max(start, 0), min(end - 1, INSTANT_MAX)):
        assert window_bounds(kind, inside, zone(zone_name)) == (start, end, end_of_next)


@given(kinds, instants, st.integers(0, 400 * 24 * HOUR), zones)
def test_a_later_instant_never_has_an_earlier_window(kind: str, at_ms: int, later_ms: int, zone_name: str) -> None:
    first = window_bounds(kind, at_ms, zone(zone_name))
    second = window_bounds(kind, at_ms + later_ms, zone(zone_name))
    assert first == second or first[1] <= second[0]


@given(st.sampled_from(["day", "week", "month", "quarter", "year"]), instants, zones)
def test_a_window_begins_at_midnight_or_where_midnight_was_skipped(kind: str, at_ms: int, zone_name: str) -> None:
    start = window_bounds(kind, at_ms, zone(zone_name))[0]
    at_start, before = wall_clock(start, zone_name), wall_clock(start - 1, zone_name)
    assert before.date() < at_start.date()
    midnight = at_start.replace(hour=0, minute=0, second=0, microsecond=0)
    assert at_start == midnight or at_start.utcoffset() != before.utcoffset()


@given(instants, zones)
def test_an_hour_never_lasts_longer_than_sixty_minutes(at_ms: int, zone_name: str) -> None:
    start, end, _ = window_bounds("hour", at_ms, zone(zone_name))
    assert 0 < end - start <= HOUR
    if end - start < HOUR:
        offsets = {wall_clock(edge, zone_name).utcoffset() for edge in (start - 1, start, end - 1, end)}
        assert len(offsets) > 1


@given(st.sampled_from(["day", "week", "month", "quarter", "year"]), instants)
def test_windows_of_utc_are_those_of_the_calendar(kind: str, at_ms: int) -> None:
    start, end, _ = window_bounds(kind, at_ms, UTC)
    day = wall_clock(start, "UTC")
    days = (end - start) // (24 * HOUR)
    assert (end - start) % (24 * HOUR) == 0
    assert {
        "day": days == 1,
        "week": days == 7 and day.weekday() == 0,
        "month": day.day == 1 and 28 <= days <= 31,
        "quarter": day.day == 1 and day.month in (1, 4, 7, 10) and 90 <= days <= 92,
        "year": (day.month, day.day) == (1, 1) and days in (365, 366),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "zone_name", "at", "start", "end", "end_of_next"),
    [  # all in UTC
        ("hour", "UTC", "2026-03-01T10:59:59.999", "2026-03-01T10:00", "2026-03-01T11:00", "2026-03-01T12:00"),
        ("hour", "Asia/Kathmandu", "2026-03-01T10:00", "2026-03-01T09:15", "2026-03-01T10:15", "2026-03-01T11:15"),
        ("day", "Asia/Tokyo", "2026-01-31T14:59:59.999", "2026-01-30T15:00", "2026-01-31T15:00", "2026-02-01T15:00"),
        ("month", "Asia/Tokyo", "2026-01-31T14:59:59.999", "2025-12-31T15:00", "2026-01-31T15:00", "2026-02-28T15:00"),
        ("month", "Asia/Tokyo", "2026-01-31T15:00", "2026-01-31T15:00", "2026-02-28T15:00", "2026-03-31T15:00"),
        ("month", "UTC", "2028-02-29T12:00", "2028-02-01T00:00", "2028-03-01T00:00", "2028-04-01T00:00"),
        ("day", "UTC", "2028-02-28T12:00", "2028-02-28T00:00", "2028-02-29T00:00", "2028-03-01T00:00"),
        ("week", "UTC", "2026-11-22T23:59", "2026-11-16T00:00", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("quarter", "UTC", "2026-12-31T23:59", "2026-10-01T00:00", "2027-01-01T00:00", "2027-04-01T00:00"),
        ("quarter", "America/New_York", "2026-04-01T03:59", "2026-01-01T05:00", "2026-04-01T04:00", "2026-07-01T04:00"),
        ("year", "Pacific/Auckland", "2026-12-31T11:00", "2026-12-31T11:00", "2027-12-31T11:00", "2028-12-31T11:00"),
        # New York goes forward at 2:00 on 8 March 2026 and back at 2:00 on 1 November 2026.
        ("day", "America/New_York", "2026-03-08T12:00", "2026-03-08T05:00", "2026-03-09T04:00", "2026-03-10T04:00"),
        ("day", "America/New_York", "2026-11-01T12:00", "2026-11-01T04:00", "2026-11-02T05:00", "2026-11-03T05:00"),
        ("month", "America/New_York", "2026-03-08T12:00", "2026-03-01T05:00", "2026-04-01T04:00", "2026-05-01T04:00"),
        ("hour", "America/New_York", "2026-03-08T06:30", "2026-03-08T06:00", "2026-03-08T07:00", "2026-03-08T08:00"),
        ("hour", "America/New_York", "2026-11-01T05:30", "2026-11-01T05:00", "2026-11-01T06:00", "2026-11-01T07:00"),
        ("hour", "America/New_York", "2026-11-01T06:30", "2026-11-01T06:00", "2026-11-01T07:00", "2026-11-01T08:00"),
        # Lord Howe goes back from 2:00 to 1:30, and forward from 2:00 to 2:30.
        ("hour", "Australia/Lord_Howe", "2026-04-04T14:30", "2026-04-04T14:00", "2026-04-04T15:00", "2026-04-04T15:30"),
        ("hour", "Australia/Lord_Howe", "2026-04-04T15:10", "2026-04-04T15:00", "2026-04-04T15:30", "2026-04-04T16:30"),
        ("hour", "Australia/Lord_Howe", "2026-10-03T15:40", "2026-10-03T15:30", "2026-10-03T16:00", "2026-10-03T17:00"),
        ("day", "Australia/Lord_Howe", "2026-10-03T15:40", "2026-10-03T13:30", "2026-10-04T13:00", "2026-10-05T13:00"),
        # Sao Paulo and Cairo skip midnight: the day begins at 1:00.
        ("day", "America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04T03:00", "2018-11-05T02:00", "2018-11-06T02:00"),
        ("day", "Africa/Cairo", "2026-04-24T12:00", "2026-04-23T22:00", "2026-04-24T21:00", "2026-04-25T21:00"),
        # St. John's went back at 0:01: the day had begun for a minute and goes on.
        ("day", "America/St_Johns", "2010-11-07T03:00", "2010-11-07T02:30", "2010-11-08T03:30", "2010-11-09T03:30"),
        # Apia had no 30 December 2011.
        ("day", "Pacific/Apia", "2011-12-30T09:59", "2011-12-29T10:00", "2011-12-30T10:00", "2011-12-31T10:00"),
        ("day", "Pacific/Apia", "2011-12-30T10:00", "2011-12-30T10:00", "2011-12-31T10:00", "2012-01-01T10:00"),
        ("month", "Pacific/Apia", "2011-12-30T10:00", "2011-12-01T10:00", "2011-12-31T10:00", "2012-01-31T10:00"),
    ],
)
def test_bounds(*, kind: str, zone_name: str, at: str, start: str, end: str, end_of_next: str) -> None:
    assert window_bounds(kind, ms(at), zone(zone_name)) == (ms(start), ms(end), ms(end_of_next))


def test_a_day_has_23_to_25_hours() -> None:
    lengths = set()
    at_ms = ms("2026-01-01T00:00", "America/New_York")
    while at_ms < ms("2027-01-01T00:00", "America/New_York"):
        start, end, _ = window_bounds("day", at_ms, zone("America/New_York"))
        lengths.add((end - start) // HOUR)
        at_ms = end
    assert lengths == {23, 24, 25}


def test_the_hour_that_comes_twice_is_two_windows() -> None:
    first = window_bounds("hour", ms("2026-11-01T01:30", "America/New_York"), zone("America/New_York"))
    second = window_bounds("hour", ms("2026-11-01T01:30", "America/New_York", fold=1), zone("America/New_York"))
    assert first[1] == second[0]
    assert first[1] - first[0] == second[1] - second[0] == HOUR


@given(zones)
def test_total_is_one_window_for_ever(zone_name: str) -> None:
    assert window_bounds("total", 0, zone(zone_name)) == (0, TOTAL_END, TOTAL_END)
    assert window_bounds("total", INSTANT_MAX, zone(zone_name)) == (0, TOTAL_END, TOTAL_END)
    assert INSTANT_MAX < TOTAL_END < 2**53


@pytest.mark.parametrize("kind", SPEND_WINDOWS)
def test_the_first_and_the_last_instant_have_windows(kind: str) -> None:
    for at_ms in (0, INSTANT_MAX):
        start, end, end_of_next = window_bounds(kind, at_ms, zone("Pacific/Kiritimati"))
        assert start <= at_ms < end <= end_of_next <= TOTAL_END


def test_an_unknown_kind_is_refused_with_the_kinds_there_are() -> None:
    with pytest.raises(InvalidArgument, match="'fortnight' is not valid; use one of hour, day, week, month"):
        window_bounds("fortnight", 0, UTC)


@pytest.mark.parametrize("at_ms", [-1, INSTANT_MAX + 1])
def test_an_instant_out_of_reach_is_refused(at_ms: int) -> None:
    with pytest.raises(InvalidArgument, match="at_ms"):
        window_bounds("day", at_ms, UTC)
