"""Producers that send nothing: what code under test hands over is checked as the real one checks it, and kept."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar, cast

from daemon.broker import NewJob
from daemon.encryption import KeyRing
from daemon.errors import ArqdError
from daemon.keys import spoken_id
from daemon.payload import Payload
from daemon.producer import MAX_PAYLOAD, Producer, SyncProducer
from daemon.producing.bulk import prepare_each
from daemon.producing.handle import JobHandle
from daemon.producing.handover import Asked
from daemon.producing.options import JobOptions
from daemon.records import header, split_record

T = TypeVar("T")
P = TypeVar("P", bound=Payload)


@dataclass(frozen=True, slots=True)
class RecordedJob:
    """A job that was handed over.

    Attributes:
        id: ``family:<id>``.
        payload: the `Payload` given, else the fields or arguments given with a function's name.
        options: those given, those of its template, and its payload's dedup key.
    """

    id: str
    family: str
    function: str
    payload: Any
    options: JobOptions


class _Nowhere:
    """In place of a Redis client."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ArqdError(
            "a recording producer sends nothing, so there is nothing to ask: use a Simulation, or a real one"
        )

    async def aclose(self) -> None: ...

    async def ping(self) -> bool:
        return True


class RecordingProducer(Producer):
    """A `Producer` that keeps what it is given. Options and payloads are checked; dedup keys are kept, not applied.

    Handles have an id; to ask one for a state or a result raises ArqdError.

    Args:
        max_payload, templates, keyring: as for `Producer`.

    Attributes:
        jobs: what was handed over, in order; clear it between the parts of a test.
    """

    def __init__(
        self,
        *,
        max_payload: int = MAX_PAYLOAD,
        templates: Mapping[str, Mapping[str, Any]] | None = None,
        keyring: KeyRing | None = None,
    ) -> None:
        super().__init__(_Nowhere(), max_payload=max_payload, templates=templates, keyring=keyring)
        self.jobs: list[RecordedJob] = []
        #: The same jobs as a worker finds them, by id in Redis.
        self.written: dict[str, NewJob] = {}

    async def _send_alike(
        self, payloads: Sequence[Payload], family: str | None, options: JobOptions
    ) -> list[JobHandle]:
        return await self._send([(payload, None, family, options) for payload in payloads])

    async def _send_one(self, asked: Asked) -> JobHandle:
        return (await self._send([asked]))[0]

    async def _send(self, asked: Sequence[Asked]) -> list[JobHandle]:
        handles: list[JobHandle] = []
        if not asked:
            return handles
        family, jobs, types = prepare_each(self, asked)
        for one, job, returns in zip(asked, jobs, types, strict=True):
            new = job.id not in self.written
            if new:
                self.written[job.id] = job
                function = split_record(header(0, 0) + job.tail).function
                payload = one[0] if isinstance(one[0], Payload) else one[1]
                self.jobs.append(RecordedJob(spoken_id(job.id), family, function, payload, self._options_of(one)))
            handles.append(JobHandle(self, family, job.id, new, returns))
        return handles

    def _options_of(self, asked: Asked) -> JobOptions:
        job, _, _, options = asked
        kept: dict[str, Any] = {**self._with_template(options)}
        if isinstance(job, Payload) and job.__job__.keyed:
            for name, own in (("dedup_key", job.dedup_key), ("group", job.group_key)):
                if kept.get(name) is None:
                    kept[name] = own()
        return cast(JobOptions, {name: value for name, value in kept.items() if value is not None})

    def payloads(self, kind: type[P]) -> list[P]:
        """Give the payloads of a class that were handed over, in order."""
        return [job.payload for job in self.jobs if isinstance(job.payload, kind)]

    def only(self, kind: type[P] | str) -> RecordedJob:
        """Give the one job of a payload class or a function.

        Raises:
            AssertionError: when there is none or more than one; it lists what there is.
        """
        found = [j for j in self.jobs if (j.function == kind if isinstance(kind, str) else isinstance(j.payload, kind))]
        if len(found) != 1:
            name = kind if isinstance(kind, str) else kind.__name__
            there = ", ".join(f"{job.function} ({job.id})" for job in self.jobs) or "nothing"
            raise AssertionError(f"{len(found)} jobs of {name} were handed over, not one; there is {there}")
        return found[0]


class RecordingSyncProducer(SyncProducer):
    """`RecordingProducer` without ``await``, for code that uses a `SyncProducer`; ``recorded`` has what it was given.

    Args:
        options: as for `RecordingProducer`.
    """

    def __init__(self, **options: Any) -> None:
        self.recorded = RecordingProducer(**options)
        self._producer = self.recorded

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        # Nothing it awaits has to wait, so the first step is the last.
        try:
            call.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
        raise ArqdError("a recording producer cannot wait")

    def close(self) -> None:
        """See `SyncProducer.close`."""
