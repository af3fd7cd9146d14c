"""What is measured: callers against a sidecar, and the two things that it is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench import calls, raw
from bench.empty import empty_server
from bench.load import Callers, Generator, Load, Run
from bench.machine import Cores, cpu_s, work_s
from bench.sidecar import Sidecar, sidecar

RESERVE = "/limiter.v1.Limiter/Reserve"
SETTLE = "/limiter.v1.Limiter/Settle"

MANY = Callers(8, 8)
ONE = Callers(1, 1)

_GRANTED = 1
_SETTLED = 2
#: Calls in one batch of the raw script: the most that a sidecar sends together.
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Scenario:
    """Callers who Reserve, and Settle each grant if `settle`.

    `many`: they belong to many organizations, not one. `unique`: they name their calls.
    """

    name: str
    callers: Callers
    many: bool = False
    unique: bool = True
    settle: bool = False


#: What is said of scenarios with many organizations.
MANY_ORGANIZATIONS = ", many organizations"

SCENARIOS = (
    Scenario("reserve, 64 callers", MANY),
    Scenario("reserve, 64 callers, no request ids", MANY, unique=False),
    Scenario("reserve, 1 caller", ONE),
    Scenario("reserve + settle, 64 callers", MANY, settle=True),
    Scenario("reserve, 64 callers" + MANY_ORGANIZATIONS, MANY, many=True),
    Scenario("reserve, 1 caller" + MANY_ORGANIZATIONS, ONE, many=True),
    Scenario("reserve + settle, 64 callers" + MANY_ORGANIZATIONS, MANY, many=True, settle=True),
)


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to measure: seconds of a run; batches, and single calls, of the raw script; and how many are many."""

    seconds: float
    warm_up_s: float
    batches: int
    singles: int
    organizations: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run. A decision is an answer to Reserve that granted; anything else is in `refused` and `failed`.

    `sidecar_s`, `store_s` and `load_s` are CPU seconds per 1,000 decisions; `script_us` is what the store's
    commandstats say of the scripts, per call in them; `batch` is the mean of calls in a script call.
    `load_busy` and `load_starved` are the shares of the time in which the generator worked, and in which
    it was ready but had no core; `strangers` is the share of one core that went to nobody of ours.
    """

    name: str
    per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    settle_p50_ms: float | None
    refused: int
    failed: int
    sidecar_s: float | None
    store_s: float | None
    script_us: float | None
    batch: float | None
    load_s: float
    load_busy: float
    load_starved: float
    strangers: float


class Bench:
    """Runs rounds; each starts its servers anew, so that open holds of one do not burden the next."""

    def __init__(self, directory: Path, on: Cores, pace: Pace) -> None:
        self._on = on
        self._pace = pace
        self._generator = Generator(directory, on.rest)
        self._runs = 0

    def round(self, wanted: str = "") -> Iterator[Measurement]:
        """Measure every scenario whose name contains `wanted`, and what they are compared with."""
        yield from self._empty()
        for many in (False, True):
            chosen = [one for one in SCENARIOS if one.many == many and wanted in one.name]
            if not chosen:
                continue
            organizations = self._pace.organizations if many else 1
            # On a store of their own: what they settle would be moved into the books while callers are measured.
            with sidecar(organizations, self._on) as running:
                yield from self._raw(running, many=many)
            with sidecar(organizations, self._on) as running:
                for scenario in chosen:
                    yield self._callers(running, scenario)

    def _empty(self) -> Iterator[Measurement]:
        """An empty unary call: the most that this engine can answer."""
        with empty_server(self._on) as (pid, port):
            load = Load(RESERVE, calls.reserve_bodies(["lk-of-nobody"]), unique="empty-")
            for name, callers in (("empty call, 64 callers", MANY), ("empty call, 1 caller", ONE)):
                self._generator.run(port, callers, load, seconds=self._pace.warm_up_s)
                before_s, work_before_s = cpu_s(pid), work_s(self._on)
                run = self._generator.run(port, callers, load, seconds=self._pace.seconds)
                ours_s = cpu_s(pid) - before_s
                strangers_s = work_s(self._on) - work_before_s - ours_s - run.cpu_s
                yield _measurement(name, run, sidecar_s=ours_s, strangers_s=strangers_s)

    def _raw(self, running: Sidecar, *, many: bool) -> Iterator[Measurement]:
        """The scripts without gRPC: the most that this store can decide."""
        for batch, batches in ((_BATCH, self._pace.batches), (1, self._pace.singles)):
            measured = raw.measure(
                running.store_socket,
                organizations=len(running.secrets),
                batch=batch,
                batches=batches,
                core=self._on.sidecar,
            )
            for verb, told in (("reserve", measured.reserve), ("settle", measured.settle)):
                name = f"{verb} script, batches of {batch}"
                yield _raw_measurement(name + MANY_ORGANIZATIONS if many else name, told, batch)

    def _callers(self, running: Sidecar, scenario: Scenario) -> Measurement:
        bodies = calls.reserve_bodies(running.secrets)
        then = SETTLE if scenario.settle else ""
        load = Load(RESERVE, bodies, unique=self._unique(scenario), then=then, tail=calls.settle_tail())
        warm = replace(load, unique=self._unique(scenario))
        self._generator.run(running.port, MANY, warm, seconds=self._pace.warm_up_s)
        with running.store() as store:
            store.config_resetstat()
            before, work_before_s = running.read(), work_s(self._on)
            run = self._generator.run(running.port, scenario.callers, load, seconds=self._pace.seconds)
            after, work_after_s = running.read(), work_s(self._on)
            script_us = raw.scripts_us(store)
        batches, held = _difference(after.batches, before.batches, "reserve")
        settle_batches, ended = _difference(after.batches, before.batches, "settle")
        sidecar_s, store_s = after.sidecar_s - before.sidecar_s, after.store_s - before.store_s
        return _measurement(
            scenario.name,
            run,
            sidecar_s=sidecar_s,
            store_s=store_s,
            script_us=script_us / max(1.0, held + ended),
            batch=(held + ended) / max(1.0, batches + settle_batches),
            strangers_s=work_after_s - work_before_s - sidecar_s - store_s - run.cpu_s,
        )

    def _unique(self, scenario: Scenario) -> str:
        self._runs += 1
        return f"run-{self._runs}-" if scenario.unique else ""


def _difference(
    after: dict[str, tuple[float, float]], before: dict[str, tuple[float, float]], script: str
) -> tuple[float, float]:
    (batches, count), (batches_before, count_before) = after.get(script, (0, 0)), before.get(script, (0, 0))
    return batches - batches_before, count - count_before


def _measurement(
    name: str,
    run: Run,
    *,
    sidecar_s: float,
    strangers_s: float,
    store_s: float | None = None,
    script_us: float | None = None,
    batch: float | None = None,
) -> Measurement:
    reserve, settle = run.methods[0], run.methods[1] if len(run.methods) > 1 else None
    granted = reserve.kinds[_GRANTED]
    refused = sum(reserve.kinds) - granted
    if settle is not None:
        refused += sum(settle.kinds) - settle.kinds[_SETTLED]
    per_1000 = 1000 / max(1, granted)
    return Measurement(
        name=name,
        per_s=granted / run.seconds,
        p50_ms=reserve.p50_ms,
        p90_ms=reserve.p90_ms,
        p99_ms=reserve.p99_ms,
        settle_p50_ms=None if settle is None else settle.p50_ms,
        refused=refused,
        failed=sum(method.failed for method in run.methods),
        sidecar_s=sidecar_s * per_1000,
        store_s=None if store_s is None else store_s * per_1000,
        script_us=script_us,
        batch=batch,
        load_s=run.cpu_s * per_1000,
        load_busy=run.cpu_s / run.seconds,
        load_starved=run.starved_s / run.seconds,
        strangers=max(0.0, strangers_s) / run.seconds,
    )


def _raw_measurement(name: str, verb: raw.Verb, batch: int) -> Measurement:
    return Measurement(
        name=name,
        per_s=verb.per_s,
        p50_ms=verb.p50_ms,
        p90_ms=verb.p90_ms,
        p99_ms=verb.p99_ms,
        settle_p50_ms=None,
        refused=0,
        failed=0,
        sidecar_s=None,
        store_s=verb.store_s,
        script_us=verb.script_us,
        batch=batch,
        load_s=verb.client_s,
        load_busy=verb.client_busy,
        load_starved=0.0,
        strangers=0.0,
    )
