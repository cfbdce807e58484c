"""Operating queues: pause, drain, clean, clear; retry, discard, promote, reprioritize, abort, remove.

What concerns many jobs goes in portions of some ms of the server's time each, so it can be interrupted at any point
and simply be called again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from daemon import codec
from daemon.broker import Broker
from daemon.connecting.connections import connect, translated
from daemon.dead_letters import Walk, outlook
from daemon.errors import InvalidJob
from daemon.inspecting.job_info import HELD, SUSPECT
from daemon.inspector import Inspector
from daemon.job import JobState, priority_level, seconds
from daemon.keys import JOB
from daemon.pages import EVERY, INDEX, PAGE, JobFilter, server_ms
from daemon.producer import KEEP_ABORTED_MS
from daemon.servers import RedisUrl

#: How long a portion should take at most, in seconds, measured here: the next one is smaller after a longer one.
PORTION_SECONDS = 0.02
#: Jobs in the first portion.
FIRST = 50

Progress = Callable[[int, int], None]
Act = Callable[[list[str]], Awaitable[list[str]]]


def _quiet(done: int, total: int) -> None: ...


class Control:
    """Acts on the queues and jobs of some families.

    Every method that takes a family raises `InvalidJob` for one that is not among them, and `RedisUnavailable`,
    `RedisRefused` or `RedisFull` when Redis cannot do it. ``dry_run`` counts and changes nothing. ``progress`` is
    called after every portion with what is done and what there was at the beginning.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        families: their names (of an adopted stock queue: the queue's name).
    """

    def __init__(self, redis: Any, families: Iterable[str]) -> None:
        self.redis = redis
        self.inspector = Inspector(redis, families)

    @classmethod
    def connect(cls, url: RedisUrl, families: Iterable[str], **options: Any) -> Self:
        """Give one with a connection of its own; use it as an asynchronous context manager."""
        return cls(connect(url, **options), families)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.redis.aclose()

    @property
    def families(self) -> list[str]:
        """Names of the families, sorted."""
        return sorted(self.inspector.families)

    def _broker(self, family: str) -> Broker:
        return Broker(self.redis, self.inspector.of(family))

    async def allow_clear(self, family: str) -> None:
        """Let a queue take jobs in clear again, once its workers have gone on without ``encrypted``."""
        with translated():
            await self._broker(family).set_limits([("conf", "encrypted", "-"), ("conf", "marked", "-")])

    # ------------------------------------------------------------------ queues

    async def pause(self, family: str) -> bool:
        """Let nobody claim from a queue; what runs ends, what comes waits. False when it was paused already."""
        with translated():
            return await self._broker(family).pause(True)

    async def resume(self, family: str) -> bool:
        """Let workers claim again; idle ones are woken at once. False when it was not paused."""
        with translated():
            return await self._broker(family).pause(False)

    async def drain(self, family: str, *, dry_run: bool = False, progress: Progress = _quiet) -> int:
        """Remove every job that waits or is delayed, not those that run; who waits for their results is told.

        Jobs that come meanwhile are removed as well, but never more than there were at the beginning.

        Returns:
            How many were (with ``dry_run``: would be) removed.
        """
        broker = self._broker(family)
        with translated():
            total = 0
            for low, high in (("-inf", f"({HELD}"), (SUSPECT, "+inf")):
                total += await self.redis.zcount(broker.keys.queue, low, high)
            return total if dry_run else await _in_portions(broker.drain, total, progress)

    async def clean(
        self,
        family: str,
        state: JobState | str = JobState.COMPLETED,
        *,
        older_than: float | str = 0,
        count: int | None = None,
        spare_kept: bool = False,
        dry_run: bool = False,
        progress: Progress = _quiet,
    ) -> int:
        """Remove ended jobs with their results, oldest first; of failed ones the dead letter is gone for good.

        Args:
            state: ``completed``, ``failed``, ``aborted`` or ``expired``.
            older_than: only those that ended so many seconds ago (or ``"7d"``).
            count: at most so many.
            spare_kept: leave those whose own `keep` lasts longer, as the family's retention does; without a count.

        Returns:
            How many were (with ``dry_run``: would be, spared ones included) removed.

        Raises:
            InvalidJob: for another state, age or count.
        """
        broker = self._broker(family)
        index = INDEX.get(self.inspector.state(state))
        if index is None:
            raise InvalidJob(f"{str(state)!r} jobs have not ended: clean takes {', '.join(INDEX)}; drain the others")
        if count is not None and count < 1:
            raise InvalidJob(f"count is 1 or more, not {count}")
        age = round(seconds(older_than) * 1000)
        with translated():
            before = await server_ms(self.redis, broker.keys) - age
            total = await self.redis.zcount(broker.keys.key(index), "-inf", before)
            if spare_kept and not dry_run:
                removed = 0
                while more := await broker.clean(index, PAGE, before, spare=True):
                    removed += more
                    progress(removed, total)
                return removed
            if count is not None:
                total = min(total, count)
            return total if dry_run else await _in_portions(lambda n: broker.clean(index, n, before), total, progress)

    async def clear(self, family: str, *, dry_run: bool = False, progress: Progress = _quiet) -> dict[str, int]:
        """Remove every job but those that run.

        Returns:
            How many, by ``drained`` and the states of ended jobs.
        """
        removed = {"drained": await self.drain(family, dry_run=dry_run, progress=progress)}
        for state in INDEX:
            removed[str(state)] = await self.clean(family, state, dry_run=dry_run, progress=progress)
        return removed

    async def retry_all(
        self, family: str, where: JobFilter = EVERY, *, dry_run: bool = False, progress: Progress = _quiet
    ) -> int:
        """Send the dead letters a filter lets through back to the queue at once, oldest first, as `retry` does.

        Only those there were at the beginning: what fails again meanwhile stays a dead letter. `daemon.redrive` tries
        some of each cause first.

        Returns:
            How many were (with ``dry_run``: would be) sent back.
        """
        broker = self._broker(family)
        return await self._each_dead(broker, where, broker.redrive, "retried", dry_run, progress)

    async def discard_all(
        self, family: str, where: JobFilter = EVERY, *, dry_run: bool = False, progress: Progress = _quiet
    ) -> int:
        """Remove the dead letters a filter lets through for good, oldest first, those there were at the beginning.

        Returns:
            How many were (with ``dry_run``: would be) removed.
        """
        broker = self._broker(family)
        return await self._each_dead(broker, where, broker.discard, "discarded", dry_run, progress)

    async def _each_dead(
        self, broker: Broker, where: JobFilter, act: Act, done: str, dry_run: bool, progress: Progress
    ) -> int:
        with translated():
            walk = Walk(self.redis, broker.keys, where, await server_ms(self.redis, broker.keys))
            total = await walk.size()
            looked, acted, size = 0, 0, FIRST
            while not walk.end:
                began = time.perf_counter()
                ids = await walk.look(size)
                acted += (await act(ids)).count(done) if ids and not dry_run else len(ids)
                looked += size
                progress(min(looked, total), total)
                size = _next_size(size, time.perf_counter() - began)
        return acted

    # ------------------------------------------------------------------ jobs

    async def retry(self, written: Sequence[str], *, dry_run: bool = False) -> dict[str, str]:
        """Send dead letters back to their queues: same id, tries start anew, history kept.

        Returns:
            For each id ``retried``, ``not_failed`` or ``not_found``.
        """
        if dry_run:
            return await self._each(written, lambda broker, ids: outlook(broker.redis, broker.keys, ids, "retried"))
        return await self._each(written, lambda broker, ids: broker.redrive(ids))

    async def discard(self, written: Sequence[str], *, dry_run: bool = False) -> dict[str, str]:
        """Remove dead letters with all they left.

        Returns:
            For each id ``discarded``, ``not_failed`` or ``not_found``.
        """
        if dry_run:
            return await self._each(written, lambda broker, ids: outlook(broker.redis, broker.keys, ids, "discarded"))
        return await self._each(written, lambda broker, ids: broker.discard(ids))

    async def remove(self, written: Sequence[str]) -> dict[str, str]:
        """Remove jobs with all they left, dead letters too.

        Returns:
            For each id ``removed``, ``active`` (abort it first) or ``not_found``.
        """
        return await self._each(written, lambda broker, ids: broker.remove(ids))

    async def promote(self, written: Sequence[str]) -> dict[str, str]:
        """Let delayed jobs run now, behind what waits at their level; also those that wait for a retry.

        Returns:
            For each id ``promoted``, ``not_delayed`` or ``not_found``.
        """
        return await self._each(written, lambda broker, ids: broker.promote(ids))

    async def set_priority(self, written: Sequence[str], priority: int | str) -> dict[str, str]:
        """Move waiting jobs behind those of another level, and let delayed ones come due at it.

        Args:
            priority: 1 (first) to 10 (last) or a name.

        Returns:
            For each id ``changed``, ``active``, ``ended`` or ``not_found``.

        Raises:
            InvalidJob: for another priority.
        """
        level = priority_level(priority)
        return await self._each(written, lambda broker, ids: broker.reprioritize(ids, level))

    async def abort(self, written: Sequence[str]) -> dict[str, str]:
        """End jobs now: waiting ones at once, running ones by cancelling their handlers.

        Returns:
            For each id ``aborted``, ``asked`` (its worker was told), ``ended`` or ``not_found``.
        """

        async def abort(broker: Broker, ids: list[str]) -> list[str]:
            records = await self.redis.mget([JOB + job_id for job_id in ids])
            results = [codec.encode_aborted(i, broker.keys.queue, r) for i, r in zip(ids, records, strict=True)]
            return [await broker.abort(i, result, KEEP_ABORTED_MS) for i, result in zip(ids, results, strict=True)]

        return await self._each(written, abort)

    async def _each(
        self, written: Sequence[str], act: Callable[[Broker, list[str]], Awaitable[list[str]]]
    ) -> dict[str, str]:
        words: dict[str, str] = {}
        by_family: dict[str, list[str]] = {}
        for text in dict.fromkeys(written):
            by_family.setdefault(self.inspector.find(text)[0].family, []).append(text)
        for family, texts in by_family.items():
            broker, size = self._broker(family), FIRST
            while texts:
                began = time.perf_counter()
                words |= await self._portion(broker, act, texts[:size])
                texts = texts[size:]
                size = _next_size(size, time.perf_counter() - began)
        return {text: words[text] for text in written}

    async def _portion(
        self, broker: Broker, act: Callable[[Broker, list[str]], Awaitable[list[str]]], texts: list[str]
    ) -> dict[str, str]:
        """Try what each written id may mean in turn."""
        words = dict.fromkeys(texts, "not_found")
        candidates = {text: self.inspector.find(text)[1] for text in texts}
        for attempt in range(max(map(len, candidates.values()))):
            asked = [t for t in texts if words[t] == "not_found" and attempt < len(candidates[t])]
            if asked:
                with translated():
                    outcomes = await act(broker, [candidates[text][attempt] for text in asked])
                words.update(zip(asked, outcomes, strict=True))
        return words


async def _in_portions(act: Callable[[int], Awaitable[int]], total: int, progress: Progress) -> int:
    """Act on so many jobs, a portion a call, until none is left; gives on how many."""
    done, size = 0, FIRST
    while done < total:
        began = time.perf_counter()
        asked = min(size, total - done)
        acted = await act(asked)
        done += acted
        progress(done, total)
        if acted < asked:
            break
        size = _next_size(size, time.perf_counter() - began)
    return done


def _next_size(size: int, took: float) -> int:
    """Give the size of the next portion: jobs differ in size and servers in speed."""
    if took > PORTION_SECONDS:
        return max(1, size // 2)
    return min(PAGE, size * 2) if took < PORTION_SECONDS / 2 else size
