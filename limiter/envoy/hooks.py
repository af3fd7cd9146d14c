"""What the adapter must know of its server, which this layer does not see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple


class Hooks(NamedTuple):
    """Functions of a call's context, the same on both engines.

    `on_unwritten(context, callback)` runs `callback` once if the answer is not written, as the caller is gone.
    `remaining_s(context)` is the time until the caller's deadline in seconds; None: there is none. `draining` is set
    when the server stops: a stream without an end of its own should end then.
    """

    on_unwritten: Callable[[Any, Callable[[], object]], None]
    remaining_s: Callable[[Any], float | None]
    draining: asyncio.Event
