"""Says how far a long reading of the books has come."""

from __future__ import annotations

from collections.abc import Callable

#: Hears what is done, and how many of how many rows were read.
Progress = Callable[[str, int, int], object]

#: Hears of rows that were read.
Advance = Callable[[int], object]


def advancing(progress: Progress | None, stage: str, total: int) -> Advance | None:
    """Tell `progress` of a stage of so many rows."""
    if progress is None:
        return None
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(stage, done, total)

    return advance
