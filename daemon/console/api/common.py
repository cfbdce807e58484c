"""What routes share: the parameters they take, and the errors they document."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Path, Request

from daemon.console.access import require
from daemon.console.problems import MEDIA_TYPE, ProblemDetails
from daemon.console.roles import Actor, Role
from daemon.console.services import Services, services_of

Viewer = Annotated[Actor, require(Role.VIEWER)]
Operator = Annotated[Actor, require(Role.OPERATOR)]
Admin = Annotated[Actor, require(Role.ADMIN)]


def _services(request: Request) -> Services:
    return services_of(request)


Given = Annotated[Services, Depends(_services)]


def _known(actor: Viewer, family: Annotated[str, Path(description="name of the family")], services: Given) -> str:
    # After the actor: strangers are not told which families there are.
    return services.known(family)


Family = Annotated[str, Depends(_known)]

_MEANING = {
    401: "Nobody is logged in, or the token is none in force",
    403: "The role does not suffice, or the CSRF token is missing",
    404: "There is no such thing",
    409: "Its state forbids it",
    413: "The request, or the payload, is too large",
    422: "The request is wrong; `errors` names the fields",
    429: "Too many jobs, or the queue is full: try again after `Retry-After`",
    503: "Redis cannot be used: try again after `Retry-After`",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Give the answers a route documents beside its own, those that any may give included."""
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": _REF}}}
        for status in sorted({401, 403, 422, 503, *statuses})
    }


_REF = {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}
