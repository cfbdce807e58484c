"""Permits of a shared limit: what is granted, when it counts, who comes first, and what the dead leave behind."""

from __future__ import annotations

from typing import Any

import pytest

from daemon.family import SharedLimit
from daemon.keys import LimitKeys
from daemon.limits.queue_limits import change_shared
from daemon.limits.shared import Grant, LimitBroker
from daemon.lua import SCRIPTS
from tests.lua.conftest import Fill
from tests.lua.state import NOW, Engine

LEASE = 30_000
KEYS = LimitKeys("api")


class Holders:
    """Workers of several families on one clock: ``h("a")`` is a worker of the family ``a``."""

    def __init__(self, redis: Any, rate: str | None = None, concurrency: int | None = None) -> None:
        self.redis = redis
        self.limit = SharedLimit("api", rate, concurrency)
        self.made: dict[str, LimitBroker] = {}
        self.now = NOW

    def __call__(self, name: str, rate: str | None = None, concurrency: int | None = None) -> LimitBroker:
        limit = SharedLimit("api", rate, concurrency) if rate or concurrency else self.limit
        found = self.made.setdefault(name, LimitBroker(self.redis, limit, f"{name}:1", LEASE, self.now))
        found.now = self.now
        return found

    async def woken(self) -> list[str]:
        """Who has a wake-up mark."""
        return sorted(key.decode().rpartition("wake:")[2][0] for key in await self.redis.keys(KEYS.key("wake", "*")))


async def take_all(holder: LimitBroker, most: int = 1000) -> int:
    """Take portions and use them at once, until there are no more."""
    taken = used = 0
    while taken < most:
        grant = await holder.ask(0, used, wanted=most - taken)
        if not grant.permits:
            break
        used = grant.permits
        taken += grant.permits
    return taken


@pytest.fixture
def redis(engine: Engine) -> Any:
    return engine.redis


async def test_portions_are_a_tenth_and_the_rate_is_never_exceeded(redis: Any) -> None:
    h = Holders(redis, "30/1s")
    assert await h("a").ask(0, wanted=20) == Grant(3, 0, 100_000)
    assert await h("b").ask(0, wanted=2) == Grant(2, 0, 100_000)
    assert await h("a").ask(0, used=3, wanted=0) == Grant(0, 0, 100_000)
    assert await h("b").ask(0, used=2, wanted=0) == Grant(0, 0, 100_000)
    assert await take_all(h("a")) == 25
    denied = await h("b").ask(0, wanted=1)
    assert (denied.permits, denied.wait, denied.by_jobs) == (0, 1000, False)
    h.now += 999
    assert (await h("b").ask(0, wanted=1)).wait == 1
    h.now += 1
    assert (await h("b").ask(0, wanted=9)).permits == 3


async def test_used_permits_count_when_they_were_used_and_others_from_the_end_of_their_time(redis: Any) -> None:
    h = Holders(redis, "2/1s")
    assert (await h("a").ask(0, wanted=2)).permits == 1
    assert (await h("b").ask(0, wanted=2)).permits == 1
    h.now += 20
    assert (await h("a").ask(0, used=1)).permits == 0
    h.now += 980
    assert (await h("c").ask(0, wanted=1)).wait == 20, "a's counts from when it told; b may have used its 100 ms later"
    h.now += 20
    assert (await h("c").ask(0, wanted=1)).permits == 1
    assert (await h("d").ask(0, wanted=1)).permits == 0, "b has not told, and may have used it until 100 ms"
    h.now += 79
    assert (await h("d").ask(0, wanted=1)).permits == 0
    h.now += 1
    assert (await h("d").ask(0, wanted=1)).permits == 1


async def test_permits_that_were_given_back_are_not_counted(redis: Any) -> None:
    h = Holders(redis, "20/1s")
    assert (await h("a").ask(0, wanted=9)).permits == 2
    await h("a").ask(0, used=1)
    assert await take_all(h("b")) == 19
    assert await take_all(h("a")) == 0


async def test_permits_used_late_count_from_when_it_is_told(redis: Any) -> None:
    h = Holders(redis, "1/1s")
    assert (await h("a").ask(0, wanted=1)).permits == 1
    h.now += 700
    await h("a").ask(0, used=1, late=True)
    h.now += 999
    assert (await h("b").ask(0, wanted=1)).permits == 0
    h.now += 1
    assert (await h("b").ask(0, wanted=1)).permits == 1


async def test_jobs_at_the_same_time(redis: Any) -> None:
    h = Holders(redis, concurrency=2)
    assert (await h("a").ask(0, wanted=5)).permits == 1
    assert (await h("b").ask(0, wanted=5)).permits == 1
    assert await h("a").ask(1, used=1, wanted=5) == Grant(0, 1000, 100_000, by_jobs=True)
    assert await h.woken() == []
    await h("b").ask(0, used=1)
    assert await h.woken() == ["a"], "b's job has ended: who waits is told"
    assert (await h("a").ask(1, wanted=5)).permits == 1
    assert await h.woken() == []


async def test_who_waits_longer_comes_first(redis: Any) -> None:
    h = Holders(redis, concurrency=1)
    assert (await h("a").ask(0, wanted=1)).permits == 1
    for name in "bc":
        h.now += 1
        assert (await h(name).ask(0, wanted=1)).permits == 0
    h.now += 1
    assert (await h("a").ask(0, used=1, wanted=1)).permits == 0, "its job has ended, but b waits"
    assert await h.woken() == ["b"]
    assert (await h("c").ask(0, wanted=1)).permits == 0
    assert (await h("b").ask(0, wanted=1)).permits == 1
    assert (await h("b").ask(0, used=1)).permits == 0
    assert await h.woken() == ["c"]
    h.now += 2001
    assert (await h("a").ask(0, wanted=1)).permits == 1, "c has not asked for two seconds: it lost its place"


async def test_a_job_that_ends_while_the_rate_is_full_tells_who_waits(redis: Any) -> None:
    h = Holders(redis, "1/1s", 1)
    assert (await h("a").ask(0, wanted=1)).permits == 1
    assert (await h("b").ask(0, wanted=1)).by_jobs
    await h("a").ask(0, used=1)
    assert await h.woken() == ["b"]
    assert (await h("b").ask(0, wanted=1)).wait == 1000


async def test_the_dead_give_back_when_their_lease_has_ended(redis: Any) -> None:
    h = Holders(redis, concurrency=1)
    assert (await h("a").ask(0, wanted=1)).permits == 1
    h.now += LEASE - 1
    assert await redis.execute_command(*h("a").renewal()) == [1]
    h.now += LEASE
    assert (await h("b").ask(0, wanted=1)).permits == 0
    h.now += 1
    assert (await h("b").ask(0, wanted=1)).permits == 1
    assert await redis.execute_command(*h("a").renewal()) == [0], "it has to tell what it runs"
    await h("a").ask(1)
    await h("b").ask(0, used=1)
    assert (await h("c").ask(0, wanted=1)).permits == 0, "what runs is counted, allowed or not"


async def test_permits_of_the_dead_count_as_used(redis: Any) -> None:
    h = Holders(redis, "1/60s")
    assert (await h("a").ask(0, wanted=1)).permits == 1
    h.now += LEASE + 1
    assert (await h("b").ask(0, wanted=1)).permits == 0
    assert await redis.hkeys(KEYS.key("holders")) == [b"b:1"]
    h.now = NOW + 60_099
    assert (await h("b").ask(0, wanted=1)).permits == 0
    h.now += 1
    assert (await h("b").ask(0, wanted=1)).permits == 1


async def test_the_dead_do_not_count_until_the_time_of_a_clock_that_was_ahead(redis: Any) -> None:
    h = Holders(redis, concurrency=1)
    h.now += 365 * 86_400_000
    assert (await h("a").ask(0, wanted=1)).permits == 1
    h.now = NOW
    assert (await h("b").ask(0, wanted=1)).permits == 0, "it may live, and has not renewed its lease yet"
    h.now += LEASE
    assert (await h("b").ask(0, wanted=1)).permits == 0
    h.now += 1
    assert (await h("b").ask(0, wanted=1)).permits == 1


async def test_who_leaves_leaves_nothing(redis: Any) -> None:
    h = Holders(redis, concurrency=1)
    assert (await h("a").ask(0, wanted=1)).permits == 1
    assert (await h("b").ask(0, wanted=1)).permits == 0
    await h("a").ask(0, wanted=-1)
    assert await h.woken() == ["b"]
    await h("b").ask(0, wanted=-1)
    assert await redis.keys(KEYS.prefix + "*") == [KEYS.key("conf").encode()]


async def test_the_smallest_limit_counts_as_long_as_its_workers_live(redis: Any) -> None:
    h = Holders(redis, "100/1s", 50)
    small = h("b", "20/60s")
    assert (await h("a").ask(0, wanted=99)).permits == 5, "a tenth of 50 jobs"
    await small.ask(0)
    await h("a").ask(0, used=5)
    assert await take_all(h("a")) == 15
    await small.ask(0, wanted=-1)
    assert (await h("a").ask(0, wanted=1)).permits == 1


async def test_an_operators_limit_wins_and_what_he_does_not_name_stays(redis: Any) -> None:
    h = Holders(redis, "100/1s", 50)
    await h("a").ask(0)
    await change_shared(redis, "api", rate="2/s")
    assert await take_all(h("a")) == 2
    await change_shared(redis, "api", rate="none")
    assert (await h("a").ask(50, wanted=1)).by_jobs
    await change_shared(redis, "api", concurrency="none")
    assert (await h("a").ask(50, wanted=99)).permits == 99
    await change_shared(redis, "api", concurrency="0")
    assert (await h("a").ask(0, wanted=1)).by_jobs
    await change_shared(redis, "api", reset=True)
    assert (await h("a").ask(0, wanted=99)).permits == 5


async def test_an_older_call_is_refused(redis: Any) -> None:
    h = Holders(redis, concurrency=9)
    late = h("a")._call(1, 0, 0, 0, 5)
    await h("a").ask(0)
    await h("a").ask(3)
    assert await redis.execute_command(*late) == [-1]
    assert (await redis.hget(KEYS.key("holders"), "a:1")).split()[2] == b"3"


async def test_a_long_window_stays_short(redis: Any) -> None:
    h = Holders(redis, "100000/1s")
    for _ in range(900):
        assert (await h("a").ask(0, used=1, wanted=1)).permits == 1
        h.now += 1
    assert len((await redis.hget(KEYS.key("conf"), "starts")).split()) <= 201


async def test_on_a_full_server_permits_are_still_given(full: tuple[Engine, Fill]) -> None:
    engine, fill = full
    h = Holders(engine.redis, "10/1s", 5)
    await h("a").ask(0)
    await fill()
    assert (await h("a").ask(0, wanted=1)).permits == 1
    assert (await h("b").ask(0, wanted=1)).permits == 1
    assert await engine.redis.execute_command(*h("a").renewal()) == [1]


async def test_a_server_that_lost_the_script_gets_it_again(redis: Any) -> None:
    await redis.script_flush()
    assert (await Holders(redis, concurrency=1)("a").ask(0, wanted=1)).permits == 1
    assert await redis.script_exists(SCRIPTS["permits"].sha) == [True]
