"""Dedup keys: one job for many repeats, which id each is told, and that no key outlives what it is for."""

from __future__ import annotations

import pytest
from redis.exceptions import OutOfMemoryError

from daemon.broker import NewJob, Repeat
from tests.lua.conftest import Fill
from tests.lua.state import A, B, Engine

NEW = b'["new"]'


def _job(
    engine: Engine, name: str, mode: str = "drop", window: int = 0, key: str = "k y", *, delay: int = 0,
    level: int = 5, body: bytes = b"[]", group: str = "",
) -> NewJob:  # fmt: skip
    made = engine.job(name, level, delay=delay, body=body, group=group)
    return made._replace(when=f"{made.when} {mode} {window} {key}")


def _repeat(engine: Engine, name: str, replaced: bool = False) -> Repeat:
    return Repeat(engine.id(name), replaced)


async def _body(engine: Engine, name: str) -> bytes:
    record = (await engine.look(name)).record
    assert record is not None
    return record.partition(b"\n")[2]


async def _kept(engine: Engine) -> dict[str, str]:
    """What is kept of dedup keys."""
    found = await engine.redis.hgetall(engine.keys.key("dedup"))
    ends = await engine.redis.zrange(engine.keys.key("dedup:ends"), 0, -1)
    return {k.decode(): v.decode() for k, v in found.items()} | {f"e:{key.decode()}": "" for key in ends}


# ---------------------------------------------------------------- drop


async def test_a_repeat_is_dropped_while_the_job_lives_in_any_state(engine: Engine) -> None:
    assert await engine.enqueue(_job(engine, "a", delay=100)) == [True]
    assert await engine.enqueue(_job(engine, "b", delay=5)) == [_repeat(engine, "a")]
    engine.advance(200)
    (mine,) = await engine.claim()
    assert await engine.enqueue(_job(engine, "c")) == [_repeat(engine, "a")]
    await engine.settle(mine.retry(50))
    assert await engine.enqueue(_job(engine, "d")) == [_repeat(engine, "a")]
    assert await engine.order() == ["a"]


@pytest.mark.parametrize("end", ["complete", "bury", "abort", "expire"])
async def test_the_end_of_the_job_frees_its_key(engine: Engine, end: str) -> None:
    await engine.enqueue(_job(engine, "a"), _job(engine, "other", key="other"))
    (mine,) = await engine.claim()
    await engine.settle(getattr(mine, end)())
    assert await _kept(engine) == {"k:other": f"0 {engine.id('other')}", f"j:{engine.id('other')}": "other"}
    assert await engine.enqueue(_job(engine, "b")) == [True]


@pytest.mark.parametrize("window", [0, 60_000])
async def test_a_removed_job_frees_its_key_and_its_window(engine: Engine, window: int) -> None:
    await engine.enqueue(_job(engine, "a", window=window))
    assert await engine.remove("a") == ["removed"]
    assert await engine.enqueue(_job(engine, "b", window=window)) == [True]
    assert await engine.abort("b") == "aborted"
    assert await engine.enqueue(_job(engine, "c", window=window)) == [True]


async def test_a_window_outlives_its_job(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a", window=1000))
    (mine,) = await engine.claim()
    await engine.settle(mine.complete(keep=0))
    engine.advance(999)
    assert await engine.enqueue(_job(engine, "b", window=1000)) == [_repeat(engine, "a")]
    engine.advance(1)
    assert await engine.enqueue(_job(engine, "c", window=1000)) == [True]


async def test_a_job_outlives_its_window_and_does_not_free_the_next_ones_key(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a", window=1000))
    engine.advance(1000)
    assert await engine.enqueue(_job(engine, "b", window=5000)) == [True]
    (mine,) = await engine.claim()
    assert mine.name == "a"
    await engine.settle(mine.complete())
    assert await engine.enqueue(_job(engine, "c")) == [_repeat(engine, "b")]


async def test_keys_of_a_crashed_worker_stay_with_their_jobs(engine: Engine) -> None:
    await engine.sync(B)
    await engine.enqueue(_job(engine, "a"))
    await engine.claim(B)
    await engine.pass_time(engine.lease + 1, A)
    await engine.tick()
    assert await engine.enqueue(_job(engine, "b")) == [_repeat(engine, "a")]


# ---------------------------------------------------------------- one call, lost replies, ids


async def test_repeats_inside_one_call(engine: Engine) -> None:
    jobs = [_job(engine, "a"), _job(engine, "b"), _job(engine, "c", key="z"), _job(engine, "d", "replace", body=NEW)]
    assert await engine.enqueue(*jobs) == [True, _repeat(engine, "a"), True, _repeat(engine, "a", True)]
    assert await engine.order() == ["a", "c"]
    assert await _body(engine, "a") == NEW


async def test_a_call_whose_reply_was_lost_tells_the_same_again(engine: Engine) -> None:
    jobs = [_job(engine, "a", "replace"), _job(engine, "b", "replace", body=NEW), engine.job("c")]
    told = await engine.enqueue(*jobs)
    assert told == [True, _repeat(engine, "a", True), True]
    assert await engine.enqueue(*jobs, resend=True) == told
    assert await _body(engine, "a") == NEW
    assert await engine.enqueue(*jobs[1:], resend=True) == told[1:]


async def test_a_taken_id_does_not_take_the_key(engine: Engine) -> None:
    await engine.enqueue("a")
    assert await engine.enqueue(_job(engine, "a")) == [False]
    assert await engine.enqueue(_job(engine, "b")) == [True]
    assert await engine.enqueue(_job(engine, "a", "replace", body=NEW)) == [_repeat(engine, "b", True)]


async def test_a_key_whose_job_vanished_is_free(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a"))
    await engine.redis.zrem(engine.keys.queue, engine.id("a"))
    await engine.redis.unlink("arq:job:" + engine.id("a"))
    await engine.redis.delete(engine.keys.key("mark"))
    assert await engine.enqueue(_job(engine, "b")) == [True]


# ---------------------------------------------------------------- replace


async def test_a_waiting_job_gets_the_payload_and_keeps_its_place(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a", level=3), "b")
    place = (await engine.look("a")).score
    engine.advance(10)
    repeat = _job(engine, "c", "replace", level=9, body=NEW)
    assert await engine.enqueue(repeat) == [_repeat(engine, "a", True)]
    seen = await engine.look("a")
    assert seen.score == place
    assert seen.record is not None
    assert seen.record.startswith(b"q3")
    assert [mine.name for mine in await engine.claim(wanted=3)] == ["a", "b"]
    assert (await engine.look("c")).record is None


async def test_a_delayed_job_gets_the_payload_and_keeps_its_time(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a", delay=5000))
    due = (await engine.look("a")).score
    engine.advance(3000)
    await engine.enqueue(_job(engine, "b", "replace", delay=5000, body=NEW))
    assert (await engine.look("a")).score == due
    engine.advance(2000)
    (mine,) = await engine.claim()
    assert mine.claim.record is not None
    assert mine.claim.record.endswith(NEW)


@pytest.mark.parametrize("mode", ["replace", "debounce"])
async def test_a_running_job_is_left_alone(engine: Engine, mode: str) -> None:
    await engine.enqueue(_job(engine, "a", mode))
    (mine,) = await engine.claim()
    assert await engine.enqueue(_job(engine, "b", mode, delay=5, body=NEW)) == [_repeat(engine, "a")]
    assert await _body(engine, "a") != NEW
    # A stock client's abort() files it under score 1 until its worker has answered.
    await engine.redis.zadd(engine.keys.queue, {engine.id("a"): 1})
    engine.checked = False
    assert await engine.enqueue(_job(engine, "b", mode, delay=5, body=NEW)) == [_repeat(engine, "a")]
    engine.checked = True
    await engine.settle(mine.complete())


async def test_a_completion_rolled_back_with_its_claim_is_not_that_of_the_new_payload(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a"))
    (mine,) = await engine.claim()
    await engine.sync(A)  # the server forgot the claim
    engine.advance(5)
    await engine.enqueue(_job(engine, "b", "replace", body=NEW))
    reply = await engine.settle(mine.complete())
    assert reply.refused == [mine.claim.id.decode().encode()]
    assert [again.name for again in await engine.claim()] == ["a"]


# ---------------------------------------------------------------- debounce


async def test_a_debounced_job_waits_its_delay_anew(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a", "debounce", delay=1000))
    for name in "bcd":
        engine.advance(900)
        assert await engine.enqueue(_job(engine, name, "debounce", delay=1000)) == [_repeat(engine, "a", True)]
        assert await engine.claim() == []
    engine.advance(1000)
    assert [mine.name for mine in await engine.claim()] == ["a"]


async def test_a_window_starts_anew_with_each_debounced_repeat(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a", "debounce", 1000, delay=1000))
    for name in "bcd":
        engine.advance(900)
        repeat = _job(engine, name, "debounce", 1000, delay=1000)
        assert await engine.enqueue(repeat) == [_repeat(engine, "a", True)]
    assert await engine.order() == ["a"]


async def test_a_job_that_was_ready_waits_again(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a", "debounce", delay=1000))
    engine.advance(1000)
    await engine.tick()
    assert (await engine.look("a")).band == "ready"
    await engine.enqueue(_job(engine, "b", "debounce", delay=1000))
    assert (await engine.look("a")).band == "later"
    assert await engine.claim() == []
    assert not await engine.marked()


async def test_an_earlier_time_wakes_a_worker_that_sleeps_until_the_old_one(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a", "debounce", delay=60_000))
    await engine.tick()
    await engine.enqueue(_job(engine, "b", "debounce", delay=1000))
    assert await engine.marked()
    assert (await engine.tick(wanted=1)).wait <= 1000


async def test_a_job_set_aside_by_a_limit_is_debounced_too(engine: Engine) -> None:
    await engine.sync(lanes={"s:g:*": "1||"})
    await engine.enqueue(engine.job("first", group="acme"), _job(engine, "a", delay=100, group="acme"))
    engine.advance(100)
    (first,) = await engine.claim(wanted=5)
    await engine.enqueue(_job(engine, "b", "debounce", delay=1000, group="acme", body=NEW))
    await engine.settle(first.complete(keep=0))
    assert await engine.claim() == []
    engine.advance(1000)
    assert [mine.name for mine in await engine.claim()] == ["a"]


# ---------------------------------------------------------------- nothing is left


async def test_ended_windows_go_with_the_next_keys_or_a_renewal(engine: Engine) -> None:
    for number in range(40):
        await engine.enqueue(_job(engine, f"a{number}", window=1000, key=f"key {number}"))
    await engine.settle(*(mine.complete(keep=0) for mine in await engine.claim(wanted=40)))
    assert len(await _kept(engine)) == 80
    engine.advance(1000)
    await engine.enqueue(_job(engine, "b", key="b"))
    assert len(await _kept(engine)) < 80
    assert await engine.renew()
    assert set(await _kept(engine)) == {"k:b", f"j:{engine.id('b')}"}
    assert await engine.remove("b") == ["removed"]
    assert await _kept(engine) == {}


async def test_a_key_taken_again_without_a_window_is_not_trimmed_with_the_old_one(engine: Engine) -> None:
    await engine.enqueue(_job(engine, "a", window=1000))
    engine.advance(1000)
    await engine.enqueue(_job(engine, "b"))
    engine.advance(5000)
    assert await engine.renew()
    assert await engine.enqueue(_job(engine, "c")) == [_repeat(engine, "b")]


async def test_a_full_server_changes_nothing(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await engine.enqueue(_job(engine, "a"))
    await fill()
    with pytest.raises(OutOfMemoryError):
        await engine.enqueue(_job(engine, "b", "replace", body=NEW), _job(engine, "c", key="new"))
    assert await _body(engine, "a") != NEW
    assert set(await _kept(engine)) == {"k:k y", f"j:{engine.id('a')}"}
