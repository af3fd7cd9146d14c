"""Where alerts go: an endpoint as the file of endpoints names it, read and checked by limiter.alert_file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

from limiter.ledger.alerting.alerts import Alert

#: How long a receiver may take to answer, if the file does not say; the Standard Webhooks want 15 to 30.
TIMEOUT_S: Final = 15


class BodyFormat(StrEnum):
    """What a receiver understands."""

    STANDARD = "standard"
    SLACK = "slack"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A receiver. `events` and `organizations` are glob patterns; an alert of no organization has the name "".

    The URL may be a secret as well (Slack's are): only its host is ever shown. Of several secrets each signs.
    `ca`: certificates (PEM) of the authorities that it is trusted by, and no other; "": those that this machine trusts.
    """

    name: str
    url: str = field(repr=False)
    secrets: Sequence[str] = field(default=(), repr=False)
    events: Sequence[str] = ("*",)
    organizations: Sequence[str] = ("*",)
    format: BodyFormat = BodyFormat.STANDARD
    timeout_s: int = TIMEOUT_S
    ca: str = field(default="", repr=False)

    @property
    def host(self) -> str:
        """The part of the URL that may be shown."""
        return urlsplit(self.url).hostname or ""

    def wants(self, alert: Alert) -> bool:
        """Whether an alert is for this endpoint."""
        organization = str(alert.data.get("organization", ""))
        return any(fnmatchcase(alert.type, glob) for glob in self.events) and any(
            fnmatchcase(organization, glob) for glob in self.organizations
        )
