"""What fires, since when and who was told; silences; and the counts of the last look. It is kept in Redis.

So whichever process leads next goes on where the last one was: nothing is told twice, and what was told is told to be
over.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from daemon.alerts.rules import ALERTS, Finding, Severity
from daemon.connecting.connections import translated
from daemon.errors import InvalidJob, JobNotFound
from daemon.keys import ALERT_COUNTS, ALERT_SILENCES, ALERT_STATES

#: Silences that may be kept at once, how long one lasts at most, and how far off it may begin, seconds.
MAX_SILENCES, LONGEST_SILENCE = 1000, 90 * 86_400.0
LATEST_START = 100 * 365 * 86_400.0


@dataclass(slots=True)
class Alert:
    """An alert that fires; times are Unix seconds.

    Attributes:
        alert, subject, severity, text: see `daemon.alerts.rules.Finding`; the text is the newest.
        since, seen: when it was first and last found.
        told: when people were told last, 0 for never.
        times: how often they were told.
        owed: channels that could not be told; they are tried again with the next look.
        over: whether its end has been told already, and only some channels are still owed that.
        silenced: whether a silence covers it now.
    """

    alert: str
    subject: str
    severity: Severity
    text: str
    since: float
    seen: float
    told: float = 0.0
    times: int = 0
    owed: list[str] = field(default_factory=list)
    over: bool = False
    silenced: bool = False

    @property
    def key(self) -> str:
        """What tells it from all others."""
        return f"{self.alert}:{self.subject}"

    @staticmethod
    def of(finding: Finding, now: float) -> Alert:
        """Give what was just found for the first time."""
        return Alert(finding.alert, finding.subject, finding.severity, finding.text, now, now)


@dataclass(frozen=True, slots=True)
class Silence:
    """While it lasts nobody is told of what it covers; what still fires afterwards is told then.

    Attributes:
        starts, ends: Unix seconds.
        alert, subject: what it covers; None: any.
        by, reason: who asked for it, and why.
    """

    id: str
    starts: float
    ends: float
    alert: str | None = None
    subject: str | None = None
    by: str = ""
    reason: str = ""

    def covers(self, alert: Alert, now: float) -> bool:
        """Whether it silences an alert now; one of a queue also its objectives and groups."""
        subject = self.subject in (None, alert.subject, alert.subject.partition("/")[0])
        return self.starts <= now < self.ends and self.alert in (None, alert.alert) and subject


class Book:
    """Reads and writes them.

    Every method raises `RedisUnavailable`, `RedisRefused` or `RedisFull` when Redis cannot do it.

    Args:
        redis: an asynchronous redis-py client without response decoding.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    async def load(self) -> tuple[dict[str, Alert], dict[str, int]]:
        """Give what fires by key, and the counts of the last look."""
        with translated():
            async with self._redis.pipeline(transaction=False) as pipe:
                states, counts = await pipe.hgetall(ALERT_STATES).hgetall(ALERT_COUNTS).execute()
        alerts = [_read(Alert, raw) for raw in states.values()]
        return (
            {alert.key: alert for alert in alerts if alert is not None},
            {name.decode(): int(count) for name, count in counts.items()},
        )

    async def save(self, alerts: Iterable[Alert], gone: Iterable[str], counts: Mapping[str, int]) -> None:
        """Keep what fires, forget what does not any more, and keep these counts."""
        with translated():
            async with self._redis.pipeline(transaction=True) as pipe:
                # On a full server a transaction may only begin if nothing in it is refused: what frees comes alone.
                for key in gone:
                    pipe.hdel(ALERT_STATES, key)
                for alert in alerts:
                    pipe.hset(ALERT_STATES, alert.key, json.dumps(asdict(alert)))
                if counts:
                    pipe.hset(ALERT_COUNTS, mapping=dict(counts))
                await pipe.execute()

    async def firing(self, now: float) -> list[Alert]:
        """Give what fires, the worst and the oldest first."""
        (alerts, _), silences = await self.load(), await self.silences(now)
        found = [alert for alert in alerts.values() if not alert.over]
        for alert in found:
            alert.silenced = any(silence.covers(alert, now) for silence in silences)
        return sorted(found, key=lambda alert: (alert.severity is not Severity.CRITICAL, alert.since, alert.key))

    async def silences(self, now: float) -> list[Silence]:
        """Give the silences that last or are to come, the first to begin first; those that are over are removed."""
        with translated():
            raw = await self._redis.hgetall(ALERT_SILENCES)
            found = {name: _read(Silence, each) for name, each in raw.items()}
            if over := [name for name, each in found.items() if each is None or each.ends <= now]:
                await self._redis.hdel(ALERT_SILENCES, *over)
        lasting = [each for each in found.values() if each is not None and each.ends > now]
        return sorted(lasting, key=lambda each: (each.starts, each.id))

    async def silence(
        self, now: float, seconds: float, *, starts: float | None = None, alert: str | None = None,
        subject: str | None = None, by: str = "", reason: str = "",
    ) -> Silence:  # fmt: skip
        """Silence alerts for a while.

        Args:
            seconds: how long.
            starts: from when on; default now.
            alert, subject: what; default everything.

        Raises:
            InvalidJob: for an alert that there is not, a time that is none, or when there are too many.
        """
        if alert is not None and alert not in ALERTS:
            raise InvalidJob(f"there is no alert {alert[:40]!r}: there are {', '.join(ALERTS)}")
        if not 1 <= seconds <= LONGEST_SILENCE:
            raise InvalidJob("a silence lasts a second at least, and 90 days at most")
        begins = now if starts is None else starts
        if begins + seconds <= now:
            raise InvalidJob("this silence would be over already")
        if begins > now + LATEST_START:
            raise InvalidJob("a silence begins within a hundred years")
        if len(await self.silences(now)) >= MAX_SILENCES:
            raise InvalidJob(f"there are {MAX_SILENCES} silences already: remove some")
        made = Silence(secrets.token_hex(4), begins, begins + seconds, alert, subject, by[:200], reason[:500])
        with translated():
            await self._redis.hset(ALERT_SILENCES, made.id, json.dumps(asdict(made)))
        return made

    async def unsilence(self, name: str) -> None:
        """End a silence.

        Raises:
            JobNotFound: when there is none of this id.
        """
        with translated():
            if not await self._redis.hdel(ALERT_SILENCES, name):
                raise JobNotFound(f"there is no silence {name[:70]!r}")


def _read(kind: Any, raw: bytes) -> Any:
    """Read one; a later release may have written more than is known here, and what is none is left out."""
    known = {each.name for each in fields(kind)}
    try:
        found = json.loads(raw)
        made = kind(**{name: value for name, value in found.items() if name in known})
        if isinstance(made, Alert):
            made.severity = Severity(made.severity)
        return made
    except (ValueError, TypeError, AttributeError):
        return None
