"""Jobs handed over through the API: what can be asked for, one job, and many with an answer for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any, Literal, cast
from urllib.parse import quote

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from daemon.console.fields import Duration, Level, Whole
from daemon.console.problems import Problem, ProblemDetails, problem_of
from daemon.console.roles import Actor
from daemon.console.services import Services
from daemon.errors import ArqdError, InvalidJob, QueueFull
from daemon.family import FamilyValues
from daemon.job import JobState
from daemon.pages import describe
from daemon.payload import Payload
from daemon.producing.handle import JobHandle
from daemon.producing.options import JobOptions
from daemon.retry import Backoff

#: Most jobs of a batch: as many as one round trip takes.
BATCH = 1000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class Dedup(_Strict):
    """One job for many repeats (docs/dedup.md)."""

    key: str = Field(min_length=1)
    window: Duration | None = None
    mode: Literal["drop", "replace", "debounce"] | None = None


class BackoffChoice(_Strict):
    """Waits between tries, seconds."""

    type: Literal["fixed", "exponential"] = "exponential"
    base: float = Field(2.0, ge=0, le=1e9)
    maximum: float | None = Field(3600.0, ge=0, le=1e9)
    jitter: float = Field(0.0, ge=0, le=1)


class JobSubmission(_Strict):
    """A job to hand over; options are those of `Producer.enqueue`."""

    function: str = Field(description="name of the function")
    payload: dict[str, Any] | list[Any] | None = Field(None, description="its fields, checked as the worker will")
    family: str | None = Field(None, description="needed where several families have the function")
    priority: Level | None = None
    delay: Duration | None = None
    run_at: AwareDatetime | None = None
    job_id: str | None = Field(None, min_length=1, description="an id of your own; a job that has it already is kept")
    dedup: Dedup | None = None
    max_tries: Whole | None = Field(None, description="total tries")
    backoff: str | BackoffChoice | None = Field(None, description="or text: `exponential 3s max 1h jitter 0.1`")
    timeout: Duration | None = None
    expires: Duration | None = None
    group: str | None = Field(None, description="a tenant or workspace: groups take turns")
    tags: list[str] | None = None
    keep: dict[str, int | str] | None = Field(None, description='`{"completed": "2h", "failed": "90d"}`')
    depends_on: list[str] | None = Field(None, description="ids of jobs that must complete first")
    template: str | None = Field(None, description="a preset of options")

    def options(self, key: str | None) -> JobOptions:
        """Give the options for the producer.

        Args:
            key: the ``Idempotency-Key``, which is the job's id where it has none of its own.

        Raises:
            InvalidJob: for a wrong backoff, or an id that is not the key.
        """
        if key is not None and self.job_id not in (None, key):
            raise InvalidJob("job_id and Idempotency-Key differ: give one of them")
        given = {name: getattr(self, name) for name in _PASSED_ON}
        given |= {"job_id": self.job_id or key, "backoff": _backoff(self.backoff)}
        if self.dedup is not None:
            given |= {f"dedup_{name}": value for name, value in self.dedup}
        return cast(JobOptions, {name: value for name, value in given.items() if value is not None})


_PASSED_ON = (
    "priority", "delay", "run_at", "max_tries", "timeout", "expires", "group", "tags", "keep", "depends_on", "template",
)  # fmt: skip


def _backoff(choice: str | BackoffChoice | None) -> Backoff | None:
    if isinstance(choice, BackoffChoice):
        return Backoff(choice.base, choice.type == "exponential", choice.maximum, choice.jitter)
    if choice is None:
        return None
    try:
        return FamilyValues.model_validate({"backoff": choice}).backoff
    except ValidationError as error:
        raise InvalidJob(f"backoff: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


@dataclass(slots=True)
class Submitted:
    """A job that was handed over; ``created`` is False where one with its id or dedup key was there already."""

    id: str
    family: str
    state: JobState
    url: str
    created: bool


class BatchEntry(BaseModel):
    """What became of one job of a batch: `job`, or the `problem` with it."""

    status: int
    job: Submitted | None = None
    problem: ProblemDetails | None = None


@dataclass(slots=True)
class _Asked:
    """A job of a batch, ready to be handed over."""

    number: int
    family: str
    job: Payload | str
    fields: Any
    options: JobOptions


async def submit(services: Services, actor: Actor, asked: JobSubmission, key: str | None = None) -> Submitted:
    """Hand one job over.

    Args:
        key: makes repeats one job.

    Raises:
        Problem: 429 for somebody who submits too much.
        InvalidJob, QueueFull, RedisError: see `Producer.enqueue`.
    """
    _pass_gate(services, actor, 1)
    async with services.audit.submission(actor, services.settings.audit_submissions) as doing:
        doing.detail["function"] = asked.function[:200]
        one = _prepare(services, 0, asked, key)
        doing.target = one.family
        handle = await services.producer.enqueue(one.job, one.fields, family=one.family, **one.options)
        doing.target = handle.id
    return (await _told(services, [handle]))[0]


async def submit_many(
    services: Services, actor: Actor, many: Sequence[JobSubmission], key: str | None = None
) -> list[BatchEntry]:
    """Hand many jobs over; each is taken or refused by itself.

    Args:
        key: makes repeats of the batch one: the nth job's id is ``<key>-<n>``, from 0, where it has none of its own.

    Raises:
        Problem: 429 for somebody who submits too much.
    """
    _pass_gate(services, actor, len(many))
    found: list[BatchEntry | None] = [None] * len(many)
    by_family: dict[str, list[_Asked]] = {}
    for number, asked in enumerate(many):
        try:
            one = _prepare(services, number, asked, None if key is None or asked.job_id else f"{key}-{number}")
            by_family.setdefault(one.family, []).append(one)
        except ArqdError as error:
            found[number] = _refused(error)
    async with services.audit.submission(actor, services.settings.audit_submissions) as doing:
        for group in by_family.values():
            for one, entry in zip(group, await _hand_over(services, group), strict=True):
                found[one.number] = entry
        entries = [entry for entry in found if entry is not None]
        doing.target = ", ".join(sorted(by_family))
        doing.detail["jobs"] = dict(Counter(str(entry.status) for entry in entries))
    return entries


def _prepare(services: Services, number: int, asked: JobSubmission, key: str | None) -> _Asked:
    if asked.family is not None and asked.family not in services.catalog.families:
        raise InvalidJob(f"there is no family {asked.family[:70]!r}: known are {', '.join(services.families)}")
    family, function = services.catalog.find(asked.function, asked.family)
    job = services.catalog.checked(family, function, asked.payload)
    options = asked.options(key)
    if isinstance(job, Payload):
        return _Asked(number, family, job, None, options)
    return _Asked(number, family, asked.function, job, options)


async def _hand_over(services: Services, group: Sequence[_Asked]) -> list[BatchEntry]:
    """Hand jobs of one family over in a few round trips; where one of them is wrong, one after the other."""
    alone = any("depends_on" in one.options for one in group)
    if not alone:
        try:
            asked = [((one.job, one.fields), one.options) for one in group]
            return _taken(await _told(services, await services.producer.enqueue_each(asked, family=group[0].family)))
        except InvalidJob:
            alone = len(group) > 1
        except QueueFull as error:
            return await _partly(services, group, error)
        except ArqdError as error:
            return [_refused(error)] * len(group)
        if not alone:
            return [await _one(services, group[0])]
    return [await _one(services, one) for one in group]


async def _one(services: Services, one: _Asked) -> BatchEntry:
    try:
        handle = await services.producer.enqueue(one.job, one.fields, family=one.family, **one.options)
        return _taken(await _told(services, [handle]))[0]
    except ArqdError as error:
        return _refused(error)


async def _partly(services: Services, group: Sequence[_Asked], full: QueueFull) -> list[BatchEntry]:
    """Tell the beginning of a batch, which was added, from the rest, for which there was no room."""
    added = [services.producer.job(job_id) for job_id in full.added]
    told = _taken(await _told(services, added))
    return told + [_refused(full)] * (len(group) - len(told))


async def _told(services: Services, handles: Sequence[JobHandle]) -> list[Submitted]:
    if not handles:
        return []
    keys = services.producer.broker(handles[0].family).keys
    infos = await describe(services.redis, keys, [handle.job_id for handle in handles])
    # One that was quick has been removed again already, if its results are not kept.
    states = [JobState.NOT_FOUND if info is None else info.state for info in infos]
    base = f"{services.settings.base_path}/api/v1/jobs/"
    return [
        Submitted(handle.id, handle.family, state, base + quote(handle.id, safe=":/"), handle.created)
        for handle, state in zip(handles, states, strict=True)
    ]


def _taken(jobs: Sequence[Submitted]) -> list[BatchEntry]:
    return [BatchEntry(status=202, job=job) for job in jobs]


def _refused(error: ArqdError) -> BatchEntry:
    problem = problem_of(error)
    return BatchEntry(status=problem.status, problem=ProblemDetails.model_validate(problem.details()))


def _pass_gate(services: Services, actor: Actor, jobs: int) -> None:
    wait = services.submissions.wait(actor.name, jobs)
    if wait:
        rate = services.settings.submit_rate
        raise Problem(
            429,
            f"{actor.name} submits more than {rate} jobs a second (ARQD_CONSOLE__SUBMIT_RATE): wait {wait:.3g} s",
            headers={"retry-after": str(ceil(wait))},
        )
