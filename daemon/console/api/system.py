"""The system: health, workers, events as they happen, the audit log."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic_core import to_json, to_jsonable_python

from daemon.console import queues
from daemon.console.access import MaybeActor
from daemon.console.api.common import Cursor, Given, Limit, Operator, Since, Until, Viewer, problems
from daemon.console.audit import AuditFilter, AuditPage
from daemon.console.filters import moment
from daemon.console.headers import is_head
from daemon.console.live import Away, Place, Snapshot
from daemon.console.services import Services
from daemon.events import Event

router = APIRouter(tags=["system"])
#: What whoever asks may send anything to.
open_router = APIRouter(tags=["system"])

#: A stream ends after so long, seconds: its client comes again by itself, and is asked again who it is.
STREAM_SECONDS = 300.0


@dataclass(slots=True)
class BareHealth:
    """What everybody may know."""

    status: queues.Status


def _bare(request: Request) -> queues.BareStatus:
    bare: queues.BareStatus = request.app.state.bare_status
    return bare


@open_router.get(
    "/health",
    response_model=queues.Health | BareHealth,
    responses={503: {"model": queues.Health | BareHealth, "description": "Redis cannot be used: `down`"}},
)
async def get_health(
    services: Given, actor: MaybeActor, bare: Annotated[queues.BareStatus, Depends(_bare)]
) -> JSONResponse:
    """How the system is: to everybody the status alone, to those who are logged in with counts and reasons."""
    found = BareHealth(await bare.get()) if actor is None else await queues.health(services)
    return JSONResponse(to_jsonable_python(found), 503 if found.status is queues.Status.DOWN else 200)


@router.get("/workers", responses=problems())
async def list_workers(services: Given, actor: Viewer) -> list[queues.WorkerView | queues.QueueAway]:
    """The processes that work the queues; of a queue that cannot be asked why not."""
    return await queues.workers(services)


@router.get(
    "/events",
    responses={
        200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **problems(404),
    },
    response_class=StreamingResponse,
)
async def events(
    request: Request,
    services: Given,
    actor: Viewer,
    family: Annotated[list[str] | None, Query(description="of these families; default all")] = None,
    kind: Annotated[list[str] | None, Query(description="of these kinds (docs/events.md)")] = None,
    job: Annotated[str | None, Query(description="of this job only, `family:id`")] = None,
    counts: Annotated[bool, Query(description="also `queues`, as `GET /queues`, when it has changed")] = False,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", description="go on behind this event")] = None,
) -> Response:
    """What happens to jobs, as it happens: server-sent events named by their kind, with an id to go on from."""
    names = [services.known(each) for each in family] if family else services.live.families
    since = Place.parse(last_event_id) if last_event_id else None
    told = _told(services, names, since, counts, frozenset(kind or ()), job)
    # The first one tells that the stream has begun: an error before it is still an answer of its own.
    first = await anext(told)
    headers = {"x-accel-buffering": "no"}
    if is_head(request):
        await told.aclose()
        return Response(media_type="text/event-stream", headers=headers)
    return StreamingResponse(_chained(first, told), media_type="text/event-stream", headers=headers)


async def _chained(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for each in rest:
        yield each


async def _told(
    services: Services, families: list[str], since: Place | None, counts: bool, kinds: frozenset[str], job: str | None
) -> AsyncGenerator[bytes, None]:
    end = time.monotonic() + STREAM_SECONDS
    async with services.live.stream(families, since, counts=counts) as told:
        yield b"retry: 2000\n\n"
        async for each in told:
            if each is None:
                yield b": nothing new\n\n"
            elif isinstance(each, Snapshot):
                yield b"event: queues\ndata: " + each.data + b"\n\n"
            elif isinstance(each, Away):
                yield b"event: away\ndata: " + to_json(queues.away_of(each.families)) + b"\n\n"
            elif _wanted(each[0], kinds, job):
                event, place = each
                yield f"id: {place}\nevent: {event.kind}\ndata: ".encode() + to_json(event) + b"\n\n"
            if time.monotonic() > end:
                return


def _wanted(event: Event, kinds: frozenset[str], job: str | None) -> bool:
    return (not kinds or event.kind in kinds) and job in (None, event.id)


@router.get("/audit", responses=problems())
async def list_audit(
    services: Given, actor: Operator,
    who: Annotated[str | None, Query(alias="actor", description="name of a token, a JWT's `sub`, a user")] = None,
    action: Annotated[str | None, Query(description="an action, or its beginning: `queue.`")] = None,
    target: Annotated[str | None, Query(description="a family, job, schedule or token")] = None,
    outcome: Annotated[Literal["done", "refused", "failed", ""] | None, Query(description="how it ended")] = None,
    since: Since = None, until: Until = None, cursor: Cursor = None, limit: Limit = 50,
) -> AuditPage:  # fmt: skip
    """Who changed what, newest first. A filtered page may be short and still go on."""
    where = AuditFilter(who, action, target, outcome or None, moment(since, "since"), moment(until, "until"))
    return await services.audit.page(where, cursor=cursor, limit=limit)
