"""What a servicer may ask of the call that it answers, the same on both engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc

#: pygrpc-native says "no deadline" by a huge number, grpcio by None. A century is nobody's deadline.
_NO_DEADLINE_S: Final = 100 * 365 * 86_400.0


def remaining_s(context: grpc.aio.ServicerContext) -> float | None:
    """Return the seconds until the caller's deadline, at least 0; None: it has none."""
    remaining: float | None = context.time_remaining()
    return None if remaining is None or remaining > _NO_DEADLINE_S else remaining


def on_unwritten(context: grpc.aio.ServicerContext, callback: Callable[[], object]) -> None:
    """Run `callback` once if the answer of this unary call is not written.

    It is not written if the caller cancelled, left, or let its deadline pass before; if the server was stopped; or if
    an error was answered in its place. The callback runs on the event loop after the handler has ended, and must not
    block or raise: start a task for anything long. Written means handed to the connection: whether the bytes arrived,
    nobody can know here. Only for methods that are served through :mod:`limiter.rpc.guard`.
    """

    def check(context: grpc.aio.ServicerContext) -> None:
        if context.code() not in _WRITTEN:
            callback()

    context.add_done_callback(check)


_WRITTEN: Final = (None, grpc.StatusCode.OK)
