"""Metrics: bounded, begun at zero, and right with several workers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, values
from prometheus_client.parser import text_string_to_metric_families

from limiter.domain.verdicts import DenialReason
from limiter.observability.metrics import CHILDREN_MAX, SECONDS, Family, Metrics, forget_worker, share_among_workers

ROOT = Path(__file__).parents[2]

#: A worker: counts, says so, and lives until its input ends.
WORKER = """
import sys
from limiter.observability.metrics import Metrics
metrics = Metrics()
for _ in range(int(sys.argv[1])):
    metrics.decisions["GRANTED", "NONE"].inc()
    metrics.call_seconds["Reserve", "OK"].observe(0.0003)
metrics.holds_open.set(int(sys.argv[2]))
print("counted", flush=True)
sys.stdin.read()
"""


def samples(metrics: Metrics) -> dict[str, float]:
    """Every sample by its text without the value."""
    text = metrics.render()[0].decode()
    return {
        f"{sample.name}{{{','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_reason_has_a_series_that_begins_at_zero() -> None:
    counted = samples(Metrics())
    for reason in DenialReason:
        assert counted[f"limiter_decisions_total{{decision=DENIED,reason={reason.name}}}"] == 0
    assert counted["limiter_decisions_total{decision=GRANTED,reason=NONE}"] == 0
    assert counted["limiter_settled_total{basis=USAGE}"] == 0
    assert counted["limiter_expired_total{on_expiry=CHARGE}"] == 0
    assert counted["limiter_late_total{}"] == 0


def test_what_is_observed_is_rendered() -> None:
    metrics = Metrics()
    metrics.decisions["DENIED", "SPEND_CEILING"].inc()
    metrics.call_seconds["Reserve", "OK"].observe(0.00006)
    metrics.store_batch_size["reserve"].observe(3)
    metrics.overage_nanousd.inc(1_500_000_000)
    metrics.holds_open.set(7)
    counted = samples(metrics)
    assert counted["limiter_decisions_total{decision=DENIED,reason=SPEND_CEILING}"] == 1
    assert counted["limiter_call_seconds_bucket{code=OK,le=5e-05,method=Reserve}"] == 0
    assert counted["limiter_call_seconds_bucket{code=OK,le=0.0001,method=Reserve}"] == 1
    assert counted["limiter_store_batch_size_sum{script=reserve}"] == 3
    assert counted["limiter_overage_nanousd_total{}"] == 1_500_000_000
    assert counted["limiter_holds_open{}"] == 7


@pytest.mark.parametrize("value", [-1.0, 0.0, 50e-6, 51e-6, 10.0, 10.1, float("inf")])
def test_a_value_is_counted_where_the_library_counts_it(value: float) -> None:
    registry, metrics = CollectorRegistry(), Metrics()
    Histogram("limiter_call_seconds", "", ("method", "code"), registry=registry, buckets=SECONDS).labels(
        "Reserve", "OK"
    ).observe(value)
    metrics.call_seconds["Reserve", "OK"].observe(value)
    counted = samples(metrics)
    for sample in next(iter(registry.collect())).samples:
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        assert counted[f"{sample.name}{{{labels}}}"] == sample.value


def test_the_process_itself_is_measured_too() -> None:
    assert "python_info{" in "".join(samples(Metrics()))


def test_no_label_can_grow_without_bound() -> None:
    family = Family(Counter("c", "", ["a", "b"], registry=(registry := CollectorRegistry())))
    for number in range(CHILDREN_MAX + 50):
        family[str(number), "x"].inc()
    assert len(family) == CHILDREN_MAX
    assert registry.get_sample_value("c_total", {"a": "7", "b": "x"}) == 1
    assert registry.get_sample_value("c_total", {"a": "other", "b": "other"}) == 50


def test_no_metric_is_labelled_by_who_calls() -> None:
    text = Metrics().render()[0].decode()
    labels = set(re.findall(r'(\w+)="', text))
    assert not labels & {
        "key",
        "api_key",
        "request_id",
        "organization",
        "org",
        "team",
        "customer",
        "model",
        "reservation",
    }


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
        ("text/plain; version=garbage", "text/plain; version=0.0.4"),
        ("*/*;q=\xff,,;=;", "text/plain; version=0.0.4"),
    ],
)
def test_the_format_is_what_the_client_accepts(accept: str, content_type: str) -> None:
    assert Metrics().render(accept)[1].startswith(content_type)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory through which workers count together."""
    directory = tmp_path / "metrics"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # so that it is restored
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    directory.mkdir()
    (directory / "counter_1.db").write_bytes(b"of an earlier run")
    share_among_workers(directory)
    yield directory
    values.close_all_multiprocess_files()  # type: ignore[no-untyped-call] # it has no types


def worker(count: int, holds: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORKER, str(count), str(holds)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "counted\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_workers_count_together_and_the_dead_leave_their_counts(shared: Path) -> None:
    metrics = Metrics()
    metrics.decisions["GRANTED", "NONE"].inc(100)
    granted = "limiter_decisions_total{decision=GRANTED,reason=NONE}"
    calls = "limiter_call_seconds_count{code=OK,method=Reserve}"
    first, second = worker(1, 10), worker(2, 20)
    counted = samples(metrics)
    assert (counted[granted], counted[calls]) == (103, 3)
    assert counted["limiter_holds_open{}"] == 20  # the latest
    end(second)
    forget_worker(second.pid)
    counted = samples(metrics)
    assert (counted[granted], counted[calls]) == (103, 3)
    assert counted["limiter_holds_open{}"] == 10  # of the living
    third = worker(4, 30)
    for ended in (first, third):
        end(ended)
        forget_worker(ended.pid)
    counted = samples(metrics)
    assert (counted[granted], counted[calls]) == (107, 7)
    assert counted["limiter_call_seconds_bucket{code=OK,le=0.0005,method=Reserve}"] == 7
    left = {path.stem.rpartition("_")[2] for path in shared.glob("*.db")}
    assert left == {"0", str(os.getpid())}


def test_without_workers_there_is_nothing_to_forget() -> None:
    forget_worker(os.getpid())
