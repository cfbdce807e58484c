"""Renders heartbeat documents and queue statistics as Prometheus (or OpenMetrics) text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric

from daemon import __version__
from daemon.inspecting.server_info import ServerInfo
from daemon.metrics import DURATION_BOUNDS, OUTCOMES, WAIT_BOUNDS

#: The states of ``arqd_queue_jobs``, each an attribute of `QueueFigures`.
STATES = ("waiting", "active", "delayed", "blocked", "parked", "completed", "failed", "aborted", "expired")


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
    def parked(self) -> int: ...
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
    @property
    def paused(self) -> bool: ...
    @property
    def workers(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def totals(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """What Redis told.

    Attributes:
        queues: statistics by family, of those whose server answered; of the others no metric is given.
        servers: the servers, as far as they could be asked.
        where: the server of each family, whether it answered or not.
    """

    queues: Mapping[str, QueueFigures]
    servers: Sequence[ServerInfo]
    where: Mapping[str, str]


def render(workers: Sequence[Mapping[str, Any]], seen: Seen, accept: str = "") -> tuple[bytes, str]:
    """Render the metrics.

    Args:
        workers: documents of the living workers' heartbeats; counts of several are added up.
        seen: what Redis told.
        accept: the request's Accept header, which chooses the format.

    Returns:
        The text and its content type.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_Collector(workers, seen)), content_type


class _Collector:
    def __init__(self, workers: Sequence[Mapping[str, Any]], seen: Seen) -> None:
        self._workers = workers
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """Give every metric family; prometheus_client calls this."""
        yield InfoMetricFamily("arqd_build", "Version of arqd.", {"version": __version__})
        yield _redis_up(self._workers, self._seen)
        if self._seen.queues:
            yield from _queue_metrics(self._seen.queues)
            yield from _fleet_metrics(self._seen.queues)
            yield from _server_metrics(self._seen.servers)
        if self._workers:
            yield GaugeMetricFamily(
                "arqd_worker_event_loop_lag_seconds",
                "How late the worker's event loop woke up, the worst of the last 15 s.",
                max(worker["loop_lag_seconds"] for worker in self._workers),
            )
            yield GaugeMetricFamily(
                "arqd_worker_start_time_seconds",
                "When the worker started, the latest of several, Unix seconds.",
                max(worker["started"] for worker in self._workers),
            )
            memory = [worker["memory_bytes"] for worker in self._workers if worker.get("memory_bytes")]
            if memory:
                yield GaugeMetricFamily(
                    "arqd_worker_resident_memory_bytes", "Memory the worker takes, of several in all.", sum(memory)
                )
            yield from _slot_metrics(self._workers)
            yield from _job_metrics(self._workers)


def _redis_up(workers: Sequence[Mapping[str, Any]], seen: Seen) -> Metric:
    up = dict.fromkeys(seen.where.values(), True)
    for family, server in seen.where.items():
        up[server] &= family in seen.queues
    reached = dict(up)
    for worker in workers:
        if not worker["redis_up"]:
            # Of several servers it does not tell which one: those that the probe does not reach, or else any.
            own = {seen.where[family] for family in worker["families"] if family in seen.where} or set(up)
            up.update(dict.fromkeys({server for server in own if not reached[server]} or own, False))
    told = "1 when the probe and every worker beside it reach Redis, of several servers each one."
    if len(up) < 2:
        # Of one server there has always been one sample, without a label.
        return GaugeMetricFamily("arqd_redis_up", told, int(all(up.values())))
    metric = GaugeMetricFamily("arqd_redis_up", told, labels=["server"])
    for server, well in up.items():
        metric.add_metric([server], int(well))
    return metric


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


def _fleet_metrics(queues: Mapping[str, QueueFigures]) -> Iterator[Metric]:
    """What is the same from every probe, however many workers there are."""
    paused = GaugeMetricFamily("arqd_queue_paused", "1 while the queue is paused.", labels=["family"])
    workers = GaugeMetricFamily("arqd_queue_workers", "Worker processes with a lease.", labels=["family"])
    slots = GaugeMetricFamily("arqd_queue_slots", "Jobs that these workers can run at once.", labels=["family"])
    ended = CounterMetricFamily(
        "arqd_queue_outcomes", "Tries that ended since the queue exists, by outcome.", labels=["family", "outcome"]
    )
    lost = CounterMetricFamily(
        "arqd_queue_workers_lost", "Workers whose lease ended since the queue exists.", labels=["family"]
    )
    for family, figures in queues.items():
        paused.add_metric([family], int(figures.paused))
        workers.add_metric([family], figures.workers)
        slots.add_metric([family], figures.slots)
        for outcome in OUTCOMES:
            ended.add_metric([family, outcome], figures.totals.get(outcome, 0))
        lost.add_metric([family], figures.totals.get("lost", 0))
    yield from (paused, workers, slots, ended, lost)


def _server_metrics(servers: Sequence[ServerInfo]) -> Iterator[Metric]:
    memory = GaugeMetricFamily("arqd_redis_memory_bytes", "Memory the server uses.", labels=["server"])
    limit = GaugeMetricFamily(
        "arqd_redis_memory_limit_bytes", "Memory the server may use, 0 for any amount.", labels=["server"]
    )
    connections = GaugeMetricFamily("arqd_redis_connections", "Clients connected to the server.", labels=["server"])
    calls = CounterMetricFamily(
        "arqd_redis_script_calls", "Scripts the server was asked to run, since it started.", labels=["server"]
    )
    time = CounterMetricFamily(
        "arqd_redis_script_seconds", "Time the server spent in scripts, since it started.", labels=["server"]
    )
    for server in servers:
        memory.add_metric([server.name], server.used)
        limit.add_metric([server.name], server.limit)
        connections.add_metric([server.name], server.connections)
        calls.add_metric([server.name], server.script_calls)
        time.add_metric([server.name], server.script_seconds)
    if servers:
        yield from (memory, limit, connections, calls, time)


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
