"""Zones come from the pinned package."""

import zoneinfo
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest

from limiter.domain.errors import InvalidArgument
from limiter.domain.zones import zone, zone_names


def test_every_zone_of_the_package_can_be_used() -> None:
    assert len(zone_names()) > 500
    assert all(str(zone(name)) == name for name in zone_names())


def test_zones_do_not_come_from_the_operating_system(tmp_path: Path) -> None:
    tokyo = resources.files("tzdata").joinpath("zoneinfo", "Asia", "Tokyo").read_bytes()
    (tmp_path / "Europe").mkdir()
    (tmp_path / "Europe" / "Paris").write_bytes(tokyo)
    zone.cache_clear()
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=[tmp_path])
    try:
        noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
        assert noon.astimezone(zoneinfo.ZoneInfo.no_cache("Europe/Paris")).hour == 21
        assert noon.astimezone(zone("Europe/Paris")).hour == 13
    finally:
        zoneinfo.reset_tzpath(to=before)


def test_a_zone_is_read_once() -> None:
    assert zone("Asia/Tokyo") is zone("Asia/Tokyo")


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "Europe", "utc", "EST5EDT4", "x" * 10_000])
def test_an_unknown_zone_is_refused_with_the_remedy(name: str) -> None:
    with pytest.raises(InvalidArgument, match="use an IANA name such as America/New_York"):
        zone(name)
