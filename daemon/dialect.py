"""How a queue's entries are read and its results written: arqd's codec, or the serialiser of a stock arq deployment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from arq.jobs import serialize_result
from arq.worker import JobExecutionFailed, Retry, RetryJob

from daemon import codec, errors
from daemon.binding import Binder, Bound
from daemon.errors import JobFailed, Unreadable
from daemon.family import Family


class Entry(NamedTuple):
    """A job as it stands in Redis; times in ms, 0 for none. ``stamp`` is what scripts compare ("" without a header)."""

    function: str
    stamp: str
    enqueued_ms: int
    timeout_ms: int
    deadline_ms: int
    body: Any


class Dialect(Protocol):
    """What the executor needs to know of an encoding."""

    def read(self, raw: bytes) -> Entry:
        """Take an entry apart; raises Unreadable."""

    def bind(self, entry: Entry) -> Bound:
        """Give ``(args, kwargs, options)``; raises pydantic.ValidationError or Unreadable."""

    def result(self, ended: codec.Ended, entry: Entry | None, value: Any) -> bytes:
        """Write the result record of a completed job; raises InvalidJob or TooLarge."""

    def failure(self, ended: codec.Ended, entry: Entry | None, error: BaseException, reason: str) -> bytes:
        """Write the result record of a job that ended without a result."""


class ArqdDialect:
    """arqd's own codec (`daemon.codec`)."""

    def __init__(self, family: Family) -> None:
        self._binders = {name: Binder(function.call) for name, function in family.functions.items()}
        self._max_result = family.values.max_result

    def read(self, raw: bytes) -> Entry:
        """Take an entry apart without decoding its body."""
        record = codec.split_record(raw)
        stamp = record.stamp
        return Entry(record.function, str(stamp), stamp, record.timeout_ms, record.deadline_ms, record.body)

    def bind(self, entry: Entry) -> Bound:
        """Decode and validate in one pass."""
        return self._binders[entry.function].bind(entry.body)

    def result(self, ended: codec.Ended, entry: Entry | None, value: Any) -> bytes:
        """Write the result with the arguments beside it."""
        encoded = codec.encode(value, "result")
        codec.check_size(len(encoded), self._max_result, "result")
        return codec.encode_result(ended, True, encoded, entry.body if entry else None)

    def failure(self, ended: codec.Ended, entry: Entry | None, error: BaseException, reason: str) -> bytes:
        """Write type, message and traceback."""
        described = codec.encode(codec.describe_error(error, reason))
        return codec.encode_result(ended, False, described, entry.body if entry else None)


@dataclass(slots=True)
class StockDialect:
    """The serialiser pair of a stock arq settings class; pickle only where the operator accepted it."""

    serializer: Callable[[dict[str, Any]], bytes]
    deserializer: Callable[[bytes], dict[str, Any]]

    def read(self, raw: bytes) -> Entry:
        """Decode the whole entry; scripts know nothing of it unless arqd's codec wrote it."""
        stamp = str(codec.split_record(raw).stamp) if raw.startswith(codec.MAGIC) else ""
        try:
            data = self.deserializer(raw)
            function, args, kwargs, job_try, enqueued = (data[key] for key in ("f", "a", "k", "t", "et"))
            if not isinstance(function, str) or not isinstance(enqueued, int) or not isinstance(job_try, int | None):
                raise TypeError
            return Entry(function, stamp, enqueued, 0, 0, (tuple(args), dict(kwargs), {"t": job_try}))
        except Exception:
            raise Unreadable("the entry cannot be read by the queue's job_deserializer") from None

    def bind(self, entry: Entry) -> Bound:
        """Give the arguments as they came."""
        bound: Bound = entry.body
        return bound

    def result(self, ended: codec.Ended, entry: Entry | None, value: Any) -> bytes:
        """Write it the way arq does, for its clients."""
        return self._write(ended, entry, True, value)

    def failure(self, ended: codec.Ended, entry: Entry | None, error: BaseException, reason: str) -> bytes:
        """Write the exception itself, or what it says where it cannot be serialised.

        Clients have stock arq only: our own exceptions would not load there.
        """
        if isinstance(error, Retry | RetryJob):
            error = JobExecutionFailed(f"max {ended.tries} retries exceeded")
        elif type(error).__module__ == errors.__name__:
            error = JobExecutionFailed(str(error))
        return self._write(ended, entry, False, error)

    def _write(self, ended: codec.Ended, entry: Entry | None, success: bool, result: Any) -> bytes:
        args, kwargs, _ = entry.body if entry else ((), {}, {})
        arguments = (
            ended.function,
            args,
            kwargs,
            ended.tries,
            ended.enqueued_ms,
            success,
            result,
            ended.started_ms,
            ended.finished_ms,
            f"{ended.job_id}:{ended.function}",
            ended.queue,
        )
        written = serialize_result(*arguments, job_id=ended.job_id, serializer=self.serializer)
        if written is None:
            raise JobFailed("SerializationError", "the result cannot be serialised by the queue's job_serializer")
        return written
