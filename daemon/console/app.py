"""The console as an application: the API under ``{base}/api/v1``, logging in and out, and the pages, if there are any.

``{base}`` is ``ARQD_CONSOLE__BASE_PATH``. Pages are a router of their own, included at ``{base}/``; they take who asks
from `daemon.console.access.require`, call what the API's routes call, and tell errors as `Pages.problem` does: an
exception below ``{base}/api`` is answered with problem details, elsewhere by that page.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from daemon import __version__
from daemon.console import access, queues
from daemon.console.api import create_api
from daemon.console.headers import BodyLimit, HeadAsGet, Headers, RequestIds
from daemon.console.problems import Problem, problem_of
from daemon.console.services import Services
from daemon.errors import ArqdError

API = "/api/v1"


class Pages(Protocol):
    """What the dashboard brings."""

    router: APIRouter

    async def problem(self, request: Request, problem: Problem) -> Response:
        """Give the page that tells a problem."""
        ...


def create_app(services: Services, pages: Pages | None = None) -> FastAPI:
    """Build the application.

    Args:
        pages: the dashboard; without one there is the API alone.
    """
    base = services.settings.base_path
    app = FastAPI(title="arqd", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.services, app.state.bare_status = services, queues.BareStatus(services)
    services.live.snapshot = partial(queues.views, services)
    app.include_router(access.router, prefix=base)
    app.include_router(create_api(), prefix=base + API)
    if pages is not None:
        app.include_router(pages.router, prefix=base, include_in_schema=False)

    async def tell(request: Request, error: Exception) -> Response:
        problem = problem_of(error)
        if pages is None or request.url.path.startswith(f"{base}/api/"):
            return problem.response()
        # Who listens to changes could do nothing with a page to log in.
        page = request.method == "GET" and "text/event-stream" not in request.headers.get("accept", "")
        if problem.status == 401 and page and not request.url.path.startswith(f"{base}/login"):
            return RedirectResponse(f"{base}/login?{urlencode({'next': request.url.path})}", 303)
        return await pages.problem(request, problem)

    for kind in (Problem, ArqdError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, tell)
    # The last one added is the outermost.
    app.add_middleware(BodyLimit, most=int(services.settings.max_body))
    app.add_middleware(Headers, tell=tell)
    app.add_middleware(RequestIds)
    app.add_middleware(HeadAsGet)
    return app
