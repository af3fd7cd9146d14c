"""Cores and CPU time of processes, as Linux tells them."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: Fields of a line of /proc/stat that are work: user, nice, system, steal.
_WORK = (0, 1, 2, 7)

#: In the place of a core: wherever the system puts it.
ANYWHERE = -1


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the sidecar runs, and where the store and the load do; the same on a machine with one core.

    Both may be ANYWHERE.
    """

    sidecar: int
    rest: int

    @property
    def shared(self) -> bool:
        """Whether everything runs on one core, so that rates say little."""
        return self.sidecar == self.rest != ANYWHERE


def cores() -> Cores:
    """Return the first two cores that this process may use. Exits where the system cannot pin processes."""
    if sys.platform != "linux":
        sys.exit("the benchmark pins processes to cores and reads /proc: run it on Linux")
    usable = sorted(os.sched_getaffinity(0))
    return Cores(usable[0], usable[1] if len(usable) > 1 else usable[0])


@contextmanager
def started_on(core: int) -> Iterator[None]:
    """Let processes that are started inside, with all their threads, run on `core` only."""
    if core == ANYWHERE:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(pid: int, core: int) -> None:
    """Move a running process with all its threads to `core`."""
    if core == ANYWHERE:
        return
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), {core})


def cpu_s(pid: int) -> float:
    """CPU time of a process and all its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def starved_s(pid: int) -> float:
    """How long the threads of a process were ready to run without getting a core; of those that still run."""
    waited_ns = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has just ended
            waited_ns += int((thread / "schedstat").read_text().split()[1])
    return waited_ns / 1e9


def work_s(on: Cores) -> float:
    """CPU time that anybody got on these cores so far, or that the host took from them."""
    lines = Path("/proc/stat").read_text().splitlines()
    work = 0
    for core in os.sched_getaffinity(0) if on.rest == ANYWHERE else {on.sidecar, on.rest}:
        fields = next(line for line in lines if line.startswith(f"cpu{core} ")).split()[1:]
        work += sum(int(fields[i]) for i in _WORK)
    return work / _TICKS_PER_S


def description() -> dict[str, object]:
    """What a reader of the figures must know of this machine."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
