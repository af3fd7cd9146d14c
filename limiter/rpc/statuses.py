"""Which gRPC status an error becomes, and what of it the caller is told."""

from __future__ import annotations

from typing import Final, NoReturn

import grpc
import structlog

from limiter.domain import errors

STATUSES: Final[dict[type[errors.LimiterError], grpc.StatusCode]] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
}

#: All that a caller learns of an error that nobody foresaw; the log has the rest.
INTERNAL_MESSAGE: Final = "internal error; the server's log has the details"

_log = structlog.get_logger(__name__)


def status_of(error: errors.LimiterError) -> grpc.StatusCode:
    """Return the status of an error; a subclass has the status of its nearest mapped ancestor."""
    for kind in type(error).__mro__:
        if kind in STATUSES:
            return STATUSES[kind]
    return grpc.StatusCode.INTERNAL


async def answer_error(context: grpc.aio.ServicerContext, method: str, error: BaseException) -> NoReturn:
    """End the call with the error's status.

    The message of a LimiterError is written for the caller and sent; any other error is logged with its traceback and
    answered by INTERNAL_MESSAGE. Raises what `context.abort` raises.
    """
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, errors.LimiterError):
        await context.abort(status_of(error), str(error))
    _log.error("call_failed", method=method, exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, INTERNAL_MESSAGE)
    raise error  # unreachable: abort raises
