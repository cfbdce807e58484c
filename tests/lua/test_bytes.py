"""A family's budget of bytes: what is counted, what is evicted, who is refused."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from daemon import codec
from daemon.broker import DueTick, NewJob, Repeat
from daemon.errors import QueueFull
from tests.lua.state import A, B, Engine, Mine
from tests.marks import one_server

MANY = 10**9
Fill = Callable[[], Awaitable[None]]


async def counted(engine: Engine) -> int:
    return int(await engine.redis.hget(engine.keys.key("clock"), "bytes") or 0)


async def truth(engine: Engine) -> dict[bytes, int]:
    """Measure each job without the scripts."""
    sizes: dict[bytes, int] = {}
    for prefix in (b"arq:job:", b"arq:result:"):
        for key in await engine.redis.keys(prefix + b"*"):
            job_id = key.removeprefix(prefix)
            sizes[job_id] = sizes.get(job_id, 0) + await engine.redis.memory_usage(key)
    for name in ("history", "receipts", "logs"):
        for job_id, text in (await engine.redis.hgetall(engine.keys.key(name))).items():
            sizes[job_id] = sizes.get(job_id, 0) + len(text) + 80
    return {job_id: size + 220 for job_id, size in sizes.items()}


async def sizes_of(engine: Engine) -> dict[bytes, int]:
    return {k: int(v) for k, v in (await engine.redis.hgetall(engine.keys.key("sizes"))).items()}


def body(size: int) -> bytes:
    return codec.encode_body(b'["' + b"x" * size + b'"]')


async def complete(engine: Engine, name: str, size: int = 20_000, session: str = A) -> None:
    engine.advance(1)
    await engine.settle((await engine.take(name, session)).complete(b"r" * size), session=session)


async def names(engine: Engine, index: str) -> list[str]:
    return [i.decode().rpartition(":")[2] for i in await engine.redis.zrange(engine.keys.key(index), 0, -1)]


async def test_nothing_is_counted_without_a_budget(engine: Engine) -> None:
    await complete(engine, "a")
    assert await engine.redis.exists(engine.keys.key("sizes")) == 0
    assert await engine.redis.hget(engine.keys.key("clock"), "bytes") is None


class Chaos:
    """Random operations of everybody who writes a family's jobs."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine, self.random = engine, random.Random(seed)
        self.held: list[Mine] = []
        self.number = 0

    def job(self) -> NewJob:
        self.number += 1
        job = self.engine.job(f"j{self.number}", self.random.randint(1, 10), body=body(self.random.randint(1, 9000)))
        if self.random.random() < 0.4:
            mode = self.random.choice(["drop", "replace"])
            job = job._replace(when=f"now {mode} 0 key{self.random.randint(1, 4)}")
        return job

    def some(self) -> str:
        return f"j{self.random.randint(1, max(self.number, 1))}"

    async def step(self) -> None:
        engine, act = (
            self.engine,
            self.random.choice(
                [self.add, self.add, self.take, self.take, self.settle, self.settle, self.settle, self.write, self.act]
            ),
        )
        engine.advance(self.random.choice([1, 1, 100]))
        await act()

    async def add(self) -> None:
        await self.engine.enqueue(*(self.job() for _ in range(self.random.randint(1, 4))))

    async def take(self) -> None:
        self.held += await self.engine.claim(A, self.random.randint(1, 3))

    async def settle(self) -> None:
        if not self.held:
            return
        mine, size = self.held.pop(self.random.randrange(len(self.held))), self.random.randint(0, 9000)
        result, line = b"r" * size, b'{"e":"%s"}' % (b"m" * self.random.randint(1, 400))
        keep: Any = self.random.choice([600_000, 600_000, "300000 -1", "-1 3", "0 -1"])
        outcome = self.random.choice([
            mine.complete(result, keep), mine.complete(result, keep), mine.bury(result, keep, line),
            mine.retry(1, 1, line), mine.release(), mine.abort(result), mine.expire(result),
        ])  # fmt: skip
        await self.engine.settle(outcome, keep_count=6, keep_age=600_000)

    async def write(self) -> None:
        if self.held:
            mine = self.random.choice(self.held)
            await self.engine.broker.log(A, mine.claim.id, mine.n, b'1 "%s"' % (b"l" * self.random.randint(1, 900)))
            receipt = b"s%d\t1%s" % (self.random.randint(1, 9), b"0" * self.random.randint(1, 90))
            await self.engine.broker.once(A, mine.claim.id, mine.n, receipt)

    async def act(self) -> None:
        engine, name = self.engine, self.some()
        acts: list[Callable[[], Awaitable[Any]]] = [
            lambda: engine.remove(name),
            lambda: engine.redrive(*map(str, {self.some(), name})),
            lambda: engine.abort(name),
            lambda: engine.broker.clean("dead", 2, engine.now - 500),
            lambda: engine.broker.reprioritize([engine.id(name)], self.random.randint(1, 10)),
            lambda: engine.broker.promote([engine.id(name)]),
            lambda: engine.broker.drain(1),
            lambda: engine.renew(age=600_000, dead_age=600_000),
        ]
        await self.random.choice(acts)()


@pytest.mark.parametrize("seed", range(6))
async def test_the_count_is_the_truth_after_any_operations(engine: Engine, seed: int) -> None:
    engine.checked = False
    await engine.sync(A, max_bytes=MANY)
    chaos = Chaos(engine, seed)
    for step in range(250):
        await chaos.step()
        if step % 25 == 24:
            sizes = await sizes_of(engine)
            assert sizes == await truth(engine), f"seed {seed}, step {step}"
            assert await counted(engine) == sum(sizes.values())
    assert chaos.number > 50


async def test_a_recount_repairs_whatever_was_counted_wrong(engine: Engine) -> None:
    await engine.sync(A, max_bytes=MANY)
    for number in range(20):
        await complete(engine, f"done{number}", 500)
    await engine.enqueue(*(f"waits{n}" for n in range(20)))
    await engine.redis.delete(*("arq:result:" + engine.id(f"done{n}") for n in range(5)))
    await engine.redis.set("arq:job:" + engine.id("waits1"), b"x" * 5000)
    await engine.redis.hdel(engine.keys.key("sizes"), engine.id("waits2"))
    await engine.redis.hset(engine.keys.key("sizes"), engine.id("never"), 12345)
    for _ in range(6):
        await engine.renew()
    assert await sizes_of(engine) == await truth(engine)


async def test_a_budget_set_later_counts_what_is_there(engine: Engine) -> None:
    """An operator's, too; without a budget what was counted goes."""
    await complete(engine, "a")
    await engine.enqueue(engine.job("b", delay=5000))
    await engine.broker.set_limits([("conf", "own:max_bytes", str(MANY))])
    for _ in range(6):
        mine = await engine.take("c")
        await engine.settle(mine.complete(keep=0))
    assert await counted(engine) == sum((await truth(engine)).values()) > 20_000
    await engine.broker.set_limits([("conf", "own:max_bytes", "-")])
    await engine.renew()
    assert await engine.redis.exists(engine.keys.key("sizes")) == 0
    assert await counted(engine) == 0


@one_server
async def test_what_is_counted_is_what_redis_takes(full: tuple[Engine, Fill]) -> None:
    engine, _ = full
    engine.checked = False
    await engine.sync(A, max_bytes=MANY)
    before = (await engine.redis.info("memory"))["used_memory"]
    for size in (100, 1500, 20_000):
        await engine.enqueue(*(engine.job(f"w{size}-{n:020}", body=body(size)) for n in range(400)))
    taken = (await engine.redis.info("memory"))["used_memory"] - before
    assert taken == pytest.approx(await counted(engine), rel=0.1)


async def test_the_oldest_completed_jobs_go_first(engine: Engine) -> None:
    await engine.sync(A, max_bytes=120_000, max_events=0)
    for number in range(9):
        await complete(engine, f"j{number}")
    assert await names(engine, "completed") == ["j4", "j5", "j6", "j7", "j8"]
    assert await counted(engine) <= 120_000
    assert (await engine.look("j3")).result is None
    assert await engine.enqueue(engine.job("big", body=body(60_000))) == [True]
    assert await names(engine, "completed") == ["j7", "j8"]


async def test_then_new_work_is_refused_and_nothing_is_written(engine: Engine) -> None:
    await engine.sync(A, max_bytes=50_000, max_events=0)
    await engine.enqueue(engine.job("a", body=body(45_000)))
    before = await engine.traces()
    with pytest.raises(QueueFull) as refused:
        await engine.enqueue(engine.job("b", body=body(9000)), engine.job("c"))
    assert refused.value.family == "email"
    assert 0 < refused.value.retry_after <= 60
    assert await engine.traces() == before
    assert (await engine.look("c")).record is None
    assert await engine.enqueue(engine.job("c")) == [True]


async def test_repeats_and_resends_are_not_refused(engine: Engine) -> None:
    await engine.sync(A, max_bytes=50_000, max_events=0)
    job = engine.job("a", body=body(48_000))._replace(when="now replace 0 key")
    assert await engine.enqueue(job) == [True]
    assert await engine.enqueue(job, resend=True) == [True]
    (repeat,) = await engine.enqueue(job._replace(id=engine.id("b"), tail=engine.job("b", body=body(49_000)).tail))
    assert repeat == Repeat(engine.id("a"), True)


async def test_failed_jobs_are_never_evicted(engine: Engine) -> None:
    await engine.sync(A, max_bytes=60_000, max_events=0)
    for number in range(3):
        await engine.settle((await engine.take(f"dead{number}")).bury(b"e" * 18_000))
    with pytest.raises(QueueFull):
        await engine.enqueue(engine.job("a", body=body(9000)))
    assert len(await names(engine, "dead")) == 3


async def test_what_workers_write_is_never_refused(engine: Engine) -> None:
    await engine.sync(A, max_bytes=30_000, max_events=0)
    first, second, third = [await engine.take(name) for name in ("a", "b", "c")]
    await engine.settle(first.bury(b"e" * 40_000), second.complete(b"r" * 40_000), third.retry(1000, 1, b"{}"))
    assert (await engine.look("a")).result == b"e" * 40_000
    assert (await engine.look("b")).result is None
    assert (await engine.look("c")).band == "later"


async def test_a_schedule_is_not_refused(engine: Engine) -> None:
    await engine.sync(A, max_bytes=1000, max_events=0)
    key = engine.keys.key
    await engine.redis.hset(key("schedules"), "s", b"{}")
    await engine.redis.zadd(key("ticks"), {"s": engine.now})
    tick = DueTick("s", engine.now, b"{}", None, 1, engine.now, engine.job("a", body=body(5000)))
    assert await engine.broker.make_ticks([tick]) == ["ok"]
    assert (await engine.look("a")).record is not None


async def test_at_most_256_are_evicted_in_a_call_and_the_next_goes_on(engine: Engine) -> None:
    engine.checked = False
    await engine.sync(A, max_bytes=MANY, max_events=0)
    for start in range(0, 600, 100):
        await engine.enqueue(*(f"j{n}" for n in range(start, start + 100)))
        await engine.settle(*(mine.complete() for mine in await engine.claim(A, 100)))
    await engine.broker.set_limits([("conf", "own:max_bytes", "5000")])
    await engine.renew()
    assert len(await names(engine, "completed")) == 600 - 256
    await engine.renew()
    await engine.renew()
    assert await counted(engine) <= 5000


async def test_retry_after_tells_how_fast_jobs_end(engine: Engine) -> None:
    """Ten jobs a second end, and twenty must before there is room."""
    engine.checked = False
    await engine.sync(A, max_bytes=100_000, max_events=0)
    await engine.enqueue(*(engine.job(f"j{n}", body=body(350)) for n in range(100)))

    async def refused() -> float:
        with pytest.raises(QueueFull) as error:
            await engine.enqueue(engine.job("big", body=body(99_000)))
        return error.value.retry_after

    assert await refused() == 5
    for _ in range(20):
        engine.advance(100)
        await engine.settle(*(mine.retry(10**6) for mine in await engine.claim(A, 1)))
    for _ in range(20):
        engine.advance(100)
        await engine.settle(*(mine.complete(keep=0) for mine in await engine.claim(A, 1)))
    each = await counted(engine) / 80
    over = await counted(engine) + 99_000 + 400 - 100_000
    assert await refused() == pytest.approx(over / each / 5, rel=0.1)


async def test_a_full_server_refuses_by_the_budget_first(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.sync(A, max_bytes=30_000, max_events=0)
    await engine.enqueue(engine.job("a", body=body(28_000)))
    await fill()
    with pytest.raises(QueueFull):
        await engine.enqueue(engine.job("b", body=body(5000)))


async def test_the_operators_budget_wins(engine: Engine) -> None:
    await engine.sync(A, max_bytes=1000, max_events=0)
    await engine.broker.set_limits([("conf", "own:max_bytes", "")])
    assert await engine.enqueue(engine.job("a", body=body(5000))) == [True]
    await engine.broker.set_limits([("conf", "own:max_bytes", "-")])
    await engine.sync(B, max_bytes=1000, max_events=0)
    with pytest.raises(QueueFull):
        await engine.enqueue(engine.job("b", body=body(5000)))


async def test_of_many_jobs_the_portions_that_fit_are_added(engine: Engine) -> None:
    engine.checked = False
    await engine.sync(A, max_bytes=1_500_000, max_events=0)
    jobs = [engine.job(f"j{n}", body=body(700)) for n in range(2500)]
    with pytest.raises(QueueFull) as refused:
        await engine.enqueue(*jobs)
    assert refused.value.added == [f"email:j{n}" for n in range(1000)]
    assert await engine.redis.zcard(engine.keys.queue) == 1000


async def test_events_are_in_the_count(engine: Engine) -> None:
    await engine.sync(A, max_bytes=40_000, max_events=30_000)
    for number in range(300):
        await engine.enqueue(f"j{number}")
        await engine.remove(f"j{number}")
    with pytest.raises(QueueFull):
        await engine.enqueue(engine.job("big", body=body(12_000)))


async def test_the_event_of_what_ended_is_in_the_count(engine: Engine) -> None:
    """Whatever a call tells, too: behind each end the budget holds to the byte."""
    await engine.sync(A, max_bytes=30_000, max_events=MANY)
    for number in range(60):
        await complete(engine, f"j{number}", 500 + 37 * number)
        events = int(await engine.redis.hget(engine.keys.key("clock"), "events") or 0)
        assert await counted(engine) + events <= 30_000, f"after {number + 1} jobs"
    assert len(await names(engine, "completed")) >= 4
