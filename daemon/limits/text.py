"""One limit: as people write it, and in the form scripts read."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from daemon.errors import InvalidJob
from daemon.family import FamilyValues, RateLimit

NONE = "none"
#: Whatever is limited stays below it.
LARGEST = 10**9


@dataclass(frozen=True, slots=True)
class LaneLimit:
    """What a group or a function may do over all processes: jobs at the same time, starts per period; None: any."""

    concurrency: int | None = None
    rate: RateLimit | None = None

    def __post_init__(self) -> None:
        if self.concurrency is not None and self.concurrency < 0:
            raise InvalidJob(f"a limit of {self.concurrency} jobs at the same time is less than none")

    def as_text(self) -> str:
        """Give the form scripts read: ``jobs|starts|period in microseconds``."""
        jobs = "" if self.concurrency is None else str(self.concurrency)
        rate = f"{self.rate.count}|{round(self.rate.per * 1_000_000)}" if self.rate else "|"
        return f"{jobs}|{rate}"

    @classmethod
    def from_text(cls, text: str) -> LaneLimit:
        """Read what `as_text` gives."""
        jobs, count, per_us = text.split("|")
        return cls(int(jobs) if jobs else None, RateLimit(int(count), int(per_us) / 1_000_000) if count else None)


def rate_of(text: str) -> RateLimit | None:
    """Read ``50/s``, ``30/m``, ``100/10s`` or ``none``.

    Raises:
        InvalidJob: for anything else.
    """
    if text == NONE:
        return None
    try:
        rate = FamilyValues.model_validate({"rate_limit": text}).rate_limit
    except ValidationError:
        rate = None
    if rate is None or rate.count >= LARGEST:
        raise InvalidJob(f"rate {text[:40]!r}: write starts per period, e.g. 50/s or 30/m, or none")
    return rate


def concurrency_of(text: str) -> int | None:
    """Read a number of jobs, or ``none``.

    Raises:
        InvalidJob: for anything else.
    """
    if text != NONE and not (text.isdecimal() and len(text) < 10):
        raise InvalidJob(f"{text[:40]!r}: write how many jobs may run at the same time, e.g. 3, or none")
    return None if text == NONE else int(text)


def rate_text(rate: RateLimit | None) -> str:
    """Give the form of `rate_of`: ``50/1s``."""
    return NONE if rate is None else f"{rate.count}/{rate.per:g}s"
