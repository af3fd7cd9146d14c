"""Where the sidecar is, and how a command asks it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import grpc
from google.protobuf.message import Message

from limiter.cli.failures import OF_STATUS, CommandFailed, ExitCode
from limiter.client import contract as services
from limiter.client.connection import CHANNEL_OPTIONS, TLS
from limiter.domain.errors import InvalidArgument

#: What gRPC says when it got no connection; everything else came from the sidecar.
_NO_CONNECTION: Final = "failed to connect to"
_NOTHING_THERE: Final = ("No such file or directory", "Connection refused")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """An address of the sidecar, and what is shown there.

    `data_dir` is the directory whose socket it is; None if the address was given.
    """

    address: str
    data_dir: Path | None = None
    token: str | None = field(default=None, repr=False)
    tls: TLS | None = None
    timeout_s: float = 10.0

    @contextmanager
    def open(self) -> Iterator[Sidecar]:
        """Open the connection for the calls of a command."""
        options: list[tuple[str, Any]] = [*CHANNEL_OPTIONS, ("grpc.max_receive_message_length", -1)]
        if self.tls is None:
            channel = grpc.insecure_channel(self.address, options)
        else:
            if self.tls.server_name:
                options.append(("grpc.ssl_target_name_override", self.tls.server_name))
            try:
                credentials = self.tls.credentials()
            except OSError as error:
                reason = f"name a file that can be read ({error.strerror})"
                raise InvalidArgument("tls", error.filename, reason) from None
            channel = grpc.secure_channel(self.address, credentials, options)
        with channel:
            yield Sidecar(channel, self)


def socket_of(data_dir: Path, name: Literal["admin", "limiter"]) -> Place:
    """Find a socket of the sidecar that serves a data directory.

    Where the directory's path is too long for a socket, the file NAME.address there tells where it is.
    """
    path = (data_dir / f"{name}.sock").absolute()
    note = data_dir / f"{name}.address"
    if not path.exists() and note.exists():
        try:
            return Place(note.read_text(encoding="utf-8").strip(), data_dir)
        except OSError as error:
            raise InvalidArgument("data_dir", str(note), f"it cannot be read ({error.strerror})") from None
    return Place(f"unix:{path}", data_dir)


class Sidecar:
    """An open connection. `admin` and `limiter` have the methods of the two services."""

    def __init__(self, channel: grpc.Channel, place: Place) -> None:
        self.admin: Any = services.AdminStub(channel)
        self.limiter: Any = services.LimiterStub(channel)
        self._place = place
        self._metadata = (("authorization", f"Bearer {place.token}"),) if place.token else ()

    def ask(self, method: Callable[..., T], request: Message) -> T:
        """Call a method once; raises CommandFailed."""
        try:
            return method(request, timeout=self._place.timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _failure(error, self._place) from None

    def stream(self, method: Callable[..., Any], request: Message) -> Iterator[Any]:
        """Call a method that answers with many messages, for as long as they come; raises CommandFailed."""
        answers = method(request, metadata=self._metadata)
        try:
            yield from answers
        except grpc.RpcError as error:
            raise _failure(error, self._place) from None
        finally:
            answers.cancel()


def _failure(error: grpc.RpcError, place: Place) -> CommandFailed:
    status: str = error.code().name
    details: str = error.details() or f"the sidecar answered {status}"
    if status == "UNAVAILABLE" and _NO_CONNECTION in details:
        return CommandFailed(_unreachable(place, details), ExitCode.UNREACHABLE)
    if status == "UNAUTHENTICATED":
        details += "; pass --token"
    if status == "UNIMPLEMENTED":
        return CommandFailed(
            f"{place.address} does not serve this call ({details}); name a listener that does, or upgrade it",
            ExitCode.USAGE,
        )
    if status == "DEADLINE_EXCEEDED":
        details = f"no answer from {place.address} within {place.timeout_s:g} seconds ({details}); see --timeout"
    return CommandFailed(details, OF_STATUS.get(status, ExitCode.FAILED))


def _unreachable(place: Place, details: str) -> str:
    if place.data_dir is None:
        return f"no sidecar at {place.address}: is it running, and is the address right? ({details})"
    shown = _shown(place.address)
    if any(reason in details for reason in _NOTHING_THERE):
        return f"no sidecar at {shown}: start one with `limiter serve --data-dir {place.data_dir}`"
    return f"the sidecar at {shown} cannot be reached ({details})"


def _shown(address: str) -> str:
    """Write a socket's path as the operator would: relative to here, if it is below."""
    path = Path(address.removeprefix("unix:"))
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
