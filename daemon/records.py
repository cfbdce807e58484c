"""What a job's record is, ``arq:job:<id>``: a short header scripts can read, then the body (`daemon.codec`).

``q<level><enqueued ms>[,<deadline ms>[,<timeout ms>]] <function>\\t<group>[\\t<schema>]\\n<body>``, level (0: the
family's default) and enqueue stamp in hexadecimal digits, the level one of them. What a job has not got is left out, or
0 where a timeout follows: the record is most of what a waiting job takes. ``lua/records.lua`` reads and writes it, too.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import NamedTuple

from daemon.errors import Unreadable

#: Neither a pickle nor JSON begins so.
MAGIC = b"q"
#: What is kept of names in memory is bounded: whoever writes into a queue may have written anything.
_SHORT = 512
#: Times beyond it (the year 6429) cannot be meant.
LATEST_MS = 2**47


class Record(NamedTuple):
    """A job record taken apart; times in ms since the epoch, 0 for none."""

    level: int
    stamp: int
    timeout_ms: int
    deadline_ms: int
    function: str
    group: str
    schema: str
    body: bytes


class Times(NamedTuple):
    """What stands before the names in a header."""

    level: int
    stamp: int
    timeout_ms: int
    deadline_ms: int


def header(level: int, stamp: int, timeout_ms: int = 0, deadline_ms: int = 0) -> bytes:
    """Give what the scripts put before the tail that a producer wrote; times in ms since the epoch."""
    limits = f",{deadline_ms},{timeout_ms}" if timeout_ms else f",{deadline_ms}" if deadline_ms else ""
    return f"q{level:x}{stamp_word(stamp)}{limits} ".encode()


def stamp_word(stamp: int) -> str:
    """Give an enqueue stamp as a header has it, and as the scripts compare it."""
    return f"{stamp:x}"


def record_tail(function: str, group: str, body: bytes, schema: str = "") -> bytes:
    """Give the part of a record that a producer writes; the enqueue script puts level and times before it.

    Args:
        schema: the payload's `daemon.payload.schema_mark`; none where its class is not known.
    """
    return (f"{function}\t{group}\t{schema}\n" if schema else f"{function}\t{group}\n").encode() + body


def written_tail(tail: bytes) -> str | list[str]:
    """Give what `record_tail` gave as JSON data; where it is encrypted, in base64."""
    try:
        return tail.decode()
    except UnicodeDecodeError:
        return [base64.b64encode(tail).decode()]


def tail_of(written: str | list[str]) -> bytes:
    """Give back what `written_tail` was given."""
    return written.encode() if isinstance(written, str) else base64.b64decode(written[0])


def split_record(raw: bytes) -> Record:
    """Take a record apart without decoding its body.

    Raises:
        Unreadable: when it has no arqd header.
    """
    head, newline, body = raw.partition(b"\n")
    if not newline:
        raise Unreadable
    times, names = split_head(head)
    try:
        function, group, schema = (_kept_names if len(names) < _SHORT else _names_of)(names)
    except ValueError:
        raise Unreadable from None
    return tuple.__new__(Record, (*times, function, group, schema, body))


def split_head(raw: bytes) -> tuple[Times, bytes]:
    """Give the times at the beginning of a record, and what follows; of the record the first few bytes are enough.

    Raises:
        Unreadable: when it does not begin as a header does.
    """
    times, blank, rest = raw.partition(b" ")
    try:
        if not blank:
            raise ValueError
        return (_kept_times if len(times) < _SHORT else _times_of)(times), rest
    except ValueError:
        raise Unreadable from None


def _times_of(text: bytes) -> Times:
    stamp, *limits = text[2:].split(b",")
    enqueued = int(stamp, 16)
    if text[:1] != MAGIC or not 0 <= enqueued < LATEST_MS or len(limits) > 2:
        raise ValueError
    deadline, timeout = (*map(int, limits), 0, 0)[:2]
    return Times(int(text[1:2], 16), enqueued, timeout, deadline)


#: Kept, since jobs that came together have the same.
_kept_times = lru_cache(64)(_times_of)


def _names_of(names: bytes) -> tuple[str, str, str]:
    """Give function, group and schema."""
    function, tab, rest = names.decode().partition("\t")
    if not tab:
        raise ValueError
    group, _, schema = rest.partition("\t")
    return function, group, schema


#: Kept, since most jobs of a family have the same few.
_kept_names = lru_cache(4096)(_names_of)
