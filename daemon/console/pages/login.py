"""Signing in, and how the pages look: the theme somebody chose."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from daemon.console.access import MaybeActor, inside, read_form
from daemon.console.pages.frame import THEME, THEMES, bare
from daemon.console.services import services_of

router = APIRouter()

_YEAR = 365 * 86_400


@router.get("/login")
async def login(request: Request, actor: MaybeActor) -> Response:
    """Show the login form, which `daemon.console.access` takes; who is logged in already goes on."""
    if actor is not None:
        return RedirectResponse(inside(services_of(request), request.query_params.get("next", "")), 303)
    return form(request)


def form(request: Request, problem: str = "", *, status: int = 200) -> Response:
    """Give the login form, with what was wrong with the last one."""
    base = services_of(request).settings.base_path
    return bare(
        request,
        "login.html",
        status=status,
        title="Sign in",
        action=f"{base}/login",
        next=request.query_params.get("next", ""),
        problem=problem,
    )


@router.post("/theme")
async def theme(request: Request) -> Response:
    """Keep the theme somebody chose in a cookie; it is nobody's secret, and no change of anything else."""
    services, given = services_of(request), await read_form(request)
    home, chosen = f"{services.settings.base_path}/", given.get("theme", "")
    response = RedirectResponse(inside(services, given.get("back", "")), 303)
    if chosen in THEMES:
        response.set_cookie(THEME, chosen, max_age=_YEAR, path=home, httponly=True, samesite="lax")
    else:
        response.delete_cookie(THEME, path=home)
    return response
