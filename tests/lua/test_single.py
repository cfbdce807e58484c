"""A single plain job takes a shorter way through the scripts: it leaves exactly what the long one does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import daemon.lua
from daemon.broker import Outcome
from daemon.lua import SCRIPTS
from daemon.producing.batches import NewJob
from tests.lua.state import A, B, Engine, Mine

Case = Callable[[Engine], Awaitable[Any]]
STATISTICS = {"send\x1fc": 1, "send\x1fR": 12, "send\x1fR4": 1}


async def dump(engine: Engine) -> dict[str, Any]:
    """Read every key: what is in it, and for how long it lives."""
    found: dict[str, Any] = {}
    for key in sorted(await engine.redis.keys("*")):
        kind = (await engine.redis.type(key)).decode()
        read = {
            "string": engine.redis.get,
            "hash": engine.redis.hgetall,
            "zset": lambda name: engine.redis.zrange(name, 0, -1, withscores=True),
            "list": lambda name: engine.redis.lrange(name, 0, -1),
            "stream": engine.redis.xrange,
        }[kind]
        life = await engine.redis.pttl(key)
        found[key.decode()] = (await read(key), life if life < 0 else round(life / 10_000))
    # What the same value takes of the server's memory differs from time to time.
    found.pop(engine.keys.key("sizes"), None)
    found[engine.keys.key("clock")][0].pop(b"bytes", None)
    return found


async def commands(engine: Engine) -> int:
    """How many the server has run."""
    stats = await engine.redis.info("commandstats")
    return sum(stat["calls"] for name, stat in stats.items() if name.split("_")[1] not in ("info", "config|resetstat"))


async def both_ways(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, prepare: Case, act: Case
) -> tuple[int, int, dict[str, Any], dict[str, Any]]:
    """Act by the scripts as they are, and by those without the short way; gives commands and state of both."""
    counts, states = [], []
    for short in (True, False):
        if not short:
            usual = {name: SCRIPTS[name].text for name in daemon.lua.FIRST}
            monkeypatch.setattr(daemon.lua, "FIRST", {})
            for name, text in usual.items():
                long = daemon.lua._load(name)
                assert long.text != text
                monkeypatch.setitem(SCRIPTS._loaded, name, long)  # type: ignore[attr-defined]
        await engine.redis.flushall()
        engine.n.clear()
        await engine.sync(A)
        # The first call of a minute has to add the one before to its hour.
        await engine.redis.hset(engine.keys.key("clock"), "minute", engine.now // 60_000)
        prepared = await prepare(engine)
        engine.checked = False
        await engine.redis.config_resetstat()
        await (act(engine) if prepared is None else act(prepared))
        counts.append(await commands(engine))
        engine.checked = True
        await engine.check(awake=True)
        states.append(await dump(engine))
    return (*counts, *states)


async def nothing(engine: Engine) -> None: ...


def conf(**values: Any) -> Case:
    """Prepare by writing into the family's settings."""

    async def prepare(engine: Engine) -> None:
        await engine.redis.hset(engine.keys.key("conf"), mapping=values)

    return prepare


def adding(**options: Any) -> Case:
    """Add a job."""

    async def act(engine: Engine) -> None:
        await engine.enqueue(engine.job("new", **options))

    return act


async def awaited(engine: Engine) -> None:
    await engine.enqueue("new", waiting="f" * 16)


async def another(engine: Engine) -> None:
    await engine.enqueue("before")


async def paused(engine: Engine) -> None:
    await engine.pause()


@pytest.mark.parametrize(
    ("prepare", "act"),
    [
        (nothing, adding()),
        (nothing, adding(level=0)),
        (nothing, awaited),
        (nothing, adding(level=9, timeout=5000, expires=60_000, body=b'[{"a":1}]')),
        (another, adding()),
        (paused, adding()),
        (conf(until=10**14), adding()),
        (conf(events=0), adding()),
        (conf(statistics=0), adding()),
        (conf(priority=2), adding(level=0)),
    ],
)
async def test_a_plain_job_is_added_in_fewer_commands(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, prepare: Case, act: Case
) -> None:
    short, long, one, other = await both_ways(engine, monkeypatch, prepare, act)
    assert one == other
    assert short < long


async def repeated(engine: Engine) -> None:
    assert await engine.enqueue("new") == [True]
    await engine.claim()


async def in_group(engine: Engine) -> None:
    await engine.enqueue(engine.job("before", group="g"))


async def unknown_payload(engine: Engine) -> None:
    await engine.enqueue("new")
    await engine.redis.delete("arq:job:" + engine.id("new"))


async def nearly_a_part(engine: Engine) -> None:
    await engine.redis.hset(engine.keys.key("clock"), "events", 249_990)


@pytest.mark.parametrize(
    ("prepare", "act"),
    [
        (repeated, adding()),
        (in_group, adding()),
        (in_group, awaited),
        (unknown_payload, adding()),
        (nearly_a_part, adding()),
        (nothing, adding(group="g")),
        (nothing, adding(delay=5000)),
        (nothing, lambda engine: engine.enqueue("a", "b")),
        (nothing, lambda engine: engine.enqueue("new", resend=True)),
        (nothing, lambda engine: engine.enqueue(NewJob(engine.id("new"), 5, "now drop 0 k", 0, 0, 0, b"send\t\n[]"))),
        (conf(**{"global": 5}), adding()),
        (conf(rate=5, per=1_000_000), adding()),
        (conf(max_bytes=1_000_000), adding()),
    ],
)
async def test_any_other_is_added_as_ever(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, prepare: Case, act: Case
) -> None:
    short, long, one, other = await both_ways(engine, monkeypatch, prepare, act)
    assert one == other
    assert short >= long


async def running(engine: Engine) -> tuple[Engine, Mine]:
    await engine.enqueue("a")
    (mine,) = await engine.claim()
    return engine, mine


async def running_asleep(engine: Engine) -> tuple[Engine, Mine]:
    await engine.enqueue("a")
    (mine,) = await engine.claim_asleep()
    return engine, mine


async def awaited(engine: Engine) -> tuple[Engine, Mine]:
    prepared = await running(engine)
    for producer in (A, B):
        await engine.broker.await_result(producer, engine.id("a"))
    return prepared


async def after_another(engine: Engine) -> tuple[Engine, Mine]:
    await engine.settle((await engine.take("before")).complete(), statistics=STATISTICS)
    return await running(engine)


def settling(outcome: Callable[[Mine], Outcome] = Mine.complete, **options: Any) -> Case:
    """Settle what was claimed; a call that has not looked for more work says so."""

    async def act(prepared: tuple[Engine, Mine]) -> None:
        engine, mine = prepared
        reply = await engine.tick(A, outcome(mine), wanted=-1, **{"statistics": STATISTICS, **options})
        assert (reply.status, list(reply.claims), reply.drain, reply.told) == ("ok", [], False, False)

    return act


async def without_events(engine: Engine) -> tuple[Engine, Mine]:
    await conf(events=0, statistics=0)(engine)
    return await running(engine)


@pytest.mark.parametrize(
    ("prepare", "act"),
    [
        (running, settling()),
        (running_asleep, settling()),
        (running, settling(statistics={})),
        (awaited, settling()),
        (after_another, settling()),
        (after_another, settling(keep_count=1)),
        (running, settling(keep_count=0)),
        (without_events, settling()),
    ],
)
async def test_a_plain_end_is_settled_in_fewer_commands(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, prepare: Case, act: Case
) -> None:
    short, long, one, other = await both_ways(engine, monkeypatch, prepare, act)
    assert one == other
    assert short < long


async def reported(engine: Engine) -> tuple[Engine, Mine]:
    prepared = await running(engine)
    await engine.broker.progress(A, engine.id("a"), 50, "half")
    return prepared


async def of_a_limited_group(engine: Engine) -> tuple[Engine, Mine]:
    await engine.sync(A, lanes={"s:g:*": "1||"})
    await engine.enqueue(engine.job("a", group="g"), engine.job("b", group="g"))
    (mine,) = await engine.claim(wanted=2)
    return engine, mine


async def within_a_limit(engine: Engine) -> tuple[Engine, Mine]:
    await engine.sync(A, limit=1)
    await engine.enqueue("b", "c")
    (mine,) = await engine.claim()
    return engine, mine


async def of_another(engine: Engine) -> tuple[Engine, Mine]:
    engine, mine = await running(engine)
    return engine, Mine(mine.claim, mine.n + 7)


async def after_an_abort(engine: Engine) -> tuple[Engine, Mine]:
    await engine.enqueue("gone")
    await engine.abort("gone")
    return await running(engine)


async def too_many_kept(engine: Engine) -> tuple[Engine, Mine]:
    for name in "bcd":
        await engine.settle((await engine.take(name)).complete())
    return await running(engine)


def failing(mine: Mine) -> Outcome:
    line = b'{"type": "E", "message": "m"}'
    return mine.bury(line=line + b"\ncause\nE\nm\nsend")


@pytest.mark.parametrize(
    ("prepare", "act"),
    [
        (reported, settling()),
        (of_a_limited_group, settling()),
        (within_a_limit, settling()),
        (of_another, settling()),
        (after_an_abort, settling()),
        (too_many_kept, settling(keep_count=1)),
        (running, settling(Mine.abort)),
        (running, settling(Mine.retry)),
        (running, settling(Mine.release)),
        (running, settling(failing)),
        (running, settling(lambda mine: mine.complete(keep=0))),
        (running, settling(lambda mine: mine.complete(keep=-1))),
        (running, settling(lambda mine: mine.complete(keep="5000 2"))),
        (running, settling(poll=500)),
    ],
)
async def test_any_other_end_is_settled_as_ever(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, prepare: Case, act: Case
) -> None:
    short, long, one, other = await both_ways(engine, monkeypatch, prepare, act)
    assert one == other
    assert short >= long


async def test_what_has_aged_goes_with_the_next_end(engine: Engine) -> None:
    await engine.settle((await engine.take("old")).complete())
    engine.advance(5000)
    mine = await engine.take("new")
    reply = await engine.tick(A, mine.complete(), wanted=-1, keep_age=5000)
    assert reply.wait == -1
    assert (await engine.look("old")).indexes == set()
    assert (await engine.look("old")).result is None
    assert (await engine.look("new")).indexes == {"completed"}


async def test_a_call_with_an_old_number_settles_nothing(engine: Engine) -> None:
    mine = await engine.take("a")
    number = engine.n[A]
    assert (await engine.tick(A, mine.complete(), wanted=-1, n=number)).status == "stale"
    assert (await engine.tick(B, mine.complete(), wanted=-1)).status == "sync"
    assert (await engine.look("a")).band == "held"
