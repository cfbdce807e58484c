"""The ``cron_jobs`` of a family's settings: ours (`crontab`) and arq's (``arq.cron.cron``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from arq.cron import CronJob
from arq.typing import WEEKDAYS
from pydantic import ValidationError

from daemon.codec import encode, encode_body
from daemon.errors import ConfigurationError, InvalidJob
from daemon.payload import Payload
from daemon.running.binding import Binder
from daemon.scheduling.schedule import Missed, Schedule, call_of, ms_of

if TYPE_CHECKING:
    from daemon.family import JobFunction


@dataclass(frozen=True, slots=True)
class CronEntry:
    """An entry of ``cron_jobs``, as `crontab` gives it."""

    expression: str
    function: Any
    name: str | None = None
    timezone: str = "UTC"
    payload: Any = None
    start: datetime | None = None
    end: datetime | None = None
    count: int | None = None
    missed: Missed = "run_once"
    options: Mapping[str, Any] = field(default_factory=dict)
    run_at_startup: bool = False


@dataclass(frozen=True, slots=True)
class StaticSchedule:
    """A schedule of a family's settings; ``run_at_startup``: it also runs once when a worker process starts."""

    schedule: Schedule
    run_at_startup: bool = False


def crontab(
    expression: str,
    function: Callable[..., Any] | str,
    *,
    name: str | None = None,
    timezone: str = "UTC",
    payload: Payload | Mapping[str, Any] | Sequence[Any] | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    count: int | None = None,
    missed: Missed = "run_once",
    **options: Any,
) -> CronEntry:
    """Give an entry for ``cron_jobs``: a job whenever it is due, once however many workers run.

        cron_jobs = [crontab("0 2 * * *", cleanup, timezone="Europe/Berlin", payload=Cleanup(...))]

    Args:
        expression: crontab text of five fields, or six with seconds first; ``@daily`` and its like; ``@every 30s``.
        function: a function of the family (it is registered if it is not among its ``functions``), or its name.
        name: the schedule's, unique in the family; default the function's.
        timezone: IANA name of the zone in which the expression is read.
        payload: as for `daemon.producer.Producer.enqueue`.
        start, end: aware datetimes of the first and the last time it may be due.
        count: ticks after which it has ended.
        missed: what becomes of ticks that nobody could make in time: ``run_once``, ``skip`` or ``run_all``.
        options: of its jobs, see `daemon.producing.options.JobOptions`.

    What is wrong is told when the family is loaded.
    """
    return CronEntry(expression, function, name, timezone, payload, start, end, count, missed, options)


def cron_entries(family: str, entries: Sequence[Any]) -> list[CronEntry]:
    """Give the entries of ``cron_jobs``, arq's translated.

    Raises:
        ConfigurationError: for anything else.
    """
    found = []
    for entry in entries:
        if isinstance(entry, CronJob):
            entry = _translated(family, entry)
        if not isinstance(entry, CronEntry):
            raise ConfigurationError(
                f"family {family!r}: cron_jobs takes crontab(...) or arq's cron(...), not {entry!r}"
            )
        found.append(entry)
    return found


def functions_of(entries: Sequence[CronEntry], listed: Sequence[JobFunction]) -> list[Any]:
    """Give the functions that only ``cron_jobs`` name: they are registered beside a family's ``functions``."""
    calls = [function.call for function in listed]
    found: dict[str, Any] = {}
    for entry in entries:
        function = entry.function
        if isinstance(function, CronJob):
            found.setdefault(function.name, function)
        elif callable(function) and function not in calls:
            calls.append(function)
            found[f"{len(calls)}"] = function
    return list(found.values())


def static_schedules(
    family: str, entries: Sequence[CronEntry], functions: Mapping[str, JobFunction]
) -> list[StaticSchedule]:
    """Give the schedules of these entries; ``functions`` are all of the family's.

    Raises:
        ConfigurationError: for a wrong entry, a payload its function does not take, or a name used twice.
    """
    found: dict[str, StaticSchedule] = {}
    for entry in entries:
        try:
            function = _function_name(entry.function, functions)
            schedule = _schedule(entry, function)
            if function not in functions:
                raise InvalidJob(f"schedule {schedule.name!r}: the family has no function {function!r}")
            _check_payload(schedule, functions[function])
        except InvalidJob as error:
            raise ConfigurationError(f"family {family!r}: {error}") from None
        if schedule.name in found:
            raise ConfigurationError(
                f"family {family!r}: two cron_jobs are called {schedule.name!r}: give one of them another name="
            )
        found[schedule.name] = StaticSchedule(schedule, entry.run_at_startup)
    return list(found.values())


def _function_name(function: Any, functions: Mapping[str, JobFunction]) -> str:
    if isinstance(function, str):
        return function
    if isinstance(function, CronJob):
        return str(function.name)
    named = [each.name for each in functions.values() if each is function or each.call == function]
    if not named:
        raise InvalidJob(f"crontab({function!r}) is neither a function nor the name of one")
    return named[0]


def _schedule(entry: CronEntry, function: str) -> Schedule:
    known = isinstance(entry.payload, Payload)
    call = call_of(entry.payload if known else function, None if known else entry.payload, entry.options)
    return Schedule(
        name=entry.name or function,
        function=function,
        expression=entry.expression,
        timezone=entry.timezone,
        payload=call.payload,
        schema=call.schema,
        start=ms_of(entry.start, "start"),
        end=ms_of(entry.end, "end"),
        count=entry.count,
        missed=entry.missed,
        options=call.options,
        source="settings",
    ).checked()


def _check_payload(schedule: Schedule, function: JobFunction) -> None:
    """Validate the payload as a worker will."""
    payload = schedule.payload
    arguments = payload if isinstance(payload, list) else [] if payload is None else [payload]
    try:
        Binder(function.call).bind(encode_body(encode(arguments, "payload")))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][2:])
        raise InvalidJob(
            f"schedule {schedule.name!r}: payload: {where + ': ' if where else ''}{first['msg']}"
        ) from None


# ---------------------------------------------------------------- arq's


def _translated(family: str, job: CronJob) -> CronEntry:
    if not job.unique:
        raise ConfigurationError(
            f"family {family!r}: {job.name}: unique=False wants a run in every worker, but a tick is made once for all"
        )
    # What arq's job_id is for: one at a time. As an id it would stay taken by a dead letter.
    options = {"dedup_key": job.job_id} if job.job_id else {}
    return CronEntry(arq_expression(job), job, job.name, options=options, run_at_startup=job.run_at_startup)


def arq_expression(job: CronJob) -> str:
    """Give the crontab text of one of arq's cron jobs; its microsecond is left out.

    Raises:
        ConfigurationError: for a field that is neither a number nor some.
    """
    weekday: Any = job.weekday
    if isinstance(weekday, str):
        weekday = WEEKDAYS.index(weekday.lower()) if weekday.lower() in WEEKDAYS else ()
    days = _field(job, "weekday", weekday, lambda day: (day + 1) % 7)
    numbers = [_field(job, name, getattr(job, name)) for name in ("second", "minute", "hour", "day", "month")]
    # arq wants both, the day and the weekday.
    return " ".join([*numbers, "&" + days if "*" not in (numbers[3], days) else days])


def _field(job: CronJob, name: str, value: Any, convert: Callable[[int], int] = lambda number: number) -> str:
    if value is None:
        return "*"
    numbers = [value] if isinstance(value, int) else value
    if (
        not isinstance(numbers, set | frozenset | list | tuple)
        or not all(isinstance(n, int) for n in numbers)
        or not numbers
    ):
        raise ConfigurationError(f"{job.name}: {name}={value!r} is neither a number nor a set of some")
    return ",".join(map(str, sorted(map(convert, numbers))))
