"""The dead-letter archive: what failed once, also what Redis has forgotten; searched, and sent back."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from daemon.console import archive
from daemon.console.api.common import Operator, Viewer
from daemon.console.pages.asking import answered, back_to, first, plural, told
from daemon.console.pages.frame import Frame, fields, page
from daemon.console.problems import Problem, problem_of
from daemon.console.services import services_of
from daemon.errors import ArqdError, RedisError
from daemon.outcomes import REASONS

router = APIRouter()

#: Letters on a page.
SHOWN = 25
_FIELDS = ("family", "function", "error", "q", "since", "until", "outcome")


@router.get("/dead/archive")
async def letters(request: Request, actor: Viewer, cursor: str | None = None) -> Response:
    """Show the archive, filtered."""
    services = services_of(request)
    asked = {name: request.query_params.get(name, "").strip() for name in _FIELDS}
    found, problem = archive.LetterList(available=services.archiver is not None), ""
    try:
        found = await archive.page(services, archive.archive_filter(**asked), cursor, SHOWN)
    except RedisError:
        raise
    except (ArqdError, Problem) as error:
        problem = problem_of(error).detail
    return await page(
        request,
        actor,
        "archive.html",
        section="dead",
        found=found,
        families=services.families,
        filters=asked,
        filtered=any(asked.values()),
        problem=problem,
    )


@router.post("/dead/archive")
async def to_archive(request: Request, actor: Operator) -> Response:
    """Copy what the archive lacks."""

    async def act() -> str:
        await fields(request)
        done = await archive.archive(services_of(request), actor, None)
        return told(f"Archived {plural(sum(done.archived.values()), 'dead letter')}", done.away)

    return await answered(request, Frame(request, actor).href("dead", "archive"), act())


@router.post("/dead/archive/retry")
async def restore(request: Request, actor: Operator) -> Response:
    """Send one letter back."""
    given = await fields(request)

    async def act() -> str:
        number = first(given, "number")
        if not (number.isdecimal() and len(number) < 16):
            raise Problem(422, "number is that of a letter")
        words = await archive.restore(services_of(request), actor, [int(number)])
        if "retried" in words:
            return "It runs again"
        raise Problem(409, "; ".join(REASONS.get(word, word) for word in words))

    return await answered(
        request, back_to(request, first(given, "back"), Frame(request, actor).href("dead", "archive")), act()
    )
