"""Renders heartbeat documents and queue statistics as Prometheus (or OpenMetrics) text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from daemon import __version__
from daemon.metrics import DURATION_BOUNDS, WAIT_BOUNDS

#: The states of ``arqd_queue_jobs``, each an attribute of `QueueFigures`.
STATES = ("waiting", "active", "delayed", "blocked", "completed", "failed", "aborted", "expired")


class QueueFigures(Protocol):
    """What the metrics take from a queue's statistics."""

    @property
    def waiting(self) -> int: ...
    @property
    def active(self) -> int: ...
    @property
    def delayed(self) -> int: ...
    @property
    def blocked(self) -> int: ...
    @property
    def completed(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def aborted(self) -> int: ...
    @property
    def expired(self) -> int: ...
    @property
    def oldest_age_seconds(self) -> float | None: ...
    @property
    def bytes(self) -> int | None: ...
    @property
    def max_bytes(self) -> int | None: ...


def render(
    workers: Sequence[Mapping[str, Any]], queues: Mapping[str, QueueFigures] | None, accept: str = ""
) -> tuple[bytes, str]:
    """Render the metrics.

    Args:
        workers: documents of the living workers' heartbeats; counts of several are added up.
        queues: statistics by family; None when Redis cannot be asked, and then no queue metric is given.
        accept: the request's Accept header, which chooses the format.

    Returns:
        The text and its content type.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_Collector(workers, queues)), content_type


class _Collector:
    def __init__(self, workers: Sequence[Mapping[str, Any]], queues: Mapping[str, QueueFigures] | None) -> None:
        self._workers = workers
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        """Give every metric family; prometheus_client calls this."""
        yield InfoMetricFamily("arqd_build", "Version of arqd.", {"version": __version__})
        up = self._queues is not None and all(worker["redis_up"] for worker in self._workers)
        yield GaugeMetricFamily("arqd_redis_up", "1 when the probe and every worker beside it reach Redis.", int(up))
        if self._queues is not None:
            yield from _queue_metrics(self._queues)
        if self._workers:
            yield GaugeMetricFamily(
                "arqd_worker_event_loop_lag_seconds",
                "How late the worker's event loop woke up, the worst of the last 15 s.",
                max(worker["loop_lag_seconds"] for worker in self._workers),
            )
            yield from _slot_metrics(self._workers)
            yield from _job_metrics(self._workers)


def _queue_metrics(queues: Mapping[str, QueueFigures]) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("arqd_queue_jobs", "Jobs of a queue by state.", labels=["family", "state"])
    oldest = GaugeMetricFamily(
        "arqd_queue_oldest_ready_age_seconds",
        "Age of the oldest job that can run now, 0 without one.",
        labels=["family"],
    )
    taken = GaugeMetricFamily("arqd_queue_bytes", "Bytes a queue with a budget takes in Redis.", labels=["family"])
    budget = GaugeMetricFamily("arqd_queue_max_bytes", "Budget of bytes of a queue.", labels=["family"])
    for family, figures in queues.items():
        if figures.max_bytes is not None:
            taken.add_metric([family], figures.bytes or 0)
            budget.add_metric([family], figures.max_bytes)
        for state in STATES:
            jobs.add_metric([family, state], getattr(figures, state))
        oldest.add_metric([family], figures.oldest_age_seconds or 0)
    yield from (jobs, oldest)
    if taken.samples:
        yield from (taken, budget)


def _slot_metrics(workers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    slots = GaugeMetricFamily("arqd_worker_slots", "Jobs the worker can run at once.", labels=["family"])
    in_use = GaugeMetricFamily("arqd_worker_slots_in_use", "Jobs the worker runs now.", labels=["family"])
    for family, facts in _by_family(workers).items():
        slots.add_metric([family], sum(fact["slots"] for fact in facts))
        in_use.add_metric([family], sum(fact["running"] for fact in facts))
    yield from (slots, in_use)


def _job_metrics(workers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    labels = ["family", "function"]
    total = CounterMetricFamily("arqd_jobs", "Tries that ended, by outcome.", labels=[*labels, "outcome"])
    duration = HistogramMetricFamily("arqd_job_duration_seconds", "Run time of a try.", labels=labels)
    wait = HistogramMetricFamily(
        "arqd_job_wait_seconds", "Time from when a job could run until a try of it started.", labels=labels
    )
    for family, facts in _by_family(workers).items():
        functions = [fact["metrics"]["functions"] for fact in facts]
        for function in sorted({name for named in functions for name in named}):
            series = [named[function] for named in functions if function in named]
            for outcome in series[0]["outcomes"]:
                total.add_metric([family, function, outcome], sum(one["outcomes"][outcome] for one in series))
            duration.add_metric([family, function], *_histogram(DURATION_BOUNDS, [one["duration"] for one in series]))
            wait.add_metric([family, function], *_histogram(WAIT_BOUNDS, [one["wait"] for one in series]))
    yield from (total, duration, wait)


def _histogram(bounds: Sequence[float], parts: Sequence[Mapping[str, Any]]) -> tuple[list[tuple[str, float]], float]:
    """Add up histograms; give cumulative buckets by upper bound, and the sum."""
    counts = [sum(column) for column in zip(*(part["counts"] for part in parts), strict=True)]
    names = [*(str(float(bound)) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True)), sum(part["sum"] for part in parts)


def _by_family(workers: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for worker in workers:
        for family, facts in worker["families"].items():
            found.setdefault(family, []).append(facts)
    return found
