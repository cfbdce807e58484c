"""The dashboard as `daemon.console.app` takes it: one router, and the page that tells a problem."""

from __future__ import annotations

from http import HTTPStatus

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from daemon.console.access import COOKIE, find_actor, inside
from daemon.console.pages import (
    alerts,
    archive,
    audit,
    changes,
    dead,
    enqueue,
    job,
    job_acts,
    login,
    overview,
    queue,
    queue_acts,
    schedules,
    workers,
)
from daemon.console.pages.frame import STATIC, bare, page
from daemon.console.problems import Problem
from daemon.console.services import services_of
from daemon.errors import RedisError

MODULES = (
    overview, alerts, changes, queue, queue_acts, job, job_acts, archive, dead, schedules, workers, audit, enqueue,
    login,
)  # fmt: skip
_FILES = {path.name: path for path in STATIC.iterdir() if path.suffix in (".css", ".js", ".svg")}
_TITLES = {401: "Please sign in", 403: "Not allowed", 404: "Not found", 409: "Not now", 422: "Not accepted"}


class Dashboard:
    """See `daemon.console.app.Pages`."""

    def __init__(self) -> None:
        self.router = APIRouter()
        for module in MODULES:
            self.router.include_router(module.router)
        self.router.add_api_route("/static/{name}", static)

    async def problem(self, request: Request, problem: Problem) -> Response:
        """Give the page that tells a problem; where nobody is logged in that is the login page."""
        services = services_of(request)
        if problem.status == 401:
            return login.form(request, problem.detail, status=401)
        title = _TITLES.get(problem.status, HTTPStatus(problem.status).phrase)
        back = inside(services, _path_of(request.headers.get("referer", "")))
        told = {"title": title, "detail": problem.detail, "wrong": problem.errors or [], "back": back}
        try:
            actor = await find_actor(request, None, request.cookies.get(COOKIE))
            if actor is not None and problem.status != 503:
                return await page(request, actor, "problem.html", status=problem.status, **told)
        except RedisError:
            pass
        return bare(request, "unwell.html", status=problem.status, **told)


def _path_of(address: str) -> str:
    """Give the path of an address: the page somebody came from, where the browser tells."""
    return "/" + address.partition("://")[2].partition("/")[2] if "://" in address else ""


async def static(name: str) -> Response:
    """Give a file of the dashboard's own; browsers ask each time whether it has changed."""
    if name not in _FILES:
        raise Problem(404, f"there is no file {name[:70]!r}")
    media = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}[_FILES[name].suffix]
    return FileResponse(_FILES[name], media_type=media, headers={"cache-control": "no-cache"})
