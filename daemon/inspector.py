"""Looking in from outside: counts, lists, one job, workers, backlog. What changes jobs is in `control`.

It never scans the key space: counts are ZCOUNTs of score bands, lists are pages of a band or of an index.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

from daemon.connecting.connections import connect, translated
from daemon.connecting.routed import Routed, by_place, in_cluster, name_of, single_of
from daemon.encryption import NO_KEYS, JobCipher, KeyRing
from daemon.errors import InvalidJob, JobNotFound, RedisError
from daemon.flows.view import FlowNode, add_relations, read_flow
from daemon.inspecting.answers import ANSWER_SECONDS, Answers, Patience, gathered
from daemon.inspecting.explain import Explanation, explain
from daemon.inspecting.job_info import job_logs
from daemon.inspecting.queue_stats import QueueStats, WorkerInfo, oldest_of_group, read_queues, read_workers
from daemon.inspecting.server_info import ServerInfo, read_servers
from daemon.job import JobInfo, JobLogs, JobState
from daemon.keys import FamilyKeys, parse_id, raw_id
from daemon.pages import EVERY, PAGE, JobFilter, JobPage, Listing, describe, server_ms
from daemon.search.query import search
from daemon.servers import RedisUrl
from daemon.statistics import FamilyStatistics, Figures, Past, Step, read_figures, read_starts, read_statistics

__all__ = ["Inspector", "QueueStats", "WorkerInfo"]

T = TypeVar("T")


class Inspector:
    """Reads the state of some families; every method makes a few round trips, whatever the queues' sizes.

    Args:
        redis: an asynchronous redis-py client without response decoding.
        families: their names (of an adopted stock queue: the queue's name).
        keyring: keys to reveal what is encrypted with.
    """

    def __init__(self, redis: Any, families: Iterable[str], *, keyring: KeyRing | None = None) -> None:
        self.redis = redis
        self.keyring = keyring or NO_KEYS
        self.families = {name: _keys(name) for name in families}
        # Of minutes and hours that are over nothing changes any more.
        self._past: dict[str, Past] = {}
        self._patience = Patience()

    @classmethod
    def connect(cls, url: RedisUrl, families: Iterable[str], *, keyring: KeyRing | None = None, **options: Any) -> Self:
        """Give an inspector of its own connection; use it as an asynchronous context manager."""
        return cls(connect(url, **options), families, keyring=keyring)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.redis.aclose()

    def of(self, family: str) -> FamilyKeys:
        """Give the keys of a family.

        Raises:
            InvalidJob: naming those that are known.
        """
        try:
            return self.families[family]
        except KeyError:
            known = ", ".join(sorted(self.families))
            raise InvalidJob(f"there is no family {family!r}: known are {known}") from None

    # ------------------------------------------------------------------ several servers

    def only(self, families: Iterable[str], redis: Any = None) -> Inspector:
        """Give an inspector of some of these families, with the same connections.

        Args:
            redis: a client of the server they are on, where that is known.

        Raises:
            InvalidJob: for an unknown family.
        """
        part = Inspector(redis or self.redis, (), keyring=self.keyring)
        part.families = {name: self.of(name) for name in families}
        part._past, part._patience = self._past, self._patience
        return part

    async def ask(self, question: Callable[[Inspector], Awaitable[T]], *, within: float | None = None) -> Answers[T]:
        """Ask all servers of the families side by side: one that is away takes nothing from what the others tell.

            answers = await inspector.ask(Inspector.queues)
            queues = [queue for part in answers.some() for queue in part]
            for family, error in answers.away.items(): ...

        Of one server the answer, and the error, are the question's own.

        Args:
            question: gets an inspector of the families that are on one server (of a cluster, in one slot).
            within: how long each of several servers may take, seconds; default `ANSWER_SECONDS`.
        """
        if not isinstance(self.redis, Routed):
            return Answers([await question(self)], {})
        places = by_place(self.redis, sorted(self.families), lambda name: self.families[name].queue)
        limit, asked = ANSWER_SECONDS if within is None else within, []
        for place, names in places.items():
            part = self.only(names, single_of(self.redis, self.of(names[0]).queue))
            asked.append((names, self._patience.wait(place, question(part), limit)))
        return await gathered(asked)

    async def away(self, families: Sequence[str]) -> dict[str, RedisError]:
        """Give those of some families whose server, one of several, cannot be asked, and why.

        Raises:
            RedisError: when none of them can.
        """
        answers = await self.only(families).ask(_greet)
        answers.some()
        return answers.away

    def server(self, family: str) -> str:
        """Name the server a family is on, without asking it: see `daemon.connecting.routed.name_of`."""
        return name_of(self.redis, self.of(family).queue)

    # ------------------------------------------------------------------ queues

    async def queues(self) -> list[QueueStats]:
        """Give every family's stats, by name, in as many round trips as one family's.

        Raises:
            RedisUnavailable, RedisRefused: when one of their servers cannot be asked, never zeros instead; `ask` tells
                of the others all the same.
        """
        return await read_queues(self.redis, [self.families[name] for name in sorted(self.families)])

    async def queue(self, family: str) -> QueueStats:
        """Give one family's stats.

        Raises:
            InvalidJob: for an unknown family. RedisUnavailable, RedisRefused: never zeros instead.
        """
        return (await read_queues(self.redis, [self.of(family)]))[0]

    async def backlog(self, family: str) -> dict[str, Any]:
        """Give what autoscalers read: ``backlog`` can run now, ``load`` adds what runs, ages and times in seconds.

        What a limit of its group or function keeps back is not in it: more workers would not help.

        ``drain_seconds`` is how long the workers there are need for the backlog, None without workers or experience.

        Raises: as `queue`.
        """
        stats = await self.queue(family)
        workers = [worker for worker in await self.workers(family) if worker.lease_seconds > 0]
        means = [worker.mean_seconds for worker in workers if worker.mean_seconds is not None]
        drain: float | None = 0.0
        backlog = stats.waiting - stats.limited
        if backlog:
            drain = backlog * (sum(means) / len(means)) / stats.slots if means and stats.slots else None
        return {
            "family": family,
            "backlog": backlog,
            "active": stats.active,
            "delayed": stats.delayed,
            "load": backlog + stats.active,
            "oldest_age_seconds": stats.oldest_age_seconds,
            "drain_seconds": drain,
            "workers": stats.workers,
            "slots": stats.slots,
        }

    async def stats(
        self, family: str, *, last: float | str = 3600, since: datetime | None = None, until: datetime | None = None,
        step: Step | None = None, function: str | None = None,
    ) -> FamilyStatistics:  # fmt: skip
        """Give throughput, failures, run times and waits of a family, in all, per function, and as a series.

        Args:
            last: of so many seconds (or ``"24h"``), in whole minutes or hours: the first is in it from its beginning.
            since, until: of this time instead.
            step: ``minute`` (kept for a day) or ``hour`` (for two weeks); default minutes for three hours or less.
            function: of this function only.

        Raises:
            InvalidJob: for an unknown family or a time that has not begun.
        """
        keys = self.of(family)
        with translated():
            now = await server_ms(self.redis, keys)
            return await read_statistics(
                self.redis, keys, now, last=last, since=since, until=until, step=step, function=function,
                past=self._past.setdefault(family, {}),
            )  # fmt: skip

    async def figures(self, families: Sequence[str]) -> list[tuple[Figures, Figures]]:
        """Give what some families did in the last minute and hour, as ``stats(...).total`` does.

        Raises: as `stats`.
        """
        several = [(self.of(family), self._past.setdefault(family, {})) for family in families]
        groups = [[each] for each in several] if isinstance(self.redis, Routed) else [several]
        found: list[tuple[Figures, Figures]] = []
        with translated():
            for group in filter(None, groups):
                now = await server_ms(self.redis, group[0][0])
                found += await read_figures(self.redis, group, now)
        return found

    async def starts(self, family: str, limit: float, minutes: int) -> list[tuple[int, int]]:
        """Give of each of the last minutes, the newest last, how many jobs started and how many had waited too long.

        Args:
            limit: what is too long, seconds.

        Raises: as `stats`.
        """
        keys = self.of(family)
        with translated():
            now = await server_ms(self.redis, keys)
            return await read_starts(self.redis, keys, self._past.setdefault(family, {}), now, limit, minutes)

    async def oldest_of_group(self, family: str, group: str) -> float | None:
        """Give the age of the oldest waiting job of a group, seconds; None where none is found.

        Raises: as `queue`.
        """
        with translated():
            return await oldest_of_group(self.redis, self.of(family), group)

    async def servers(self) -> list[ServerInfo]:
        """Give the servers that the families are on.

        Raises: as `queues`.
        """
        with translated():
            return await read_servers(self.redis, list(self.families.values()))

    # ------------------------------------------------------------------ workers

    async def workers(self, family: str | None = None) -> list[WorkerInfo]:
        """Give the processes that work a family, or all of them.

        Raises: as `queues`.
        """
        names = sorted(self.families) if family is None else [family]
        found = await read_workers(self.redis, [self.of(name) for name in names])
        return [worker for workers in found for worker in workers]

    # ------------------------------------------------------------------ jobs

    async def job(self, written: str, *, reveal: bool = False) -> JobInfo:
        """Give everything known of a job by its id as people write it, ``email:<id>``.

        What is encrypted stands as asterisks; ``reveal`` decrypts it.

        Raises:
            JobNotFound: when it never existed or its record has been removed.
            InvalidJob: when the id names no family and there are several.
            KeyMissing: when something is to be revealed and its key is not in the ring.
        """
        keys, ids = self.find(written)
        with translated():
            for job_id in ids:
                (info,) = await describe(self.redis, keys, [job_id], self.keyring if reveal else None)
                if info is not None:
                    await add_relations(self.redis, keys, job_id, info)
                    return info
        raise JobNotFound.of(written)

    async def logs(self, written: str, *, reveal: bool = False) -> JobLogs:
        """Give what a job's handler logged (`JobContext.log`).

        Raises: as `job`.
        """
        keys, ids = self.find(written)
        with translated():
            encoded = [job_id.encode("utf-8", "surrogateescape") for job_id in ids]
            for job_id, raw in zip(ids, await self.redis.hmget(keys.key("logs"), encoded), strict=True):
                if raw is not None:
                    return job_logs(raw, JobCipher(self.keyring, keys.family, job_id) if reveal else None)
        await self.job(written)
        return JobLogs()

    async def jobs(
        self,
        family: str,
        state: JobState | str,
        *,
        limit: int = 50,
        cursor: str | None = None,
        where: JobFilter = EVERY,
    ) -> JobPage:
        """Give a page of the jobs in a state: waiting ones in the order they will run, ended ones newest first.

        A call looks at 1,000 jobs at most, so a filtered page may be short and still have a ``cursor`` to go on from.

        Args:
            limit: at most 500.
            cursor: of the page before; it holds while jobs come and go, and None begins.
            where: only these.

        Raises:
            InvalidJob: for an unknown family, state, limit or cursor, or a text where search is off.
        """
        keys = self.of(family)
        if not 1 <= limit <= PAGE:
            raise InvalidJob(f"limit is 1 to {PAGE}")
        listed = self.state(state)
        with translated():
            if where.text is not None:
                return await search(self.redis, keys, listed, where, cursor, limit)
            return await Listing(self.redis, keys, listed, where, await server_ms(self.redis, keys)).page(cursor, limit)

    @staticmethod
    def state(state: JobState | str) -> JobState:
        """Give a state jobs are listed by.

        Raises:
            InvalidJob: for anything else, naming those there are.
        """
        known = [str(known) for known in JobState if known is not JobState.NOT_FOUND]
        if state not in known:
            raise InvalidJob(f"{str(state)!r} is not a state: use one of {', '.join(known)}")
        return JobState(state)

    def find(self, written: str) -> tuple[FamilyKeys, list[str]]:
        """Give the family of an id as people write it, and the ids in Redis it may mean, in order.

        Ids of stock arq are bare (``8f0c…``): where one queue of stock arq is known, they are looked for there.

        Raises:
            InvalidJob: when it names no family and there are several, or is no text.
        """
        keys, ids = self._meant(written)
        try:
            raw_id(written)
        except UnicodeEncodeError:
            raise InvalidJob(f"job id {written[:70]!r} is no text") from None
        # In a cluster an id without the tag is in another slot, where none of the family's can be.
        return keys, [i for i in ids if i.startswith(keys.prefix)] if in_cluster(self.redis, keys.queue) else ids

    def _meant(self, written: str) -> tuple[FamilyKeys, list[str]]:
        adopted = [name for name in self.families if ":" in name]
        for name in adopted:
            if written.startswith(f"{name}:"):
                bare = written[len(name) + 1 :]
                return self.families[name], [self.families[name].job_id(bare), bare]
        family, ids = parse_id(written)
        if family in self.families:
            return self.families[family], ids
        if len(self.families) == 1:
            keys = next(iter(self.families.values()))
            return keys, [keys.prefix + written, written]
        if family is None and len(adopted) == 1:
            return self.families[adopted[0]], ids
        known = ", ".join(sorted(self.families))
        raise InvalidJob(f"job id {written!r} names no known family: write it as family:id (families: {known})")

    async def flow(self, written: str, *, limit: int = 500) -> FlowNode:
        """Give a job with the jobs it waits or waited for, and what these wait for, as a tree.

        Args:
            limit: most jobs in all; `FlowNode.more` says where some are left out.

        Raises:
            JobNotFound: when it never existed or its record has been removed.
            InvalidJob: when the id names no family and there are several.
        """
        keys, ids = self.find(written)
        with translated():
            for job_id in ids:
                found = await read_flow(self.redis, keys, job_id, limit)
                if found is not None:
                    return found
        raise JobNotFound.of(written)

    async def explain(self, written: str) -> Explanation:
        """Tell why a job does not run, and when it will; one that is not there is told so, too.

        Raises:
            InvalidJob: when the id names no family and there are several.
        """
        return await explain(self, written)


async def _greet(part: Inspector) -> None:
    """Ask the server that some families are on for nothing but an answer."""
    with translated():
        await server_ms(part.redis, next(iter(part.families.values())))


def _keys(name: str) -> FamilyKeys:
    return FamilyKeys.of_queue(name) if ":" in name else FamilyKeys.of(name)
