"""plan and schedule: a schedule changes in one piece, and each of its ticks is made once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis.exceptions import OutOfMemoryError

from daemon.broker import DueTick
from daemon.lua import SCRIPTS
from daemon.records import split_record
from tests.lua.conftest import Fill
from tests.lua.state import NOW, Engine

OLD, NEW = b'{"old":1}', b'{"new":1}'


async def plan(engine: Engine, old: bytes | None, old_due: int | None, new: bytes | None, due: int | None) -> bool:
    done = await engine.broker.plan("s", (old, old_due), new, due)
    await engine.check()
    return done


async def state(engine: Engine) -> tuple[bytes | None, int | None, bytes | None]:
    """Definition, when it is due, and its runs."""
    key = engine.keys.key
    due = await engine.redis.zscore(key("ticks"), "s")
    found = [await engine.redis.hget(key(name), "s") for name in ("schedules", "schedule:runs")]
    return found[0], None if due is None else int(due), found[1]


def tick(engine: Engine, due: int = NOW, *, definition: bytes = OLD, runs: int = 1, job: bool = True) -> DueTick:
    made = engine.job(f"s{due}") if job else None
    return DueTick("s", due, definition, due + 1000, runs, due, made)


async def make(engine: Engine, *ticks: DueTick) -> list[str]:
    words = await engine.broker.make_ticks(ticks)
    await engine.check()
    return words


# ---------------------------------------------------------------- plan


async def test_a_new_one_is_written_once(engine: Engine) -> None:
    assert await plan(engine, None, None, OLD, NOW + 1)
    assert not await plan(engine, None, None, NEW, NOW + 2)
    assert await state(engine) == (OLD, NOW + 1, None)


@pytest.mark.parametrize(
    ("old", "old_due"), [(NEW, NOW + 1), (OLD, NOW + 2), (OLD, None), (None, NOW + 1), (None, None)]
)  # fmt: skip
@pytest.mark.parametrize("new", [NEW, None])
async def test_one_that_is_not_as_expected_is_left_alone(
    engine: Engine, old: bytes | None, old_due: int | None, new: bytes | None
) -> None:
    await plan(engine, None, None, OLD, NOW + 1)
    assert not await plan(engine, old, old_due, new, NOW + 9)
    assert await state(engine) == (OLD, NOW + 1, None)


async def test_a_paused_one_is_not_due(engine: Engine) -> None:
    await plan(engine, None, None, OLD, NOW + 1)
    assert await plan(engine, OLD, NOW + 1, NEW, None)
    assert await state(engine) == (NEW, None, None)
    assert await plan(engine, NEW, None, OLD, NOW + 5)
    assert await state(engine) == (OLD, NOW + 5, None)


async def test_a_removed_one_leaves_nothing(engine: Engine) -> None:
    await plan(engine, None, None, OLD, NOW)
    await make(engine, tick(engine, job=False))
    assert await plan(engine, OLD, NOW + 1000, None, None)
    assert await engine.traces() == set()


async def test_a_full_server_refuses_a_new_one_and_lets_others_be_changed(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await plan(engine, None, None, OLD, NOW)
    await fill()
    with pytest.raises(OutOfMemoryError):
        await engine.broker.plan("other", (None, None), OLD, NOW)
    assert await plan(engine, OLD, NOW, NEW, None)
    assert await plan(engine, NEW, None, None, None)
    assert await engine.traces() == set()


# ---------------------------------------------------------------- schedule


@pytest.fixture
async def planned(engine: Engine) -> Engine:
    """An engine with a schedule that is due now."""
    await plan(engine, None, None, OLD, NOW)
    return engine


async def test_a_tick_enqueues_its_job_and_is_due_again(planned: Engine) -> None:
    assert await make(planned, tick(planned)) == ["ok"]
    assert await planned.order() == [f"s{NOW}"]
    seen = await planned.look(f"s{NOW}")
    assert seen.level == 5
    assert split_record(seen.record or b"").stamp == NOW
    assert await state(planned) == (OLD, NOW + 1000, b"1 %d" % NOW)
    assert await planned.marked()


async def test_a_tick_is_made_once(planned: Engine) -> None:
    words = await asyncio.gather(*(make(planned, tick(planned)) for _ in range(8)))
    assert sorted(word for (word,) in words) == ["ok"] + ["stale"] * 7
    assert await planned.order() == [f"s{NOW}"]
    assert await state(planned) == (OLD, NOW + 1000, b"1 %d" % NOW)


async def test_a_tick_of_an_earlier_definition_is_not_made(planned: Engine) -> None:
    await plan(planned, OLD, NOW, NEW, NOW)
    assert await make(planned, tick(planned)) == ["stale"]
    assert await planned.order() == []
    assert await state(planned) == (NEW, NOW, None)


async def test_a_tick_of_a_removed_schedule_is_not_made(planned: Engine) -> None:
    await plan(planned, OLD, NOW, None, None)
    assert await make(planned, tick(planned)) == ["stale"]
    assert await planned.traces() == set()


async def test_no_tick_is_made_before_its_time(engine: Engine) -> None:
    await plan(engine, None, None, OLD, NOW + 1)
    assert await make(engine, tick(engine, NOW + 1)) == ["early"]
    assert await state(engine) == (OLD, NOW + 1, None)
    engine.advance(1)
    assert await make(engine, tick(engine, NOW + 1)) == ["ok"]


async def test_a_tick_can_be_left_out(planned: Engine) -> None:
    assert await make(planned, tick(planned, job=False, runs=0)) == ["ok"]
    assert await planned.order() == []
    assert await state(planned) == (OLD, NOW + 1000, b"0 %d" % NOW)


async def test_the_last_tick_leaves_the_definition(planned: Engine) -> None:
    assert await make(planned, tick(planned)._replace(following=None)) == ["ok"]
    assert await state(planned) == (OLD, None, b"1 %d" % NOW)


async def test_a_job_that_exists_is_not_enqueued_again(planned: Engine) -> None:
    done = await planned.take(f"s{NOW}")
    await planned.settle(done.complete())
    assert await make(planned, tick(planned)) == ["ok"]
    assert await planned.order() == []
    assert (await state(planned))[1] == NOW + 1000


async def test_dedup_keys_hold_for_ticks_as_well(planned: Engine) -> None:
    jobs = [planned.job(f"s{due}")._replace(when="now drop 0 cleanup") for due in (NOW, NOW + 1000)]
    assert await make(planned, tick(planned)._replace(job=jobs[0])) == ["ok"]
    planned.advance(1000)
    assert await make(planned, tick(planned, NOW + 1000)._replace(job=jobs[1])) == ["ok"]
    assert await planned.order() == [f"s{NOW}"]


async def test_several_at_once_though_the_server_has_forgotten_the_script(planned: Engine) -> None:
    await planned.broker.plan("t", (None, None), NEW, NOW)
    await planned.redis.script_flush()
    other = tick(planned, definition=NEW)._replace(name="t", job=planned.job("t"))
    assert await make(planned, tick(planned), other, tick(planned)) == ["ok", "ok", "stale"]
    assert await planned.order() == [f"s{NOW}", "t"]


async def test_though_the_server_never_keeps_the_script(planned: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    await planned.broker.plan("t", (None, None), NEW, NOW)
    monkeypatch.setitem(SCRIPTS._loaded, "schedule", replace(SCRIPTS["schedule"], sha="0" * 40))  # type: ignore[attr-defined]
    other = tick(planned, definition=NEW)._replace(name="t", job=planned.job("t"))
    assert await make(planned, tick(planned), other) == ["ok", "ok"]
    assert await planned.order() == [f"s{NOW}", "t"]


async def test_on_a_full_server_a_tick_stays_due(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await plan(engine, None, None, OLD, NOW)
    await fill()
    with pytest.raises(OutOfMemoryError):
        await engine.broker.make_ticks([tick(engine)])
    assert await state(engine) == (OLD, NOW, None)
    assert await engine.order() == []
    assert await make(engine, tick(engine, job=False)) == ["ok"]


def test_it_enqueues_with_the_script_that_enqueues() -> None:
    text = SCRIPTS["enqueue"].text
    own = text[text.index("-- Adds jobs, all or") : text.rindex("end)()")]
    assert own.rstrip() in SCRIPTS["schedule"].text


# ---------------------------------------------------------------- lead


async def test_one_at_a_time_has_the_lease(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    await fill()

    async def lead(who: str, ms: int = 5000) -> int:
        return int(await engine.redis.eval(SCRIPTS["lead"].text, 1, "lease", who, ms))

    assert await lead("a") == -1
    assert 0 < await lead("b") <= 5000
    assert await lead("a") == -1, "whoever has it takes it again"
    assert await engine.redis.get("lease") == b"a"
    await engine.redis.delete("lease")
    assert await lead("b") == -1
    assert 0 < await engine.redis.pttl("lease") <= 5000
