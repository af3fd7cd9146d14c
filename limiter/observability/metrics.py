"""Metrics: every one of them is named here, once, with a fixed and bounded set of labels.

No label is a key, a request or an organization: those belong to the ledger. A family resolves its
child once per set of label values, so that an observation in the path of a call costs well below a
microsecond (two, with several workers)::

    metrics.decisions["DENIED", "SPEND_CEILING"].inc()
    metrics.call_seconds["Reserve", "OK"].observe(0.0004)

With several worker processes, the parent calls `share_among_workers` before it makes its Metrics or
starts a worker; any of the processes can then render what all of them counted.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    mmap_dict,
    multiprocess,
    values,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder

from limiter.domain.reservations import Basis, OnExpiry
from limiter.domain.verdicts import DenialReason

# What these offer has no types.
_files: Any = mmap_dict
_processes: Any = multiprocess

M = TypeVar("M", Counter, Gauge, Histogram)

#: What the label says of a refusal that did not happen.
NO_REASON: Final = "NONE"

#: Sets of label values of one family; whatever comes beyond counts as OTHER.
CHILDREN_MAX: Final = 256
OTHER: Final = "other"

SECONDS: Final = (
    *(50e-6, 100e-6, 250e-6, 500e-6),
    *(1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 500e-3),
    *(1.0, 2.5, 5.0, 10.0),
)
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)

_SHARED_DIRECTORY: Final = "PROMETHEUS_MULTIPROC_DIR"
#: In place of the pid in the files that keep what ended workers had counted.
_ENDED: Final = 0


class Family(dict[str | tuple[str, ...], M], Generic[M]):
    """The children of one metric by their label values: the value itself if there is one label."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._metric: M = metric

    def __missing__(self, labels: str | tuple[str, ...]) -> M:
        parts = (labels,) if isinstance(labels, str) else labels
        if len(self) < CHILDREN_MAX:
            child: M = self._metric.labels(*parts)
            self[labels] = child
            return child
        other: M = self._metric.labels(*(OTHER for _ in parts))
        return other


class _Histogram(Histogram):
    """Finds the bucket of a value at once, where the library tries one after the other."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:  # noqa: ARG002 - there are none
        """Observe the given amount."""
        self._sum.inc(amount)
        self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


class Metrics:
    """What this process counts; make one per process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call] # a further series per child that nobody reads
        self._registry = CollectorRegistry()
        self.decisions = self._counters("decisions", "Answers to Reserve.", "decision", "reason")
        self.shadow_refusals = self._counters("shadow_refusals", "Calls that a shadow limit would refuse.", "reason")
        self.call_seconds = self._histograms("call_seconds", "From a call's arrival to its answer.", "method", "code")
        self.store_seconds = self._histograms("store_seconds", "One script call to the store.", "script")
        self.store_batch_size = self._histograms(
            "store_batch_size", "Calls in one script call.", "script", buckets=BATCH_SIZES
        )
        self.store_errors = self._counters("store_errors", "Errors of the store, by kind.", "kind")
        self.store_restarts = self._counter("store_restarts", "Times that the embedded store had died.")
        self.settled = self._counters("settled", "Ended holds, by what the settlement rests on.", "basis")
        self.expired = self._counters("expired", "Holds that nobody settled in time.", "on_expiry")
        self.broken_off = self._counters("broken_off", "Ended holds without a final usage, by policy.", "on_abort")
        self.overage_nanousd = self._counter("overage_nanousd", "Charged above the holds, in nano-USD.")
        self.zero_cost = self._counter("zero_cost", "Settlements told to cost nothing, of models that are not free.")
        self.suspect = self._counter("suspect", "Settlements by counts that make no sense, or units without a price.")
        self.late = self._counter("late", "Settlements after expiry.")
        self.unclaimed = self._counter("unclaimed", "Grants released because the caller was gone.")
        self.envoy_settlements = self._counters(
            "envoy_settlements", "Calls through Envoy that have ended, by way and result.", "way", "result"
        )
        self.stale_plans = self._counters("stale_plans", "Calls sent again with a newer plan, by what was old.", "what")
        self.clock_behind = self._counter("clock_behind", "Reserves stopped because the store's clock fell back.")
        self.holds_open = self._gauge("holds_open", "Open holds in the store, when last counted.")
        self.ledger_backlog_rows = self._gauge("ledger_backlog_rows", "Ledger rows that await the drain.")
        self.booked_rows = self._counter("booked_rows", "Ledger rows that this process moved into the books.")
        self.drain_errors = self._counter("drain_errors", "Rounds of the drain that failed and are tried again.")
        self.drain_lag_seconds = self._gauge(
            "drain_lag_seconds", "How long the oldest row of the last page had waited."
        )
        self.learned_kinds = self._gauge("learned_kinds", "Teams × models whose learned holds this process knows.")
        self.learned_samples = self._counter("learned_samples", "Settled calls that holds were learned from.")
        self.learned_published = self._counters("learned_published", "Learned holds published, by width.", "width")
        self.alerts = self._counters("alerts", "Alerts that this process logged.", "type")
        self.webhooks = self._counters("webhooks", "Attempts to deliver alerts, and deliveries given up.", "result")
        self._begin_at_zero()
        if _shared_directory() is None:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=self._registry)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Everything counted, by all workers if they share, and its content type for this Accept header."""
        try:
            encode, content_type = choose_encoder(accept)
        except (ValueError, TypeError):  # not a version that anybody could mean
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        registry = self._registry
        directory = _shared_directory()
        if directory is not None:
            registry = CollectorRegistry()
            _processes.MultiProcessCollector(registry, path=str(directory))
        return encode(registry), content_type

    def _begin_at_zero(self) -> None:
        """A series that begins with its first event hides that event from a rate."""
        for labels in (("GRANTED", NO_REASON), *(("DENIED", reason.name) for reason in DenialReason)):
            self.decisions[labels]
        for basis in Basis:
            self.settled[basis.name]
        for on_expiry in OnExpiry:
            self.expired[on_expiry.name]
        for result in ("delivered", "failed", "gone", "given_up"):
            self.webhooks[result]

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(f"limiter_{name}", what, registry=self._registry)

    def _counters(self, name: str, what: str, *labels: str) -> Family[Counter]:
        return Family(Counter(f"limiter_{name}", what, labels, registry=self._registry))

    def _histograms(
        self, name: str, what: str, *labels: str, buckets: tuple[float, ...] = SECONDS
    ) -> Family[Histogram]:
        return Family(_Histogram(f"limiter_{name}", what, labels, registry=self._registry, buckets=buckets))

    def _gauge(self, name: str, what: str) -> Gauge:
        # Each counts the same thing of the whole store: the latest count of a living worker is right.
        return Gauge(f"limiter_{name}", what, registry=self._registry, multiprocess_mode="livemostrecent")


def share_among_workers(directory: Path) -> None:
    """Let this process and all that inherit its environment count together, by files in `directory`.

    Removes what an earlier run left there. Call it before Metrics are made and workers are started.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for leftover in directory.glob("*.db"):
        leftover.unlink()
    os.environ[_SHARED_DIRECTORY] = str(directory)
    # prometheus_client chose at its import; this is its documented way to choose again.
    values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def forget_worker(pid: int) -> None:
    """Fold the files of an ended worker into one: its counts stay, its gauges and files go."""
    directory = _shared_directory()
    if directory is None:
        return
    for kind in ("counter", "histogram"):
        ended = directory / f"{kind}_{pid}.db"
        if not ended.exists():
            continue
        sums = _files.MmapedDict(str(directory / f"{kind}_{_ENDED}.db"))
        for key, value, _, _ in _files.MmapedDict.read_all_values_from_file(str(ended)):
            sums.write_value(key, sums.read_value(key)[0] + value, 0.0)
        sums.close()
        ended.unlink()
    _processes.mark_process_dead(pid, str(directory))


def _shared_directory() -> Path | None:
    directory = os.environ.get(_SHARED_DIRECTORY)
    return Path(directory) if directory else None
