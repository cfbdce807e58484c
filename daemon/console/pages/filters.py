"""Filters of lists as a form or an address gives them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from daemon.errors import InvalidJob
from daemon.job import seconds
from daemon.pages import EVERY, JobFilter

#: Fields of a filter, as pages name them.
FIELDS = ("q", "function", "tag", "group", "error", "since", "until")


def given(query: Mapping[str, str]) -> dict[str, str]:
    """Give the fields of a filter that were filled in; empty ones stay empty text."""
    return {name: query.get(name, "").strip() for name in FIELDS}


def job_filter(fields: Mapping[str, str]) -> JobFilter:
    """Give the filter of such fields.

    Raises:
        InvalidJob: for a time that is none.
    """
    if not any(fields.values()):
        return EVERY
    return JobFilter(
        function=fields.get("function") or None,
        tag=fields.get("tag") or None,
        group=fields.get("group") or None,
        error=fields.get("error") or None,
        since=moment(fields.get("since", "")),
        until=moment(fields.get("until", "")),
        text=fields.get("q") or None,
    )


def moment(text: str) -> datetime | None:
    """Read a time: ``2h`` for two hours ago, or ISO 8601, of UTC where it names no zone; None for nothing.

    Raises:
        InvalidJob: for anything else.
    """
    if not text:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=seconds(text))
    except (InvalidJob, OverflowError):
        pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidJob(f"{text[:40]!r} is no time: write 2h for two hours ago, or 2030-01-31T08:00:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
