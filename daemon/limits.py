"""Limits of groups and functions ("lanes"), as settings give them and as scripts read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from daemon.errors import InvalidJob

if TYPE_CHECKING:
    from daemon.family import Family, RateLimit


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


def lane_of_group(group: str) -> str:
    """The lane of a group; ``*`` is every group without a limit of its own."""
    return f"g:{group}"


def lane_of_function(function: str) -> str:
    """The lane of a function."""
    return f"f:{function}"


def lanes_of_settings(family: Family) -> Mapping[str, str]:
    """Give the lane limits a family's settings ask for, by the field scripts look them up under."""
    values = family.values
    found = {"g:*": LaneLimit(values.group_limit, values.group_rate)}
    found |= {lane_of_function(f.name): LaneLimit(f.global_limit, f.rate_limit) for f in family.functions.values()}
    return {f"s:{lane}": limit.as_text() for lane, limit in found.items() if limit != LaneLimit()}
