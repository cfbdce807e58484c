"""Filters of lists as requests give them: texts, of which an empty one asks for nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from daemon.console.problems import Problem
from daemon.errors import InvalidJob
from daemon.job import seconds
from daemon.pages import JobFilter


def job_filter(
    *,
    function: str | None = None,
    tag: str | None = None,
    group: str | None = None,
    error: str | None = None,
    since: str | None = None,
    until: str | None = None,
    cause: str | None = None,
    q: str | None = None,
) -> JobFilter:
    """Give the filter of such texts.

    Raises:
        Problem: for a time that is none. InvalidJob: for a cause that is none.
    """
    found = {"function": function, "tag": tag, "group": group, "error": error, "cause": cause, "text": q}
    times = {"since": moment(since, "since"), "until": moment(until, "until")}
    return JobFilter(**{name: value or None for name, value in found.items()}, **times)  # type: ignore[arg-type]


def moment(text: str | None, name: str) -> datetime | None:
    """Read a time with its zone, or how long ago.

    Raises:
        Problem: 422 for anything else.
    """
    if not text:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=seconds(text))
    except (InvalidJob, OverflowError):
        pass
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is not None and 1970 <= time.year <= 9000:
            return time
    except ValueError:
        pass
    wrong = "write a time with its zone, 2030-01-31T08:00:00Z, or 2h for two hours ago"
    raise Problem(422, f"{name}: {wrong}", errors=[(name, wrong)])
