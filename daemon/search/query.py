"""Who reads the index: pages of the jobs a text is found in, newest first.

The index gives candidates with little work, however many jobs there are; each is then looked at, since two words may
share a hash and the index may be a second late.
"""

from __future__ import annotations

import base64
import contextlib
from dataclasses import replace
from typing import Any, NamedTuple

from daemon.broker import Broker
from daemon.errors import InvalidJob
from daemon.job import JobInfo, JobState
from daemon.keys import FamilyKeys
from daemon.pages import JobFilter, JobPage, Listing, bands, server_ms
from daemon.search.postings import asked
from daemon.search.words import PAYLOAD, Question, words_in

#: Most calls for a page, and the work of each: some ms of the server's time.
CALLS, WORK = 8, 6_000


class _Place(NamedTuple):
    """Where a page ended: the last one looked at, with its id if it was found."""

    segment: str
    slot: str
    id: str = ""


_START = _Place("", "")


async def require_search(redis: Any, keys: FamilyKeys) -> None:
    """Refuse where nothing is indexed.

    Raises:
        InvalidJob: saying how to switch it on.
    """
    if not await redis.hexists(keys.key("conf"), "search"):
        raise InvalidJob(
            f"search is off in family {keys.family!r}: set search to errors or payload in its settings "
            f"and start a worker (docs/search.md)"
        )


async def search(
    redis: Any, keys: FamilyKeys, state: JobState, where: JobFilter, cursor: str | None, limit: int
) -> JobPage:
    """Give at most ``limit`` jobs of a state that ``where.text`` is found in and the other filters let through.

    Raises:
        InvalidJob: where search is off, for a text without words, or a wrong cursor.
    """
    question = Question.of(where.text or "", keys.family)
    place = _decode(cursor, state)
    await require_search(redis, keys)
    mode, rebuild = await redis.hmget(keys.key("search"), "mode", "rebuild")
    now = await server_ms(redis, keys)
    listing = Listing(redis, keys, state, replace(where, text=None), now)
    also = [word for text in (where.function, where.tag, where.error) for word in words_in(text or "")]
    arguments = _arguments(question, state, listing.index, bands(state, where, now), also)
    broker = Broker(redis, keys)
    jobs: list[JobInfo] = []
    for _ in range(CALLS):
        most = limit - len(jobs)
        segment, slot, flat = await broker.run("search", *place, most, WORK, *arguments)
        ids = [job_id.decode("utf-8", "surrogateescape") for job_id in flat[::2]]
        for info in (await listing.matching(ids)).values():
            if info.state is state and question.fits(info, (mode or b"").decode() == PAYLOAD):
                jobs.append(info)
        place = _Place(segment.decode(), slot.decode(), ids[-1] if len(ids) == most else "")
        if place == _START or len(jobs) == limit:
            break
    return JobPage(jobs, None if place == _START else _encode(place, state), partial=mode is None or bool(rebuild))


def _arguments(
    question: Question, state: JobState, index: str, ranges: list[tuple[str, str]], also: list[str]
) -> list[str | bytes | int]:
    flat: list[str | bytes | int] = [index, len(ranges), *(bound for band in ranges for bound in band)]
    beginnings = [text.encode("utf-8", "surrogateescape") for text in question.beginnings]
    return [*flat, len(beginnings), *beginnings, *asked(question, state, also)]


def _encode(place: _Place, state: JobState) -> str:
    text = " ".join(("search", state, *place)).encode("utf-8", "surrogateescape")
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _decode(cursor: str | None, state: JobState) -> _Place:
    if cursor is None:
        return _START
    with contextlib.suppress(ValueError):
        raw = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), b"-_", validate=True)
        what, of, segment, slot, job_id = raw.decode("utf-8", "surrogateescape").split(" ", 4)
        if what == "search" and of == state and segment.isdecimal() and slot.isdecimal():
            return _Place(segment, slot, job_id)
    raise InvalidJob(f"cursor {cursor[:40]!r} is not one of a search in {state} jobs: leave it out to begin anew")
