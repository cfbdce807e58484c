"""page: pages in the order of scores and ids, from any point on, whether or not the job there still exists."""

from __future__ import annotations

import pytest

from daemon.broker import PageEntry
from daemon.keys import JOB, RESULT
from tests.lua.state import Engine


async def _fill(engine: Engine, index: str = "queue", **scores: float) -> None:
    key = engine.keys.queue if index == "queue" else engine.keys.key(index)
    await engine.redis.zadd(key, scores)


async def _walk(engine: Engine, low: str, high: str, count: int, *, down: bool = False, index: str = "queue") -> str:
    found, after = "", None
    while page := await engine.broker.page(index, low, high, down=down, after=after, count=count):
        assert len(page) <= count
        found += "".join(entry.id.decode() for entry in page)
        after = page[-1]
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        ("-inf", "+inf", "abcdefgh"),
        ("2", "+inf", "bcdefgh"),
        ("-inf", "(3", "abcde"),
        ("2", "2", "bcde"),
        ("9", "+inf", ""),
    ],
)
async def test_pages_hold_all_once_and_in_order(
    engine: Engine, count: int, down: bool, low: str, high: str, expected: str
) -> None:  # fmt: skip
    await _fill(engine, a=-5, b=2, c=2, d=2, e=2, f=3, g=3.5, h=8)
    assert await _walk(engine, low, high, count, down=down) == (expected[::-1] if down else expected)


@pytest.mark.parametrize("down", [False, True])
async def test_a_page_goes_on_after_a_job_that_is_gone(engine: Engine, down: bool) -> None:
    await _fill(engine, a=1, b=2, d=2, f=2, g=3)
    expected = {"a": "bdfg", "c": "dfg", "e": "fg", "z": "g"}
    for gone, after in expected.items():
        page = await engine.broker.page(
            "queue", "-inf", "+inf", down=down, after=PageEntry(gone.encode(), b"1" if gone == "a" else b"2"), count=9
        )
        found = "".join(entry.id.decode() for entry in page)
        assert found == (after if not down else "abdfg".removesuffix(after).replace(gone, "")[::-1])


async def test_equal_scores_are_ordered_by_bytes(engine: Engine) -> None:
    ids = [b"B", b"a", b"a\x00", b"ab", b"\x7f", b"\x80", b"\xc3\xa9", b"\xff"]
    await engine.redis.zadd(engine.keys.queue, dict.fromkeys(ids, 7))
    found, after = [], None
    while page := await engine.broker.page("queue", "-inf", "+inf", down=False, after=after, count=1):
        found.append(page[0].id)
        await engine.redis.zrem(engine.keys.queue, page[0].id)
        after = page[0]
    assert found == sorted(ids)


async def test_both_ends_of_records_and_results(engine: Engine) -> None:
    await _fill(engine, **{engine.id("a"): 1, engine.id("bad"): 2, engine.id("none"): 3})
    await engine.redis.set(JOB + engine.id("a"), b"0123456789")
    await engine.redis.hset(JOB + engine.id("bad"), "wrong", "type")
    page = await engine.broker.page("queue", "-inf", "+inf", down=False, after=None, count=9, head=4, tail=2)
    found = [(e.id, e.head, e.tail) for e in page]
    assert found == [(b"{email}:a", b"0123", b"89"), (b"{email}:bad", b"", b""), (b"{email}:none", b"", b"")]
    for index in ("completed", "dead", "aborted", "expired"):
        await _fill(engine, index, **{engine.id("a"): 1})
        await engine.redis.set(RESULT + engine.id("a"), b"abcdef")
        page = await engine.broker.page(index, "-inf", "+inf", down=True, after=None, count=9, head=2, tail=9)
        assert page == [PageEntry(b"{email}:a", b"1", b"ab", b"abcdef")]


async def test_scores_come_back_exact(engine: Engine) -> None:
    score = -(2**52) + 5 * 2**48 + 64 / 3
    await _fill(engine, a=score)
    (entry,) = await engine.broker.page("queue", "-inf", "+inf", down=False, after=None, count=9)
    assert float(entry.score) == score
    assert await engine.broker.page("queue", "-inf", "+inf", down=False, after=entry, count=9) == []
