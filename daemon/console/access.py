"""Who asks, and may they: API tokens, JWTs, browser sessions, roles, protection against forged requests.

    @router.post("/queues/{family}/pause")
    async def pause(family: str, actor: Annotated[Actor, require(Role.OPERATOR)]) -> ...

A program sends ``Authorization: Bearer <API token or JWT>``. A browser has an http-only, same-site cookie, and with
each request that changes something the session's CSRF token: a script in the header ``X-CSRF-Token``, a form in its
hidden field ``csrf`` (`Actor.csrf` holds it). Logging in takes a token, a JWT, or a link that works once.
"""

from __future__ import annotations

import hmac
import logging
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from starlette.responses import RedirectResponse, Response

from daemon.console.headers import is_head
from daemon.console.problems import Problem
from daemon.console.roles import Actor, Role
from daemon.console.services import Services, services_of
from daemon.console.tokens import PREFIX

logger = logging.getLogger("arqd.console")

COOKIE, CSRF_HEADER, CSRF_FIELD = "arqd_session", "x-csrf-token", "csrf"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FORM = "application/x-www-form-urlencoded"
_CHALLENGE = {"www-authenticate": 'Bearer realm="arqd"'}
_LOG_IN = "log in, or send a token: Authorization: Bearer …"

bearer = HTTPBearer(auto_error=False, description="an API token, or a JWT")
cookie = APIKeyCookie(
    name=COOKIE, auto_error=False, description="a browser's session; changes also need the header X-CSRF-Token"
)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
Cookie = Annotated[str | None, Depends(cookie)]


async def read_form(request: Request) -> dict[str, str]:
    """Give the fields of a form, the last one of a name; {} of anything else. It can be read again."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        return {}
    try:
        fields = parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        raise Problem(422, "the form cannot be read") from None
    return {name: values[-1] for name, values in fields.items()}


def address_of(request: Request) -> str:
    """Give where a request came from."""
    return request.client.host if request.client else ""


async def find_actor(request: Request, credentials: Credentials, session: Cookie) -> Actor | None:
    """Give who asks; None for somebody who sends nothing that counts."""
    services = services_of(request)
    if credentials is not None:
        return await _by_bearer(services, credentials.credentials, address_of(request))
    if session is None:
        return None
    found = await services.sessions.find(session)
    return None if found is None else Actor(found.name, found.role, "session", address_of(request), found.csrf)


MaybeActor = Annotated[Actor | None, Depends(find_actor)]


async def _by_bearer(services: Services, text: str, address: str) -> Actor | None:
    if text.startswith(PREFIX):
        token = await services.tokens.check(text)
        return None if token is None else Actor(token.name, token.role, "token", address)
    verified = services.jwts.check(text)
    return None if verified is None else Actor(verified.name, verified.role, "jwt", address)


def require(role: Role) -> Any:
    """Give the dependency that gives the `Actor`, and refuses who has not this role, and forged requests of a browser.

    Raises:
        Problem: 401 for nobody, 403 for a lesser role, a missing CSRF token, or a change of a read-only console.
    """

    async def checked(request: Request, actor: MaybeActor) -> Actor:
        if actor is None:
            sent = "authorization" in request.headers
            told = "this token is none in force: it is wrong, has ended or was revoked" if sent else _LOG_IN
            raise Problem(401, told, headers=_CHALLENGE)
        if not actor.role.includes(role):
            raise Problem(403, f"this needs the role {role}, and {actor.name} has {actor.role}")
        if request.method not in SAFE_METHODS:
            if services_of(request).settings.read_only:
                raise Problem(403, "this console is read-only (ARQD_CONSOLE__READ_ONLY)")
            if actor.csrf:
                await refuse_forged(request, actor.csrf)
        return actor

    return Depends(checked)


async def refuse_forged(request: Request, csrf: str) -> None:
    """Refuse a request that a browser sends with its cookie, but not from a page of ours.

    Raises:
        Problem: 403.
    """
    sent = request.headers.get(CSRF_HEADER) or (await read_form(request)).get(CSRF_FIELD, "")
    if not hmac.compare_digest(sent.encode(), csrf.encode()):
        raise Problem(403, "the CSRF token is missing or of another session: reload the page")


# ---------------------------------------------------------------------- logging in and out

router = APIRouter(include_in_schema=False)


@router.post("/login")
async def login(request: Request) -> Response:
    """Log a browser in: form fields ``token`` (an API token or a JWT) and ``next`` (a path of the console)."""
    _refuse_other_site(request)
    services, form = services_of(request), await read_form(request)
    text = form.get("token", "").strip()
    actor = await _by_bearer(services, text, address_of(request))
    if actor is None:
        logger.warning("a login from %s was refused", address_of(request))
        raise Problem(401, "this is no token in force")
    seconds: float | None = None
    if actor.via == "jwt":
        verified = services.jwts.check(text)
        seconds = None if verified is None else (verified.ends - datetime.now(UTC)).total_seconds()
    token = actor.name if actor.via == "token" else ""
    begun = await services.sessions.begin(actor.name, actor.role, token=token, seconds=seconds)
    logger.info("%s has logged in from %s", actor.name, actor.address)
    return _logged_in(request, begun, form.get("next", ""))


@router.get("/login/{code}")
async def use_link(request: Request, code: str) -> Response:
    """Log a browser in with a link that works once."""
    services = services_of(request)
    if is_head(request):
        # Programs that look where a link in a message leads would use it up.
        return Response()
    used = await services.sessions.use_link(code)
    if used is None:
        raise Problem(401, "this link has been used, or its time is over")
    begun = await services.sessions.begin(*used)
    logger.info("%s has logged in from %s by a link", used[0], address_of(request))
    return _logged_in(request, begun, "")


@router.post("/logout")
async def logout(request: Request, actor: MaybeActor, session: Cookie) -> Response:
    """Log a browser out."""
    services = services_of(request)
    if actor is not None and actor.csrf and session is not None:
        await refuse_forged(request, actor.csrf)
        await services.sessions.end(session)
    gone = RedirectResponse(_home(services) + "login", 303)
    gone.delete_cookie(COOKIE, path=_home(services))
    return gone


def _home(services: Services) -> str:
    return f"{services.settings.base_path}/"


def inside(services: Services, wanted: str, otherwise: str = "") -> str:
    """Give a path that a request asks to go on to if it is the console's, else another one, or its first page."""
    home = _home(services)
    # //elsewhere.example and /\elsewhere would lead away.
    fits = wanted.startswith(home) and not wanted.startswith("//") and wanted.isprintable() and "\\" not in wanted
    return wanted if fits else otherwise or home


def _refuse_other_site(request: Request) -> None:
    """A page of another site must not log a browser in as somebody else (there is no session yet to forge)."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Problem(403, "logging in from another site is refused")


def _logged_in(request: Request, session: str, wanted: str) -> Response:
    services = services_of(request)
    back = RedirectResponse(inside(services, wanted), 303)
    back.set_cookie(
        COOKIE,
        session,
        max_age=round(services.sessions.seconds),
        path=_home(services),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    return back
