"""The systems that are compared: what they need, how their workers are started, and with which settings.

What a system's authors recommend is set; everything else is at its default. Results are kept where the system can,
acknowledgements are the default's, asyncio workers run on uvloop, logs are at WARNING.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.arqd import KEYS


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tried: a name for the report, and the values its program or command line takes."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Probe:
    """How Redis tells how many jobs have ended: commands whose replies are added up.

    Attributes:
        left: they count the jobs that have not ended, delayed ones included; else those that have.
        database: where they are asked.
    """

    commands: tuple[tuple[str, ...], ...]
    left: bool = False
    database: int = 0


@dataclass(frozen=True, slots=True)
class System:
    """A system.

    Attributes:
        name: for options.
        title: for people.
        environment: folder of its environment; None: arqd's own.
        packages: what is installed there, pinned.
        module: its program, run for the producer, and for the worker where ``command`` is None.
        command: the library's own worker command; ``{bin}`` and the setting's values are filled in.
        settings: tried by the workload ``settings``; the first is taken as long as none has been found to be better.
        waiting: for jobs that wait, 100 at a time in a process; None: it cannot.
        idle: values that make it quickest with a single job, beside those of the setting.
        probe: counts ended jobs.
        share: of the usual number of jobs; a system that does 300 a second need not do 20,000.
        large: takes part in backlogs of hundreds of thousands unless others are asked for.
        variables: values of the setting that the library reads from the environment.
        notes: what is set beside the setting.
    """

    name: str
    title: str
    environment: str | None
    packages: tuple[str, ...]
    module: str
    settings: tuple[Setting, ...]
    waiting: Setting | None
    probe: Probe
    command: str | None = None
    idle: Mapping[str, Any] = field(default_factory=dict)
    share: float = 1
    large: bool = False
    variables: tuple[str, ...] = ()
    notes: str = ""


def _each(name: str, *values: int, **others: Any) -> tuple[Setting, ...]:
    return tuple(Setting(f"{name} {value}", {name: value, **others}) for value in values)


ASYNC = ("uvloop==0.23.0", "hiredis==3.5.0")
BLOCKING = ("redis==8.1.0", "hiredis==3.5.0")
FINISHED = Probe((("ZCARD", "bull:bench:completed"),))
RESULTS = Probe((("DBSIZE",),), database=1)
TASKIQ = (
    "{bin}/taskiq worker benchmarks.peers.taskiq:broker --workers 1 --log-level WARNING "
    "--max-async-tasks {tasks} --max-prefetch {prefetch}"
)
CELERY = (
    "{bin}/celery -A benchmarks.peers.celery worker --pool {pool} --concurrency {workers} --loglevel WARNING "
    "--hostname bench{worker}@%h --without-mingle --without-gossip"
)


def _taskiq(kind: str) -> System:
    settings = tuple(
        Setting(f"max_async_tasks {tasks}, max_prefetch {prefetch}", {"tasks": tasks, "prefetch": prefetch})
        for tasks, prefetch in ((100, 0), (10, 0), (500, 0), (100, 100))
    )
    return System(
        f"taskiq-{kind}",
        f"taskiq-redis, {kind}",
        "taskiq",
        ("taskiq==0.13.0", "taskiq-redis==1.2.4", "orjson==3.13.0", *ASYNC),
        "benchmarks.peers.taskiq",
        tuple(Setting(each.name, {**each.values, "broker": kind}) for each in settings),
        Setting("max_async_tasks 100", {"tasks": 100, "prefetch": 0, "broker": kind}),
        RESULTS,
        command=TASKIQ,
        idle={"check_interval": 0.005},
        share=0.5,
        notes=f"{'ListQueueBroker' if kind == 'list' else 'RedisStreamBroker'}, RedisAsyncResultBackend, one worker "
        "process; wait_result every 5 ms (its default is 0.2 s)",
    )


SYSTEMS: tuple[System, ...] = (
    System(
        "arqd",
        "arqd",
        None,
        (),
        "benchmarks.arqd",
        _each("max_jobs", 100, 10, 500),
        Setting("max_jobs 100", {"max_jobs": 100}),
        Probe((("ZCARD", KEYS.queue),), left=True),
        share=5,
        large=True,
        notes="everything at its default but max_jobs",
    ),
    System(
        "arq",
        "arq",
        "arq",
        ("arq==0.28.0", "redis[hiredis]==5.3.1", *ASYNC),
        "benchmarks.peers.arq",
        _each("max_jobs", 500, 10, 100, poll_delay=0.005),
        Setting("max_jobs 100", {"max_jobs": 100, "poll_delay": 0.005}),
        Probe((("ZCARD", "arq:queue"),), left=True),
        share=0.5,
        large=True,
        notes="worker and result polled every 5 ms (its default is 0.5 s)",
    ),
    System(
        "arq-default",
        "arq at its defaults",
        "arq",
        ("arq==0.28.0", "redis[hiredis]==5.3.1", *ASYNC),
        "benchmarks.peers.arq",
        (Setting("max_jobs 10"),),
        None,
        Probe((("ZCARD", "arq:queue"),), left=True),
        share=0.05,
        notes="polls every 0.5 s",
    ),
    System(
        "bullmq",
        "BullMQ (Node)",
        "bullmq",
        ("bullmq@6.7.0", "ioredis@6.0.0"),
        "bullmq.mjs",
        _each("concurrency", 100, 10, 300, 500),
        Setting("concurrency 100", {"concurrency": 100}),
        FINISHED,
        share=2,
        large=True,
        notes="ioredis; all completed jobs kept (its default); result by QueueEvents",
    ),
    System(
        "bullmq-python",
        "bullmq (Python)",
        "bullmq-python",
        ("bullmq==3.4.4", *BLOCKING, ASYNC[0]),
        "benchmarks.peers.bullmq_py",
        _each("concurrency", 10, 100, 500),
        Setting("concurrency 100", {"concurrency": 100}),
        FINISHED,
        share=0.5,
        notes="all completed jobs kept; result by QueueEvents",
    ),
    System(
        "saq",
        "SAQ",
        "saq",
        ("saq[redis]==0.26.4", "redis==7.4.1", "typing-extensions==4.16.0", *ASYNC),
        "benchmarks.peers.saq",
        _each("concurrency", 100, 10, 500),
        Setting("concurrency 100", {"concurrency": 100}),
        Probe((("ZCARD", "saq:default:incomplete"),), left=True),
        share=0.5,
        notes="result by Queue.apply, polled every 5 ms (its default is 0.5 s)",
    ),
    System(
        "streaq",
        "streaq",
        "streaq",
        ("streaq==7.2.0", "coredis==6.9.0", ASYNC[0]),
        "benchmarks.peers.streaq",
        _each("concurrency", 100, 10, 500),
        Setting("concurrency 100", {"concurrency": 100}),
        Probe((("ZCARD", "streaq:default:index:results"),)),
        share=0.25,
        notes="prefetch at its default (twice the concurrency)",
    ),
    _taskiq("list"),
    _taskiq("stream"),
    System(
        "dramatiq",
        "dramatiq",
        "dramatiq",
        ("dramatiq[redis]==2.2.1", *BLOCKING),
        "benchmarks.peers.dramatiq",
        tuple(
            Setting(
                f"{threads} threads, prefetch {prefetch}", {"threads": threads, "dramatiq_queue_prefetch": prefetch}
            )
            for threads, prefetch in ((8, 1000), (8, 0), (2, 1000), (32, 1000))
        ),
        Setting("100 threads", {"threads": 100, "dramatiq_queue_prefetch": 0}),
        Probe((("HLEN", "dramatiq:default.msgs"), ("HLEN", "dramatiq:default.DQ.msgs")), left=True),
        command="{bin}/dramatiq benchmarks.peers.dramatiq --processes 1 --threads {threads}",
        variables=("dramatiq_queue_prefetch",),
        notes="results kept for ten minutes (its default)",
    ),
    System(
        "celery",
        "Celery",
        "celery",
        ("celery[redis]==5.7.0", "gevent==26.9.0", *BLOCKING),
        "benchmarks.peers.celery",
        tuple(
            Setting(
                f"{pool} {workers}, prefetch × {prefetch}", {"pool": pool, "workers": workers, "prefetch": prefetch}
            )
            for pool, workers, prefetch in (
                ("prefork", 2, 4),
                ("prefork", 2, 100),
                ("threads", 10, 4),
                ("solo", 1, 100),
            )
        ),
        Setting("threads 100", {"pool": "threads", "workers": 100, "prefetch": 4}),
        RESULTS,
        command=CELERY,
        share=0.25,
        notes="neither gossip nor mingle; prefork 2 is a parent and two children",
    ),
    System(
        "rq",
        "RQ",
        "rq",
        ("rq==3.0.0", *BLOCKING),
        "benchmarks.peers.rq",
        tuple(Setting(name, {"class": f"rq.worker.{name}"}) for name in ("SimpleWorker", "Worker")),
        None,
        Probe((("ZCARD", "rq:finished:default"),)),
        command="{bin}/rq worker --quiet --worker-class {class}",
        share=0.1,
        notes="SimpleWorker runs jobs in its own process, Worker (its default) forks for each",
    ),
    System(
        "huey",
        "Huey",
        "huey",
        ("huey==3.5.4", *BLOCKING),
        "benchmarks.peers.huey",
        tuple(Setting(f"{threads} threads", {"threads": threads}) for threads in (10, 1, 4, 100)),
        Setting("100 threads", {"threads": 100}),
        Probe((("HLEN", "huey.results.bench"),)),
        command="{bin}/huey_consumer benchmarks.peers.huey.huey --workers {threads} --quiet",
        idle={"notify_result": True},
        share=0.5,
        notes="notify_result (a blocking wait) only where results are waited for",
    ),
)
BY_NAME: Mapping[str, System] = {system.name: system for system in SYSTEMS}
