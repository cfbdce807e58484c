"""How long a job is kept once it has ended, as the job itself may say it (`JobOptions.keep`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from daemon.errors import InvalidJob
from daemon.job import seconds

#: Largest count; scripts compare it as a number.
LARGEST = 10**9


class Keep(TypedDict, total=False):
    """What is kept of a job, by how it ends; what is left out is as the family has it.

    Each is an age (``"2h"``, ``"90d"``), a count (``100`` or ``"100"``: of the family's jobs that ended so and bring a
    count, only the newest so many are kept), both (``"90d 100"``: what is reached first), ``"forever"`` or ``"none"``.
    """

    completed: int | str
    failed: int | str


_KINDS: Mapping[str, Literal["c", "b"]] = {"completed": "c", "failed": "b"}


def checked_keep(keep: Any) -> dict[str, str]:
    """Give the form that goes with a job: by the kind of its outcome (``c``, ``b``) what lua/ends.lua takes.

    Raises:
        InvalidJob: for anything else, saying what is accepted.
    """
    if not isinstance(keep, Mapping) or not keep or keep.keys() - _KINDS.keys():
        raise InvalidJob(f"keep {keep!r}: give what is kept when it has completed, failed or both, {_EXAMPLE}")
    return {_KINDS[state]: _bounds(state, value) for state, value in keep.items()}


_EXAMPLE = 'e.g. {"completed": "2h", "failed": "90d 100"}'


def _bounds(state: str, value: Any) -> str:
    """Give age in ms and count, -1 for no bound."""
    refused = InvalidJob(
        f"keep {state} {value!r}: write an age (2h, 90d), a count (100), both (90d 100), forever or none, {_EXAMPLE}"
    )
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise refused
    words = str(value).split()
    if words in (["forever"], ["none"], ["0"]):
        return "-1 -1" if words == ["forever"] else "0 -1"
    ages, counts = ([word for word in words if word.isdecimal() is counted] for counted in (False, True))
    if len(ages) > 1 or len(counts) > 1 or not words:
        raise refused
    try:
        age = round(seconds(ages[0]) * 1000) if ages else -1
    except InvalidJob:
        raise refused from None
    count = int(counts[0]) if counts else -1
    if age == 0 or not (count == -1 or 1 <= count <= LARGEST):
        raise refused
    return f"{age} {count}"
