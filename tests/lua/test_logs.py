"""log: lines of a job's handler, the newest kept, as long as the job's result."""

from __future__ import annotations

import pytest

from daemon.inspecting.job_info import job_logs
from daemon.job import JobLogs, LogLine, from_ms
from tests.lua.conftest import Fill
from tests.lua.state import LEASE, NOW, A, B, Engine, Mine


async def log(engine: Engine, mine: Mine, text: str, session: str = A) -> bool:
    written = await engine.broker.log(session, mine.claim.id, mine.n, f'1 "{text}"'.encode())
    await engine.check()
    return written


async def logged(engine: Engine, name: str) -> JobLogs:
    return job_logs(await engine.redis.hget(engine.keys.key("logs"), engine.id(name)))


async def test_lines_carry_the_servers_time(engine: Engine) -> None:
    mine = await engine.take("a")
    assert await log(engine, mine, "first")
    engine.advance(1500)
    assert await log(engine, mine, "second\\nline")
    lines = [LogLine(from_ms(NOW), 1, "first"), LogLine(from_ms(NOW + 1500), 1, "second\nline")]
    assert await logged(engine, "a") == JobLogs(lines, 0)


async def test_the_newest_16_kb_are_kept_and_the_dropped_are_counted(engine: Engine) -> None:
    mine = await engine.take("a")
    for n in range(400):
        assert await engine.broker.log(A, mine.claim.id, mine.n, b'1 "%04d%s"' % (n, b"x" * 96))
    found = await logged(engine, "a")
    assert found.dropped + len(found.lines) == 400
    assert [int(line.text[:4]) for line in found.lines] == list(range(found.dropped, 400))
    size = await engine.redis.hstrlen(engine.keys.key("logs"), engine.id("a"))
    assert 16_384 - 120 <= size <= 16_384 + 10
    await engine.broker.log(A, mine.claim.id, mine.n, b'1 "%s"' % (b"y" * 12_000))
    assert (await logged(engine, "a")).lines[-1].text == "y" * 12_000


async def test_a_stale_claim_writes_nothing(engine: Engine) -> None:
    stale = await engine.take("a")
    await engine.sync(B)
    assert not await log(engine, stale, "theirs", B)
    await engine.pass_time(LEASE + 1, B)
    await engine.tick(B)
    (mine,) = await engine.claim(B)
    assert not await log(engine, stale, "late")
    assert await log(engine, mine, "mine", B)
    assert [line.text for line in (await logged(engine, "a")).lines] == ["mine"]


@pytest.mark.parametrize("outcome", ["complete", "bury", "abort", "expire"])
async def test_lines_stay_as_long_as_the_result(engine: Engine, outcome: str) -> None:
    mine = await engine.take("a")
    await log(engine, mine, "first")
    await engine.settle(mine.retry(0))
    (mine,) = await engine.claim()
    await log(engine, mine, "second")
    await engine.settle(getattr(mine, outcome)())
    assert [line.text for line in (await logged(engine, "a")).lines] == ["first", "second"]
    engine.advance(10_000)
    await engine.renew(A, age=5000, dead_age=5000)
    assert await engine.traces() == set()


async def test_without_a_result_no_line_stays(engine: Engine) -> None:
    ends, stays = await engine.take("a"), await engine.take("b")
    for mine in (ends, stays):
        await log(engine, mine, "text")
    await engine.settle(ends.complete(keep=0))
    assert (await logged(engine, "a"), len((await logged(engine, "b")).lines)) == (JobLogs(), 1)
    await engine.settle(stays.bury())
    await engine.remove("b")
    assert await engine.traces() == set()


async def test_a_full_server_takes_a_line(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    mine = await engine.take("a")
    await fill()
    assert await log(engine, mine, "text")
