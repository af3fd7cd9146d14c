"""How a command ends: its exit code, and what it says on the way out."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Final

import typer

from limiter.domain import errors


class ExitCode(IntEnum):
    """What a script learns of a command's end."""

    OK = 0
    FAILED = 1
    USAGE = 2
    DENIED = 3
    UNREACHABLE = 4
    NOT_FOUND = 5
    CONFLICT = 6
    NOT_ALLOWED = 7
    INTERRUPTED = 130
    BROKEN_PIPE = 141


MEANINGS: Final = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "a negative answer (`check` or `ledger verify` found mistakes), or an error that nobody foresaw",
    ExitCode.USAGE: "an option, argument, setting or file is not valid; nothing was changed",
    ExitCode.DENIED: "the limiter decided: no (`reserve` was refused)",
    ExitCode.UNREACHABLE: "the sidecar or its store cannot be reached, or has too much to do; try again",
    ExitCode.NOT_FOUND: "there is no such key, scope, policy or reservation",
    ExitCode.CONFLICT: "it exists already, or its state forbids this",
    ExitCode.NOT_ALLOWED: "the listener wants a token or a certificate, or does not let callers do this",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
    ExitCode.BROKEN_PIPE: "whoever read the output has gone",
}

#: The exit code by the name of the gRPC status; any other status is FAILED.
OF_STATUS: Final = {
    "INVALID_ARGUMENT": ExitCode.USAGE,
    "UNAUTHENTICATED": ExitCode.NOT_ALLOWED,
    "PERMISSION_DENIED": ExitCode.NOT_ALLOWED,
    "NOT_FOUND": ExitCode.NOT_FOUND,
    "ALREADY_EXISTS": ExitCode.CONFLICT,
    "FAILED_PRECONDITION": ExitCode.CONFLICT,
    "RESOURCE_EXHAUSTED": ExitCode.UNREACHABLE,
    "UNAVAILABLE": ExitCode.UNREACHABLE,
    "DEADLINE_EXCEEDED": ExitCode.UNREACHABLE,
}

_OF_ERROR: Final = {
    errors.InvalidArgument: ExitCode.USAGE,
    errors.Unauthenticated: ExitCode.NOT_ALLOWED,
    errors.PermissionDenied: ExitCode.NOT_ALLOWED,
    errors.NotFound: ExitCode.NOT_FOUND,
    errors.AlreadyExists: ExitCode.CONFLICT,
    errors.FailedPrecondition: ExitCode.CONFLICT,
    errors.Overloaded: ExitCode.UNREACHABLE,
    errors.Unavailable: ExitCode.UNREACHABLE,
    errors.DeadlineExceeded: ExitCode.UNREACHABLE,
}


#: What writing to a full disk ends with.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class CommandFailed(Exception):
    """A command that could not do what it was asked; `str(error)` says why, and what to do."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def say(message: str) -> None:
    """Tell people something without touching what scripts read."""
    typer.echo(message, err=True)


@contextmanager
def ending() -> Iterator[None]:
    """Turn what ends a command early into a sentence and an exit code."""
    try:
        yield
        sys.stdout.flush()  # a reader that has gone is noticed here, not when Python ends
    except CommandFailed as error:
        raise _ended(str(error), error.exit_code) from None
    except errors.LimiterError as error:
        kind = next((kind for kind in type(error).__mro__ if kind in _OF_ERROR), None)
        raise _ended(str(error), ExitCode.FAILED if kind is None else _OF_ERROR[kind]) from None
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered goes nowhere
        raise typer.Exit(ExitCode.BROKEN_PIPE) from None
    except OSError as error:
        if error.errno not in _FULL:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise _ended(f"not all of it could be written: {error.strerror}", ExitCode.FAILED) from None


def _ended(message: str, code: ExitCode) -> typer.Exit:
    say(f"limiter: {message}")
    return typer.Exit(code)
