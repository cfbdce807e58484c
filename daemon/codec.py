"""How jobs, results and errors are written to Redis: a short header scripts can read, then JSON. Never pickle.

A job's record is a header (`daemon.records`) and its body: a JSON object ``{"a": [args], "k": {kwargs},
"o": {options}}``, the last two where there are any, without what is the same in all, its first five bytes and its last:
``[args],"o": {options}``. A result is one JSON object with stock arq's keys, the body's at its end. `dumps` and `loads`
are what a stock arq client passes as its ``job_serializer`` and ``job_deserializer``.

In an encrypted family a body begins with a byte 1 and a length in 4 bytes; then come the arguments, encrypted
(`daemon.encryption`), and the rest as it is: ``,"o": {options}``. A result keeps its keys, too.

JSON is pydantic-core's: it validates and decodes an envelope in one pass (2.0 µs for a small mail; a general decoder
followed by validation takes 2.4 µs), and knows datetimes, decimals, bytes (base64), UUIDs, enums and models.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import traceback
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from daemon import lazily
from daemon.encryption import CONTEXT, MASK, JobCipher, is_sealed, packed
from daemon.errors import InvalidJob, JobExpired, JobFailed, TooLarge, Unreadable
from daemon.records import MAGIC, header, record_tail, split_record

if TYPE_CHECKING:
    from pydantic import BaseModel, TypeAdapter

#: What is kept of names in memory is bounded: whoever writes into a queue may have written anything.
_SHORT = 512
TRACEBACK_LIMIT = 16_384
#: How deep payloads and results may be nested: the parser's own limit, less what stands around them in a record.
MAX_DEPTH, _AROUND = 190, 10
#: How many digits of an integer the parser reads, and how one of more is told from others at a glance.
MAX_DIGITS, _EVERY = 4300, 512
_DIGITS = re.compile(rb"[0-9]{%d}" % (MAX_DIGITS // _EVERY))
_SEALED = b"\x01"
_KEYLESS: dict[str, Any] = {CONTEXT: None}


def encode(value: Any, what: str = "value", cipher: JobCipher | None = None) -> bytes:
    """Give a value as JSON; marked fields in it are encrypted (`daemon.secret`).

    Raises:
        InvalidJob: when it holds something JSON cannot carry, or a marked field without a key to encrypt it; the
            message names the type.
    """
    context = _KEYLESS if cipher is None else {CONTEXT: cipher}
    try:
        return lazily.to_json(value, bytes_mode="base64", inf_nan_mode="strings", context=context)
    except lazily.PydanticSerializationError as error:
        raise InvalidJob(f"{what} cannot be written as JSON: {error}") from None


def encode_model(payload: BaseModel, cipher: JobCipher | None = None) -> bytes:
    """Give a payload as JSON; with a cipher its marked fields are encrypted.

    Raises:
        InvalidJob: when it holds something JSON cannot carry, or when there is no key to encrypt them.
    """
    try:
        if cipher is None:
            return payload.__pydantic_serializer__.to_json(payload)
        return payload.__pydantic_serializer__.to_json(payload, context={CONTEXT: cipher})
    except lazily.PydanticSerializationError as error:
        if cipher is not None:
            cipher.check()
        raise InvalidJob(f"payload cannot be written as JSON: {error}") from None


def encode_body(args: bytes, options: Mapping[str, Any] | None = None, cipher: JobCipher | None = None) -> bytes:
    """Join encoded positional arguments and the job's own options to a body.

    With a cipher the arguments are encrypted.
    """
    body = args if cipher is None else join_sealed(cipher.seal("payload", args), b"")
    return body + b',"o":' + encode(options, "options") if options else body


def is_sealed_body(body: bytes) -> bool:
    """Tell whether the arguments in a body are encrypted."""
    return body[:1] == _SEALED


def carries_nothing(body: bytes) -> bool:
    """Tell whether a job has no arguments, so that there is nothing to encrypt."""
    return body.startswith(b"[]") and (body.startswith(b'[],"k":{}') or not body.startswith(b'[],"k":'))


def split_sealed(body: bytes) -> tuple[bytes, bytes]:
    """Give the encrypted part of a body and the rest.

    Raises:
        Unreadable: when it is cut.
    """
    end = 5 + int.from_bytes(body[1:5])
    if len(body) < max(end, 6):
        raise Unreadable("the body of the job is cut")
    return body[5:end], body[end:]


def join_sealed(sealed: bytes, rest: bytes) -> bytes:
    """Give the body that `split_sealed` takes apart."""
    return _SEALED + len(sealed).to_bytes(4) + sealed + rest


def open_body(body: bytes, cipher: JobCipher) -> bytes:
    """Give an encrypted body in clear.

    Raises:
        KeyMissing, Unreadable: see `JobCipher.open`.
    """
    sealed, rest = split_sealed(body)
    return cipher.open("payload", sealed) + rest


def whole_body(body: bytes) -> bytes:
    """Give the JSON object a body stands for; encrypted arguments as text, in the place of the positional ones.

    Raises:
        Unreadable: when encrypted arguments are cut.
    """
    return b'{"a":' + (_as_text(body) if is_sealed_body(body) else body) + b"}"


def _as_text(body: bytes) -> bytes:
    sealed, rest = split_sealed(body)
    return lazily.to_json(packed(sealed)) + rest


def decode_body(body: bytes) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Give ``(args, kwargs, options)`` as plain JSON data; encrypted arguments as `daemon.encryption.packed`.

    Raises:
        Unreadable: when the body is not JSON of that shape.
    """
    try:
        data = lazily.from_json(whole_body(body))
        args, kwargs, options = data["a"], data.get("k", {}), data.get("o") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Unreadable("the body of the job is not JSON written by arqd's codec") from None
    if not ((isinstance(args, list) or is_sealed(args)) and isinstance(kwargs, dict) and isinstance(options, dict)):
        raise Unreadable("the body of the job has not the shape arqd's codec writes")
    return args, kwargs, options


@cache
def typed(returns: Any) -> TypeAdapter[Any]:
    """Give what reads a result's JSON as a type (a pydantic model or any type pydantic knows)."""
    return new_adapter(returns)


def new_adapter(returns: Any) -> TypeAdapter[Any]:
    """Give what `typed` keeps."""
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    try:
        return TypeAdapter(returns, config=ConfigDict(val_json_bytes="base64", hide_input_in_errors=True))
    except PydanticUserError:  # a model, a dataclass: it has a configuration of its own
        return TypeAdapter(returns)


def describe_error(error: BaseException, reason: str) -> dict[str, Any]:
    """Give what travels of an exception: type, message, traceback (its end, when it is long) and reason."""
    if isinstance(error, JobFailed):
        message, trace = error.message, error.traceback
    else:
        message = text_of(error)[:4096]
        trace = "".join(traceback.format_exception(error))[-TRACEBACK_LIMIT:] if error.__traceback__ else ""
    return {"type": type_of(error), "message": plain(message), "traceback": plain(trace), "reason": reason}


def type_of(error: BaseException) -> str:
    """Give the name of an exception's class; of a job's failure that of its cause."""
    return error.type if isinstance(error, JobFailed) else type(error).__qualname__


def text_of(error: BaseException) -> str:
    """Give an exception's text, whatever it is, as UTF-8 can carry it."""
    try:
        return plain(str(error))
    except Exception:
        return "its text cannot be read"


def plain(text: str) -> str:
    """Give a text as UTF-8 can carry it."""
    return text.encode("utf-8", "backslashreplace").decode()


def rebuild_error(error: Any, tries: int = 0) -> BaseException:
    """Give the exception a result record describes: `JobFailed`, `JobExpired`, or ``CancelledError`` if aborted."""
    if not isinstance(error, dict):
        return JobFailed("Unknown", str(error), reason="permanent", tries=tries)
    reason = error.get("reason", "tries")
    if reason == "aborted":
        return asyncio.CancelledError("aborted")
    cls = JobExpired if reason == "expired" else JobFailed
    message = MASK if is_sealed(error.get("message")) else error.get("message", "")
    return cls(error.get("type", ""), message, error.get("traceback", ""), reason=reason, tries=tries)


class Ended(NamedTuple):
    """What a result record needs beside the result itself; times in ms."""

    job_id: str
    function: str
    queue: str
    tries: int
    enqueued_ms: int
    started_ms: int
    finished_ms: int


def encode_result(ended: Ended, success: bool, result: bytes, body: bytes | None) -> bytes:
    """Write a result record; ``body`` (the job's arguments, as they were) is spliced in without decoding it."""
    job_id, function, queue, tries, enqueued, started, finished = ended
    begin, at = (_kept_frame if len(function) < _SHORT else _frame)(success, tries, function, queue)
    own = lazily.to_json(job_id).decode()
    head = f'{begin},"et":{enqueued},"st":{started},"ft":{finished},{at},"id":{own},"r":'.encode()
    if not body or body[:1] != b"[":  # what is no body would spoil the whole
        body = _as_text(body) if body and is_sealed_body(body) else b"[]"
    return b"".join((head, result, b',"a":', body, b"}"))


def _frame(success: bool, tries: int, function: str, queue: str) -> tuple[str, str]:
    """Give what a result record begins with, and what stands behind its times."""
    return encode({"s": success, "t": tries, "f": function}).decode()[:-1], '"q":' + encode(queue).decode()


#: Kept, since it is the same for all jobs of a function.
_kept_frame = lru_cache(4096)(_frame)


def encode_aborted(job_id: str, queue: str, raw: bytes | None) -> bytes:
    """Write the result record of a job aborted before it ran; ``raw`` is its record, None when it is gone."""
    now = int(time.time() * 1000)
    function, stamp, body = "", now, None
    with contextlib.suppress(Unreadable):
        record = split_record(raw or b"")
        function, stamp, body = record.function, record.stamp, record.body
    error = describe_error(asyncio.CancelledError("aborted before it ran"), "aborted")
    ended = Ended(job_id, function, queue, 0, stamp, now, now)
    return encode_result(ended, False, encode(error), body)


def decode_result(raw: bytes) -> dict[str, Any]:
    """Give a result record as a dict with arq's keys; ``r`` of a failed one is the error's description.

    Raises:
        Unreadable: when it is not JSON written by this codec.
    """
    try:
        data = lazily.from_json(raw)
        if not {"s", "r", "t", "f", "et"} <= data.keys():
            raise ValueError
        data.setdefault("k", {})
    except (ValueError, AttributeError, TypeError):
        raise Unreadable("the result was not written by arqd's codec") from None
    return dict(data)


def was_aborted(raw: bytes) -> bool:
    """Tell whether a result record is an aborted job's."""
    data = decode_result(raw)
    return not data["s"] and isinstance(rebuild_error(data["r"]), asyncio.CancelledError)


def dumps(data: dict[str, Any]) -> bytes:
    """Serialise a stock arq job or result: pass it to arq as ``job_serializer``."""
    if "s" in data:
        result = data["r"]
        if isinstance(result, BaseException):
            reason = "aborted" if isinstance(result, asyncio.CancelledError) else "tries"
            data = {**data, "r": describe_error(result, reason)}
        return encode(data, "result")
    body = encode({"a": data["a"], "k": data["k"], "t": data["t"]}, "job")[5:-1]
    return header(0, data["et"]) + record_tail(data["f"], "", body)


def loads(raw: bytes) -> dict[str, Any]:
    """Deserialise a job or a result for stock arq: pass it to arq as ``job_deserializer``.

    Raises:
        Unreadable: for anything this codec did not write, and for what is encrypted.
    """
    if raw.startswith(MAGIC):
        record = split_record(raw)
        args, kwargs, _ = decode_body(record.body)
        if is_sealed(args):
            raise Unreadable("the job is encrypted, which stock arq cannot read")
        return {"t": None, "f": record.function, "a": args, "k": kwargs, "et": record.stamp}
    data = decode_result(raw)
    if is_sealed(data.get("a")) or is_sealed(data["r"]):
        raise Unreadable("the result is encrypted, which stock arq cannot read")
    if not data["s"]:
        data["r"] = rebuild_error(data["r"], data["t"])
    return data


def check_readable(data: bytes, what: str) -> None:
    """Refuse JSON that the parser would not read again: nested too deep, or with an integer of too many digits.

    Raises:
        InvalidJob: naming which of them.
    """
    # Cheap for almost all: what is shorter, or has fewer brackets, cannot be nested so deep, and so long a number shows
    # as a row of digits where only every few hundredth byte is looked at.
    if len(data) < MAX_DEPTH:
        return
    if data.count(b"[") + data.count(b"{") < MAX_DEPTH and not _DIGITS.search(data[::_EVERY]):
        return
    try:
        lazily.from_json(_AROUND * b"[" + data + _AROUND * b"]")
    except ValueError as error:
        if "recursion limit" in str(error):
            raise InvalidJob(f"the {what} is nested more than {MAX_DEPTH} levels deep: flatten it") from None
        if "number out of range" in str(error):
            raise InvalidJob(
                f"the {what} has an integer of more than {MAX_DIGITS:,} digits, which cannot be read: give it as text"
            ) from None


def check_size(size: int, limit: int, what: str) -> None:
    """Refuse what is over a limit in bytes.

    Raises:
        TooLarge: saying how large it is, the limit, and what to do instead.
    """
    if size > limit:
        raise TooLarge(
            f"the {what} is {size:,} bytes, the limit is {limit:,}: "
            f"keep large data in a file or an object store and pass its address, or raise max_{what}"
        )
