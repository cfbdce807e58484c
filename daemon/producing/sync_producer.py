"""The producer without ``await``; import it from `daemon.producer`."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from daemon.errors import ArqdError
from daemon.producing.handle import SyncJobHandle
from daemon.producing.options import JobOptions

if TYPE_CHECKING:
    from daemon.events import Event, Since
    from daemon.payload import Payload
    from daemon.producer import Producer
    from daemon.servers import RedisUrl

T = TypeVar("T")


class SyncProducer:
    """`Producer` for code without an event loop: same methods, without ``await``.

    It runs a `Producer` on an event loop in a thread of its own; use it as a context manager and share it between
    threads, not between processes: after a fork each makes its own.
    """

    def __init__(self, url: RedisUrl = "redis://localhost:6379", **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="arqd-producer", daemon=True)
        self._thread.start()
        self._producer = self._run(self._open(url, options))

    @classmethod
    def connect(cls, url: RedisUrl = "redis://localhost:6379", **options: Any) -> Self:
        """Give a producer for a Redis URL; see `Producer.connect`."""
        return cls(url, **options)

    @staticmethod
    async def _open(url: RedisUrl, options: Any) -> Producer:
        from daemon.producer import Producer

        return Producer.connect(url, **options)

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        if not self._thread.is_alive():
            call.close()
            raise self._gone()
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    @staticmethod
    def _gone() -> ArqdError:
        # Without its thread every call would wait for ever.
        return ArqdError("this producer is closed, or of another process: after a fork each process makes its own")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections and end its thread."""
        if self._thread.is_alive():
            self._run(self._producer.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def health(self) -> bool:
        """See `Producer.health`."""
        return self._run(self._producer.health())

    def template(self, name: str, **options: Unpack[JobOptions]) -> JobOptions:
        """See `Producer.template`."""
        return self._producer.template(name, **options)

    def enqueue(self, job: Payload | str, payload: Any = None, **options: Any) -> SyncJobHandle:
        """See `Producer.enqueue`."""
        return SyncJobHandle(self, self._run(self._producer.enqueue(job, payload, **options)))

    def enqueue_flow(self, flow: Any) -> Any:
        """See `Producer.enqueue_flow`."""
        from daemon.flows import BatchHandle, SyncBatchHandle

        handle = self._run(self._producer.enqueue_flow(flow))
        return SyncBatchHandle(self, handle) if isinstance(handle, BatchHandle) else SyncJobHandle(self, handle)

    def enqueue_many(self, jobs: Any, payloads: Any = None, **options: Any) -> list[SyncJobHandle]:
        """See `Producer.enqueue_many`."""
        handles = self._run(self._producer.enqueue_many(jobs, payloads, **options))
        return [SyncJobHandle(self, handle) for handle in handles]

    def enqueue_each(self, jobs: Any, *, family: str | None = None) -> list[SyncJobHandle]:
        """See `Producer.enqueue_each`."""
        return [SyncJobHandle(self, handle) for handle in self._run(self._producer.enqueue_each(jobs, family=family))]

    def job(self, job_id: str, family: str | None = None, returns: Any = None) -> SyncJobHandle:
        """See `Producer.job`."""
        return SyncJobHandle(self, self._producer.job(job_id, family, returns))

    def events(self, families: str | Sequence[str], since: Since = "now") -> Iterator[Event]:
        """See `Producer.events`."""
        from daemon.events import iterate

        if not self._thread.is_alive():
            raise self._gone()
        return iterate(self._producer.events(families, since), self._loop)
