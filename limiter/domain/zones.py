"""Time zones, from the pinned `tzdata` package and never from the operating system.

Two sidecars on differently patched machines must agree where a month ends.
"""

from __future__ import annotations

import difflib
from datetime import tzinfo
from functools import cache
from importlib import resources
from zoneinfo import ZoneInfo

from limiter.domain.errors import InvalidArgument


@cache
def zone_names() -> frozenset[str]:
    """Return the names of all zones that there are, such as America/New_York."""
    return frozenset(resources.files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


@cache  # bounded: only names of zone_names() get past the check
def zone(name: str) -> tzinfo:
    """Return the zone of that IANA name; raises InvalidArgument for an unknown one."""
    if name not in zone_names():
        near = difflib.get_close_matches(name[:64], sorted(zone_names()), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InvalidArgument("timezone", name, f"use an IANA name such as America/New_York or UTC{hint}")
    with resources.files("tzdata").joinpath("zoneinfo", *name.split("/")).open("rb") as data:
        return ZoneInfo.from_file(data, key=name)
