"""How many calls a sidecar refused, by reason, as its /metrics says."""

from __future__ import annotations

import re
from http.client import HTTPConnection, HTTPException
from typing import Final

_TIMEOUT_S: Final = 1.0
_READ_MAX_BYTES: Final = 4 * 1024 * 1024
_DENIED = re.compile(
    r'^limiter_decisions_total\{decision="DENIED",reason="(?P<reason>[A-Z_]+)"\} (?P<count>[0-9.e+]+)$', re.MULTILINE
)


def refusals(address: str) -> dict[str, int] | None:
    """Ask HOST:PORT for the refusals since its start, the most frequent reason first; None: it cannot be asked."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return None
    connection = HTTPConnection(host.strip("[]"), int(port), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
        text = connection.getresponse().read(_READ_MAX_BYTES).decode("utf-8", "replace")
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
    counts = {match["reason"]: round(float(match["count"])) for match in _DENIED.finditer(text)}
    return dict(sorted(((name, count) for name, count in counts.items() if count), key=lambda pair: -pair[1]))
