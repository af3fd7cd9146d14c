"""The load generator: load.c, compiled when it is first needed."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.machine import started_on

_SOURCE = Path(__file__).with_name("load.c")
_PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class Answers:
    """What callers of one method got. `kinds` counts answers by the number in their first field."""

    kinds: tuple[int, ...]
    failed: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run. `cpu_s` is what the generator used; `starved_s` how long it was ready to run and got no core."""

    seconds: float
    cpu_s: float
    starved_s: float
    methods: tuple[Answers, ...]


@dataclass(frozen=True, slots=True)
class Callers:
    """So many callers, spread evenly over connections."""

    connections: int
    streams: int

    @property
    def count(self) -> int:
        """How many calls are open at any moment."""
        return self.connections * self.streams


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: `path` with the bodies in turn; then, for grants, `then` with the reservation and `tail`.

    `unique` begins the request id of every call; empty: the calls have none.
    """

    path: str
    bodies: Sequence[bytes]
    unique: str = ""
    then: str = ""
    tail: bytes = b""


def compiled(source: Path, directory: Path) -> Path:
    """Compile a C program into `directory`; exits where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        sys.exit("the benchmark's load generator is a C program: install a compiler (cc)")
    program = directory / source.stem
    subprocess.run([compiler, "-O2", "-std=c11", "-o", program, source], check=True)
    return program


class Generator:
    """Compiles the program into `directory` and runs it on `core`."""

    def __init__(self, directory: Path, core: int) -> None:
        self._directory = directory
        self._core = core
        self._program = compiled(_SOURCE, directory)

    def run(self, port: int, callers: Callers, load: Load, *, seconds: float) -> Run:
        """Call 127.0.0.1:`port` for `seconds`; every call that was begun is answered before it ends."""
        bodies, tail = self._directory / "bodies", self._directory / "tail"
        bodies.write_bytes(b"".join(struct.pack(">I", len(body)) + body for body in load.bodies))
        tail.write_bytes(load.tail)
        arguments = ["127.0.0.1", port, callers.connections, callers.streams, seconds, bodies, load.path]
        arguments += [load.unique or "-"]
        if load.then:
            arguments += [load.then, tail]
        with started_on(self._core):
            done = subprocess.run(
                [self._program, *map(str, arguments)],
                stdout=subprocess.PIPE,
                check=True,
                timeout=seconds + _PATIENCE_S,
            )
        told = json.loads(done.stdout)
        methods = tuple(Answers(tuple(method.pop("answers")), **method) for method in told.pop("methods"))
        return Run(methods=methods, **told)
