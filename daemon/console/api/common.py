"""What routes share: the parameters they take, and the errors they document."""

from __future__ import annotations

from collections.abc import Sized
from typing import Annotated, Any

from fastapi import Depends, Path, Query, Request, Response
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel, ConfigDict, Field

from daemon.console.access import CSRF_FIELD, SAFE_METHODS, read_form, require
from daemon.console.fields import IfGiven, Named
from daemon.console.filters import job_filter
from daemon.console.problems import MEDIA_TYPE, Problem
from daemon.console.roles import Actor, Role
from daemon.console.services import Services, services_of
from daemon.errors import InvalidJob
from daemon.pages import JobFilter

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


def _of_family(
    actor: Viewer, id: Annotated[str, Path(description="the job's id, `family:id`")], services: Given
) -> str:  # fmt: skip
    try:
        services.inspector.find(id)
    except InvalidJob as error:
        raise Problem(404, str(error)) from None
    return id


JobId = Annotated[str, Depends(_of_family)]
MaybeFamily = Annotated[str | None, IfGiven, Query(alias="family", description="of this family only")]
Cursor = Annotated[str | None, IfGiven, Query(description="go on after a page: its `cursor`")]
Limit = Annotated[int, Query(ge=1, le=500, description="how many at most")]
Since = Annotated[str | None, Query(description="not before: `2030-01-31T08:00:00Z`, or `2h` for two hours ago")]
Until = Annotated[str | None, Query(description="before this time, written the same way")]


async def refuse_unknown(request: Request) -> None:
    """Refuse parameters that the route does not take: a misspelt filter would let everything through, and ``dry_run``
    belongs into the body. A body where none is taken is refused, too: its dry run would be a real one.

    Raises:
        Problem: 422.
    """
    taken = _query_names(request.scope["route"].dependant)
    wrong = [name for name in request.query_params if name not in taken]
    if wrong:
        known = f"it takes {', '.join(sorted(taken))}" if taken else "it takes none; options go into the body, as JSON"
        shown = ", ".join(repr(name[:40]) for name in wrong[:5])
        told = f"{shown} is no parameter of {request.method} {request.url.path}: {known}"
        raise Problem(422, told, errors=[(name[:40], "no parameter of this request") for name in wrong[:5]])
    bare = request.method not in SAFE_METHODS and request.scope["route"].body_field is None
    # A browser's form may hold its token against forgery.
    nothing = (await read_form(request)).keys() == {CSRF_FIELD} if bare else True
    if not nothing and (await request.body()).strip() not in _NOTHING:
        raise Problem(422, f"{request.method} {request.url.path} takes no body: nothing was done")


#: What stands for no body.
_NOTHING = (b"", b"{}", b"null")


def _query_names(dependant: Dependant) -> set[str]:
    names = {field.alias for field in dependant.query_params}
    return names.union(*map(_query_names, dependant.dependencies))


class Body(BaseModel):
    """What bodies have in common: unknown fields are refused, and no error repeats what was sent."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class DryRun(Body):
    """An action on many jobs; a dry run only counts."""

    dry_run: bool = False


class Selection(Body):
    """Which dead letters; what is left out asks for nothing."""

    function: Named | None = None
    tag: Named | None = None
    group: Named | None = Field(None, description="the tenant or workspace it was enqueued for")
    error: Named | None = Field(None, description="type of the error, `TimeoutError`")
    cause: Named | None = Field(None, description="the group, as `GET /dead/groups` tells it")
    since: Named | None = Field(None, description="not before: `2030-01-31T08:00:00Z`, or `2h` for two hours ago")
    until: Named | None = None

    def where(self) -> JobFilter:
        """Give the filter.

        Raises:
            Problem, InvalidJob: for a wrong time or cause.
        """
        return job_filter(**{name: getattr(self, name) for name in Selection.model_fields})


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


def partly(model: Any) -> dict[int | str, dict[str, Any]]:
    """Give the answer that an action on every family documents beside its own."""
    told = "Done, but not for the families whose server, one of several, cannot be asked; the answer names them"
    return {207: {"model": model, "description": told}}


def tell_partly(response: Response, away: Sized) -> None:
    """Let the status say that some families cannot be asked, if there are any."""
    if away:
        response.status_code = 207


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Give the answers a route documents beside its own, those that any may give included."""
    schema = {"$ref": "#/components/schemas/ProblemDetails"}
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in sorted({401, 403, 422, 503, *statuses})
    }
