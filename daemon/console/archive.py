"""The dead-letter archive as the console shows it, and what is done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daemon.archive.letters import ALL, ArchivedLetter, ArchiveFilter, Passed
from daemon.console.filters import moment
from daemon.console.queues import QueueAway, away_of
from daemon.console.roles import Actor
from daemon.console.services import Services
from daemon.errors import ArchiveUnavailable

if TYPE_CHECKING:
    from daemon.archive.archiver import Archiver

#: Numbers named in an entry of the audit log.
_NAMED = 20


@dataclass(slots=True)
class LetterList:
    """A page of the archive, the last archived first; ``cursor`` goes on behind it, None at the end.

    Attributes:
        available: whether there is an archive: a database is set.
    """

    letters: list[ArchivedLetter] = field(default_factory=list)
    cursor: str | None = None
    available: bool = True


@dataclass(slots=True)
class Archived:
    """What was done, or with ``dry_run`` would be: how many dead letters of each family are new in the archive, lines
    written to the object store, rows that were too old; ``away`` are families whose server, one of several, cannot be
    asked: nothing was done with theirs."""

    archived: dict[str, int]
    stored: int
    removed: int
    away: list[QueueAway]


def archive_filter(
    *,
    family: str | None = None,
    function: str | None = None,
    error: str | None = None,
    cause: str | None = None,
    since: str | None = None,
    until: str | None = None,
    q: str | None = None,
    outcome: str | None = None,
) -> ArchiveFilter:
    """Give the filter of such texts, of which an empty one asks for nothing.

    Raises:
        Problem: for a time that is none. InvalidJob: for an outcome that is none.
    """
    texts: dict[str, Any] = {
        "family": family, "function": function, "error": error, "cause": cause, "text": q, "outcome": outcome,
    }  # fmt: skip
    times: dict[str, Any] = {"since": moment(since, "since"), "until": moment(until, "until")}
    return ArchiveFilter(**{name: value or None for name, value in texts.items()}, **times)


async def page(services: Services, where: ArchiveFilter, cursor: str | None, limit: int) -> LetterList:
    """Give a page; of no archive an empty one that says so."""
    if services.archiver is None:
        return LetterList(available=False)
    return LetterList(*await services.archiver.archive.page(where, cursor=cursor, limit=limit))


async def get(services: Services, number: int) -> ArchivedLetter:
    """Give one.

    Raises:
        JobNotFound: when there is none. ArchiveUnavailable: without a database.
    """
    return await _archiver(services).archive.get(number)


async def archive(services: Services, actor: Actor, family: str | None, *, dry_run: bool = False) -> Archived:
    """Copy what the archive lacks, of one family or all.

    Raises:
        JobNotFound: for an unknown family. ArchiveUnavailable: without a database. RedisError: when no server can be
        asked.
    """
    archiver = _archiver(services)
    families = None if family is None else [services.known(family)]
    if dry_run:
        return _archived(await archiver.run(families, dry_run=True))
    async with services.audit.record(actor, "dead.archive", family or "*") as doing:
        passed = await archiver.run(families)
        doing.detail["archived"] = sum(passed.archived.values())
        if passed.away:
            doing.detail["away"] = sorted(passed.away)
        return _archived(passed)


def _archived(passed: Passed) -> Archived:
    return Archived(passed.archived, passed.stored, passed.removed, away_of(passed.away))


async def restore(
    services: Services, actor: Actor, chosen: Sequence[int] | ArchiveFilter = ALL, *, dry_run: bool = False
) -> dict[str, int]:
    """Send letters back, each once; gives how many of each outcome (`Archiver.retry`).

    Raises:
        ArchiveUnavailable: without a database.
    """
    archiver = _archiver(services)
    if isinstance(chosen, ArchiveFilter):
        target, numbers = chosen.family or "*", None
        if dry_run:
            return {"retried": await archiver.archive.count(chosen)}
    else:
        target, numbers = f"{len(chosen)} of the archive", list(chosen[:_NAMED])
        if dry_run:
            return await archiver.retry(chosen, dry_run=True)
    async with services.audit.record(actor, "dead.restore", target, numbers=numbers) as doing:
        words = await archiver.retry(chosen)
        doing.detail["outcomes"] = words
        if not words.get("retried"):
            doing.outcome = "refused"
    return words


def _archiver(services: Services) -> Archiver:
    if services.archiver is None:
        raise ArchiveUnavailable
    return services.archiver
