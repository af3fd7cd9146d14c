"""The load generator and the upstream for Envoy: http_load.c and upstream.c, compiled when they are first needed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load import compiled
from bench.machine import started_on

_PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class HttpRun:
    """One run. `good` answers were 200 with the wanted header, `lacking` ones 200 without it; all others `refused`.

    `cpu_s` is what the generator used, `starved_s` how long it was ready to run and got no core. At a fixed rate
    latencies count from the time at which a request was due; `late` is how long after that it was sent.
    """

    seconds: float
    cpu_s: float
    starved_s: float
    good: int
    refused: int
    lacking: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    late_p50_ms: float
    late_p99_ms: float


class HttpGenerator:
    """Compiles the program into `directory` and runs it on `core`; sends `request` over and over."""

    def __init__(self, directory: Path, core: int, request: bytes) -> None:
        self._core = core
        self._request = directory / "request"
        self._request.write_bytes(request)
        self._program = compiled(Path(__file__).with_name("http_load.c"), directory)

    def run(self, port: int, *, connections: int, seconds: float, rate: float = 0, wanted: str = "") -> HttpRun:
        """Send to 127.0.0.1:`port` for `seconds`; `rate` requests a second, by default as many as are answered."""
        arguments = ["127.0.0.1", port, connections, seconds, rate, self._request, wanted]
        with started_on(self._core):
            done = subprocess.run(
                [self._program, *map(str, arguments)],
                stdout=subprocess.PIPE,
                check=True,
                timeout=seconds + _PATIENCE_S,
            )
        return HttpRun(**json.loads(done.stdout))


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running upstream."""

    pid: int
    port: int


@contextmanager
def upstream(directory: Path, core: int, answer: bytes) -> Iterator[Upstream]:
    """Start a server that answers every request with `answer`."""
    file = directory / "answer"
    file.write_bytes(answer)
    program = compiled(Path(__file__).with_name("upstream.c"), directory)
    with started_on(core):
        process = subprocess.Popen(
            [program, file], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
    assert process.stdout is not None  # noqa: S101 - for the type checker: it was asked for
    try:
        yield Upstream(process.pid, int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
