"""Schedules: look, add, change, pause, run now, remove."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

from fastapi import APIRouter, Path
from pydantic import AwareDatetime, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from daemon.console import schedules
from daemon.console.api.common import Body, Given, MaybeFamily, Operator, Viewer, problems
from daemon.console.fields import Duration, Lasting, Level, Whole
from daemon.schedules import ScheduleInfo
from daemon.scheduling.schedule import Missed

router = APIRouter(tags=["schedules"])

Name = Annotated[str, Path(description="`family:name`")]


class _Fields(Body):
    payload: dict[str, Any] | list[Any] | None = None
    cron: str | None = Field(None, description="minute hour day month weekday; seconds before them if wanted; `@daily`")
    every: Duration | None = Field(None, description="in place of cron a period: `30s`, `15m`")
    timezone: str = Field("UTC", description="zone in which cron is read")
    start: AwareDatetime | None = None
    end: AwareDatetime | None = None
    count: Whole | None = Field(None, ge=1, le=10**9, description="end after so many ticks")
    missed: Missed = Field("run_once", description="what becomes of missed ticks")
    priority: Level | None = None
    max_tries: Whole | None = None
    timeout: Duration | None = None
    expires: Duration | None = None
    group: str | None = None
    tags: list[str] | None = None
    dedup_key: str | None = Field(None, min_length=1)


class NewSchedule(_Fields):
    """A schedule to add; give `cron` or `every`."""

    name: str = Field(description="unique in its family")
    function: str
    family: str | None = Field(None, description="needed where several families have the function")


class ScheduleChange(_Fields):
    """What to change; what is left out stays, and null takes `payload`, `start`, `end`, `count` or an option of its
    jobs away."""

    function: Annotated[str | SkipJsonSchema[None], Lasting] = None
    paused: Annotated[bool | SkipJsonSchema[None], Lasting] = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name what to change")
        return self


@dataclass(slots=True)
class ScheduledJob:
    """The job that was enqueued."""

    id: str


@router.get("/schedules", responses=problems(404))
async def list_schedules(services: Given, actor: Viewer, family: MaybeFamily = None) -> list[ScheduleInfo]:
    """Schedules of one family or all, with their next times."""
    return await services.schedules.list(None if family is None else services.known(family))


@router.post("/schedules", status_code=201, responses=problems(409, 413))
async def add(asked: NewSchedule, services: Given, actor: Operator) -> ScheduleInfo:
    """Add a schedule."""
    return await schedules.add(services, actor, **asked.model_dump())


@router.get("/schedules/{name:path}", responses=problems(404))
async def get_schedule(name: Name, services: Given, actor: Viewer) -> ScheduleInfo:
    """One schedule."""
    return await services.schedules.get(name)


@router.patch("/schedules/{name:path}", responses=problems(404, 409, 413))
async def change(name: Name, asked: ScheduleChange, services: Given, actor: Operator) -> ScheduleInfo:
    """Change a schedule made at run time; one of a family's settings can be paused and resumed."""
    return await schedules.change(services, actor, name, asked.model_dump(exclude_unset=True))


@router.delete("/schedules/{name:path}", status_code=204, responses=problems(404, 409))
async def remove(name: Name, services: Given, actor: Operator) -> None:
    """Remove a schedule; one of a family's settings comes back with the next worker that has it."""
    await schedules.remove(services, actor, name)


@router.post("/schedules/{name:path}/run", status_code=202, responses=problems(404, 409, 429))
async def run(name: Name, services: Given, actor: Operator) -> ScheduledJob:
    """Enqueue its job now, whatever its state."""
    return ScheduledJob(await schedules.run(services, actor, name))
