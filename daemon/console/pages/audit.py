"""The audit log: every change, newest first."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from daemon.console.api.common import Operator
from daemon.console.audit import AuditFilter, AuditPage
from daemon.console.filters import moment
from daemon.console.pages.frame import page
from daemon.console.problems import Problem
from daemon.console.services import services_of
from daemon.errors import ArqdError, RedisError

router = APIRouter()

_FIELDS = ("who", "action", "target", "outcome", "since", "until")


@router.get("/audit")
async def audit(request: Request, actor: Operator, cursor: str | None = None) -> Response:
    """Show entries, filtered."""
    asked = {name: request.query_params.get(name, "").strip() for name in _FIELDS}
    found, problem = AuditPage([]), ""
    try:
        where = AuditFilter(
            actor=asked["who"] or None,
            action=asked["action"] or None,
            target=asked["target"] or None,
            outcome=asked["outcome"] or None,
            since=moment(asked["since"], "since"),
            until=moment(asked["until"], "until"),
        )
        found = await services_of(request).audit.page(where, cursor=cursor)
    except RedisError:
        raise
    except (ArqdError, Problem) as error:
        problem = str(error)
    return await page(
        request,
        actor,
        "audit.html",
        section="audit",
        entries=found.entries,
        cursor=found.cursor,
        filters=asked,
        filtered=any(asked.values()),
        problem=problem,
    )
