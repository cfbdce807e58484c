"""What is done to jobs from their pages and lists: retry, promote, priority, abort, remove, reveal."""

from __future__ import annotations

from collections import Counter

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from daemon.console import jobs
from daemon.console.api.common import Admin, Operator
from daemon.console.pages.asking import Choice, answered, ask, back_to, first, plural
from daemon.console.pages.frame import Frame, fields
from daemon.console.pages.job import show
from daemon.console.problems import Problem
from daemon.console.roles import Actor
from daemon.console.services import Services, services_of
from daemon.outcomes import DONE, REASONS

router = APIRouter()

_ACTIONS: dict[str, jobs.Action] = {
    "retry": "retry", "promote": "promote", "priority": "priority", "abort": "abort", "remove": "remove",
}  # fmt: skip
#: What is asked for again, and how.
_QUESTIONS = {
    "abort": ("Abort", "Waiting jobs end at once; of running ones the handler is cancelled. They are not tried again."),
    "remove": ("Remove", "Nothing is left of them: payload, result, error and log are gone. This cannot be undone."),
    "priority": ("Change priority of", "Waiting jobs move behind those of that level; delayed ones keep their time."),
}
PRIORITIES = (
    ("1", "1, first (critical)"), ("2", "2"), ("3", "3 (high)"), ("4", "4"), ("5", "5 (normal)"), ("6", "6"),
    ("7", "7 (low)"), ("8", "8"), ("9", "9"), ("10", "10, last (background)"),
)  # fmt: skip
#: Ids that are named in a question.
_NAMED = 10


@router.get("/confirm/{action}")
async def confirm(request: Request, actor: Operator, action: str) -> Response:
    """Ask before jobs are aborted, removed or moved."""
    ids = request.query_params.getlist("id")
    if action not in _QUESTIONS or not ids:
        raise Problem(404, "there is nothing to ask here: choose some jobs first")
    verb, text = _QUESTIONS[action]
    about = ids[0] if len(ids) == 1 else plural(len(ids), "job")
    named = ", ".join(ids[:_NAMED]) + (f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else "")
    return await ask(
        request,
        actor,
        title=f"{verb} {about}?",
        path=Frame(request, actor).href("jobs", "act"),
        button="Change" if action == "priority" else f"{verb} {plural(len(ids), 'job')}",
        text=text if len(ids) == 1 else f"{text} They are {named}.",
        given=[("action", action), ("confirmed", "yes"), *(("id", each) for each in ids)],
        choice=Choice("priority", "Priority", "5", PRIORITIES) if action == "priority" else None,
        danger=action != "priority",
    )


@router.post("/jobs/act")
async def act(request: Request, actor: Operator) -> Response:
    """Act on jobs: fields ``action``, ``id`` (many), ``back``, and ``confirmed`` for what is asked again."""
    services, given, frame = services_of(request), await fields(request), Frame(request, actor)
    action, ids, back = first(given, "action"), given.get("id", []), first(given, "back")
    if action not in _ACTIONS:
        raise Problem(422, f"{action[:40]!r} is nothing that can be done to jobs: use {', '.join(_ACTIONS)}")
    to = back_to(request, back)
    if not ids:
        return await answered(request, to, _nothing())
    if action in _QUESTIONS and not first(given, "confirmed"):
        query = "&".join(frame.href(id=each).partition("?")[2] for each in ids)
        return RedirectResponse(f"{frame.href('confirm', action, back=back)}{'&' if back else '?'}{query}", 303)
    return await answered(request, to, _act(services, actor, _ACTIONS[action], ids, first(given, "priority")))


async def _nothing() -> str:
    raise Problem(422, "choose some jobs first")


async def _act(services: Services, actor: Actor, action: jobs.Action, ids: list[str], priority: str) -> str:
    """Act on jobs, and tell what became of them.

    Raises:
        Problem: when none of them could be done.
    """
    words = Counter((await jobs.act(services, actor, action, ids, priority)).values())
    about = ids[0] if len(ids) == 1 else ""
    told = [
        f"{about or plural(count, 'job')}: {DONE.get(word) or REASONS.get(word, word)}" for word, count in words.items()
    ]
    if not any(word in DONE for word in words):
        raise Problem(409, "; ".join(told))
    return "; ".join(told)


@router.post("/jobs/reveal")
async def reveal(request: Request, actor: Admin) -> Response:
    """Show a job with what is encrypted in clear, which is audited."""
    services, job_id = services_of(request), first(await fields(request), "id")
    async with services.audit.record(actor, "job.reveal", job_id):
        return await show(request, actor, services.inspector, job_id, reveal=True)
