"""Enqueueing a job from a form: a function, its payload as JSON, options."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.responses import Response

from daemon.console import submissions
from daemon.console.api.common import Operator
from daemon.console.pages.asking import first
from daemon.console.pages.frame import Frame, board_of, done, fields, page
from daemon.console.pages.functions import chosen, example, functions, payload_fields, payload_of
from daemon.console.problems import Problem
from daemon.console.roles import Actor
from daemon.console.services import Services, services_of
from daemon.console.submissions import JobSubmission
from daemon.encryption import MASK
from daemon.errors import ArqdError, InvalidPayload, QueueFull, RedisError
from daemon.job import PRIORITIES

router = APIRouter()

_FIELDS = ("function", "payload", "priority", "delay", "job_id", "group", "tags", "max_tries")


@router.get("/enqueue")
async def form(request: Request, actor: Operator, function: str = "", family: str = "", like: str = "") -> Response:
    """Show the form, with what another job was enqueued with if it is to be ``like`` that."""
    services = services_of(request)
    known = functions(services)
    if like:
        filled, problem = await _like(services, like)
        return await _form(request, actor, filled, problem)
    of_family = next((each.key for each in known if each.family == family), "")
    key = function or of_family or (known[0].key if known else "")
    return await _form(request, actor, {"function": key, "payload": example(chosen(known, key))})


async def _like(services: Services, written: str) -> tuple[dict[str, str], str]:
    job = await services.inspector.job(written)
    hidden = MASK in repr(job.payload)
    filled = {
        "function": f"{job.family}/{job.function}",
        "payload": "" if hidden else json.dumps(job.payload, indent=2, ensure_ascii=False),
        "priority": str(job.priority or ""),
        "group": job.group or "",
        "tags": ", ".join(job.tags),
        "max_tries": str(job.max_tries or ""),
    }
    return filled, "The payload is encrypted and not repeated here: fill it in." if hidden else ""


async def _form(
    request: Request,
    actor: Actor,
    filled: dict[str, str],
    problem: str = "",
    *,
    wrong: list[tuple[str, str]] | None = None,
    status: int = 200,
) -> Response:
    known = functions(services_of(request))
    return await page(
        request,
        actor,
        "enqueue.html",
        status=status,
        section="enqueue",
        functions=known,
        fields=payload_fields(chosen(known, filled.get("function", ""))),
        form={name: filled.get(name, "") for name in _FIELDS},
        priorities=list(PRIORITIES),
        problem=problem,
        wrong=wrong or [],
    )


@router.post("/enqueue")
async def enqueue(request: Request, actor: Operator) -> Response:
    """Enqueue a job; what is wrong with it is told beside the form, which keeps what was filled in."""
    services, given = services_of(request), await fields(request)
    filled = {name: first(given, name) for name in _FIELDS}
    try:
        submitted = await submissions.submit(services, actor, _submission(services, filled))
    except InvalidPayload as error:
        return await _form(
            request, actor, filled, "The payload does not fit its function.", wrong=error.errors, status=422
        )
    except Problem as problem:
        return await _form(request, actor, filled, problem.detail, status=problem.status)
    except QueueFull as error:
        return await _form(request, actor, filled, str(error), status=429)
    except RedisError:
        raise
    except ArqdError as error:
        return await _form(request, actor, filled, str(error), status=422)
    board_of(request).forget()
    text = f"{submitted.id} is enqueued" if submitted.created else f"There is {submitted.id} already: nothing was added"
    return done(request, Frame(request, actor).href("jobs", submitted.id), text)


def _submission(services: Services, filled: dict[str, str]) -> JobSubmission:
    """Give what a form asks for.

    Raises:
        InvalidJob: when the payload is no JSON. Problem: for a wrong option.
    """
    function = chosen(functions(services), filled["function"])
    if function is None:
        raise Problem(422, "choose a function")
    options: dict[str, Any] = {
        name: filled[name] for name in ("priority", "delay", "job_id", "group", "max_tries") if filled[name]
    }
    tags = [tag.strip() for tag in filled["tags"].split(",") if tag.strip()]
    try:
        return JobSubmission(
            function=function.name,
            family=function.family,
            payload=payload_of(filled["payload"]),
            tags=tags or None,
            **options,
        )
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False))
        raise Problem(422, told) from None
