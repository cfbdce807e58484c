"""Looks for what is wrong and tells people: once, again after a while, and when it is over.

The scheduler's leader calls `Watch.check`, which may be a worker, ``arqd scheduler`` or the console: so somebody looks
when every worker is gone. Where Redis goes away nobody leads; then the process that led last tells that
(`Watch.redis_away`), and nobody else does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from typing import TYPE_CHECKING

from daemon.alerts.book import Alert, Book, Silence
from daemon.alerts.channels import Channel, Kind, LogChannel, Message, NotTold, open_channels
from daemon.alerts.reading import read, together
from daemon.alerts.rules import ALERTS, REDIS, Finding, Reading, counts_of, judge
from daemon.alerts.settings import AlertSettings
from daemon.errors import ConfigurationError, RedisError, RedisUnavailable
from daemon.inspector import Inspector, QueueStats
from daemon.servers import RedisUrl

if TYPE_CHECKING:
    from daemon.scheduling.scheduler import Scheduler
    from daemon.settings import Settings
    from daemon.statistics import Figures

logger, reporter = logging.getLogger("arqd.alerts"), logging.getLogger("arqd.queues")

#: Redis may be away for so long before anybody is told: a failover takes a while, seconds.
AWAY_SECONDS = 20.0
#: How long each of several servers may take to tell everything, seconds: nobody waits for it.
LOOK_SECONDS = 10.0
#: Where work waits without a worker it is looked at again so much later: one that starts anew is no alarm, seconds.
START_SECONDS = 10.0
LOG = "log"
_REPORTED = ("waiting", "active", "delayed", "parked", "blocked", "failed", "workers", "oldest_age_seconds")


class Watch:
    """Checks some families.

    Args:
        inspector: of the families to look at.
        settings: thresholds, times, channels.
        clock: gives Unix seconds.
        sleep: waits so many seconds.
    """

    def __init__(
        self, inspector: Inspector, settings: AlertSettings, *, clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:  # fmt: skip
        self._inspector = inspector
        self._settings = settings
        self._clock, self._sleep = clock, sleep
        self._book = Book(inspector.redis)
        self._channels: dict[str, Channel] = {LOG: LogChannel()}
        self._opened = False
        #: What fires, as far as this process could not write it down.
        self._unwritten: dict[str, Alert] = {}
        self._away: asyncio.Task[None] | None = None

    def attach(self, scheduler: Scheduler) -> None:
        """Have the scheduler call it while it leads."""
        if self._settings.enabled:
            scheduler.every(self._settings.every, self.check)
            scheduler.on_away(self.redis_away)
        if self._settings.report:
            scheduler.every(self._settings.report, self.report)

    # ------------------------------------------------------------------ look

    async def check(self) -> None:
        """Look once and tell what there is to tell."""
        now = self._clock()
        counts: Mapping[str, int] = {}
        alerts, silences, away = dict(self._unwritten), list[Silence](), dict[str, RedisError]()
        try:
            known, before = await self._book.load()
            alerts = {**known, **alerts}
            silences = await self._book.silences(now)
            reading, away = await self._read()
            if any(alerts.get(key) is None or alerts[key].over for key in _without_worker(reading, self._settings)):
                await self._sleep(START_SECONDS)
                reading, away = await self._read()
        except RedisUnavailable as error:
            # The scheduler meets it, too, and says so when it lasts.
            logger.debug("no look: %s", error)
            return
        except RedisError as error:
            # What else is wrong cannot be seen, so nothing of it is over.
            found, unseen = [Finding("queue_error", REDIS, str(error))], frozenset(ALERTS) - {"queue_error"}
        else:
            found, unseen = judge(reading, self._settings, before), frozenset({"redis_memory"} if away else ())
            found += [Finding("queue_error", family, str(error)) for family, error in away.items()]
            counts = counts_of(reading)
        gone = await self._follow(alerts, self._wanted(found), unseen, silences, now, away)
        try:
            await self._book.save(alerts.values(), gone, counts)
            self._unwritten = {}
        except RedisUnavailable as error:
            # As above. What was told is written down with the next look.
            self._unwritten = alerts
            logger.debug("not written down: %s", error)
        except RedisError as error:
            self._unwritten = alerts
            await self._follow(alerts, self._wanted([*found, _refused(error)]), frozenset(ALERTS), silences, now)

    async def _read(self) -> tuple[Reading, dict[str, RedisError]]:
        """Read all families; of those on several servers the ones whose server answers, and why the others' do not.

        Raises:
            RedisError: as `read`, where there is one server.
        """

        async def look(part: Inspector) -> Reading:
            return await read(part, self._settings.objectives)

        answers = await self._inspector.ask(look, within=LOOK_SECONDS)
        if answers.away:
            # A failover takes a while.
            await asyncio.sleep(AWAY_SECONDS)
            answers = await self._inspector.ask(look, within=LOOK_SECONDS)
        return together(answers.told, more=bool(answers.away)), answers.away

    def _wanted(self, found: Sequence[Finding]) -> list[Finding]:
        return [finding for finding in found if finding.alert not in self._settings.off]

    async def _follow(
        self, alerts: dict[str, Alert], found: Sequence[Finding], unseen: frozenset[str], silences: Sequence[Silence],
        now: float, away: Collection[str] = (),
    ) -> list[str]:  # fmt: skip
        """Bring what fires up to date and tell of it; gives the keys of what is over.

        Args:
            unseen: alerts of which nothing can be said now; ``away``: families of which nothing can.
        """
        for finding in found:
            alert = alerts.get(finding.key)
            if alert is None or alert.over:
                alert = alerts[finding.key] = Alert.of(finding, now)
            alert.seen, alert.text = now, finding.text
            silent = any(silence.covers(alert, now) for silence in silences)
            if not silent and (not alert.times or now - alert.told >= self._settings.repeat):
                kind: Kind = "again" if alert.times else "firing"
                alert.told, alert.times = now, alert.times + 1
                alert.owed = await self._tell(alert, kind, self._meant(alert))
            elif alert.owed and not silent:
                alert.owed = await self._tell(alert, "firing", alert.owed)
        gone = []
        wrong = {finding.key for finding in found}
        for key, alert in list(alerts.items()):
            hidden = alert.alert in unseen or alert.subject.partition("/")[0] in away
            if key in wrong or hidden or now - alert.seen < self._settings.calm:
                continue
            # Who was never told that it is wrong need not hear that it is over.
            if alert.times:
                owed = alert.owed if alert.over else self._meant(alert)
                alert.owed, alert.over = await self._tell(alert, "over", owed), True
            if not alert.owed or now - alert.seen > self._settings.calm + self._settings.repeat:
                gone.append(key)
                del alerts[key]
        return gone

    async def report(self) -> None:
        """Log what each queue holds that holds anything, as far as its server answers."""

        async def look(part: Inspector) -> list[tuple[QueueStats, Figures]]:
            queues = await part.queues()
            figures = await part.figures([queue.family for queue in queues])
            return [(queue, hour) for queue, (_, hour) in zip(queues, figures, strict=True)]

        try:
            answers = await self._inspector.ask(look, within=LOOK_SECONDS)
        except RedisError as error:
            logger.debug("nothing to report: %s", error)
            return
        for queue, hour in sorted(chain(*answers.told), key=lambda each: each[0].family):
            counts = {name: getattr(queue, name) for name in _REPORTED}
            told = {**counts, "completed_hour": hour.completed, "failed_hour": hour.failed}
            if any(told.values()):
                reporter.info("queue", extra={"family": queue.family, **told})

    # ------------------------------------------------------------------ tell

    def _meant(self, alert: Alert) -> list[str]:
        """Give the channels that are told of an alert."""
        chosen = getattr(self._settings, str(alert.severity))
        return [LOG, *(self._settings.channels if chosen is None else chosen)]

    async def _tell(self, alert: Alert, kind: Kind, names: Iterable[str]) -> list[str]:
        """Tell some channels; gives those that could not be told."""
        self._open()
        message = Message.of(alert, kind, self._settings.link)
        # One that is not set up any more is owed nothing.
        known = [name for name in names if name in self._channels]
        told = await asyncio.gather(*(self._send(name, message) for name in known))
        return [name for name, well in zip(known, told, strict=True) if not well]

    async def _send(self, name: str, message: Message) -> bool:
        try:
            await self._channels[name].send(message)
        except NotTold as error:
            logger.error("channel %s could not be told of %s, again with the next look: %s", name, message.title, error)
            return False
        except Exception as error:
            # Whatever a library raises may hold the channel's URL, and that its secret.
            logger.error("channel %s failed with %s", name, type(error).__name__)
            return False
        return True

    def _open(self) -> None:
        """Open the channels, once; one that cannot be used does not keep the others from being told."""
        if not self._opened:
            self._opened = True
            for name, url in self._settings.channels.items():
                try:
                    self._channels |= open_channels({name: url})
                except ConfigurationError as error:
                    logger.error("%s", error)

    # ------------------------------------------------------------------ Redis away

    async def redis_away(self, error: Exception | None) -> None:
        """Redis, where this process was the leader, is away; with None it is back, or this process ends.

        That it is over is told by whoever looks next: what was told is written down as soon as that can be.
        """
        if self._away is not None:
            self._away.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._away
            self._away = None
        if error is not None:
            self._away = asyncio.create_task(self._tell_away(error))
        elif self._unwritten:
            with contextlib.suppress(RedisError):
                await self._book.save(self._unwritten.values(), (), {})
                self._unwritten = {}

    async def _tell_away(self, error: Exception) -> None:
        await asyncio.sleep(AWAY_SECONDS)
        while True:
            now = self._clock()
            await self._follow(self._unwritten, self._wanted([_refused(error)]), frozenset(ALERTS), [], now)
            await asyncio.sleep(self._settings.every)


@asynccontextmanager
async def watching(url: RedisUrl, settings: Settings, scheduler: Scheduler) -> AsyncIterator[None]:
    """Have the scheduler of a process look after all families of the settings until the block ends."""
    async with Inspector.connect(url, list(settings.families)) as inspector:
        Watch(inspector, settings.alerts).attach(scheduler)
        yield


def _without_worker(reading: Reading, settings: AlertSettings) -> list[str]:
    """Give the keys of the alerts of queues whose jobs wait and that have no worker."""
    return [finding.key for finding in judge(reading, settings, {}) if finding.alert == "no_worker"]


def _refused(error: Exception) -> Finding:
    return Finding("queue_error", REDIS, str(error) or type(error).__name__)
