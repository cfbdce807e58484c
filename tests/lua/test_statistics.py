"""Statistics: outcomes are counted once or not at all, by minute and by hour, and old numbers go."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from typing import Any

import pytest

from daemon.broker import Outcome
from daemon.running.observer import sum_up
from daemon.statistics import FamilyStatistics, Past, read_statistics
from tests.lua.conftest import Fill
from tests.lua.state import DAY, A, Engine, Mine

MINUTE, HOUR = 60_000, 3_600_000
COMPLETED = {"send\x1fc": 1, "send\x1fR": 20_000, "send\x1fR29": 1}


async def stats_of(engine: Engine, step: str, number: int) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = await engine.redis.hgetall(engine.keys.key("stats", step, str(number)))
    return found


async def numbers(engine: Engine) -> dict[str, int]:
    """What stands in the present minute."""
    found = await stats_of(engine, "m", engine.now // MINUTE)
    return {name.decode(): int(amount) for name, amount in found.items()}


async def read(engine: Engine, last: float = 3600, **options: Any) -> FamilyStatistics:
    chosen = {"since": None, "until": None, "step": None, "function": None, **options}
    return await read_statistics(engine.redis, engine.keys, engine.now, last=last, **chosen)


def share(kind: str, function: str, waited: int, ran: int) -> Outcome:
    return Outcome(kind, b"", 0, "", share=(function, waited, ran))


async def test_a_minute_and_an_hour_add_up_and_expire(engine: Engine) -> None:
    for _ in range(3):
        mine = await engine.take("a")
        await engine.settle(mine.complete(keep=0), statistics=COMPLETED)
    expected = {"enqueued": 3, "send\x1fc": 3, "send\x1fR": 60_000, "send\x1fR29": 3}
    assert await numbers(engine) == expected
    assert (await read(engine, step="hour")).total.completed == 3
    first = {step: engine.now // length for step, length in (("m", MINUTE), ("h", HOUR))}
    engine.advance(MINUTE)
    assert await numbers(engine) == {}
    await engine.enqueue("b")
    assert await numbers(engine) == {"enqueued": 1}
    assert {n.decode(): int(c) for n, c in (await stats_of(engine, "h", first["h"])).items()} == expected
    assert (await read(engine, last=7200, step="hour")).total.enqueued == 4
    for step, number, kept in (
        ("m", first["m"], 25 * HOUR),
        ("m", engine.now // MINUTE, 15 * DAY),
        ("h", first["h"], 15 * DAY),
    ):
        left = await engine.redis.pttl(engine.keys.key("stats", step, str(number)))
        assert kept - 60_000 < left <= kept


@pytest.mark.parametrize("seed", range(5))
async def test_an_hour_is_the_sum_of_its_minutes_wherever_the_clock_goes(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    counted: Counter[int] = Counter()
    # Behind the last of these hours, so that a clock that has gone back shows all of them.
    begin = engine.now - engine.now % HOUR
    for _ in range(60):
        at = begin + chance.choice([0, 0, 1, 2]) * HOUR + chance.choice([0, 1, 1, 2, 59]) * MINUTE
        engine.advance(at - engine.now)
        if chance.random() < 0.5:
            amount = chance.randint(1, 9)
            await engine.settle(statistics={"send\x1fc": amount})
        else:
            mine, amount = await engine.take(f"j{sum(counted.values())}"), 1
            engine.advance(chance.choice([0, MINUTE]))
            await engine.tick(A, mine.complete(), wanted=-1, statistics=COMPLETED)
        counted[engine.now // HOUR] += amount
        engine.advance(begin + 3 * HOUR - engine.now)
        past: Past = {}
        for _ in range(2):
            found = await read(engine, last=4 * 3600, step="hour", past=past)
            told = {round(point.at.timestamp() * 1000) // HOUR: point.figures.completed for point in found.series}
            assert {hour: n for hour, n in told.items() if n} == counted


async def test_an_hour_that_lacks_its_last_minute_is_not_remembered(engine: Engine) -> None:
    await engine.settle(statistics={"send\x1fc": 2})
    engine.advance(3 * HOUR)
    past: Past = {}
    assert (await read(engine, last=4 * 3600, step="hour", past=past)).total.completed == 2
    await engine.settle(statistics={"send\x1fc": 1})
    assert (await read(engine, last=4 * 3600, step="hour", past=past)).total.completed == 3


async def test_an_hour_is_read_anew_when_a_minute_is_added_to_it_meanwhile(engine: Engine) -> None:
    await engine.settle(statistics={"send\x1fc": 2})
    others = engine.redis

    class Slow:
        """A connection on which another minute begins behind the first look."""

        looks = 0

        async def hget(self, *args: Any) -> Any:
            found = await others.hget(*args)
            self.looks += 1
            if self.looks == 1:
                engine.advance(MINUTE)
                await engine.settle(statistics={"send\x1fc": 3})
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(others, name)

    now, slow = engine.now, Slow()
    chosen: dict[str, Any] = {"since": None, "until": None, "step": "hour", "function": None}
    found = await read_statistics(slow, engine.keys, now + 2 * MINUTE, last=2 * 3600, **chosen)
    assert (slow.looks, found.total.completed) == (3, 5)


async def test_one_refused_outcome_keeps_the_whole_list_out(engine: Engine) -> None:
    a, b = await engine.take("a"), await engine.take("b")
    await engine.settle(b.complete())
    both = {"send\x1fc": 2}
    reply = await engine.settle(a.complete(), b.complete(), statistics=both)
    assert reply.refused == [b.claim.id]
    assert "send\x1fc" not in await numbers(engine)


async def test_a_call_that_is_made_again_counts_nothing_twice(engine: Engine) -> None:
    claimed = [await engine.take(name) for name in "abc"]
    list_of_three = {"send\x1fc": 3}
    await engine.settle(*(mine.complete() for mine in claimed), statistics=list_of_three)
    reply = await engine.settle(*(mine.complete() for mine in claimed), statistics=list_of_three)
    assert len(reply.refused) == 3
    assert (await numbers(engine))["send\x1fc"] == 3


async def test_a_stale_call_counts_nothing(engine: Engine) -> None:
    mine = await engine.take("a")
    reply = await engine.tick("a" * 16, mine.complete(), n=1, statistics=COMPLETED)
    assert reply.status == "stale"
    assert await numbers(engine) == {"enqueued": 1}


async def test_what_was_carried_counts_without_an_outcome(engine: Engine) -> None:
    await engine.settle(statistics={"send\x1fc": 2})
    assert await numbers(engine) == {"send\x1fc": 2}


async def test_only_what_was_added_is_enqueued(engine: Engine) -> None:
    await engine.enqueue("a", "b", "a")
    await engine.enqueue("a", "b", resend=True)
    await engine.enqueue("b")
    job = engine.job("c")._replace(when="now drop 0 key")
    await engine.broker.enqueue([job])
    await engine.broker.enqueue([job._replace(id=engine.id("d"))])
    assert await numbers(engine) == {"enqueued": 3}


async def test_a_job_aborted_before_it_ran_counts(engine: Engine) -> None:
    await engine.enqueue("a")
    await engine.abort("a")
    assert await numbers(engine) == {"enqueued": 1, "send\x1fa": 1}


async def test_switched_off_nothing_is_written(engine: Engine) -> None:
    await engine.sync(statistics=False)
    mine = await engine.take("a")
    await engine.settle(mine.complete(), statistics=COMPLETED)
    await engine.enqueue("b")
    await engine.abort("b")
    assert await engine.redis.keys("*stats*") == []
    await engine.sync()
    await engine.enqueue("c")
    assert await numbers(engine) == {"enqueued": 1}


async def test_a_strange_key_in_its_place_stops_nothing(engine: Engine) -> None:
    await engine.redis.set(engine.keys.key("stats", "m", str(engine.now // MINUTE)), "strange")
    await engine.redis.hset(engine.keys.key("stats", "h", str(engine.now // HOUR)), "send\x1fc", "strange")
    mine = await engine.take("a")
    assert (await engine.settle(mine.complete(), statistics=COMPLETED)).refused == []
    assert await engine.total("completed") == 1


async def test_a_full_server_goes_on(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    mine = await engine.take("a")
    await fill()
    await engine.settle(mine.complete(), statistics=COMPLETED)
    assert (await numbers(engine))["send\x1fc"] == 1


# ---------------------------------------------------------------------- what workers send and readers get


async def test_every_outcome_has_its_figure(engine: Engine) -> None:
    outcomes = [share(kind, "send", -1, -1) for kind in "ccccccrrrrrbbbbaaaeellwp"]
    await engine.settle(statistics=sum_up(outcomes, {}))
    total = (await read(engine)).total
    assert (total.completed, total.retried, total.failed) == (6, 5, 4)
    assert (total.aborted, total.expired, total.released, total.parked) == (3, 2, 3, 1)
    assert total.mean_run is total.p95_run is total.mean_wait is total.p95_wait is None


@pytest.mark.parametrize("median", [3, 5_000, 250_000, 40_000_000])
async def test_means_are_exact_and_percentiles_as_near_as_told(engine: Engine, median: int) -> None:
    rand = random.Random(median)
    times = [round(median * rand.lognormvariate(0, 1)) for _ in range(2000)]
    for start in range(0, len(times), 128):
        sums = sum_up([share("c", "send", 2 * t, t) for t in times[start : start + 128]], {})
        await engine.settle(statistics=sums)
    total = (await read(engine)).total
    real = statistics.quantiles(times, n=20)[-1] / 1e6
    assert total.mean_run == pytest.approx(statistics.mean(times) / 1e6)
    assert total.mean_wait == pytest.approx(2 * statistics.mean(times) / 1e6)
    assert total.p95_run is not None
    assert total.p95_wait is not None
    # Of whole microseconds the smallest buckets hold one value or none.
    margin = 0.19 if median > 100 else 0.3
    assert total.p95_run == pytest.approx(real, rel=margin)
    assert total.p95_wait == pytest.approx(2 * real, rel=margin)


@pytest.mark.parametrize("strange", [0, 1, 2**40, 2**62, 2**70])
async def test_any_time_has_a_bucket(engine: Engine, strange: int) -> None:
    await engine.settle(statistics=sum_up([share("c", "send", strange, strange)], {}))
    total = (await read(engine)).total
    assert total.completed == 1
    assert total.p95_run is not None


async def test_functions_apart_and_together(engine: Engine) -> None:
    await engine.enqueue("a")
    outcomes = [share("c", "send", 0, 1000), share("c", "two words", 0, 3000), share("b", "two words", -1, 5000)]
    await engine.settle(statistics=sum_up(outcomes, {}))
    found = await read(engine)
    assert {name: (of.completed, of.failed, of.mean_run) for name, of in found.functions.items()} == {
        "send": (1, 0, 0.001), "two words": (1, 1, 0.004),
    }  # fmt: skip
    assert (found.total.completed, found.total.failed, found.total.mean_run) == (2, 1, 0.003)
    assert found.total.enqueued == 1
    one = await read(engine, function="send")
    assert (list(one.functions), one.total.completed, one.total.enqueued) == (["send"], 1, None)
    assert [point.figures.completed for point in one.series][-1] == 1
    assert (await read(engine, function="never")).total.completed == 0


async def test_a_series_of_minutes(engine: Engine) -> None:
    engine.advance(MINUTE - engine.now % MINUTE)
    for count in (1, 2, 4):
        await engine.settle(statistics={"send\x1fc": count})
        engine.advance(MINUTE)
    engine.advance(-MINUTE // 2)
    found = await read(engine, 120)
    assert [point.figures.completed for point in found.series] == [1, 2, 4]
    assert [round(point.figures.throughput, 4) for point in found.series] == [0.0167, 0.0333, round(4 / 30, 4)]
    assert (found.until - found.since).total_seconds() == 150
    assert found.total.throughput == pytest.approx(7 / 150)
    assert found.series[0].at == found.since


async def test_minutes_hours_and_ranges(engine: Engine) -> None:
    await engine.settle(statistics={"send\x1fc": 1})
    engine.advance(2 * DAY)
    await engine.settle(statistics={"send\x1fc": 2})
    assert (await read(engine, 3 * HOUR // 1000)).step == "minute"
    week = await read(engine, 7 * DAY // 1000)
    assert (week.step, week.total.completed, len(week.series)) == ("hour", 3, 169)
    day = await read(engine, DAY // 1000, step="minute")
    assert (day.step, day.total.completed, len(day.series)) == ("minute", 2, 1441)
    year = await read(engine, 365 * DAY // 1000)
    assert (year.total.completed, len(year.series)) == (3, 15 * 24)
    past = await read(engine, since=week.since, until=week.series[-30].at)
    assert past.total.completed == 1


async def test_a_refused_outcome_of_many_is_carried_by_what_a_worker_sums_up(engine: Engine) -> None:
    """The same sums whether outcomes are summed up at once or in parts."""
    outcomes = [share("c", "send", n, n * n) for n in range(200)]
    parts: dict[str, int] = {}
    for start in range(0, 200, 7):
        parts = sum_up(outcomes[start : start + 7], parts)
    assert parts == sum_up(outcomes, {})
    singly: dict[str, int] = {}
    for outcome in outcomes:
        sum_up([outcome], singly)
    assert singly == parts
    assert sum_up([Mine(claim, 1).complete() for claim in (await engine.tick()).claims], {}) == {}
