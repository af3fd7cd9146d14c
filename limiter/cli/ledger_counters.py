"""The store's counters, asked of a sidecar, to be held against the books."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from limiter.cli.failures import CommandFailed, ExitCode
from limiter.cli.sidecar import Place, Sidecar
from limiter.client.contract import messages as pb
from limiter.domain.rows import Position
from limiter.ledger.database import Database
from limiter.ledger.verifying.counters import Counted, CounterKey, scopes_by_organization

#: Scopes per question.
_AT_ONCE: Final = 1_000


def read_counters(admin: Place, books: Database) -> list[Counted] | None:
    """The counters of every scope that the books know, and of every organization that the store knows.

    None: the data directory has no sidecar. Raises CommandFailed, and that too if no sidecar answers where one was
    named.
    """
    scopes = defaultdict(set, scopes_by_organization(books))
    with admin.open() as sidecar:
        try:
            policy = sidecar.ask(sidecar.admin.GetPolicy, pb.GetPolicyRequest())
        except CommandFailed as error:
            if admin.data_dir is not None and error.exit_code == ExitCode.UNREACHABLE:
                return None
            raise
        for organization in {*policy.versions, *scopes}:
            scopes[organization].add(organization)
        return [each for organization, found in sorted(scopes.items()) for each in _ask(sidecar, sorted(found))]


def _ask(sidecar: Sidecar, scopes: Sequence[str]) -> Iterator[Counted]:
    for at in range(0, len(scopes), _AT_ONCE):
        request = pb.ReadCountersRequest(scopes=scopes[at : at + _AT_ONCE])
        answer = sidecar.ask(sidecar.admin.ReadCounters, request)
        yield Counted(
            organization=scopes[0].partition("/")[0],
            shard=answer.shard,
            last=Position(answer.epoch, answer.seq) if answer.epoch else None,
            settled={
                CounterKey(counter.scope, counter.counter, counter.period_ms): counter.settled_nanousd
                for counter in answer.counters
            },
        )
