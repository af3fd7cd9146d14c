"""What the scripts answer to one call."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from limiter.domain.reservations import Basis, RowFlag, State


class Code(IntEnum):
    """What a script did with one item. The numbers are those of the scripts."""

    GRANTED = 0
    DENIED = 1
    EXISTS = 2
    ENDED = 3
    STALE_VERSION = 4
    STALE_KEY = 5
    STALE_WINDOW = 6
    CLOCK_BEHIND = 7
    BACKLOG = 8
    NO_COUNTER = 9


class Why(IntEnum):
    """Why a status is told. The numbers are those of the scripts."""

    INFORMS = 0
    REFUSES = 1
    SHADOWS = 2
    WARNS = 3


class RawStatus(NamedTuple):
    """A counter as the script told it: positions in the plan, the reason, and its five numbers.

    SPEND: window end, settled USD, settled nano, held USD, held nano. REQUESTS, TOKENS: last tick, level
    (in 1/ticks), amount, burst, ticks per period. CONCURRENCY: open holds, then zeros.
    """

    scope: int
    limit: int
    why: int
    a: int
    b: int
    c: int
    d: int
    e: int


class HoldReply(NamedTuple):
    """What reserve.lua answered for one hold. `state` is the reason where `code` is DENIED."""

    now_ms: int
    code: int
    state: int
    repeated: bool
    due_waiting: bool
    expires_ms: int
    held: int
    output_max: int
    statuses: list[RawStatus]


class EndReply(NamedTuple):
    """What a script that ends holds answered for one of them.

    `found` False: no such record, or (`other`) one of another hold of the same name.
    """

    now_ms: int
    found: bool
    state: State
    basis: Basis | None
    repeated: bool
    flags: RowFlag
    held: int
    cost: int
    other: bool = False


class ExtendReply(NamedTuple):
    """What extend.lua answered."""

    now_ms: int
    found: bool
    state: State
    repeated: bool
    expires_ms: int


class ChargeReply(NamedTuple):
    """What charge.lua answered."""

    now_ms: int
    code: int
    state: int
    repeated: bool
    flags: RowFlag
    cost: int


class InspectReply(NamedTuple):
    """What inspect.lua answered for one plan.

    `overages`: for each of `statuses` what was charged in its present window above what it held; 0 if it is no SPEND.
    """

    now_ms: int
    code: int
    statuses: list[RawStatus]
    overages: list[int]
