"""enqueue: adds jobs, all or none, in their order and to their time."""

from __future__ import annotations

import pytest
from redis.exceptions import OutOfMemoryError

from daemon.keys import JOB
from daemon.producing.batches import ENQUEUE_JOBS
from daemon.records import split_record, stamp_word
from tests.lua.conftest import Fill
from tests.lua.state import HELD, LEVEL, NOW, READY, A, Engine

HOUR = 3_600_000


async def test_a_job_is_written_with_its_header_and_waits(engine: Engine) -> None:
    job = engine.job("a", 3, timeout=5_000, expires=60_000, body=b"[1]")
    assert await engine.enqueue(job) == [True]
    seen = await engine.look("a")
    assert (seen.band, seen.level) == ("ready", 3)
    assert seen.record is not None
    record = split_record(seen.record)
    assert record == (3, NOW, 5_000, NOW + 60_000, "send", "", "", b"[1]")
    assert await engine.redis.ttl(JOB + engine.id("a")) == -1
    assert await engine.marked()


async def test_no_deadline_and_no_timeout_are_zero(engine: Engine) -> None:
    await engine.enqueue("a")
    record = (await engine.look("a")).record
    assert record is not None
    assert split_record(record)[:4] == (5, NOW, 0, 0)


async def test_level_zero_is_the_familys_priority(engine: Engine) -> None:
    await engine.sync(priority=8)
    await engine.enqueue(engine.job("a", 0), engine.job("b", 0, delay=1000))
    assert [(await engine.look(name)).level for name in "ab"] == [8, 8]
    record = (await engine.look("a")).record
    assert record is not None
    assert split_record(record).level == 8


async def test_without_any_worker_level_zero_is_the_middle(redis_url: str, engine: Engine) -> None:
    await engine.redis.flushall()
    await engine.enqueue(engine.job("a", 0))
    assert (await engine.look("a")).level == 5


async def test_jobs_of_one_millisecond_keep_their_order(engine: Engine) -> None:
    names = [f"{i * 7919 % 1000:03}" for i in range(300)]
    await engine.enqueue(*names[:100])
    for name in names[100:150]:
        await engine.enqueue(name)
    await engine.enqueue(*names[150:])
    assert await engine.order() == names


async def test_levels_come_first_and_each_keeps_its_order(engine: Engine) -> None:
    levels = [10, 1, 5, 1, 10, 5]
    await engine.enqueue(*(engine.job(f"j{i}", level) for i, level in enumerate(levels)))
    await engine.enqueue(engine.job("last", 1))
    assert await engine.order() == ["j1", "j3", "last", "j2", "j5", "j0", "j4"]


async def test_places_are_whole_numbers_inside_their_level(engine: Engine) -> None:
    await engine.enqueue(*(engine.job(f"j{level}", level) for level in range(1, 11)))
    for level in range(1, 11):
        seen = await engine.look(f"j{level}")
        assert seen.score is not None
        assert seen.score.is_integer()
        assert READY + level * LEVEL < seen.score < READY + (level + 1) * LEVEL


async def test_a_delayed_job_keeps_its_due_time_and_level(engine: Engine) -> None:
    await engine.enqueue(engine.job("in", 1, delay=1500), engine.job("at", 10, at=NOW + HOUR))
    raw = await engine.redis.execute_command("ZSCORE", engine.keys.queue, engine.id("in"))
    assert float(raw) == NOW + 1500 + 1 / 16
    assert (await engine.look("at")).score == NOW + HOUR + 10 / 16


async def test_the_due_time_is_counted_by_the_servers_clock(engine: Engine) -> None:
    engine.advance(250)
    await engine.enqueue(engine.job("a", delay=1000))
    score = (await engine.look("a")).score
    assert score is not None
    assert int(score) == NOW + 1250


@pytest.mark.parametrize("at", [1, NOW - HOUR, NOW])
async def test_a_due_time_in_the_past_is_now(engine: Engine, at: int) -> None:
    await engine.enqueue(engine.job("a", at=at))
    assert (await engine.look("a")).band == "ready"
    assert await engine.marked()


async def test_a_due_time_never_reaches_the_next_band(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", 10, at=HELD + 5), engine.job("b", 10, delay=2**46))
    for name in "ab":
        seen = await engine.look(name)
        assert seen.score == HELD - 1 + 10 / 16
        assert (seen.band, seen.level) == ("later", 10)


async def test_an_earlier_due_time_wakes_a_later_one_does_not(engine: Engine) -> None:
    await engine.enqueue(engine.job("60s", delay=60_000))
    assert await engine.marked()
    await engine.tick()
    assert not await engine.marked()
    await engine.enqueue(engine.job("70s", delay=70_000))
    assert not await engine.marked()
    await engine.enqueue(engine.job("5s", delay=5_000))
    assert await engine.marked()
    assert (await engine.tick()).wait == 5_000


async def test_the_first_job_of_any_sets_the_mark(engine: Engine) -> None:
    await engine.enqueue("a")
    assert await engine.redis.zrange(engine.keys.key("mark"), 0, -1, withscores=True) == [(b"1", 0.0)]


async def test_a_paused_queue_is_not_marked(engine: Engine) -> None:
    await engine.pause()
    await engine.enqueue("a")
    assert not await engine.marked()


async def test_an_id_in_use_is_not_added(engine: Engine) -> None:
    assert await engine.enqueue(engine.job("a", 3)) == [True]
    assert await engine.enqueue(engine.job("a", 1), "b") == [False, True]
    assert (await engine.look("a")).level == 3
    await engine.claim(wanted=2)
    assert await engine.enqueue("a") == [False]
    assert (await engine.look("a")).band == "held"


async def test_an_id_with_a_result_or_a_dead_letter_is_not_added(engine: Engine) -> None:
    done = await engine.take("done")
    await engine.settle(done.complete())
    dead = await engine.take("dead")
    await engine.settle(dead.bury())
    assert await engine.enqueue("done", "dead") == [False, False]
    assert await engine.order() == []


async def test_an_id_whose_result_was_not_kept_can_be_used_again(engine: Engine) -> None:
    await engine.settle((await engine.take("a")).complete(keep=0))
    assert await engine.enqueue("a") == [True]


async def test_an_id_twice_in_one_call_is_added_once(engine: Engine) -> None:
    assert await engine.enqueue(engine.job("a", 2), "b", engine.job("a", 9)) == [True, True, False]
    assert (await engine.look("a")).level == 2
    assert await engine.redis.zcard(engine.keys.queue) == 2


async def test_the_resend_of_a_lost_reply_says_added_and_adds_nothing(engine: Engine) -> None:
    jobs = [engine.job("a"), engine.job("b", delay=500), engine.job("a")]
    assert await engine.enqueue(*jobs) == [True, True, False]
    before = await engine.redis.zrange(engine.keys.queue, 0, -1, withscores=True)
    engine.advance(200)
    assert await engine.enqueue(*jobs, resend=True) == [True, True, False]
    assert await engine.redis.zrange(engine.keys.queue, 0, -1, withscores=True) == before


async def test_the_resend_of_a_call_that_never_arrived_adds(engine: Engine) -> None:
    assert await engine.enqueue("a", resend=True) == [True]
    assert await engine.order() == ["a"]


async def test_a_resend_does_not_take_another_job_for_its_own(engine: Engine) -> None:
    await engine.enqueue(engine.job("a", body=b"[1]"))
    assert await engine.enqueue(engine.job("a", body=b"[2]"), resend=True) == [False]


async def test_a_thousand_jobs_in_one_call(engine: Engine) -> None:
    jobs = [engine.job(f"j{i}", i % 10 + 1, delay=1000 * (i % 3)) for i in range(ENQUEUE_JOBS)]
    assert await engine.enqueue(*jobs) == [True] * ENQUEUE_JOBS
    assert await engine.redis.zcount(engine.keys.queue, "-inf", "(0") == 334
    assert await engine.redis.zcard(engine.keys.queue) == ENQUEUE_JOBS


async def test_thousands_of_jobs_go_in_one_round_trip_and_in_order(engine: Engine) -> None:
    await engine.redis.config_resetstat()
    names = [f"{i:05}" for i in range(2500)]
    assert all(await engine.enqueue(*names))
    calls = (await engine.redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    assert calls == 3
    assert await engine.order() == names


async def test_large_payloads_are_sent_in_several_calls(engine: Engine) -> None:
    await engine.redis.config_resetstat()
    body = b'["' + b"x" * 400_000 + b'"]'
    assert all(await engine.enqueue(*(engine.job(f"j{i}", body=body) for i in range(5))))
    assert (await engine.redis.info("commandstats"))["cmdstat_evalsha"]["calls"] == 3


async def test_a_full_server_refuses_a_call_whole(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue("before")
    await engine.claim()
    before = {key: await engine.redis.dump(key) for key in sorted(await engine.redis.keys("*"))}
    await fill()
    with pytest.raises(OutOfMemoryError):
        await engine.enqueue("a", engine.job("b", delay=1000))
    assert {key: await engine.redis.dump(key) for key in sorted(await engine.redis.keys("*"))} == before
    with pytest.raises(OutOfMemoryError):
        await engine.enqueue(*(f"j{i}" for i in range(1500)))
    assert {key: await engine.redis.dump(key) for key in sorted(await engine.redis.keys("*"))} == before


async def test_an_entry_without_a_payload_takes_the_payload_that_comes(engine: Engine) -> None:
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): NOW - 1})
    assert await engine.enqueue("a") == [True]
    (mine,) = await engine.claim(A)
    assert mine.stamp == stamp_word(NOW)


async def test_a_running_job_whose_payload_is_gone_is_not_started_beside_itself(engine: Engine) -> None:
    mine = await engine.take("a")
    await engine.redis.delete(JOB + engine.id("a"))
    await engine.enqueue("a")
    assert list((await engine.look("a")).holders) == [A]
    assert await engine.claim() == []
    await engine.settle(mine.complete())


async def test_odd_ids_are_kept_as_they_are(engine: Engine) -> None:
    names = ["with space", "ünïcödé", "percent%s%d", "quote'\"", "a\\b"]
    assert await engine.enqueue(*names) == [True] * 5
    claims = await engine.claim(wanted=5)
    assert [mine.claim.id.decode() for mine in claims] == [engine.id(name) for name in names]
    await engine.settle(*(mine.complete() for mine in claims))
    assert await engine.order() == []
