"""What a producer gets back for a job: its handle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daemon import codec
from daemon.encryption import CONTEXT, SEALED_JSON, JobCipher, is_sealed, shown, shown_error, unpacked
from daemon.errors import JobNotFound
from daemon.job import JobInfo, JobLogs, JobState
from daemon.keys import FamilyKeys, spoken_id

if TYPE_CHECKING:
    from daemon.inspector import Inspector
    from daemon.producer import Producer
    from daemon.producing.sync_producer import SyncProducer


class JobHandle:
    """A job that was handed over (or one that was there already).

    Attributes:
        id: how people write it, ``email:<id>``.
        created: False when a job with this id or this dedup key existed, and this is its handle.
        replaced: whether that job got the payload (``dedup_mode`` ``replace`` and ``debounce``, unless it runs).
        family: name of the family.
    """

    __slots__ = ("_producer", "_returns", "created", "family", "job_id", "replaced")

    def __init__(
        self,
        producer: Producer,
        family: str,
        job_id: str,
        created: bool,
        returns: Any = None,
        replaced: bool = False,
    ) -> None:
        self._producer = producer
        self._returns = returns
        self.family = family
        self.job_id = job_id
        self.created = created
        self.replaced = replaced

    @property
    def id(self) -> str:
        """How people write its id."""
        return spoken_id(self.job_id)

    def __repr__(self) -> str:
        return f"<JobHandle {self.id}>"

    async def info(self, *, reveal: bool = False) -> JobInfo:
        """Everything known about it; what is encrypted as asterisks, unless it is to be revealed.

        Raises:
            JobNotFound: when it never existed or its record has been removed.
            KeyMissing: when something is to be revealed and the producer does not have its key.
        """
        return await self._inspector().job(self.job_id, reveal=reveal)

    def _inspector(self) -> Inspector:
        from daemon.inspector import Inspector

        return Inspector(self._producer.redis, [self.family], keyring=self._producer.keyring)

    async def status(self) -> JobState:
        """Its state; ``not_found`` when it never existed or its record has been removed."""
        try:
            return (await self.info()).state
        except JobNotFound:
            return JobState.NOT_FOUND

    async def progress(self) -> int | None:
        """Percent as the handler last reported it, 100 when completed, None when it has reported nothing."""
        return (await self.info()).progress

    async def logs(self, *, reveal: bool = False) -> JobLogs:
        """What its handler logged (`JobContext.log`).

        Raises: as `info`.
        """
        return await self._inspector().logs(self.job_id, reveal=reveal)

    async def result(self, timeout: float | None = None, *, reveal: bool = True) -> Any:
        """Wait for the result; it arrives when the job ends, nothing is polled.

        Args:
            timeout: seconds to wait, None for ever.
            reveal: decrypt what is encrypted; else it is given as plain JSON data with asterisks.

        Returns:
            The result in the type its payload class declares (``returns=``), else plain JSON data.

        Raises:
            JobFailed: when it became a dead letter; `JobExpired` when it was too late to run.
            asyncio.CancelledError: when it was aborted.
            ResultTimeout: when it has not ended in time.
            JobNotFound: when there is no such job, or its result was not kept.
            RedisUnavailable: when the connection is lost and does not come back in time.
            KeyMissing: when it is encrypted with a key the producer does not have.
        """
        raw = await self._producer.replies.wait(self.family, self.job_id, timeout)
        data = codec.decode_result(raw)
        result, cipher = data["r"], None
        if reveal and SEALED_JSON in raw:
            cipher = JobCipher(self._producer.keyring, FamilyKeys.of(self.family).family, self.job_id)
        if not data["s"]:
            raise codec.rebuild_error(shown_error(result, cipher), data["t"])
        if self._returns is None or not reveal:
            return shown(result, "result", cipher) if SEALED_JSON in raw else result
        return codec.typed(self._returns).validate_json(
            cipher.open("result", unpacked(result)) if cipher and is_sealed(result) else codec.encode(result),
            context={CONTEXT: cipher},
        )

    async def abort(self, timeout: float = 10.0) -> bool:
        """End it now: a waiting one at once, a running one by cancelling its handler.

        Args:
            timeout: seconds to wait for a running handler to end.

        Returns:
            True when it was aborted, False when it had ended otherwise.

        Raises:
            JobNotFound: when there is no such job.
            ResultTimeout: when its handler is still running after ``timeout``.
        """
        return await self._producer.abort(self, timeout)


class SyncJobHandle:
    """`JobHandle` without ``await``."""

    def __init__(self, producer: SyncProducer, handle: JobHandle) -> None:
        self._producer = producer
        self._handle = handle
        self.id, self.family, self.created, self.replaced = handle.id, handle.family, handle.created, handle.replaced

    def __repr__(self) -> str:
        return f"<SyncJobHandle {self.id}>"

    def info(self, *, reveal: bool = False) -> JobInfo:
        """See `JobHandle.info`."""
        return self._producer._run(self._handle.info(reveal=reveal))

    def status(self) -> JobState:
        """See `JobHandle.status`."""
        return self._producer._run(self._handle.status())

    def progress(self) -> int | None:
        """See `JobHandle.progress`."""
        return self._producer._run(self._handle.progress())

    def logs(self, *, reveal: bool = False) -> JobLogs:
        """See `JobHandle.logs`."""
        return self._producer._run(self._handle.logs(reveal=reveal))

    def result(self, timeout: float | None = None, *, reveal: bool = True) -> Any:
        """See `JobHandle.result`; an aborted job raises ``concurrent.futures.CancelledError``."""
        return self._producer._run(self._handle.result(timeout, reveal=reveal))

    def abort(self, timeout: float = 10.0) -> bool:
        """See `JobHandle.abort`."""
        return self._producer._run(self._handle.abort(timeout))
