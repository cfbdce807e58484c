"""What the dead-letter archive gives and is asked for; `database` has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from daemon.errors import InvalidJob, RedisError


@dataclass(frozen=True, slots=True)
class ArchivedLetter:
    """A dead letter as the archive has it; times are aware.

    Attributes:
        id: the archive's own number, from old to new.
        payload, error, traceback: asterisks stand for what is encrypted.
        can_retry: whether it can be sent back: a job of stock arq's cannot.
        outcome: ``retried`` or ``discarded`` since, None: nothing.
        object: the object of the store that has its line.
    """

    id: int
    queue: str
    job_id: str
    function: str | None
    payload: Any
    error_type: str
    error: str
    traceback: str
    reason: str
    cause: str | None
    tries: int
    crashes: int
    enqueued_at: datetime | None
    failed_at: datetime
    archived_at: datetime
    can_retry: bool
    outcome: str | None
    outcome_at: datetime | None
    object: str | None


@dataclass(frozen=True, slots=True)
class ArchiveFilter:
    """Which letters of the archive; None asks for nothing.

    Attributes:
        since, until: aware times, when it failed; ``since`` included.
        text: occurs in the job's id, the payload, the error or the traceback; upper and lower case are the same.
        outcome: ``none`` for those of which nothing has become, ``retried`` or ``discarded``.
    """

    family: str | None = None
    function: str | None = None
    error: str | None = None
    cause: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str | None = None
    outcome: str | None = None

    def __post_init__(self) -> None:
        if self.outcome not in (None, "none", "retried", "discarded"):
            raise InvalidJob(f"outcome is none, retried or discarded, not {self.outcome[:40]!r}")


ALL = ArchiveFilter()


@dataclass(slots=True)
class Passed:
    """What a pass did: how many dead letters of each family are new in the archive, lines stored, rows removed.

    ``away``: families whose server, one of several, cannot be asked, and why: nothing was done with theirs.
    """

    archived: dict[str, int] = field(default_factory=dict)
    stored: int = 0
    removed: int = 0
    away: dict[str, RedisError] = field(default_factory=dict)
