"""How a queue's entries are read and its results written: arqd's codec, or the serialiser of a stock arq deployment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from arq.jobs import serialize_result
from arq.worker import JobExecutionFailed, Retry, RetryJob

from daemon import codec, errors
from daemon.encryption import JobCipher, KeyRing, key_name, sealed_error
from daemon.errors import ConfigurationError, InvalidJob, JobFailed, KeyMissing, Unreadable
from daemon.family import Family
from daemon.keys import spoken_id
from daemon.records import MAGIC, split_record, stamp_word
from daemon.running.binding import Binder, Bound

logger = logging.getLogger("arqd.worker")


class Entry(NamedTuple):
    """A job as it stands in Redis; times in ms, 0 for none.

    ``stamp`` is what scripts compare ("" without a header), ``schema`` its payload's `daemon.payload.schema_mark`.
    """

    function: str
    stamp: str
    enqueued_ms: int
    timeout_ms: int
    deadline_ms: int
    schema: str
    body: Any


#: Makes a named tuple without the Python function that its class has for that.
_new = tuple.__new__


class Dialect(Protocol):
    """What the executor needs to know of an encoding."""

    def read(self, raw: bytes) -> Entry:
        """Take an entry apart; raises Unreadable."""

    #: What producers must know of its encryption: fields of the family's ``conf`` (``lua/enqueue.lua``).
    guards: Mapping[str, str]

    def bind(self, entry: Entry, cipher: JobCipher | None) -> Bound:
        """Give ``(args, kwargs, options)``; raises pydantic.ValidationError, KeyMissing or Unreadable."""

    def result(self, ended: codec.Ended, entry: Entry | None, value: Any, cipher: JobCipher | None) -> bytes:
        """Write the result record of a completed job; raises InvalidJob or TooLarge."""

    def failure(
        self,
        ended: codec.Ended,
        entry: Entry | None,
        error: BaseException,
        reason: str,
        cipher: JobCipher | None,
    ) -> bytes:
        """Write the result record of a job that ended without a result."""


class ArqdDialect:
    """arqd's own codec (`daemon.codec`).

    Raises:
        ConfigurationError: when the family is encrypted and there is no key, when a payload says that it is and the
            family does not, or when a schedule would keep in clear what is to be encrypted.
    """

    def __init__(self, family: Family, keyring: KeyRing | None) -> None:
        self._binders = {name: Binder(function.call) for name, function in family.functions.items()}
        self._max_result = family.values.max_result
        encrypted = family.values.encrypted
        if encrypted and not keyring:
            raise ConfigurationError(
                f"family {family.name!r} is encrypted and there is no key: set ARQD_ENCRYPTION_KEYS"
            )
        said = [name for name, binder in self._binders.items() if binder.encrypted and not encrypted]
        if said:
            raise ConfigurationError(
                f"family {family.name!r}: the payload of {said[0]!r} is declared encrypted=True: set encrypted = True"
            )
        marked = [name for name, binder in self._binders.items() if binder.marked]
        if marked and not keyring:
            logger.warning("%s: no key is set, so jobs of %s will be parked", family.name, ", ".join(marked))
        try:
            for each in family.schedules:
                each.schedule.refuse_clear(encrypted or each.schedule.function in marked)
        except InvalidJob as error:
            raise ConfigurationError(f"family {family.name!r}: {error}") from None
        self.guards = {"encrypted": "1"} if encrypted else {}
        if marked:
            self.guards["marked"] = "\t" + "\t".join(sorted(marked)) + "\t"

    def read(self, raw: bytes) -> Entry:
        """Take an entry apart without decoding its body."""
        _, stamp, timeout, deadline, function, _, schema, body = split_record(raw)
        return _new(Entry, (function, stamp_word(stamp), stamp, timeout, deadline, schema, body))

    def bind(self, entry: Entry, cipher: JobCipher | None) -> Bound:
        """Decode and validate in one pass."""
        body = entry.body
        if codec.is_sealed_body(body):
            if cipher is None:
                raise KeyMissing(key_name(codec.split_sealed(body)[0]))
            body = codec.open_body(body, cipher)
        elif cipher is not None and cipher.whole and not codec.carries_nothing(body):
            logger.warning("job %s came in clear, though its family is encrypted", spoken_id(cipher.job_id))
        return self._binders[entry.function].bind(body, entry.schema, cipher)

    def result(self, ended: codec.Ended, entry: Entry | None, value: Any, cipher: JobCipher | None) -> bytes:
        """Write the result with the arguments beside it."""
        encoded = codec.encode(value, "result", cipher)
        codec.check_size(len(encoded), self._max_result, "result")
        codec.check_readable(encoded, "result")
        if cipher is not None and cipher.whole:
            encoded = cipher.seal_json("result", encoded)
        return codec.encode_result(ended, True, encoded, entry.body if entry else None)

    def failure(
        self,
        ended: codec.Ended,
        entry: Entry | None,
        error: BaseException,
        reason: str,
        cipher: JobCipher | None,
    ) -> bytes:
        """Write type, message and traceback."""
        described = codec.describe_error(error, reason)
        if cipher is not None and cipher.whole:
            described = sealed_error(described, cipher)
        return codec.encode_result(ended, False, codec.encode(described), entry.body if entry else None)


@dataclass(slots=True)
class StockDialect:
    """The serialiser pair of a stock arq settings class; pickle only where the operator accepted it."""

    serializer: Callable[[dict[str, Any]], bytes]
    deserializer: Callable[[bytes], dict[str, Any]]
    guards: Mapping[str, str] = field(default_factory=dict)

    def read(self, raw: bytes) -> Entry:
        """Decode the whole entry; scripts know nothing of it unless arqd's codec wrote it."""
        stamp = stamp_word(split_record(raw).stamp) if raw.startswith(MAGIC) else ""
        try:
            data = self.deserializer(raw)
            function, args, kwargs, job_try, enqueued = (data[key] for key in ("f", "a", "k", "t", "et"))
            if not isinstance(function, str) or not isinstance(enqueued, int) or not isinstance(job_try, int | None):
                raise TypeError
            return Entry(function, stamp, enqueued, 0, 0, "", (tuple(args), dict(kwargs), {"t": job_try}))
        except Exception:
            raise Unreadable("the entry cannot be read by the queue's job_deserializer") from None

    def bind(self, entry: Entry, cipher: JobCipher | None) -> Bound:
        """Give the arguments as they came."""
        bound: Bound = entry.body
        return bound

    def result(self, ended: codec.Ended, entry: Entry | None, value: Any, cipher: JobCipher | None) -> bytes:
        """Write it the way arq does, for its clients."""
        return self._write(ended, entry, True, value)

    def failure(
        self,
        ended: codec.Ended,
        entry: Entry | None,
        error: BaseException,
        reason: str,
        cipher: JobCipher | None,
    ) -> bytes:
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
