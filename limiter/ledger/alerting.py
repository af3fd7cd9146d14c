"""What of the rows people are told: found while they are written into the books, so that it is told once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from limiter.domain.rows import RowKind
from limiter.ledger.entries import Entry
from limiter.ledger.texts import canonical


class Alert(NamedTuple):
    """One thing to tell. `id` says what it is about: whoever finds it again gives it the same."""

    id: str
    type: str
    at_ms: int
    data: Mapping[str, Any]

    def row(self) -> dict[str, Any]:
        """As a row of `alerts`."""
        return {"id": self.id, "type": self.type, "at_ms": self.at_ms, "data": canonical(self.data)}


def alerts_in(entry: Entry) -> Iterator[Alert]:
    """The alerts that a row gives cause for."""
    values = entry.values
    if values["kind"] == RowKind.EVENT:
        event = json.loads(values["detail"])["call"]
        number = f"{values['shard']}-{values['epoch']}-{values['seq']}"
        yield Alert(f"budget.threshold:{number}", "budget.threshold", values["at_ms"], event)
