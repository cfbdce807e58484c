"""A worker process as a service: systemd hears how it does, and SIGHUP makes it read its settings again."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from daemon.errors import ConfigurationError
from daemon.retry import RetryPolicy

if TYPE_CHECKING:
    from daemon.family import FamilyValues
    from daemon.process.notify import Notifier
    from daemon.supervisor import Supervisor
    from daemon.worker import Worker

logger = logging.getLogger("arqd.service")

#: So long a start may wait for Redis before the service counts as started all the same: it goes on waiting.
START_PATIENCE = 5.0
#: What a drain may still take is told anew each interval, so much ahead.
DRAIN_AHEAD = 15.0
#: What a running process can take up; everything else needs a restart.
LIMITS = frozenset({
    "max_jobs", "max_tries", "backoff", "rate_limit", "global_limit", "group_limit", "group_limits", "group_rate",
    "max_bytes", "drain_timeout",
})  # fmt: skip

#: Reads the settings again, sets the log level, and gives the values of each family.
Reload = Callable[[], Mapping[str, "FamilyValues"]]


class Service:
    """Tells the service manager of a worker process, and takes up new limits on SIGHUP.

    Args:
        notifier: the way to systemd; without it only SIGHUP is of use.
        reload: what SIGHUP calls.
    """

    def __init__(self, notifier: Notifier, reload: Reload) -> None:
        self._notifier = notifier
        self._reload = reload
        self._ready = False

    async def run(self, supervisor: Supervisor) -> None:
        """Tell until cancelled: that it is ready, how it does, that it ends."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup, supervisor)
        began = time.monotonic()
        try:
            while True:
                self._tell(supervisor, time.monotonic() - began)
                await asyncio.sleep(self._notifier.interval if self._ready else 0.05)
        finally:
            loop.remove_signal_handler(signal.SIGHUP)
            self._notifier.send("STOPPING=1")

    def _tell(self, supervisor: Supervisor, waited: float) -> None:
        status = _status(supervisor)
        self._notifier.alive(status)
        if supervisor.state == "draining":
            self._notifier.stopping(status, DRAIN_AHEAD)
        elif not self._ready and (supervisor.state == "running" or waited > START_PATIENCE):
            self._ready = True
            self._notifier.ready(status)

    def _on_hangup(self, supervisor: Supervisor) -> None:
        self._notifier.reloading()
        try:
            values = self._reload()
            for worker in supervisor.workers:
                name = worker.family.name
                if name in values:
                    take_up(worker, values[name])
                else:
                    logger.warning("%s: the settings have no such family any more: restart it", name)
        except ConfigurationError as error:
            logger.error("SIGHUP: the settings stay as they were: %s", error)
            self._notifier.ready(f"not reloaded: {error}")
        except Exception as error:
            # The service manager waits for an answer, whatever happens.
            logger.exception("SIGHUP: the settings could not be read")
            self._notifier.ready(f"not reloaded: {type(error).__name__}")
        else:
            logger.info("SIGHUP: settings read again")
            self._notifier.ready(_status(supervisor))


def take_up(worker: Worker, values: FamilyValues) -> None:
    """Let a worker go on with new limits."""
    now = worker.family.values
    changed = {name for name in type(values).model_fields if getattr(values, name) != getattr(now, name)}
    if fixed := sorted(changed - LIMITS):
        logger.warning("%s: %s cannot change while it runs: restart it", worker.family.name, ", ".join(fixed))
    if taken := changed & LIMITS:
        worker.family.values = values = now.model_copy(update={name: getattr(values, name) for name in taken})
        worker.max_jobs = values.max_jobs
        worker.policy = RetryPolicy(
            values.max_tries, values.backoff, worker.family.permanent, worker.family.stock is None
        )
        worker.session.renew()
        worker.notify_due()
        told = ", ".join(f"{name} {getattr(now, name)!s} to {getattr(values, name)!s}" for name in sorted(taken))
        logger.info("%s: %s", worker.family.name, told)


def _status(supervisor: Supervisor) -> str:
    running = sum(len(worker.running) for worker in supervisor.workers)
    if supervisor.state != "running":
        return f"{supervisor.state}, {running} jobs run" if running else supervisor.state
    slots = sum(worker.max_jobs for worker in supervisor.workers)
    away = "" if supervisor.redis_up else ", Redis is away"
    return f"running {running} of {slots} jobs{away}: {', '.join(worker.family.name for worker in supervisor.workers)}"
