"""Every error arqd raises on purpose; the class docstring is the message when none is given.

ArqdError
├── ConfigurationError          settings or a WorkerSettings class are wrong: nothing was started
├── RedisError
│   ├── RedisUnavailable        no connection, or it was lost
│   ├── RedisRefused            wrong password, user or permission
│   └── RedisFull               the server's memory limit is reached: nothing was written
├── InvalidJob                  the job was refused before anything was written
│   ├── InvalidPayload          its payload does not fit its function; it names each wrong field
│   ├── TooLarge                its payload or its result is over the limit
│   └── InClear                 its family takes encrypted jobs only
├── QueueFull                   the queue's budget of bytes is used up: nothing was written
├── OtherRelease                the payload is of a release this worker is too old for: the job is parked
├── KeyMissing                  it is encrypted with a key this process does not have: a job is parked
├── Unreadable                  an entry in Redis that this codec did not write
├── JobNotFound                 no such job, or its record has been removed
├── JobStateError               the job's state forbids what was asked
├── ClaimLost                   raised inside a handler: its job is not its worker's any more
├── ScheduleNotFound            no such schedule
├── ScheduleConflict            the schedule forbids what was asked, or somebody else has changed it
├── ArchiveUnavailable          the database of the dead-letter archive cannot be used, or none is set
├── InvalidToken                an API token cannot be made so
├── TokenNotFound               no such API token
├── TokenConflict               there is an API token of this name already
├── ResultTimeout               the result did not come in time (also a TimeoutError)
└── JobFailed                   the job ended without a result: type, message and traceback of the cause
    └── JobExpired              its deadline passed, or its payload was gone, before it could run

PermanentError                  raised by handlers: do not try again
RetryAfter                      raised by handlers: somebody said to wait, and the queue or group waits with the job
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self


class ArqdError(Exception):
    """arqd could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__class__.__doc__ or "").strip())


class ConfigurationError(ArqdError):
    """The configuration is wrong: nothing was started."""


class RedisError(ArqdError):
    """Redis could not do what was asked."""


class RedisUnavailable(RedisError):
    """Redis cannot be reached: check ARQD_REDIS_URL and that the server is running."""


class RedisRefused(RedisError):
    """Redis refuses this user: check the user name, the password and its permissions."""


class RedisFull(RedisError):
    """Redis has reached its memory limit: nothing was written; free memory or raise maxmemory, then try again."""


class InvalidJob(ArqdError):
    """The job was refused and nothing was written."""


class InvalidPayload(InvalidJob):
    """The payload does not fit its function, and nothing was written.

    Attributes:
        errors: where in the payload (``attachments.0.filename``, "" for all of it) and what is wrong there.
    """

    def __init__(self, function: str, errors: Sequence[tuple[str, str]]) -> None:
        self.errors = list(errors)
        told = "; ".join(f"{where}: {what}".removeprefix(": ") for where, what in errors)
        super().__init__(f"payload of {function}: {told}")


class TooLarge(InvalidJob):
    """The payload or the result is larger than the limit."""


class QueueFull(ArqdError):
    """The queue's budget of bytes (max_bytes) is used up.

    Attributes:
        family: whose queue it is.
        retry_after: when there may be room, seconds.
        added: ids of the jobs that were added all the same: of many, each thousand is all or nothing.
    """

    def __init__(self, family: str, retry_after: float, added: Sequence[str] = ()) -> None:
        self.family = family
        self.retry_after = retry_after
        self.added = list(added)
        what = f"{len(self.added):,} jobs were added, the others were not" if self.added else "nothing was added"
        super().__init__(
            f"the queue {family} is full, its max_bytes are used up: {what}; try again in {retry_after:g} s, "
            "or raise max_bytes (arqd limits)"
        )


class InClear(InvalidJob):
    """The job came in clear, and its family takes it encrypted only: nothing was written.

    Attributes:
        function: name of its function.
        marked: the family takes other jobs in clear, but this function has marked fields.
    """

    def __init__(self, function: str, marked: bool) -> None:
        self.function = function
        self.marked = marked
        super().__init__(
            f"{function} has secret fields: enqueue its payload class, or wrap them, SecretValue(...) of daemon.secret"
            if marked
            else f"the family of {function} is encrypted: give ARQD_ENCRYPTION_KEYS, or Producer.connect(..., keyring=)"
        )


class KeyMissing(ArqdError):
    """It is encrypted with a key that this process does not have.

    Attributes:
        key: the key's id and check value.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"it is encrypted with the key {key}, which this process does not have: ARQD_ENCRYPTION_KEYS")


class OtherRelease(ArqdError):
    """The payload is of another release than this worker's.

    Attributes:
        lacks: what it would have to know: ``v2`` (that version) or ``#1a2b3c4d`` (that schema).
    """

    def __init__(self, lacks: str, message: str) -> None:
        self.lacks = lacks
        super().__init__(message)


class Unreadable(ArqdError):
    """This entry was written by another release of arqd, or not by arqd, and is not decoded."""


class JobNotFound(ArqdError):
    """There is no such job, or its record has been removed."""

    @classmethod
    def of(cls, written: str) -> Self:
        """Give the error of an id as people write it."""
        return cls(f"there is no job {written}: it never existed, or its record has been removed")


class JobStateError(ArqdError):
    """The job's state does not allow this."""


class ClaimLost(ArqdError):
    """The job is not this worker's any more, another one has it or it has ended: stop here, and leave it alone."""


class ScheduleNotFound(ArqdError):
    """There is no such schedule."""


class ScheduleConflict(ArqdError):
    """The schedule does not allow this, or somebody else has changed it meanwhile."""


class ArchiveUnavailable(ArqdError):
    """There is no dead-letter archive: set ARQD_DATABASE_URL and run arqd db upgrade."""


class InvalidToken(ArqdError):
    """The API token was refused and nothing was written."""


class TokenNotFound(ArqdError):
    """There is no such API token."""


class TokenConflict(ArqdError):
    """There is an API token of this name already."""


class ResultTimeout(ArqdError, TimeoutError):
    """The result did not come in time; the job goes on."""


class JobFailed(ArqdError):
    """The job ended without a result.

    Attributes:
        type: class name of the exception the handler raised, e.g. ``"ValueError"``.
        message: its text.
        traceback: its formatted traceback, ``""`` when there is none.
        reason: why the job will not be tried again: ``tries`` (used up), ``permanent``, ``crashes``,
            ``child`` (one it waited for failed), ``unreadable``, ``expired``, or ``too_large`` (its result).
        tries: how many tries had ended when it failed.
    """

    def __init__(self, type: str, message: str, traceback: str = "", *, reason: str = "tries", tries: int = 0) -> None:
        self.type = type
        self.message = message
        self.traceback = traceback
        self.reason = reason
        self.tries = tries
        super().__init__(f"{type}: {message}" if message else type)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.__class__, self.type, self.message, self.traceback, self.reason, self.tries))


class JobExpired(JobFailed):
    """The job's deadline passed, or its payload was gone, before it could run."""


def _rebuild(cls: type[JobFailed], type_: str, message: str, traceback: str, reason: str, tries: int) -> JobFailed:
    return cls(type_, message, traceback, reason=reason, tries=tries)


class PermanentError(Exception):
    """Raised by a handler when another try cannot help: the job goes to the dead letters at once."""


class RetryAfter(Exception):
    """Raised by a handler that was told to wait (a 429, a Retry-After): the job runs again then, and no try is counted.

    Args:
        seconds: how long to wait.
        scope: who else waits: the whole ``queue``, the job's ``group`` (the queue, if it has none), its ``function``,
            or only the ``job``.
        patience: so long after the job was enqueued, seconds, each such wait counts as a try, so that the job comes to
            an end: it waits as long, and alone. None: none ever does.
    """

    def __init__(
        self,
        seconds: float,
        scope: Literal["queue", "group", "function", "job"] = "queue",
        *,
        patience: float | None = None,
    ) -> None:
        if not 0 <= seconds < 2**42 / 1000 or scope not in ("queue", "group", "function", "job"):
            raise ValueError(f"RetryAfter({seconds!r}, {scope!r}): seconds are 0 or more; scope is queue, group, ...")
        self.seconds = seconds
        self.scope = scope
        self.patience = patience
        super().__init__(f"told to wait {seconds:g} s")
