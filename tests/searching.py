"""Compares a search index with what is true: every job is found by each of its words, and by no other."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from daemon.broker import Broker
from daemon.inspector import Inspector
from daemon.job import JobInfo, JobState
from daemon.pages import EVERY, JobFilter
from daemon.search.indexer import View, view
from daemon.search.words import words_of

STATES = [state for state in JobState if state is not JobState.NOT_FOUND]


async def listed(inspector: Inspector, family: str, state: JobState, where: JobFilter = EVERY) -> list[JobInfo]:
    """Give a whole list, in small pages."""
    found: list[JobInfo] = []
    cursor = None
    while True:
        page = await inspector.jobs(family, state, limit=50, cursor=cursor, where=where)
        assert not page.partial
        found += page
        cursor = page.cursor
        if cursor is None:
            return found


async def found_by(inspector: Inspector, family: str, text: str, state: str = "failed", **filters: Any) -> list[str]:
    """Give the ids a text is found in, without the family, in the order they are listed."""
    where = JobFilter(text=text, **filters)
    return [info.id.partition(":")[2] for info in await listed(inspector, family, JobState(state), where)]


async def caught_up(redis: Any, inspector: Inspector, family: str) -> View | None:
    """Give the index if it has taken up all events."""
    seen = await view(Broker(redis, inspector.of(family)))
    working = seen.text("rebuild") or seen.text("sweep")
    done = seen.mode and not working and seen.newest in (b"", seen.meta[b"at"])
    return seen if done else None


async def check_index(redis: Any, inspector: Inspector, family: str) -> int:
    """Check a quiet family's index against its jobs; gives how many words were looked up."""
    seen = await caught_up(redis, inspector, family)
    assert seen is not None
    jobs = 0
    looked_up = 0
    for state in STATES:
        true: defaultdict[str, list[str]] = defaultdict(list)
        for info in await listed(inspector, family, state):
            jobs += 1
            for word in words_of(info, seen.mode == "payload"):
                true[word].append(info.id)
        for word, ids in (true | {"nowhere": []}).items():
            found = [info.id for info in await listed(inspector, family, state, JobFilter(text=word))]
            assert len(found) == len(set(found)), (word, state)
            assert set(found) == set(ids), (word, state)
            looked_up += 1
    assert sum(segment.live for segment in seen.segments.values()) == jobs, "what is indexed twice, or still"
    return looked_up
