"""The dead-letter archive: what the database has of dead letters, also of those that Redis has forgotten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Self

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field, model_validator

from daemon.archive.letters import ArchivedLetter, ArchiveFilter
from daemon.console import archive
from daemon.console.api.common import (
    Cursor,
    DryRun,
    Given,
    Limit,
    MaybeFamily,
    Operator,
    Since,
    Until,
    Viewer,
    partly,
    problems,
    tell_partly,
)
from daemon.console.fields import Named

router = APIRouter(tags=["dead letters"])

#: Of a letter.
Number = Annotated[int, Field(ge=1, le=2**53)]


def _where(
    family: MaybeFamily = None,
    function: Annotated[str | None, Query(description="of this function only")] = None,
    error: Annotated[str | None, Query(description="type of the error")] = None,
    cause: Annotated[str | None, Query(description="the group")] = None,
    q: Annotated[str | None, Query(description="occurs in the id, the payload, the error or the traceback")] = None,
    since: Since = None,
    until: Until = None,
    outcome: Annotated[str | None, Query(description="`none`, `retried` or `discarded` since")] = None,
) -> ArchiveFilter:
    return archive.archive_filter(
        family=family, function=function, error=error, cause=cause, q=q, since=since, until=until, outcome=outcome
    )


class ToArchive(DryRun):
    """Whose dead letters are archived: of all families if none is named."""

    family: str | None = None


class Restore(DryRun):
    """Which letters: some by their numbers, or those of a filter of which nothing has become yet."""

    numbers: list[Number] | None = Field(None, min_length=1, max_length=500)
    family: Named | None = None
    function: Named | None = None
    error: Named | None = None
    cause: Named | None = None
    q: Named | None = None
    since: Named | None = None
    until: Named | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.numbers is not None and self.model_fields_set - {"numbers", "dry_run"}:
            raise ValueError("give numbers, or a filter")
        return self


@dataclass(slots=True)
class Restored:
    """How many letters were (with `dry_run`: would be) `retried`, and how many not, by why."""

    dry_run: bool
    outcomes: dict[str, int]


@router.get("/dead/archive", responses=problems())
async def list_archive(
    services: Given, actor: Viewer, where: Annotated[ArchiveFilter, Depends(_where)], cursor: Cursor = None,
    limit: Limit = 50,
) -> archive.LetterList:  # fmt: skip
    """Look through the archive, the last archived first."""
    return await archive.page(services, where, cursor, limit)


@router.get("/dead/archive/{number}", responses=problems(404))
async def show(number: Number, services: Given, actor: Viewer) -> ArchivedLetter:
    """One dead letter of the archive."""
    return await archive.get(services, number)


@router.post("/dead/archive", responses={**partly(archive.Archived), **problems(404)})
async def to_archive(asked: ToArchive, services: Given, actor: Operator, response: Response) -> archive.Archived:
    """Copy the dead letters that the archive lacks to the database."""
    archived = await archive.archive(services, actor, asked.family, dry_run=asked.dry_run)
    tell_partly(response, archived.away)
    return archived


@router.post("/dead/archive/retry", responses=problems(404, 409))
async def restore(asked: Restore, services: Given, actor: Operator) -> Restored:
    """Run archived dead letters again, each once, whether Redis still has them or not."""
    if asked.numbers is not None:
        words = await archive.restore(services, actor, asked.numbers, dry_run=asked.dry_run)
        return Restored(asked.dry_run, words)
    chosen = asked.model_dump(exclude={"numbers", "dry_run"})
    where = archive.archive_filter(**chosen, outcome="none")
    return Restored(asked.dry_run, await archive.restore(services, actor, where, dry_run=asked.dry_run))
