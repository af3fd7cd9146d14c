"""One replay from its first snapshot of the books to the judgement, with a progress bar meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from limiter.cli.failures import OF_STATUS, CommandFailed, ExitCode
from limiter.cli.replay_admin import BookReader, window_starts
from limiter.cli.replay_books import Books, LedgerSums
from limiter.cli.replay_driver import Driver, Score
from limiter.cli.replay_tally import Tally
from limiter.cli.replay_trace import TracedCall
from limiter.cli.replay_verdict import Outcome, judge
from limiter.cli.sidecar import Place, socket_of
from limiter.client.connection import CHANNEL_OPTIONS, Connection
from limiter.client.contract import AdminStub
from limiter.client.contract import messages as pb
from limiter.client.wires import AsyncWire
from limiter.domain.scopes import Scope
from limiter.policy.document import Policy, parse_policy

_REFRESH_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Target:
    """A sidecar: where calls go (a trusted listener), and where its books are read."""

    caller: Place
    admin: Place

    @classmethod
    def of(cls, data_dir: Path) -> Target:
        """The sidecar that serves a data directory."""
        return cls(socket_of(data_dir, "limiter"), socket_of(data_dir, "admin"))

    def policy(self) -> Policy:
        """Ask for the policy in force; raises CommandFailed if the sidecar cannot be reached."""
        with self.admin.open() as opened:
            answer: pb.GetPolicyResponse = opened.ask(opened.admin.GetPolicy, pb.GetPolicyRequest())
        return parse_policy(answer.policy_yaml)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[AsyncWire, Any]]:
        """Open the wire for the calls, and a stub of the Admin service."""
        wire = AsyncWire(Connection.resolve(self.caller.address, self.caller.token, self.caller.tls))
        options = [*CHANNEL_OPTIONS, ("grpc.max_receive_message_length", -1)]
        async with grpc.aio.insecure_channel(self.admin.address, options) as channel:
            stub: Any = AdminStub(channel)
            try:
                yield wire, stub
            finally:
                await wire.close()


def run(target: Target, policy: Policy, calls: Sequence[TracedCall], score: Score, *, name: str) -> Outcome:
    """Play the calls, with a progress bar on standard error, and judge what came of them.

    Raises LimiterError or CommandFailed if the sidecar cannot be asked.
    """
    try:
        return asyncio.run(_run(target, policy, calls, score, name=name))
    except grpc.RpcError as error:
        status = error.code().name
        raise CommandFailed(
            f"Admin answered {status}: {error.details()}", OF_STATUS.get(status, ExitCode.FAILED)
        ) from None


async def _run(target: Target, policy: Policy, calls: Sequence[TracedCall], score: Score, *, name: str) -> Outcome:
    tally = Tally()
    window_start = window_starts(policy)
    organizations = {Scope.parse_key(key).organization for key in score.keys}
    async with target.opened() as (wire, admin):
        reader = BookReader(admin, organizations, window_start, token=target.admin.token)
        before = await reader.snapshot()
        sums = LedgerSums(before.positions, score.request_prefix)
        driver = Driver(wire, score, tally)
        async with reader.following(sums):
            with _shown(tally, len(calls)), _interruptible(driver):
                seconds = await driver.play(calls)
        after = await reader.snapshot()
    undecided = tally.undecided.total()
    books = Books(before, after, sums, tally.costs, tally.charges, undecided, window_start)
    return Outcome(name, len(calls), score, seconds, tally, books, judge(tally, books))


@contextmanager
def _interruptible(driver: Driver) -> Iterator[None]:
    """Let the first Ctrl-C end the replay in order: calls under way are settled, and the books are checked."""
    loop = asyncio.get_running_loop()

    def end_early() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        driver.end_early()

    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
        loop.add_signal_handler(signal.SIGINT, end_early)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


@contextmanager
def _shown(tally: Tally, calls: int) -> Iterator[None]:
    """Show how far the replay has come, on standard error where that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("replay", total=calls, state="")
        showing = asyncio.get_running_loop().create_task(_show(progress, task, tally))
        try:
            yield
        finally:
            showing.cancel()


async def _show(progress: Progress, task: TaskID, tally: Tally) -> None:
    began_s = asyncio.get_running_loop().time()
    while True:
        passed_s = asyncio.get_running_loop().time() - began_s
        rate = tally.done / passed_s if passed_s else 0.0
        state = f"{rate:,.0f}/s, {tally.granted} granted, {tally.denied.total()} refused"
        progress.update(task, completed=tally.done, state=state)
        await asyncio.sleep(_REFRESH_S)
