"""Texts that stand once in the books, and their ids."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from sqlalchemy import Connection, select

from limiter.domain.errors import Unavailable
from limiter.ledger.schema import texts
from limiter.ledger.upserts import insert_new

#: Ids per statement; both servers have a bound on the parameters of one.
_AT_ONCE = 500
_REMEMBERED_MAX = 100_000

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode


@lru_cache(maxsize=16_384)
def text_id(text: str) -> int:
    """The id of a text: the first 63 bits of its BLAKE2b digest, so that it is the same in all books."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def canonical(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """Write a value as the books do: compact JSON, keys sorted."""
    return _encode(value)


class Texts:
    """Writes texts before rows refer to them; remembers which are there."""

    def __init__(self) -> None:
        self._written: set[int] = set()

    def ensure(self, connection: Connection, wanted: dict[int, str]) -> set[int]:
        """Write those texts that may not be there yet; answers which. Raises Unavailable if an id means another text.

        They are remembered by `keep`, once the transaction has been committed.
        """
        new = {number: text for number, text in wanted.items() if number not in self._written}
        if not new:
            return set()
        insert_new(connection, texts, [{"id": number, "text": text} for number, text in new.items()])
        for number, text in read_texts(connection, new).items():
            if text != new[number]:
                raise Unavailable(f"texts: id {number} stands for two texts; the books cannot take this row")
        return set(new)

    def keep(self, written: set[int]) -> None:
        """Remember texts that are there for good."""
        if len(self._written) + len(written) > _REMEMBERED_MAX:
            self._written.clear()
        self._written |= written


def read_texts(connection: Connection, ids: Collection[int]) -> dict[int, str]:
    """The texts of ids; one that is not there is left out."""
    found: dict[int, str] = {}
    for part in _parts(ids):
        found |= {
            row.id: row.text for row in connection.execute(select(texts.c.id, texts.c.text).where(texts.c.id.in_(part)))
        }
    return found


def _parts(ids: Collection[int]) -> Iterable[list[int]]:
    numbers = sorted(ids)
    return (numbers[at : at + _AT_ONCE] for at in range(0, len(numbers), _AT_ONCE))
