"""Openings: what a new spend limit starts from, as it goes into the store and is told by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from limiter.domain.rows import Position
from limiter.domain.scopes import Scope
from limiter.store.port.calls import Plan

#: Before every row.
NO_ROW = Position(0, -1)

#: In place of a key's id: every key of the team that is under its key_defaults.
EVERY_KEY = "*"


@dataclass(frozen=True, slots=True)
class NewLimit:
    """A spend limit that a change of the policy or of a key brings into force, noted in the same step.

    `zone` and `models` are those of the limit when it came; `since` is the version of the policy, or the revision of
    the key, that brought it. `fresh`: its organization had no policy before, so that no hold can be open.
    """

    scope: Scope
    counter: str
    zone: str
    since: int
    models: tuple[str, ...] = ()
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class PendingOpening:
    """A note of a new limit: since when it is in force, and the newest row of its shard then.

    `position` with seq -1: the ledger had no row yet, or comes right before its first one. `order` is greater than the
    period of every counter that began before, and no greater than that of every one that began after. `raw` is the note
    as it is stored.
    """

    limit: NewLimit
    at_ms: int
    position: Position
    order: int
    raw: bytes


@dataclass(slots=True, eq=False)
class OpenCall:
    """What a counter should have been opened with by now, by all rows in the books up to `position`.

    `plan` has the counter's scope, as it is in force. `period_ms`: the counter's period that is meant; 0: only start
    it and answer its period. `total` is nano-USD.
    """

    plan: Plan
    counter: str
    period_ms: int = 0
    total: int = 0
    position: Position = NO_ROW


class OpenReply(NamedTuple):
    """What open.lua answered for one counter: its present period, and what it was opened with by now, in nano-USD."""

    now_ms: int
    code: int
    period_ms: int
    opened: int
