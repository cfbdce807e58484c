"""A record's header: scripts and `daemon.records` read and write the same."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.job import PRIORITIES
from daemon.lua import SHARED, _read
from daemon.lua.linked import linked
from daemon.records import header, record_tail, split_record, stamp_word
from tests.lua.state import NOW, Engine

READ = """
local record = ARGV[3]
local level, stamp, timeout, deadline = header(record)
local usual = string.match(record, USUAL) or ''
if not level then return { usual, function_of(record) } end
local name, group = names_of(record)
return { num(level), stamp, num(timeout), num(deadline), name, group, tail_of(record),
  new_header(level, stamp, timeout, deadline) .. tail_of(record), usual,
  function_of(record), group_of(record), stamp_of(now) }
"""


async def read(engine: Engine, record: bytes) -> list[bytes]:
    """What the scripts' functions make of a record."""
    keys = engine.broker._keys
    text = linked("".join(map(_read, SHARED)), READ)
    found: Any = await engine.redis.eval(text, len(keys), *keys, engine.keys.prefix, str(engine.now), record)
    return list(found)


@pytest.mark.parametrize("level", sorted({0, 1, 9, 10, *PRIORITIES.values()}))
@pytest.mark.parametrize("limits", [(0, 0), (0, NOW + 5), (7000, 0), (7000, NOW + 5), (1, 1)])
async def test_what_python_writes_scripts_read(engine: Engine, level: int, limits: tuple[int, int]) -> None:
    timeout, deadline = limits
    for group, schema, body in (
        ("", "", b"[]"),
        ("acme", "1#a-_b0c", b'[{"a\n":"\\t"}]'),
        ("g,1 2", "", b"\x01\xff\n"),
    ):
        tail = record_tail("send", group, body, schema)
        record = header(level, NOW, timeout, deadline) + tail
        assert split_record(record) == (level, NOW, timeout, deadline, "send", group, schema, body)
        stamp, usual = stamp_word(NOW).encode(), b"" if timeout else b"send"
        assert await read(engine, record) == [
            b"%d" % level, stamp, b"%d" % timeout, b"%d" % deadline, b"send", group.encode(), tail, record, usual,
            b"send", group.encode(), stamp,
        ]  # fmt: skip


@pytest.mark.parametrize("level", [1, 10])
@pytest.mark.parametrize("limits", [(0, 0), (0, 5), (7000, 0), (7000, 5)])
async def test_what_scripts_write_python_writes(engine: Engine, level: int, limits: tuple[int, int]) -> None:
    timeout, expires = limits
    job = engine.job("a", level, timeout=timeout, expires=expires)
    # One job, and several.
    await engine.enqueue(job)
    await engine.enqueue(*(job._replace(id=engine.id(name)) for name in "bc"))
    deadline = NOW + expires if expires else 0
    for name in "abc":
        assert (await engine.look(name)).record == header(level, NOW, timeout, deadline) + job.tail


@pytest.mark.parametrize(
    "raw", [b"", b"q", b"q5", b"q51", b"arqd1 5 1 0 0 f\t\n", b"qg1 f\t\n", b"q5g f\t\n", b"q51,x f\t\n", b"\x80\xff"]
)
async def test_what_is_no_record_is_none_to_scripts(engine: Engine, raw: bytes) -> None:
    assert await read(engine, raw) == [b"", b""]


async def test_numbers_that_cannot_be_meant_are_bounded(engine: Engine) -> None:
    found = await read(engine, b"q51," + b"9" * 300 + b"," + b"9" * 300 + b" send\t\n[]")
    assert found[2:4] == [b"1000000000000", b"1000000000000000"]
