"""A family: a queue with its functions, limits and retry policy, described by a ``WorkerSettings`` class."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from daemon.broker import MAX_EVENTS
from daemon.errors import ConfigurationError, InvalidJob
from daemon.functions import JobFunction, checked_functions, func
from daemon.job import priority_level, seconds
from daemon.keys import FAMILY_NAME, FamilyKeys
from daemon.retry import Backoff, Exponential, Fixed
from daemon.scheduling.cron_jobs import StaticSchedule, cron_entries, crontab, functions_of, static_schedules

__all__ = [
    "Exponential",
    "Family",
    "FamilySettings",
    "Fixed",
    "JobFunction",
    "RateLimit",
    "SharedLimit",
    "crontab",
    "func",
    "load_family",
]


def _checked(convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None:
            return None
        try:
            return convert(value)
        except InvalidJob as error:
            raise ValueError(str(error)) from None

    return check


Seconds = Annotated[float, BeforeValidator(_checked(seconds))]
Priority = Annotated[int, BeforeValidator(_checked(priority_level))]


class RateLimit(BaseModel):
    """At most ``count`` starts in any window of ``per`` seconds, over all processes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(ge=1)
    per: Seconds = Field(gt=0)

    def __init__(self, count: int, per: float | str = 1) -> None:
        super().__init__(count=count, per=per)


class SharedLimit(BaseModel):
    """A limit that every family with one of this name shares: starts per period, jobs at the same time, or both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    rate: Annotated[RateLimit | None, BeforeValidator(lambda value: _rate_limit(value))] = None
    concurrency: int | None = Field(None, ge=1)

    def __init__(self, name: str, rate: RateLimit | str | int | None = None, concurrency: int | None = None) -> None:
        super().__init__(name=name, rate=rate, concurrency=concurrency)

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.rate is None and self.concurrency is None:
            raise ValueError(f"shared limit {self.name!r} limits nothing: give it a rate, a concurrency or both")
        return self


def _shared_limits(value: Any) -> Any:
    """Accept ``"openai 50/1s 20, maps 10/s"`` beside SharedLimits: a rate has a slash, a concurrency none."""
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(_shared_limit(text.split()) for text in value.split(","))
    return value


def _shared_limit(words: list[str]) -> SharedLimit:
    rates, numbers = ([word for word in words[1:] if ("/" in word) is slash] for slash in (True, False))
    if not words or len(rates) > 1 or len(numbers) > 1 or not all(number.isdecimal() for number in numbers):
        raise ValueError("write name, starts per period and jobs at the same time: 'openai 50/1s 20'; more with commas")
    return SharedLimit(words[0], rates[0] if rates else None, int(numbers[0]) if numbers else None)


def _each_once(limits: tuple[SharedLimit, ...]) -> tuple[SharedLimit, ...]:
    if len({limit.name for limit in limits}) < len(limits):
        raise ValueError("a shared limit is named twice")
    return limits


def _group_limits(value: Any) -> Any:
    """Accept ``"ordered:* 1, trial:* 2"`` beside a mapping."""
    if value is None:
        return {}
    if not isinstance(value, str):
        return value
    found = [text.rsplit(maxsplit=1) for text in value.split(",")]
    if not all(len(words) == 2 and words[1].isdecimal() for words in found):
        raise ValueError("write a kind of groups and how many jobs of each run at the same time: 'ordered:* 1'")
    limits = {name.strip(): int(jobs) for name, jobs in found}
    if len(limits) < len(found):
        raise ValueError("a kind of groups is named twice")
    return limits


def _kinds_only(limits: dict[str, int]) -> dict[str, int]:
    for name in limits:
        if not re.fullmatch(r"[^:]+:\*", name) or not name.isprintable() or len(name) > 128:
            raise ValueError(
                f"{name[:40]!r} is no kind of groups: write 'ordered:*' for those whose names begin with 'ordered:'; "
                "each group has group_limit, a single one what arqd limits says"
            )
    return limits


def _rate_limit(value: Any) -> Any:
    """Accept ``100`` and ``"100/1s"`` beside a RateLimit, so that the environment can set one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return RateLimit(value)
    if isinstance(value, str):
        count, slash, per = value.partition("/")
        try:
            limit = int(count), seconds(per if per[:1].isdigit() else "1" + per) if slash else 1
        except (ValueError, InvalidJob):
            raise ValueError("write starts per period: '100/1s', '30/m'") from None
        return RateLimit(*limit)
    return value


def _backoff(value: Any) -> Any:
    """Accept ``"exponential 3s max 1h jitter 0.1"`` and ``"fixed 5s"`` beside a Backoff."""
    if not isinstance(value, str):
        return value
    words = value.split()
    named = dict(zip(words[2::2], words[3::2], strict=False))
    try:
        if len(words) < 2 or len(words) % 2 or words[0] not in ("exponential", "exp", "fixed"):
            raise ValueError
        if set(named) - {"max", "jitter"}:
            raise ValueError
        base, jitter = seconds(words[1]), float(named.get("jitter", 0))
        if words[0] == "fixed":
            return Fixed(base, jitter)
        return Exponential(base, seconds(named.get("max", "1h")), jitter)
    except (ValueError, InvalidJob, ConfigurationError):
        raise ValueError("write 'exponential 3s max 1h jitter 0.1' (jitter 0 to 1) or 'fixed 5s'") from None


class FamilyValues(BaseModel):
    """The values of a family; each can be set by its class or by ``ARQD_FAMILY__<NAME>__<VALUE>``."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, frozen=True)

    max_jobs: int = Field(10, ge=1, le=10_000, description="jobs that run at the same time in one process")
    max_tries: int = Field(5, ge=1, description="total tries before a job becomes a dead letter")
    job_timeout: Seconds = Field(300, gt=0, description="limit on one try's run time, seconds")
    backoff: Annotated[Backoff, BeforeValidator(_backoff)] = Field(
        Backoff(), description="waits between tries, e.g. `exponential 3s max 1h jitter 0.1` or `fixed 5s`"
    )
    priority: Priority = Field(5, description="level of jobs enqueued without one, 1 (first) to 10 (last)")
    rate_limit: Annotated[RateLimit | None, BeforeValidator(_rate_limit)] = Field(
        None, description="starts per period over all processes, e.g. `100/1s`"
    )
    global_limit: int | None = Field(None, ge=1, description="jobs that run at the same time over all processes")
    group_limit: int | None = Field(None, ge=1, description="jobs of one group that run at the same time, everywhere")
    group_limits: Annotated[
        dict[str, Annotated[int, Field(ge=1)]], BeforeValidator(_group_limits), AfterValidator(_kinds_only)
    ] = Field({}, description="the same for the groups of a kind, whose names begin so, e.g. `ordered:* 1, trial:* 2`")
    group_rate: Annotated[RateLimit | None, BeforeValidator(_rate_limit)] = Field(
        None, description="starts per period of one group over all processes, e.g. `10/1s`"
    )
    shared_limits: Annotated[tuple[SharedLimit, ...], BeforeValidator(_shared_limits), AfterValidator(_each_once)] = (
        Field((), description="limits shared with other families, e.g. `openai 50/1s 20, maps 10/s`")
    )
    keep_result: Seconds = Field(3600, description="how long a completed job and its result are kept, seconds")
    keep_completed: int | None = Field(1000, ge=0, description="how many completed jobs are kept; none: no bound")
    keep_failed: Seconds = Field(30 * 86400, description="how long a dead letter is kept, seconds")
    keep_failed_count: int | None = Field(None, ge=0, description="how many dead letters are kept; none: no bound")
    max_bytes: ByteSize | None = Field(
        None,
        ge=1,
        description="bytes the family may take in Redis, e.g. `500MB`; none: any number, and none are counted",
    )
    lease: Seconds = Field(30, ge=1, le=3600, description="a worker silent for so long is dead, seconds")
    max_overrun: Seconds = Field(
        60, gt=0, description="how long a job may ignore its time limit before its process is replaced, seconds"
    )
    drain_timeout: Seconds = Field(30, description="how long SIGTERM waits for running jobs, seconds")
    max_crashes: int = Field(3, ge=1, description="workers a job may kill before it becomes a dead letter")
    encrypted: bool = Field(
        False, description="payloads, results, log lines and errors are stored encrypted (docs/encryption.md)"
    )
    max_payload: int = Field(1_000_000, ge=1, description="largest payload accepted, bytes of JSON")
    max_result: int = Field(512 * 1024, ge=1, description="largest result kept, bytes of JSON")
    max_events: ByteSize = Field(
        ByteSize(MAX_EVENTS), ge=0, description="events kept for `arqd tail`, bytes or `2MB`; the oldest go; 0: none"
    )
    statistics: bool = Field(True, description="whether numbers are kept for `arqd stats`")
    search: Literal["off", "errors", "payload"] = Field(
        "off", description="words jobs are found by: `errors` (and id, function, tags), `payload` (that, too), `off`"
    )
    max_search: ByteSize = Field(
        ByteSize(64_000_000), ge=1_000_000, description="memory of the search index, bytes or `64MB`; the oldest go"
    )

    @field_validator("search")
    @classmethod
    def _search_follows_events(cls, search: str, info: ValidationInfo) -> str:
        if search != "off" and info.data.get("max_events") == 0:
            raise ValueError("search follows the events, which max_events = 0 switches off")
        return search


class FamilyEntry(FamilyValues):
    """What can be told of a family from outside only, beside its values."""

    redis_url: SecretStr | None = Field(
        None, description="the Redis this family is on, where that is not `ARQD_REDIS_URL`; the same for every program"
    )


class FamilySettings:
    """Base class of a family's ``WorkerSettings``: class attributes are its values, inheritance included.

    Beside the values of `FamilyValues`: ``family`` (its name), ``functions``, ``cron_jobs`` (`crontab` and arq's
    ``cron``), ``permanent`` (exception types never tried again), ``on_startup``, ``on_shutdown``, ``on_job_start``,
    ``on_job_end``, ``after_job_end`` (coroutine functions of the context), ``on_failure``, ``on_dead`` (of the context
    and the error, after a failed try and when a job has become a dead letter), ``ctx`` (a mapping they start from),
    ``keep_result_forever``, ``health_check_interval`` (seconds) and ``health_check_key``.
    """

    family: str
    functions: Sequence[Any] = ()
    cron_jobs: Sequence[Any] = ()


#: Called with the context and the error once a failure is recorded; the others get the context alone.
LISTENERS = ("on_failure", "on_dead")
HOOKS = ("on_startup", "on_shutdown", "on_job_start", "on_job_end", "after_job_end", *LISTENERS)


@dataclass(slots=True)
class Family:
    """A family ready to be worked: names, functions, values and hooks, all checked.

    ``stock`` holds what only a plain arq settings class brings (serialisers, ``poll_delay`` ...), None for ours;
    ``warnings`` are told when a process starts to work it.
    """

    name: str
    keys: FamilyKeys
    functions: dict[str, JobFunction]
    values: FamilyValues
    permanent: tuple[type[BaseException], ...] = ()
    hooks: dict[str, Callable[..., Any]] = field(default_factory=dict)
    ctx: dict[Any, Any] = field(default_factory=dict)
    keep_result_forever: bool = False
    health_check_interval: float = 3600
    health_check_key: str | None = None
    stock: dict[str, Any] | None = None
    schedules: list[StaticSchedule] = field(default_factory=list)
    warnings: tuple[str, ...] = ()


_EXTRAS = {"permanent", "ctx", "keep_result_forever", "health_check_interval", "health_check_key"}


def _attributes(cls: type) -> dict[str, Any]:
    """Collect a class's public attributes, bases included (stock arq reads only the class's own)."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        for name, value in vars(base).items():
            if not name.startswith("_"):
                found[name] = value.__func__ if isinstance(value, staticmethod) else value
    return found


def checked_values(name: str, values: dict[str, Any]) -> FamilyValues:
    """Validate a family's values.

    Raises:
        ConfigurationError: naming the family, the value and what it should be.
    """
    try:
        return FamilyValues(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][:1])
        raise ConfigurationError(f"family {name!r}: {where}: {first['msg']} (got {first['input']!r})") from None


def load_family(settings: type, overrides: dict[str, Any] | None = None) -> Family:
    """Build a family from its ``WorkerSettings`` class.

    Args:
        settings: a subclass of `FamilySettings`.
        overrides: values from the environment, by name; they win over the class.

    Raises:
        ConfigurationError: for a missing or unknown attribute, a wrong value, or no function at all.
    """
    found = _attributes(settings)
    name = found.pop("family", None)
    if not isinstance(name, str) or not FAMILY_NAME.match(name):
        raise ConfigurationError(f"{settings.__name__}: family = {name!r} must be a name matching [a-z0-9_-]+")
    entries, functions = cron_entries(name, found.pop("cron_jobs")), found.pop("functions")
    registered = checked_functions(name, [*functions, *functions_of(entries, [func(each) for each in functions])])
    hooks = {hook: found.pop(hook) for hook in HOOKS if hook in found}
    for hook, call in hooks.items():
        if call is not None and not inspect.iscoroutinefunction(call):
            raise ConfigurationError(f"family {name!r}: {hook} must be an async function")
    extras = {extra: found.pop(extra) for extra in _EXTRAS & found.keys()}
    unknown = found.keys() - FamilyValues.model_fields.keys()
    if unknown:
        known = sorted({*FamilyValues.model_fields, *_EXTRAS, *HOOKS, "functions", "cron_jobs"})
        raise ConfigurationError(f"family {name!r}: unknown {sorted(unknown)}; known are {', '.join(known)}")
    return Family(
        name=name,
        keys=FamilyKeys.of(name),
        functions=registered,
        values=checked_values(name, found | (overrides or {})),
        hooks={hook: call for hook, call in hooks.items() if call is not None},
        schedules=static_schedules(name, entries, registered),
        **extras,
    )
