"""Run one scenario on either face."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from limiter.client import AsyncClient, AsyncHold, Client, Hold

Held = AsyncHold | Hold


async def result(value: Any) -> Any:  # noqa: ANN401  # the type is that of either face
    """Return what a call gives, of whichever face it is."""
    return await value if inspect.isawaitable(value) else value


async def leave_block(client: AsyncClient | Client, body: Callable[[Held], object], **arguments: Any) -> None:  # noqa: ANN401  # those of reserve
    """Reserve, run `body` with the hold inside the block, and leave the block."""
    if isinstance(client, AsyncClient):
        async with client.reserve(**arguments) as hold:
            body(hold)
    else:
        with client.reserve(**arguments) as held:
            body(held)
