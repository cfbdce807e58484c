"""What every page is made with: templates, addresses, notices, who looks and what they may do."""

from __future__ import annotations

import base64
import contextlib
import json
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from fastapi import Request
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.responses import RedirectResponse, Response

from daemon.console import queues
from daemon.console.access import FORM
from daemon.console.pages.board import BoardReader
from daemon.console.pages.formats import FILTERS
from daemon.console.problems import Problem
from daemon.console.roles import Actor, Role
from daemon.console.services import services_of

HERE = Path(__file__).resolve().parent.parent
STATIC = HERE / "static"
THEME, NOTICE = "arqd_theme", "arqd_notice"
THEMES = ("light", "dark")
#: Sent by static/live.js, which takes parts of a page: it must not use up a notice.
PART_HEADER = "x-arqd-part"
#: Longest text of a notice: it travels in a cookie.
_LONGEST_NOTICE = 1000
SECTIONS = (
    ("", "Overview"),
    ("dead", "Dead letters"),
    ("schedules", "Schedules"),
    ("workers", "Workers"),
    ("audit", "Audit"),
    ("enqueue", "Enqueue"),
)
_OPERATORS_SECTIONS = ("audit", "enqueue")


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


class Frame:
    """What a request says of the page around what it asks for.

    Args:
        actor: who looks; None on pages for everybody.
    """

    def __init__(self, request: Request, actor: Actor | None) -> None:
        self.request, self.actor = request, actor
        self.services = services_of(request)
        self.base = self.services.settings.base_path

    def href(self, *parts: str, **query: Any) -> str:
        """Give an address on the dashboard: each part is quoted, empty values are left out of the query."""
        path = self.base + "/" + "/".join(quote(part, safe="", errors="replace") for part in parts if part)
        given = {name: str(value) for name, value in query.items() if value not in (None, "", False)}
        return f"{path}?{urlencode(given, errors='replace')}" if given else path

    def static(self, name: str) -> str:
        """Give the address of a static file."""
        return f"{self.base}/static/{name}"

    @property
    def here(self) -> str:
        """Address of this page with its query."""
        query = self.request.url.query
        return self.request.url.path + (f"?{query}" if query else "")

    @property
    def theme(self) -> str:
        """``light``, ``dark``, or "" for the system's."""
        chosen = self.request.cookies.get(THEME, "")
        return chosen if chosen in THEMES else ""

    def may(self, role: Role) -> bool:
        """Whether who looks may do what a role may, on this console."""
        return self.actor is not None and self.actor.role.includes(role) and not self.services.settings.read_only

    async def context(self) -> dict[str, Any]:
        """Give what base.html takes."""
        reads = self.actor is not None and self.actor.role.includes(Role.OPERATOR)
        return {
            "base": self.base,
            "href": self.href,
            "static": self.static,
            "here": self.here,
            "theme": self.theme,
            "now": datetime.now(UTC),
            "user": self.actor,
            "csrf_token": self.actor.csrf if self.actor else "",
            "can": {"operate": self.may(Role.OPERATOR), "reveal": self.may(Role.ADMIN)},
            "sections": [
                (name, title)
                for name, title in SECTIONS
                if name not in _OPERATORS_SECTIONS or (reads if name == "audit" else self.may(Role.OPERATOR))
            ],
            "section": None,
            "family": None,
            "notices": [notice] if (notice := self._notice()) else [],
            "board": (board := await board_of(self.request).board()),
            "away": queues.away_of(board.away),
        }

    def _notice(self) -> dict[str, str] | None:
        with contextlib.suppress(ValueError, TypeError):
            kind, text = json.loads(base64.urlsafe_b64decode(self.request.cookies.get(NOTICE, "")))
            return {"kind": "bad" if kind == "bad" else "ok", "text": str(text)}
        return None


async def page(request: Request, actor: Actor | None, template: str, *, status: int = 200, **context: Any) -> Response:
    """Give a page.

    Args:
        actor: who looks.
        context: what its template takes besides what `Frame.context` gives.
    """
    frame = Frame(request, actor)
    given = {**await frame.context(), **context}
    response = _html(template, given, status)
    if NOTICE in request.cookies and PART_HEADER not in request.headers:
        response.delete_cookie(NOTICE, path=f"{frame.base}/")
    return response


def bare(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """Give a page for somebody who is not logged in: nothing is read for it."""
    frame = Frame(request, None)
    around = {"static": frame.static, "href": frame.href, "here": frame.here, "theme": frame.theme, "csrf_token": ""}
    return _html(template, {**around, **context}, status)


def _html(template: str, context: dict[str, Any], status: int) -> Response:
    text = _templates().get_template(template).render(context)
    # Ids and errors of foreign producers may hold what is no text.
    return Response(text.encode("utf-8", "backslashreplace"), status, media_type="text/html; charset=utf-8")


def done(request: Request, to: str, text: str, *, kind: str = "ok") -> Response:
    """Go on to a page of the dashboard, which begins with a notice."""
    base = services_of(request).settings.base_path
    response = RedirectResponse(to, 303)
    kept = base64.urlsafe_b64encode(json.dumps([kind, text[:_LONGEST_NOTICE]]).encode()).decode()
    response.set_cookie(NOTICE, kept, max_age=60, path=f"{base}/", httponly=True, samesite="lax")
    return response


async def fields(request: Request) -> dict[str, list[str]]:
    """Give the fields of a form, each with all its values.

    Raises:
        Problem: for what is no form. An action takes what is left out for everything, and who forgot ``/api/v1`` before
            an address may have asked for a dry run.
    """
    body, found = await request.body(), dict[str, list[str]]()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if body and kind != FORM:
        raise Problem(
            422, f"this takes the dashboard's forms; JSON goes below {services_of(request).settings.base_path}/api/v1"
        )
    try:
        for name, value in parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=2000):
            found.setdefault(name, []).append(value)
    except ValueError:
        raise Problem(422, "the form cannot be read") from None
    return found


def board_of(request: Request) -> BoardReader:
    """Give the application's reader of boards."""
    state = request.app.state
    if not hasattr(state, "board"):
        state.board = BoardReader(services_of(request).inspector)
    reader: BoardReader = state.board
    return reader
