"""Schedules: when they are due next; add, change, pause, run now, remove."""

from __future__ import annotations

import json
from typing import Any
from zoneinfo import available_timezones

from fastapi import APIRouter, Request
from starlette.responses import Response

from daemon.console import schedules
from daemon.console.api.common import Operator, Viewer
from daemon.console.pages.asking import answered, ask, first
from daemon.console.pages.frame import Frame, done, fields, page
from daemon.console.pages.functions import chosen, example, functions, payload_of
from daemon.console.problems import Problem
from daemon.console.roles import Actor
from daemon.console.services import Services, services_of
from daemon.errors import ArqdError, InvalidJob, RedisError
from daemon.schedules import ScheduleInfo

router = APIRouter()

_FIELDS = ("name", "function", "cron", "every", "timezone", "missed", "priority", "count", "payload")
_MISSED = (("run_once", "run once"), ("skip", "skip"), ("run_all", "run all"))


@router.get("/schedules")
async def listed(request: Request, actor: Viewer) -> Response:
    """Show every schedule."""
    found = await services_of(request).schedules.list()
    return await page(request, actor, "schedules.html", section="schedules", schedules=found)


@router.get("/schedules/add")
async def add_form(request: Request, actor: Operator) -> Response:
    """Show an empty form."""
    known = functions(services_of(request))
    filled = {"timezone": "UTC", "missed": "run_once", "payload": example(known[0] if known else None)}
    return await _form(request, actor, filled)


@router.get("/schedules/edit")
async def edit_form(request: Request, actor: Operator, name: str) -> Response:
    """Show the form of a schedule that is there."""
    return await _form(request, actor, _filled(await services_of(request).schedules.get(name)), editing=True)


def _filled(schedule: ScheduleInfo) -> dict[str, str]:
    every = schedule.cron.removeprefix("@every ") if schedule.cron.startswith("@every ") else ""
    return {
        "name": schedule.name,
        "function": f"{schedule.family}/{schedule.function}",
        "cron": "" if every else schedule.cron,
        "every": every,
        "timezone": schedule.timezone,
        "missed": schedule.missed,
        "priority": str(schedule.options.get("priority") or ""),
        "count": str(schedule.count or ""),
        "payload": json.dumps(schedule.payload, indent=2, ensure_ascii=False),
    }


async def _form(
    request: Request,
    actor: Actor,
    filled: dict[str, str],
    problem: str = "",
    *,
    editing: bool = False,
    status: int = 200,
) -> Response:
    frame = Frame(request, actor)
    return await page(
        request,
        actor,
        "schedule_form.html",
        status=status,
        section="schedules",
        title=f"Edit {filled.get('name', '')}" if editing else "Add a schedule",
        path=frame.href("schedules", "edit" if editing else "add"),
        editing=editing,
        functions=functions(services_of(request)),
        form={name: filled.get(name, "") for name in _FIELDS},
        missed=_MISSED,
        timezones=sorted(
            zone for zone in available_timezones() if "/" in zone and not zone.startswith(("Etc/", "posix", "right"))
        ),
        problem=problem,
    )


@router.post("/schedules/add")
@router.post("/schedules/edit")
async def save(request: Request, actor: Operator) -> Response:
    """Add or change a schedule; what is wrong is told beside the form, which keeps what was filled in."""
    services, given = services_of(request), await fields(request)
    editing = request.url.path.endswith("/edit")
    filled = {name: first(given, name) for name in _FIELDS}
    try:
        saved = await _save(services, actor, filled, editing=editing)
    except RedisError:
        raise
    except (ArqdError, Problem) as error:
        return await _form(request, actor, filled, str(error), editing=editing, status=422)
    return done(
        request, Frame(request, actor).href("schedules"), f"{saved.name} is {'changed' if editing else 'added'}"
    )


async def _save(services: Services, actor: Actor, filled: dict[str, str], *, editing: bool) -> ScheduleInfo:
    """Add or change a schedule.

    Raises:
        InvalidJob, ScheduleConflict, ScheduleNotFound: nothing was written.
    """
    function = chosen(functions(services), filled["function"])
    if function is None:
        raise InvalidJob("choose a function")
    if filled["count"] and not (filled["count"].isdecimal() and len(filled["count"]) < 16):
        raise InvalidJob(f"a schedule ends after a number of runs, not {filled['count'][:40]!r}")
    timing: dict[str, Any] = {"cron": filled["cron"] or None, "every": filled["every"] or None}
    given: dict[str, Any] = {
        "timezone": filled["timezone"] or "UTC",
        "missed": filled["missed"] or "run_once",
        "priority": filled["priority"] or None,
        "count": int(filled["count"]) if filled["count"] else None,
    }
    payload = payload_of(filled["payload"])
    if not editing:
        return await schedules.add(
            services, actor, filled["name"], function.name, payload, family=function.family, **timing, **given
        )
    if not filled["name"].startswith(f"{function.family}:"):
        raise InvalidJob(f"a schedule stays in its queue: choose a function of {filled['name'].partition(':')[0]}")
    now = _filled(await services.schedules.get(filled["name"]))
    changed = {name: value for name, value in given.items() if str(value or "") != now[name]}
    if (filled["cron"], filled["every"]) != (now["cron"], now["every"]):
        changed |= timing
    if payload != json.loads(now["payload"]) or filled["function"] != now["function"]:
        changed |= {"function": function.name, "payload": payload}
    return await schedules.change(services, actor, filled["name"], changed)


@router.post("/schedules/run")
async def run(request: Request, actor: Operator) -> Response:
    """Enqueue a schedule's job now."""
    services, name = services_of(request), first(await fields(request), "name")

    async def act() -> str:
        return f"{await schedules.run(services, actor, name)} is enqueued"

    return await answered(request, Frame(request, actor).href("schedules"), act())


@router.post("/schedules/pause")
@router.post("/schedules/resume")
async def switch(request: Request, actor: Operator) -> Response:
    """Let a schedule not be due, or be due again."""
    services, name = services_of(request), first(await fields(request), "name")
    paused = request.url.path.endswith("/pause")

    async def act() -> str:
        changed = await schedules.pause(services, actor, name, paused=paused)
        what = "paused" if paused else "resumed"
        return f"{name} is {what}" if changed else f"{name} was {what} already"

    return await answered(request, Frame(request, actor).href("schedules"), act())


@router.get("/schedules/remove")
async def ask_remove(request: Request, actor: Operator, name: str) -> Response:
    """Ask before a schedule is removed."""
    found = await services_of(request).schedules.get(name)
    again = (
        " It comes from its family's settings and comes back with the next worker."
        if found.source == "settings"
        else ""
    )
    return await ask(
        request,
        actor,
        title=f"Remove {found.name}?",
        path=Frame(request, actor).href("schedules", "remove"),
        button="Remove",
        text=f"It is not due any more; jobs it made stay.{again}",
        given=[("name", found.name)],
        danger=True,
    )


@router.post("/schedules/remove")
async def remove(request: Request, actor: Operator) -> Response:
    """Remove a schedule."""
    services, name = services_of(request), first(await fields(request), "name")

    async def act() -> str:
        await schedules.remove(services, actor, name)
        return f"{name} is removed"

    return await answered(request, Frame(request, actor).href("schedules"), act())
