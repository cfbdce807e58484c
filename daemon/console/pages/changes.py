"""What tells a page that something has changed: server-sent events without contents, few a second however much happens.

The page then asks for itself again. Programs read the events themselves (``/api/v1/events``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from daemon.console.api.common import Viewer
from daemon.console.headers import is_head
from daemon.console.live import Told
from daemon.console.services import Services, services_of

router = APIRouter()

#: At most one in so many seconds; a stream in which nothing happens says that it is there, seconds.
SELDOM, IDLE = 0.5, 10.0


@router.get("/changes")
async def changes(request: Request, actor: Viewer, family: str = "*", job: str = "") -> Response:
    """Tell when something happened to a family (``*``: any), or to one of its jobs."""
    services = services_of(request)
    families = services.families if family == "*" else [services.known(family)]
    if is_head(request):
        return Response(media_type="text/event-stream")
    return StreamingResponse(_told(services, families, job), media_type="text/event-stream")


async def _told(services: Services, families: list[str], job: str) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    happened = asyncio.Event()
    async with services.live.stream(families) as events:
        reading = asyncio.create_task(_watch(events, job, happened))
        try:
            while not reading.done():
                try:
                    async with asyncio.timeout(IDLE):
                        await happened.wait()
                except TimeoutError:
                    yield ": still here\n\n"
                    continue
                happened.clear()
                yield "event: changed\ndata: \n\n"
                await asyncio.sleep(SELDOM)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def _watch(events: Told, job: str, happened: asyncio.Event) -> None:
    """Take every event, as fast as they come."""
    async for told in events:
        # Of the queue itself (paused, for example) an event names no job.
        if isinstance(told, tuple) and (not job or told[0].id in ("", job)):
            happened.set()
    happened.set()
