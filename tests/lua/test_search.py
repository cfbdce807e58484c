"""The search index: writes that are refused, segments that are merged and dropped, a rebuild, what is found where."""

from __future__ import annotations

import pytest
from redis.exceptions import ResponseError

from daemon import codec
from daemon.inspector import Inspector
from daemon.pages import JobFilter
from daemon.search.indexer import BASE, FamilyIndexer, publish, view
from daemon.search.postings import DOCS, Doc, Write
from tests.lua.conftest import Fill
from tests.lua.state import A, Engine
from tests.searching import caught_up, check_index, found_by

#: A delay that is not over by the server's own clock either, which lists go by.
LATE = 10 * 365 * 86_400_000


def failed(name: str, message: str = "it broke", at: int = 0) -> bytes:
    """A dead letter's result."""
    error = codec.encode({"type": "OSError", "message": message, "traceback": "", "reason": "tries"})
    return codec.encode_result(codec.Ended(name, "send", "arq:{email}", 1, at, at, at), False, error, None)


def done(name: str) -> bytes:
    return codec.encode_result(codec.Ended(name, "send", "arq:{email}", 1, 0, 0, 0), True, b"null", None)


async def searched(engine: Engine, mode: str = "payload", limit: int = 64_000_000) -> FamilyIndexer:
    await publish(engine.redis, engine.keys, mode, limit)
    indexer = FamilyIndexer(engine.redis, engine.keys)
    await work(indexer)
    return indexer


async def work(indexer: FamilyIndexer) -> int:
    """Let it do all there is to do; gives in how many steps."""
    steps = 0
    while await indexer.step():
        steps += 1
    return steps


def inspector(engine: Engine) -> Inspector:
    return Inspector(engine.redis, ["email"])


async def bury(engine: Engine, *names: str, keep: int = 600_000) -> None:
    """Enqueue jobs and let them fail, each a millisecond after the one before."""
    for start in range(0, len(names), 100):
        part = names[start : start + 100]
        await engine.enqueue(*part)
        claims = await engine.claim(wanted=len(part))
        for mine in claims:
            engine.advance(1)
            await engine.settle(mine.bury(failed(mine.name), keep=keep))


async def test_jobs_are_found_where_they_stand(engine: Engine) -> None:
    indexer = await searched(engine)
    body = b'[{"city":"Oslo"}],"o":{"g":["vip"]}'
    await engine.enqueue(engine.job("order-1", body=body), engine.job("order-2", delay=LATE), "order-3")
    await work(indexer)
    assert await found_by(inspector(engine), "email", "oslo", "waiting") == ["order-1"]
    assert await found_by(inspector(engine), "email", "VIP send", "waiting") == ["order-1"]
    assert await found_by(inspector(engine), "email", "order", "waiting") == ["order-3", "order-1"]
    assert await found_by(inspector(engine), "email", "order", "delayed") == ["order-2"]
    first, third = await engine.claim(wanted=2)
    assert await found_by(inspector(engine), "email", "order*", "active") == ["order-3", "order-1"]
    await engine.settle(first.bury(failed("order-1", "mailbox unavailable")), third.complete(done("order-3")))
    await work(indexer)
    assert await found_by(inspector(engine), "email", "order", "waiting") == []
    assert await found_by(inspector(engine), "email", "unavailable") == ["order-1"]
    assert await found_by(inspector(engine), "email", "3", "completed") == ["order-3"]
    await engine.redrive("order-1")
    await work(indexer)
    assert await found_by(inspector(engine), "email", "unavailable", "failed") == []
    assert await found_by(inspector(engine), "email", "oslo", "waiting") == ["order-1"]
    await engine.remove("order-1", "order-2")
    await work(indexer)
    assert await check_index(engine.redis, inspector(engine), "email") > 0


async def test_the_newest_come_first_in_pages(engine: Engine) -> None:
    engine.checked = False
    indexer = await searched(engine)
    names = [f"job-{number:04}" for number in range(150)]
    await bury(engine, *names)
    await work(indexer)
    assert await found_by(inspector(engine), "email", "broke") == names[::-1]
    assert await found_by(inspector(engine), "email", "job-00*") == names[99::-1]
    await engine.broker.run("reindex", "payload")
    await work(indexer)
    assert await found_by(inspector(engine), "email", "broke") == names[::-1]


async def test_a_job_is_indexed_once_however_often_it_is_read(engine: Engine) -> None:
    indexer = await searched(engine)
    await engine.enqueue("one", "two")
    await work(indexer)
    at = await engine.redis.hget(engine.keys.key("search"), "at")
    for _ in range(3):
        await engine.redis.hset(engine.keys.key("search"), "at", at.partition(b"-")[0] + b"-0")
        await work(indexer)
        assert await found_by(inspector(engine), "email", "send", "waiting") == ["two", "one"]
    seen = await caught_up(engine.redis, inspector(engine), "email")
    assert seen is not None
    assert [(segment.docs, segment.live) for segment in seen.segments.values()] == [(8, 2)]


async def test_what_was_read_before_another_wrote_is_refused(engine: Engine) -> None:
    indexer = await searched(engine)
    seen = await view(engine.broker)
    version = int(seen.text("version"))
    write = Write(BASE, docs=[Doc(engine.id("x"), [(1, b"abc")], 0)]).arguments()
    assert await engine.broker.run("index", seen.run_id, version - 1, *write) == 0
    assert await engine.broker.run("index", "another server", version, *write) == 0
    lost = Write(BASE, position=b"99999999999999-1").arguments()
    assert await engine.broker.run("index", seen.run_id, version, *lost) == 0
    assert (await view(engine.broker)).meta == seen.meta
    assert await engine.broker.run("index", seen.run_id, version, *write) == 1
    assert await engine.broker.run("index", seen.run_id, version, *write) == 0
    del indexer


async def test_an_index_that_missed_events_is_built_anew(engine: Engine) -> None:
    engine.checked = False
    await engine.sync(max_events=3000)
    indexer = await searched(engine)
    await bury(engine, *(f"job-{number}" for number in range(90)))
    steps = await work(indexer)
    assert steps > 2
    assert not (await view(engine.broker)).text("rebuild")
    await check_index(engine.redis, inspector(engine), "email")
    await engine.remove("job-0")
    await work(indexer)
    await check_index(engine.redis, inspector(engine), "email")


async def test_jobs_from_before_the_index_are_found(engine: Engine) -> None:
    engine.checked = False
    await bury(engine, *(f"job-{number}" for number in range(DOCS + 50)))
    await engine.enqueue("fresh", engine.job("late", delay=LATE))
    await engine.redis.delete(engine.keys.key("events"))
    indexer = await searched(engine, "errors")
    seen = await view(engine.broker)
    assert sorted(number - BASE for number in seen.segments) == [-3, -2, -1]
    assert await check_index(engine.redis, inspector(engine), "email") > DOCS
    await engine.abort("late", codec.encode_aborted("late", "arq:{email}", None))
    await work(indexer)
    assert await found_by(inspector(engine), "email", "late", "aborted") == ["late"]


async def test_a_sweep_merges_what_is_left_in_its_order(engine: Engine) -> None:
    engine.checked = False
    indexer = await searched(engine)
    names = [f"job-{number:05}" for number in range(3 * DOCS)]
    for start in range(0, len(names), 1000):
        await engine.enqueue(*names[start : start + 1000])
        await work(indexer)
    kept = names[::20]
    gone = [name for name in names if name not in set(kept)]
    for start in range(0, len(gone), 500):
        await engine.remove(*gone[start : start + 500])
    # One of those that stay leaves without an event, as jobs whose time is over do.
    await engine.redis.zrem(engine.keys.queue, engine.id(kept.pop(7)))
    await work(indexer)
    page = await inspector(engine).jobs("email", "waiting", limit=10, where=JobFilter(text="send"))
    assert len((await view(engine.broker)).segments) == 3
    await engine.redis.hset(engine.keys.key("search"), "sweep", 0)
    await work(indexer)
    seen = await view(engine.broker)
    assert len(seen.segments) == 2
    assert sum(segment.docs for segment in seen.segments.values()) < DOCS + 200
    assert await found_by(inspector(engine), "email", "send", "waiting") == kept[::-1]
    # A cursor from before holds.
    rest = await inspector(engine).jobs("email", "waiting", limit=500, cursor=page.cursor, where=JobFilter(text="send"))
    assert [info.id.partition(":")[2] for info in [*page, *rest]] == kept[::-1]
    await check_index(engine.redis, inspector(engine), "email")


async def test_the_index_is_bounded_and_the_oldest_go(engine: Engine) -> None:
    engine.checked = False
    limit = 1_000_000
    indexer = await searched(engine, limit=limit)
    names = [f"job-{number:05}" for number in range(12_000)]
    for start in range(0, len(names), 1000):
        await engine.enqueue(*names[start : start + 1000])
        await work(indexer)
        assert (await view(engine.broker)).bytes <= limit * 1.1
    found = await found_by(inspector(engine), "email", "send", "waiting")
    assert found == names[-len(found) :][::-1]
    assert len(found) > 3000
    used = 0
    for key in await engine.redis.keys(engine.keys.key("search*")):
        used += await engine.redis.memory_usage(key, samples=0)
    assert used < 1.25 * limit
    # A rebuild ends when it is full, too.
    await engine.broker.run("reindex", "payload")
    await work(indexer)
    assert (await view(engine.broker)).bytes <= limit
    assert not (await view(engine.broker)).text("rebuild")


async def test_an_index_that_is_not_wanted_any_more_is_dropped(engine: Engine) -> None:
    indexer = await searched(engine)
    await engine.enqueue("one")
    await work(indexer)
    await publish(engine.redis, engine.keys, "errors", 1_000_000)
    await work(indexer)
    assert (await view(engine.broker)).mode == "errors"
    await publish(engine.redis, engine.keys, "off", 0)
    await work(indexer)
    assert await engine.redis.keys(engine.keys.key("search*")) == []


async def test_a_full_server_refuses_a_write_whole_and_lets_a_sweep_through(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    indexer = await searched(engine)
    await engine.enqueue("one", "two")
    await work(indexer)
    await engine.redis.zrem(engine.keys.queue, engine.id("two"))
    await engine.settle(*(mine.complete(done("one")) for mine in await engine.claim(A)))
    before = await view(engine.broker)
    await fill()
    with pytest.raises(ResponseError, match="maxmemory"):
        await indexer.step()
    assert (await view(engine.broker)).meta == before.meta
    assert await engine.broker.run("sweep", BASE, "look") == [0, engine.id("one").encode()]
    await engine.broker.run("reindex", "")
