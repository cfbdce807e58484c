"""Schedules while the system runs: list, add, change, pause, resume, run now, remove."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from daemon.broker import Broker, Repeat
from daemon.connecting.connections import connect, translated
from daemon.errors import InvalidJob, ScheduleConflict, ScheduleNotFound
from daemon.job import from_ms, new_id
from daemon.keys import FAMILY_NAME, FamilyKeys, spoken_id
from daemon.pages import server_ms
from daemon.payload import Payload
from daemon.producing.options import JobOptions
from daemon.scheduling.crontab import every as every_
from daemon.scheduling.schedule import Missed, Planned, Schedule, call_of, ms_of, read_schedule, read_schedules
from daemon.scheduling.scheduler import FAMILIES, announce, wake
from daemon.servers import RedisUrl

#: How often a change is tried again that others overtook.
TRIES = 5


@dataclass(slots=True)
class ScheduleInfo:
    """A schedule as people and programs see it.

    Attributes:
        name: ``family:name``.
        cron: crontab text, or ``@every`` and its period.
        state: ``active``, ``paused``, ``ended`` (its end or its count is reached), or ``unreadable`` (remove it).
        source: ``settings`` or ``runtime``.
        next_runs: the next times it is due; empty unless it is active.
        last_run: the last tick made; None for none.
        runs: ticks made.
        options: of its jobs; durations in seconds.
    """

    name: str
    family: str
    function: str
    payload: Any
    cron: str
    timezone: str
    state: Literal["active", "paused", "ended", "unreadable"]
    source: str
    next_runs: list[datetime]
    last_run: datetime | None
    runs: int
    missed: str
    start: datetime | None
    end: datetime | None
    count: int | None
    options: dict[str, Any]


class Schedules:
    """Looks at and acts on the schedules of families. A schedule is called ``family:name``.

    Every method raises `ScheduleNotFound` for an unknown one, `InvalidJob` for what is wrong (nothing was written), and
    `RedisUnavailable`, `RedisRefused` or `RedisFull` when Redis cannot do it.

    Args:
        redis: an asynchronous redis-py client without response decoding.
    """

    def __init__(self, redis: Any) -> None:
        self.redis = redis

    @classmethod
    def connect(cls, url: RedisUrl, **options: Any) -> Self:
        """Give one with a connection of its own; use it as an asynchronous context manager."""
        return cls(connect(url, **options))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.redis.aclose()

    # ------------------------------------------------------------------ look

    async def list(self, family: str | None = None, *, upcoming: int = 3) -> list[ScheduleInfo]:
        """Give the schedules of one family or of every one, by family and name.

        Args:
            upcoming: how many of the next times to work out.
        """
        with translated():
            known = {raw.decode() for raw in await self.redis.smembers(FAMILIES)}
            return [
                _info(each, name, planned, upcoming)
                for each in ([family] if family else sorted(known))
                for name, planned in (await read_schedules(self.redis, FamilyKeys.of(each))).items()
            ]

    async def get(self, written: str, *, upcoming: int = 3) -> ScheduleInfo:
        """Give one schedule."""
        keys, name = _named(written)
        with translated():
            return _info(keys.family, name, await self._read(keys, name), upcoming)

    # ------------------------------------------------------------------ act

    async def add(
        self,
        name: str,
        job: Payload | str,
        payload: Mapping[str, Any] | Sequence[Any] | None = None,
        *,
        family: str | None = None,
        cron: str | None = None,
        every: float | str | timedelta | None = None,
        timezone: str = "UTC",
        start: datetime | None = None,
        end: datetime | None = None,
        count: int | None = None,
        missed: Missed = "run_once",
        **options: Unpack[JobOptions],
    ) -> ScheduleInfo:
        """Add a schedule.

        Args:
            name: unique in its family.
            job, payload, family: as for `Producer.enqueue`.
            cron: crontab text of five fields, or six with seconds first.
            every: in its place a period, a second at least; counted from ``start``, else from 1970.
            timezone, start, end, count, missed: see `daemon.scheduling.cron_jobs.crontab`.
            options: of its jobs.

        Raises:
            ScheduleConflict: when there is one of this name.
        """
        if (cron is None) == (every is None):
            raise InvalidJob(f"schedule {name!r}: give cron or every")
        if isinstance(job, Payload):
            family = family or job.__job__.family
        if family is None or not FAMILY_NAME.match(family):
            raise InvalidJob(f"schedule {name!r}: family {family!r} must match [a-z0-9_-]+")
        call = call_of(job, payload, options)
        schedule = Schedule(
            name=name,
            function=call.function,
            expression=cron if cron is not None else every_(every or 0),
            timezone=timezone,
            payload=call.payload,
            schema=call.schema,
            start=ms_of(start, "start"),
            end=ms_of(end, "end"),
            count=count,
            missed=missed,
            options=call.options,
        ).checked()
        keys = FamilyKeys.of(family)
        with translated():
            schedule.refuse_clear(await self._is_encrypted(keys, schedule.function))
            due = schedule.next_due(await server_ms(self.redis, keys))
            if due is None:
                raise InvalidJob(f"schedule {name!r}: its end has passed")
            await announce(self.redis, family)
            if not await self._plan(keys, name, None, schedule, due):
                raise ScheduleConflict(f"there is a schedule {family}:{name} already: change or remove it")
        return await self.get(f"{family}:{name}")

    async def change(self, written: str, **changes: Any) -> ScheduleInfo:
        """Change a schedule made at run time; what is not named stays, what is None is taken away: an option,
        ``payload``, ``start``, ``end``, ``count``, and of ``cron`` and ``every`` one where the other is given.

        When it is due next is worked out anew if ``cron``, ``every``, ``timezone``, ``start``, ``end`` or ``count``
        changes.

        Args:
            changes: arguments of `add`; ``function`` names another one, ``payload`` may be a `Payload`.

        Raises:
            ScheduleConflict: for one of a family's settings: change it there.
        """

        with translated():
            function = changes.get("function") or (await self.get(written)).function
            encrypted = await self._is_encrypted(_named(written)[0], str(function))

        def changed(found: Planned, now: int) -> tuple[Schedule, int | None]:
            schedule = found.schedule
            if schedule.source == "settings":
                raise ScheduleConflict(
                    f"{written} comes from the family's settings: change it there (here it can be paused and run)"
                )
            new = _changed(schedule, dict(changes)).checked()
            new.refuse_clear(encrypted)
            timely = ("expression", "timezone", "start", "end", "count")
            same = all(getattr(new, each) == getattr(schedule, each) for each in timely)
            return new, found.due if same else new.next_due(now, found.runs)

        await self._change(written, changed)
        return await self.get(written)

    async def pause(self, written: str) -> bool:
        """Let it not be due until it is resumed; False when it was paused already."""
        return await self._set_paused(written, True)

    async def resume(self, written: str) -> bool:
        """Let a paused one be due again, from now on; False when it was not paused."""
        return await self._set_paused(written, False)

    async def run_now(self, written: str) -> str:
        """Enqueue its job now, whatever its state; this is no tick of its own.

        Returns:
            The job's id, ``family:id``; that of the job it would repeat, if a dedup key or a job id says so.
        """
        keys, name = _named(written)
        with translated():
            return await run_once(Broker(self.redis, keys), (await self._read(keys, name)).schedule)

    async def remove(self, written: str) -> None:
        """Remove it; one of a family's settings comes back with the next worker process that has it."""
        await self._change(written, lambda found, now: (None, None))

    async def _set_paused(self, written: str, paused: bool) -> bool:
        was = not paused

        def change(found: Planned, now: int) -> tuple[Schedule, int | None]:
            nonlocal was
            was = found.schedule.paused
            new = replace(found.schedule, paused=paused)
            return new, found.due if was == paused else new.next_due(now, found.runs)

        await self._change(written, change)
        return was != paused

    async def _change(self, written: str, change: Callable[[Planned, int], tuple[Schedule | None, int | None]]) -> None:
        keys, name = _named(written)
        with translated():
            for _ in range(TRIES):
                found = await self._read(keys, name)
                if await self._plan(keys, name, found, *change(found, await server_ms(self.redis, keys))):
                    return
        raise ScheduleConflict(f"{written} is being changed by somebody else: try again")

    async def _is_encrypted(self, keys: FamilyKeys, function: str) -> bool:
        """Whether a job of this function may not carry something in clear (``lua/enqueue.lua``)."""
        encrypted, marked = await self.redis.hmget(keys.key("conf"), "encrypted", "marked")
        return encrypted is not None or f"\t{function}\t".encode() in (marked or b"")

    async def _read(self, keys: FamilyKeys, name: str) -> Planned:
        found = await read_schedule(self.redis, keys, name)
        if found is None:
            raise ScheduleNotFound(
                f"there is no schedule {keys.family}:{name}: arqd schedule list shows those there are"
            )
        return found

    async def _plan(
        self, keys: FamilyKeys, name: str, found: Planned | None, new: Schedule | None, due: int | None
    ) -> bool:  # fmt: skip
        old = (found.definition, found.due) if found else (None, None)
        done = await Broker(self.redis, keys).plan(name, old, new.as_bytes() if new else None, due)
        if done:
            await wake(self.redis, keys.family)
        return done


async def run_once(broker: Broker, schedule: Schedule, **options: Any) -> str:
    """Enqueue a schedule's job now.

    Args:
        options: of this job, beside the schedule's.

    Returns:
        The id of the job, ``family:id``.
    """
    schedule = replace(schedule, options={**options, **schedule.options})
    job = schedule.job(broker.keys, 0, run=new_id())
    (added,) = await broker.enqueue([job])
    return spoken_id(added.id if isinstance(added, Repeat) else job.id)


def _named(written: str) -> tuple[FamilyKeys, str]:
    family, colon, name = written.partition(":")
    if not colon or not name or not FAMILY_NAME.match(family):
        raise InvalidJob(f"schedule {written!r}: write it as family:name")
    return FamilyKeys.of(family), name


def _changed(schedule: Schedule, changes: dict[str, Any]) -> Schedule:
    """Give a schedule with these changes made, unchecked."""
    job, payload = changes.pop("function", schedule.function), changes.pop("payload", schedule.payload)
    if isinstance(payload, Payload):
        job, payload = payload, None
    expression = schedule.expression
    if "cron" in changes or "every" in changes:
        cron, period = changes.pop("cron", None), changes.pop("every", None)
        if cron is not None and period is not None:
            raise InvalidJob(f"schedule {schedule.name!r}: give cron or every, not both")
        if cron is None and period is None:
            raise InvalidJob(f"schedule {schedule.name!r}: a schedule has its times: give cron or every")
        expression = cron if cron is not None else every_(period)
    known: dict[str, Any] = {name: changes.pop(name) for name in ("timezone", "count", "missed") if name in changes}
    known |= {name: ms_of(changes.pop(name), name) for name in ("start", "end") if name in changes}
    call = call_of(job, payload, {**schedule.options, **changes})
    if call[:2] == (schedule.function, schedule.payload):
        call = call._replace(schema=call.schema or schedule.schema)
    return replace(schedule, **call._asdict(), expression=expression, **known)


def _info(family: str, name: str, found: Planned, upcoming: int) -> ScheduleInfo:
    unreadable = found.readable() is None
    schedule = found.readable() or Schedule(name, "", "")
    following: list[datetime] = []
    due = None if unreadable else found.due
    while due is not None and len(following) < upcoming:
        following.append(from_ms(due))
        over = schedule.count is not None and found.runs + len(following) >= schedule.count
        due = None if over else schedule.timing.after(due)
    return ScheduleInfo(
        name=f"{family}:{name}",
        family=family,
        function=schedule.function,
        payload=schedule.payload,
        cron=schedule.expression,
        timezone=schedule.timezone,
        state="unreadable"
        if unreadable
        else "paused"
        if schedule.paused
        else "ended"
        if found.due is None
        else "active",
        source=schedule.source,
        next_runs=following,
        last_run=from_ms(found.last) if found.last else None,
        runs=found.runs,
        missed=schedule.missed,
        start=None if schedule.start is None else from_ms(schedule.start),
        end=None if schedule.end is None else from_ms(schedule.end),
        count=schedule.count,
        options=schedule.options,
    )
