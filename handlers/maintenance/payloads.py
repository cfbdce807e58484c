"""What the maintenance family takes and gives. A producer needs only this module (pydantic, nothing else)."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from daemon.errors import InvalidJob
from daemon.job import seconds
from daemon.payload import Payload, PayloadModel

__all__ = ["CleanJobs", "CleanedJobs", "CleanedUp", "Cleanup", "WarmCache", "Warmed"]

TargetType = Literal["temp_files", "old_logs", "expired_sessions", "audit_logs", "notifications"]
#: Those that are files; the others are rows of tables.
FILES = ("temp_files", "old_logs")
#: What one that does not say how old is removed after, seconds.
AGES = {
    "temp_files": 86_400,
    "old_logs": 14 * 86_400,
    "expired_sessions": 30 * 86_400,
    "audit_logs": 365 * 86_400,
    "notifications": 90 * 86_400,
}


def _seconds(value: Any) -> Any:
    try:
        return seconds(value) if isinstance(value, str | int | float) else value
    except InvalidJob as error:
        raise ValueError(str(error)) from None


def _relative(path: str) -> str:
    parts = PurePosixPath(path).parts
    if "\x00" in path or ".." in parts:
        raise ValueError("a path has no '..': name the folder itself")
    return path


Age = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]


class CleanedUp(PayloadModel):
    """What was removed (in a dry run: would be).

    ``freed_bytes`` counts files that no other name has; rows count 0. ``skipped`` says why nothing was looked at.
    """

    deleted_count: int = 0
    freed_bytes: int = 0
    dry_run: bool = False
    skipped: str | None = None


class Cleanup(Payload, family="maintenance", function="cleanup", returns=CleanedUp):
    """Remove what is old.

    Fields:
        target_type: which.
        older_than: seconds or ``"30d"``; default by the target: `AGES`.
        path: files: only below this folder, absolute or relative to an allowed one.
        pattern: files: only those whose name fits, ``*.tmp``.
        dry_run: only count.
    """

    target_type: TargetType
    older_than: Age | None = None
    path: Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_relative)] | None = None
    pattern: str | None = Field(None, min_length=1, max_length=255)
    dry_run: bool = False

    @model_validator(mode="after")
    def _files_only(self) -> Self:
        if self.target_type not in FILES and (self.path or self.pattern):
            raise ValueError(f"path and pattern are for files, not for {self.target_type}")
        return self

    @property
    def age(self) -> float:
        """How old what is removed is at least, seconds."""
        return AGES[self.target_type] if self.older_than is None else self.older_than


class Warmed(PayloadModel):
    """What was written: bytes by cache key; ``busy``: another job was at these just then."""

    written: dict[str, int] = Field(default_factory=dict)
    busy: list[str] = Field(default_factory=list)


class WarmCache(Payload, family="maintenance", function="warm_cache", returns=Warmed):
    """Fill a cache from a registered source; without a key every one of ``ARQD_MAINTENANCE__WARM``.

    Fields:
        cache_key: what readers ask for; in Redis it has the prefix ``ARQD_MAINTENANCE__CACHE_PREFIX``.
        data_source: a name of ``ARQD_MAINTENANCE__SOURCES``.
        ttl: how long it is kept, seconds or ``"1h"``.
    """

    cache_key: str | None = Field(None, min_length=1, max_length=512)
    data_source: str | None = None
    ttl: Annotated[float, BeforeValidator(_seconds), Field(ge=1, le=30 * 86_400)] | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = {value is not None for value in (self.cache_key, self.data_source, self.ttl)}
        if len(given) != 1:
            raise ValueError("cache_key, data_source and ttl belong together: give all of them, or none")
        return self


class CleanedJobs(PayloadModel):
    """How many ended jobs of each family were removed."""

    removed: dict[str, int] = Field(default_factory=dict)


class CleanJobs(Payload, family="maintenance", function="clean_jobs", returns=CleanedJobs):
    """Remove ended jobs whose time is over, also of families that no worker looks after.

    Fields:
        state: which; ``failed`` are the dead letters.
        queue: of this family; default all.
        older_than: seconds or ``"2h"``; default as long as each family keeps them.
    """

    state: Literal["completed", "failed", "aborted", "expired"] = "completed"
    queue: str | None = None
    older_than: Age | None = None
