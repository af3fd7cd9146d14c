"""Whether the texts that rows refer to are there, and are what their ids say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqlalchemy import Connection, select

from limiter.ledger.schema import texts
from limiter.ledger.texts import read_texts, text_id
from limiter.ledger.verifying.findings import Findings

_AT_ONCE: Final = 5_000
_REMEMBERED_MAX: Final = 200_000
_SHOWN_CHARACTERS: Final = 120


class References:
    """Finds ids that stand for no text, each once; remembers a bounded number of ids."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._seen: set[int] = set()

    def missing(self, ids: Iterable[object]) -> set[int]:
        """Those of the ids that no text has and that were not asked for before."""
        unknown = {number for number in ids if isinstance(number, int)} - self._seen
        if not unknown:
            return set()
        if len(self._seen) > _REMEMBERED_MAX:
            self._seen.clear()
        self._seen |= unknown
        return unknown - read_texts(self._connection, unknown).keys()


def check_texts(connection: Connection, findings: Findings) -> None:
    """Compare every text with its id."""
    found = connection.execute(select(texts.c.id, texts.c.text).execution_options(yield_per=_AT_ONCE))
    for part in found.partitions():
        for number, text in part:
            own = text_id(text) if isinstance(text, str) else None
            if own != number:
                findings.fault("text", f"text {number}", "the text of this id", f"{shown(text)}, of id {own}")
        findings.look("text", len(part))


def shown(value: object) -> str:
    """A value as a message repeats it: quoted, and not without end."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"
