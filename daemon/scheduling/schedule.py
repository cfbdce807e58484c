"""A schedule as it stands in Redis: which job, when, and what becomes of ticks that were missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, NamedTuple, cast, get_args

from pydantic_core import from_json

from daemon import codec
from daemon.broker import NewJob
from daemon.carried import nothing
from daemon.errors import InvalidJob, Unreadable
from daemon.job import seconds
from daemon.keys import FamilyKeys
from daemon.payload import Payload, schema_mark
from daemon.producer import MAX_PAYLOAD
from daemon.producing.options import LATEST_DUE_MS, JobOptions, new_job
from daemon.retry import Backoff
from daemon.scheduling.crontab import Timing
from daemon.secret import model_has_secrets

#: What becomes of ticks that were due longer than `ticks.GRACE_MS` ago: one job for all of them, none, or one for each
#: of the newest `ticks.RUN_ALL`.
Missed = Literal["run_once", "skip", "run_all"]

#: What belongs to one job only, or to a producer.
_NOT_HERE = {"job_id", "run_at", "template"}

#: To make one checks it, which takes longer than to ask it; and each tick of a schedule asks.
_timing = lru_cache(1024)(Timing)

_IN_CLEAR = (
    "a schedule keeps its payload in clear: one whose job is encrypted takes no payload, its handler looks it up"
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule's definition.

    Attributes:
        name: unique in its family.
        function: the function its jobs call.
        payload: the payload's fields, a list of positional arguments, or None.
        expression, timezone, start, end: see `Timing`.
        count: ticks after which it has ended; None: no bound.
        missed: see `Missed`.
        schema: the mark of its payload's class (`daemon.payload.schema_mark`), "" where that is not known.
        options: of its jobs (`JobOptions`).
        source: ``settings`` for one of a family's ``cron_jobs``, else ``runtime``.
        paused: whether it is not due until it is resumed.
    """

    name: str
    function: str
    expression: str
    timezone: str = "UTC"
    payload: dict[str, Any] | list[Any] | None = None
    schema: str = ""
    start: int | None = None
    end: int | None = None
    count: int | None = None
    missed: Missed = "run_once"
    options: dict[str, Any] = field(default_factory=dict)
    source: Literal["settings", "runtime"] = "runtime"
    paused: bool = False

    @property
    def timing(self) -> Timing:
        """When it is due."""
        return _timing(self.expression, self.timezone, self.start, self.end)

    def refuse_clear(self, encrypted: bool) -> None:
        """Refuse a payload where the family is encrypted.

        Raises:
            InvalidJob: since it would be stored in clear.
        """
        if encrypted and self.payload:
            raise InvalidJob(f"schedule {self.name!r}: {_IN_CLEAR}")

    def next_due(self, now: int, runs: int = 0) -> int | None:
        """Give when it is due next, after ``runs`` ticks; None when it is paused or has ended."""
        if self.paused or (self.count is not None and runs >= self.count):
            return None
        return self.timing.after(now)

    def checked(self) -> Schedule:
        """Give it in the form that is stored, after checking all of it as far as it can be without its function.

        Raises:
            InvalidJob: saying what is wrong.
        """
        if not all(isinstance(text, str) for text in (self.name, self.function, self.expression, self.timezone)):
            raise InvalidJob("a schedule's name, function, crontab text and time zone are text")
        if not self.name or len(self.name) > 128 or not self.name.isprintable() or " " in self.name:
            raise InvalidJob(
                f"schedule name {self.name[:40]!r} must be plain text of 1 to 128 characters without blanks"
            )
        if not self.function or not self.function.isprintable():
            raise InvalidJob(f"schedule {self.name!r}: {self.function!r} is not a function's name")
        if self.count is not None and (type(self.count) is not int or self.count < 1):
            raise InvalidJob(f"schedule {self.name!r}: count is 1 or more, not {self.count!r}")
        if self.missed not in get_args(Missed):
            raise InvalidJob(
                f"schedule {self.name!r}: missed {self.missed!r} is not one of {', '.join(get_args(Missed))}"
            )
        if refused := sorted(_NOT_HERE & self.options.keys()):
            raise InvalidJob(
                f"schedule {self.name!r}: {', '.join(refused)} cannot be an option of its jobs (a dedup_key can)"
            )
        try:
            Timing(self.expression, self.timezone, self.start, self.end)
            self.job(FamilyKeys.of("family"), 0)
            codec.check_size(len(codec.encode(self.payload, "payload")), MAX_PAYLOAD, "payload")
        except InvalidJob as error:
            raise type(error)(f"schedule {self.name!r}: {error}") from None
        return replace(self, options={name: _plain(name, value) for name, value in self.options.items()})

    def job(self, keys: FamilyKeys, due: int, *, run: str = "") -> NewJob:
        """Give the job of a tick.

        Args:
            due: the tick, ms.
            run: in place of the time in the job's id, for a run that no tick made.

        Raises:
            InvalidJob: for a wrong option.
        """
        options = dict(self.options)
        options["job_id"] = f"{self.name}:{run or due}"
        tags = options.get("tags") or []
        options["tags"] = [*tags, f"schedule:{self.name}"] if not isinstance(tags, str) else tags
        if isinstance(options.get("backoff"), list):
            options["backoff"] = Backoff.from_json(options["backoff"])
        payload = self.payload if isinstance(self.payload, list) else [] if self.payload is None else [self.payload]
        args = codec.encode(payload, "payload")
        with nothing():
            return new_job(keys, self.function, args, 0, cast(JobOptions, options), self.schema)

    def as_bytes(self) -> bytes:
        """Give the form that stands in Redis."""
        return codec.encode(asdict(self), "schedule")

    @classmethod
    def from_bytes(cls, raw: bytes) -> Schedule:
        """Read what `as_bytes` gave; what only a newer version knows is left out.

        Raises:
            Unreadable: when it was not written by that.
        """
        known = {each.name for each in fields(cls)}
        try:
            return cls(**{name: value for name, value in from_json(raw).items() if name in known})
        except (ValueError, TypeError, AttributeError):
            raise Unreadable("what stands there is not a schedule: remove it") from None


class Call(NamedTuple):
    """What a schedule's jobs call, in plain data; see `Schedule`."""

    function: str
    payload: dict[str, Any] | list[Any] | None
    schema: str
    options: dict[str, Any]


def call_of(job: Payload | str, payload: Mapping[str, Any] | Sequence[Any] | None, options: Mapping[str, Any]) -> Call:
    """Give the call of a payload object, or of a function's name and its arguments.

    Raises:
        InvalidJob: for both at once, or what is neither.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(job, Payload):
        if payload is not None:
            raise InvalidJob("give a payload or a function's name with its fields, not both")
        spec = job.__job__
        if model_has_secrets(type(job)) or (spec.encrypted and type(job).model_fields):
            raise InvalidJob(_IN_CLEAR)
        if spec.priority:
            options.setdefault("priority", spec.priority)
        if spec.keyed and (key := job.dedup_key()) is not None:
            options.setdefault("dedup_key", key)
        if spec.keyed and (group := job.group_key()) is not None:
            options.setdefault("group", group)
        return Call(spec.function, _plain_data(codec.encode_model(job)), schema_mark(type(job)), options)
    if not isinstance(job, str):
        raise InvalidJob(f"{type(job).__name__} is no payload: give a Payload, or a function's name with its fields")
    found = _plain_data(codec.encode(payload, "payload"))
    if not isinstance(found, dict | list | None):
        raise InvalidJob("a payload is its fields, or a list of positional arguments")
    return Call(job, found, "", options)


def _plain_data(payload: bytes) -> Any:
    codec.check_readable(payload, "payload")
    return from_json(payload)


@dataclass(frozen=True, slots=True)
class Planned:
    """A schedule as it stands: its definition, when it is due next (None: never), ticks made, the last of them; ms."""

    definition: bytes
    due: int | None
    runs: int
    last: int

    @property
    def schedule(self) -> Schedule:
        """The definition, decoded; raises Unreadable."""
        return Schedule.from_bytes(self.definition)

    def readable(self) -> Schedule | None:
        """Give the definition, None where it cannot be read or says times that are not known here."""
        try:
            schedule = self.schedule
            schedule.timing.after(0)
        except (Unreadable, InvalidJob, TypeError, AttributeError):
            return None
        return schedule

    @classmethod
    def of(cls, definition: bytes, due: float | None, runs: bytes | None) -> Planned:
        """Give what Redis holds of it."""
        try:
            made, last = map(int, (runs or b"0 0").split())
        except ValueError:
            # Whatever somebody wrote there: it must not end the processes that meet it.
            made = last = 0
        return cls(definition, None if due is None else int(due), made, last)


async def read_schedules(redis: Any, keys: FamilyKeys) -> dict[str, Planned]:
    """Read a family's schedules by name."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hgetall(keys.key("schedules")).hgetall(keys.key("schedule:runs"))
        pipe.zrange(keys.key("ticks"), 0, -1, withscores=True)
        definitions, runs, ticks = await pipe.execute()
    due = dict(ticks)
    return {name.decode(): Planned.of(raw, due.get(name), runs.get(name)) for name, raw in sorted(definitions.items())}


async def read_schedule(redis: Any, keys: FamilyKeys, name: str) -> Planned | None:
    """Read one schedule; None when there is none of this name."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.hget(keys.key("schedules"), name).zscore(keys.key("ticks"), name).hget(keys.key("schedule:runs"), name)
        raw, due, runs = await pipe.execute()
    return None if raw is None else Planned.of(raw, due, runs)


def _plain(name: str, value: Any) -> Any:
    """Give an option's value as JSON can carry it."""
    if isinstance(value, Backoff):
        return value.as_json()
    if name in ("delay", "expires", "timeout", "dedup_window"):
        return seconds(value)
    return [str(tag) for tag in value] if name == "tags" else value


def ms_of(at: datetime | None, what: str) -> int | None:
    """Give an aware datetime in ms since the epoch.

    Raises:
        InvalidJob: for one without a zone, or too far away.
    """
    if at is None:
        return None
    if getattr(at, "tzinfo", None) is None:
        raise InvalidJob(f"{what} {at!r} has no time zone: pass an aware datetime, e.g. datetime.now(UTC)")
    ms = round(at.timestamp() * 1000)
    if not 0 <= ms < LATEST_DUE_MS:
        raise InvalidJob(f"{what} {at.isoformat()} is not a time between 1970 and 3084")
    return ms
