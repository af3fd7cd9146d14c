"""Whether the days are what heads that were exported earlier say."""

from __future__ import annotations

from collections.abc import Sequence

from limiter.domain.errors import InvalidArgument
from limiter.ledger.verifying.findings import Findings, position_name
from limiter.ledger.verifying.heads import Head, ShardHead, hash_of


def check_heads(exported: Sequence[Head], present: Sequence[Head], findings: Findings, *, books: str) -> None:
    """Compare exported heads with those of the rows as they are. Raises InvalidArgument for heads of other books."""
    by_day = {head.day: head for head in present}
    for head in sorted(exported, key=lambda head: head.day):
        if head.books != books:
            raise InvalidArgument(
                "--heads", head.books, f"these are heads of other books; those here have the id {books}"
            )
        if not head.final:
            findings.notes.append(f"{head.day} was not final when its head was exported: not compared")
            continue
        findings.look("head", 1)
        if hash_of(head.content) != head.hash:
            findings.fault("head", f"exported line of {head.day}", f"hash {hash_of(head.content)}", f"hash {head.hash}")
            continue
        now = by_day.get(head.day)
        if now is None:
            findings.fault("head", head.day, _told(head), "no row of that day")
        elif now.hash == head.hash:
            continue
        elif (now.rows, now.shards, now.rows_hash) != (head.rows, head.shards, head.rows_hash):
            findings.fault("head", head.day, _told(head, beside=now), _told(now, beside=head))
        elif not findings.counts["head"]:  # a day that was told already explains all that follow on it
            findings.fault("head", f"a day before {head.day}", f"hash {head.before}", f"hash {now.before or 'none'}")


def _told(head: Head, *, beside: Head | None = None) -> str:
    """What a head says, of its shards those that differ."""
    others = set(beside.shards) if beside is not None else set()
    differ = [_shard(shard) for shard in head.shards if shard not in others]
    return f"{head.rows} rows{''.join(differ)}, hash of the rows {head.rows_hash}"


def _shard(shard: ShardHead) -> str:
    return f", shard {shard.shard}: {shard.rows} to {position_name((shard.epoch, shard.seq))}"
