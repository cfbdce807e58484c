"""What arqd's worker keeps of stock arq's: its constructor, its health-check key, its cron jobs."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import arq.worker
from arq.connections import ArqRedis
from redis.exceptions import RedisError

from daemon import codec
from daemon.broker import Broker
from daemon.connecting.connections import LOST
from daemon.connecting.routed import single_of
from daemon.family import Family
from daemon.scheduling.publish import publish, run_at_startup

if TYPE_CHECKING:
    from daemon.metrics import FamilyMetrics
    from daemon.running.run import Run
    from daemon.supervisor import Supervisor

logger = logging.getLogger("arqd.worker")


class ArqWorker(arq.worker.Worker):
    """arq's worker without its loop, which `daemon.worker` replaces.

    Args:
        family: what to run.
        supervisor: the process it belongs to.
        burst: end when nothing waits any more.
        max_burst_jobs: end after so many jobs, negative for no limit.
    """

    broker: Broker
    metrics: FamilyMetrics
    #: The last job that blocked the event loop (`daemon.process.watchdog`).
    stalled: dict[str, Any] | None = None

    def __init__(
        self, family: Family, supervisor: Supervisor, *, burst: bool = False, max_burst_jobs: int = -1
    ) -> None:
        stock, values = family.stock or {}, family.values
        self.family = family
        self.keys = family.keys
        self.supervisor = supervisor
        self.running: dict[bytes, Run] = {}
        self.draining = False
        self.serializer: Any = stock.get("job_serializer", codec.dumps)
        self.deserializer: Any = stock.get("job_deserializer", codec.loads)
        server = single_of(supervisor.redis, family.keys.queue)
        # Stock arq cannot work in a cluster: there handlers find no ArqRedis in ctx["redis"].
        self.client: Any = (
            supervisor.redis
            if server is None
            else ArqRedis(
                connection_pool=server.connection_pool,
                job_serializer=self.serializer,
                job_deserializer=self.deserializer,
                default_queue_name=family.keys.queue,
            )
        )
        super().__init__(
            # The functions themselves are run by the executor; arq's own registry only has to know their names.
            [arq.worker.Function(f.name, f.call, f.timeout, None, None, None) for f in family.functions.values()],
            queue_name=family.keys.queue,
            cron_jobs=stock.get("cron_jobs"),
            redis_pool=self.client,
            burst=burst,
            max_burst_jobs=max_burst_jobs,
            handle_signals=False,
            max_jobs=values.max_jobs,
            job_timeout=values.job_timeout,
            max_tries=values.max_tries,
            health_check_interval=family.health_check_interval,
            health_check_key=family.health_check_key,
            ctx=dict(family.ctx),
            timezone=stock.get("timezone"),
        )
        self.published = self.info()
        #: Whether the family's schedules are known to Redis; a stock class has none.
        self._scheduled = family.stock is not None

    def info(self) -> bytes:
        """What to publish of this worker, as JSON."""
        values = self.family.values
        return json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "slots": values.max_jobs,
                "running": len(self.running),
                "draining": self.draining,
                "functions": sorted(self.family.functions),
                "shared_limits": [limit.name for limit in values.shared_limits],
                "max_tries": {name: f.max_tries or values.max_tries for name, f in self.family.functions.items()},
                "started": self.supervisor.started,
                "mean_seconds": self.metrics.mean_seconds(),
                "lag": self.supervisor.loop_lag,
                "memory": self.supervisor.memory,
                "stalled": self.stalled,
            }
        ).encode()

    async def heart_beat(self) -> None:
        """Once a second: what is published of the worker, arq's health-check key, cron jobs."""
        self.published = self.info()
        now = time.time()
        if now - self._last_health_check >= self.health_check_interval:
            self._last_health_check = now
            queued = await self.client.zcard(self.queue_name)
            text = (
                f"{datetime.now(tz=self.timezone):%b-%d %H:%M:%S} j_complete={self.jobs_complete} "
                f"j_failed={self.jobs_failed} j_retried={self.jobs_retried} "
                f"j_ongoing={len(self.running)} queued={queued}"
            )
            await self.client.set(self.health_check_key, text, px=int((self.health_check_interval + 1) * 1000))
        if not (self._scheduled or self.draining):
            await self._schedule()
        # A stock class's stay arq's: their entries are written by its own serializer, and stock workers make them, too.
        if self.cron_jobs and not self.draining:
            # Twice this is how long before its time a job is handed in: longer than a beat, or a job that another
            # worker has run already would be handed in once more.
            await self.run_cron(datetime.now(tz=self.timezone), 1.0)

    async def _schedule(self) -> None:
        try:
            await publish(self.broker, self.family.schedules)
            await run_at_startup(self.broker, self.family.schedules)
            self._scheduled = True
        except LOST:
            raise
        except RedisError as error:
            logger.error("%s: Redis does not know its cron_jobs yet, trying again: %s", self.family.name, error)

    def run(self) -> None:
        """Run the process this worker belongs to until it is drained."""
        self.loop.run_until_complete(self.async_run())

    async def async_run(self) -> None:
        """Run the process this worker belongs to until it is drained."""
        await self.supervisor.run()
