"""What is done to queues from their pages; ``*`` in the place of a family is every one of them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from daemon.console import queue_actions
from daemon.console.api.common import Operator
from daemon.console.filters import job_filter
from daemon.console.pages.asking import Field, answered, ask, back_to, first, plural, told
from daemon.console.pages.frame import Frame, fields, page
from daemon.console.pages.queue import ENDED
from daemon.console.problems import Problem
from daemon.console.queue_actions import Counts
from daemon.console.queues import QueueAway
from daemon.console.roles import Actor
from daemon.console.services import Services, services_of
from daemon.errors import InvalidJob

router = APIRouter()

_ALL = "*"
_TITLES = {
    "pause": "Pause",
    "resume": "Resume",
    "drain": "Drain",
    "clean": "Clean",
    "clear": "Clear",
    "retry": "Retry failed jobs of",
}
_TEXTS = {
    "pause": "Nothing is started until they are resumed; what runs ends, what comes waits.",
    "resume": "Idle workers go on at once.",
    "drain": "Removes every job that waits or is delayed, not those that run. Who waits for their results is told.",
    "clean": "Removes ended jobs with their results, oldest first; of failed ones the dead letter is gone for good.",
    "clear": "Removes every job but those that run: waiting, delayed, completed, failed. This cannot be undone.",
    "retry": "Sends dead letters back at once: same id, tries counted from the beginning. "
    "The page of dead letters tries some of each cause first.",
}
_DONE = {"drain": "Removed", "clean": "Removed", "clear": "Removed", "retry": "Sent back"}


def _families(services: Services, family: str) -> list[str]:
    return services.families if family == _ALL else [services.known(family)]


def _name(family: str) -> str:
    return "all queues" if family == _ALL else family


@router.post("/queues/{family}/pause")
@router.post("/queues/{family}/resume")
async def switch(request: Request, actor: Operator, family: str) -> Response:
    """Pause a queue, or let it go on."""
    services, given = services_of(request), await fields(request)
    paused = request.url.path.endswith("/pause")

    async def act() -> str:
        changed = await queue_actions.switch(services, actor, _families(services, family), paused=paused)
        what = "paused" if paused else "resumed"
        if family != _ALL:
            return f"{family} is {what}" if changed[family] else f"{family} was {what} already"
        away = [QueueAway(name, "") for name, now in changed.items() if now is None]
        return told(f"{plural(sum(now or False for now in changed.values()), 'queue')} {what}", away)

    return await answered(request, back_to(request, first(given, "back")), act())


@router.get("/queues/{family}/limits")
async def limits(request: Request, actor: Operator, family: str) -> Response:
    """Show the limits of a queue, and ask for others."""
    services, frame = services_of(request), Frame(request, actor)
    services.known(family)
    return await page(
        request,
        actor,
        "limits.html",
        family=family,
        title=f"Limits of {family}",
        path=frame.href("queues", family, "limits"),
        back=back_to(request, request.query_params.get("back", ""), frame.href("queues", family)),
        limits=await queue_actions.limits(services, family),
        problem="",
    )


@router.post("/queues/{family}/limits")
async def set_limits(request: Request, actor: Operator, family: str) -> Response:
    """Set limits of a queue, a group or a function, or take back what was set."""
    services, given = services_of(request), await fields(request)
    services.known(family)
    scope, name = first(given, "scope"), first(given, "name")

    async def act() -> str:
        if scope in ("group", "function") and not name:
            raise Problem(422, f"name the {scope}; * is each without limits of its own")
        if scope not in ("group", "function") and name:
            raise Problem(422, "a name is that of a group or a function: choose which")
        reset = bool(first(given, "reset"))
        changes: dict[str, Any] = {each: first(given, each) or None for each in ("rate", "concurrency") if not reset}
        if not reset and not any(changes.values()):
            raise Problem(422, "nothing was changed: fill in what is to be changed")
        lane = {scope: name} if name else {}
        if reset:
            changes["reset"] = True
        found = await queue_actions.set_limits(services, actor, family, **lane, **changes)
        now = "those of the settings again" if reset else "set"
        return ". ".join([f"Limits of {f'{scope} {name}' if name else family} are {now}", *found.warnings])

    frame = Frame(request, actor)
    return await answered(request, back_to(request, first(given, "back"), frame.href("queues", family)), act())


@router.get("/queues/{family}/{action}")
async def question(request: Request, actor: Operator, family: str, action: str) -> Response:
    """Count what an action would take, and ask."""
    services, query = services_of(request), request.query_params
    if action not in _TITLES:
        raise Problem(404, f"there is no action {action[:40]!r}: use {', '.join(_TITLES)}")
    families = _families(services, family)
    path = Frame(request, actor).href("queues", family, action)
    title, text = f"{_TITLES[action]} {_name(family)}?", _TEXTS[action]
    if action in ("pause", "resume"):
        return await ask(request, actor, title=title, path=path, button=_TITLES[action], text=text)
    asked = {name: value.strip() for name, value in query.items() if name != "back"}
    counts, problem = None, ""
    try:
        found = await _act(services, actor, families, action, asked, dry_run=True)
        counts, text = _summed(found), told(text, found.away)
    except (InvalidJob, Problem) as error:
        problem = str(error)
    total = sum((counts or {}).values())
    return await ask(
        request,
        actor,
        title=title,
        path=path,
        button=f"{'Retry' if action == 'retry' else _TITLES[action]} {plural(total, 'job')}"
        if not problem
        else _TITLES[action],
        text=text,
        what="Would be sent back" if action == "retry" else "Would be removed",
        counts=counts,
        fields=_fields_of(action, asked),
        given=[(name, value) for name, value in asked.items() if name in _TAKEN[action]],
        danger=action != "retry",
        problem=problem,
    )


@router.post("/queues/{family}/{action}")
async def answer(request: Request, actor: Operator, family: str, action: str) -> Response:
    """Drain, clean or clear a queue, or send its dead letters back."""
    services, given = services_of(request), await fields(request)
    if action not in _DONE:
        raise Problem(404, f"there is no action {action[:40]!r}: use {', '.join(_TITLES)}")
    families = _families(services, family)
    asked = {name: first(given, name) for name in given}

    async def act() -> str:
        done = await _act(services, actor, families, action, asked)
        text = f"{_DONE[action]} {plural(sum(_summed(done).values()), 'job')} of {_name(family)}"
        return told(text, done.away)

    return await answered(request, back_to(request, first(given, "back")), act())


#: What each action takes of a form.
_TAKEN = {
    "drain": (),
    "clear": (),
    "clean": ("state", "older_than", "count"),
    "retry": ("function", "tag", "group", "error", "since", "until"),
}


async def _act(
    services: Services, actor: Actor, families: list[str], action: str, asked: dict[str, str], *, dry_run: bool = False
) -> Counts:
    if action == "drain":
        return await queue_actions.drain(services, actor, families, dry_run=dry_run)
    if action == "clear":
        return await queue_actions.clear(services, actor, families, dry_run=dry_run)
    if action == "retry":
        return await queue_actions.retry(
            services,
            actor,
            families,
            job_filter(**{name: asked.get(name) for name in _TAKEN["retry"]}),
            dry_run=dry_run,
        )
    count = asked.get("count", "")
    if count and not (count.isdecimal() and len(count) < 16):
        raise InvalidJob(f"count is a number of jobs, not {count[:40]!r}")
    return await queue_actions.clean(
        services,
        actor,
        families,
        asked.get("state") or "completed",
        older_than=asked.get("older_than") or 0,
        count=int(count) if count else None,
        dry_run=dry_run,
    )


def _fields_of(action: str, asked: dict[str, str]) -> list[Field]:
    if action == "clean":
        return [
            Field("state", "State", asked.get("state") or "completed", options=ENDED),
            Field("older_than", "Older than", asked.get("older_than", ""), "such as 1h, 7d; empty: all"),
            Field("count", "At most", asked.get("count", ""), "jobs, the oldest first"),
        ]
    if action == "retry":
        labels = {
            "function": "Function",
            "tag": "Tag",
            "group": "Group",
            "error": "Error",
            "since": "Ended since",
            "until": "Until",
        }
        return [Field(name, label, asked.get(name, "")) for name, label in labels.items()]
    return []


def _summed(counts: Counts) -> dict[str, int]:
    """Add up what families have in common."""
    found: dict[str, int] = {}
    for each in counts.families.values():
        for name, count in each.items():
            found[name] = found.get(name, 0) + count
    return found
