"""Operating queues and jobs, and lists with cursors and filters."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daemon import control as control_module
from daemon import pages
from daemon.context import JobContext
from daemon.control import Control
from daemon.errors import InvalidJob, JobNotFound, PermanentError, RedisUnavailable
from daemon.family import func
from daemon.inspector import Inspector
from daemon.job import JobInfo, JobState
from daemon.pages import JobFilter
from daemon.producer import JobHandle, Producer
from tests.engine import eventually, make_family, run_burst, until, working
from tests.servers import free_port


async def number(ctx: JobContext, n: int = 0) -> int:
    return n


async def fail(ctx: JobContext, n: int = 0) -> None:
    raise PermanentError(f"no {n}") if n % 2 else LookupError(f"none {n}")


async def endless(ctx: JobContext) -> None:
    await asyncio.Event().wait()


def family(name: str = "t", **values: Any) -> Any:
    return make_family(name, number, fail, endless, **{"max_tries": 1, **values})


@pytest.fixture
def control(producer: Producer) -> Control:
    return Control(producer.redis, ["t", "u"])


async def listed(control: Control, state: str, limit: int = 50, where: JobFilter = pages.EVERY) -> list[JobInfo]:
    """Give a whole list, page by page."""
    found, cursor = list[JobInfo](), None
    while True:
        page = await control.inspector.jobs("t", state, limit=limit, cursor=cursor, where=where)
        assert len(page) <= limit
        found += page
        cursor = page.cursor
        if cursor is None:
            return found


async def counts(control: Control, name: str = "t") -> tuple[int, ...]:
    """Give how many wait, are delayed, active, completed, failed, aborted."""
    s = await control.inspector.queue(name)
    return s.waiting, s.delayed, s.active, s.completed, s.failed, s.aborted


# ---------------------------------------------------------------------- pause


async def test_a_paused_queue_runs_nothing_new_and_a_resumed_one_at_once(
    redis_url: str, producer: Producer, control: Control
) -> None:
    async with working(redis_url, family(max_jobs=5), family("u")) as supervisor:
        running = await producer.enqueue("endless", [], family="t")
        await until(lambda: supervisor.workers[0].running)
        assert await control.pause("t")
        assert not await control.pause("t")
        waiting = await producer.enqueue("number", [1], family="t")
        assert await (await producer.enqueue("number", [2], family="u")).result(30) == 2
        assert (await control.inspector.queue("t")).paused
        assert await waiting.status() is JobState.WAITING
        assert await running.status() is JobState.ACTIVE
        assert await running.abort()
        assert await control.resume("t")
        assert not await control.resume("t")
        assert await waiting.result(30) == 1
        assert not (await control.inspector.queue("t")).paused


async def test_a_delayed_job_runs_in_time_after_a_pause(redis_url: str, producer: Producer, control: Control) -> None:
    async with working(redis_url, family()):
        await control.pause("t")
        job = await producer.enqueue("number", [1], family="t", delay=0.3)
        await control.resume("t")
        assert await job.result(30) == 1


# ---------------------------------------------------------------------- drain, clean, clear


async def fill(redis_url: str, producer: Producer) -> JobHandle:
    """Leave jobs in every state but active; gives one that waits."""
    for n in range(4):
        await producer.enqueue("number", [n], family="t")
    await producer.enqueue_many("fail", ([n] for n in range(6)), family="t")
    await run_burst(redis_url, family())
    assert await (await producer.enqueue("number", [1], family="t")).abort()
    await producer.enqueue_many("number", ([n] for n in range(130)), family="t", delay=600)
    return (await producer.enqueue_many("number", ([n] for n in range(170)), family="t"))[0]


async def spread(producer: Producer, control: Control) -> None:
    """Let the completed jobs have ended one after the other."""
    for info in await listed(control, "completed"):
        await producer.redis.zadd("{t}:completed", {"{t}" + info.id[1:]: 1_700_000_000_000 + info.payload})


async def test_drain_removes_what_waits_and_is_delayed(redis_url: str, producer: Producer, control: Control) -> None:
    job = await fill(redis_url, producer)
    waiting = asyncio.create_task(job.result(30))
    await eventually(lambda: producer.redis.hlen("{t}:waiters"))
    assert await control.drain("t", dry_run=True) == 300
    assert await counts(control) == (170, 130, 0, 4, 6, 1)
    told: list[tuple[int, int]] = []
    assert await control.drain("t", progress=lambda done, total: told.append((done, total))) == 300
    assert told[-1] == (300, 300)
    assert len(told) > 1
    assert await counts(control) == (0, 0, 0, 4, 6, 1)
    with pytest.raises(JobNotFound, match="was removed"):
        await waiting
    assert await control.drain("t") == 0


async def test_drain_leaves_what_runs(redis_url: str, producer: Producer, control: Control) -> None:
    await producer.enqueue("endless", [], family="t")
    async with working(redis_url, family(max_jobs=1)) as supervisor:
        await until(lambda: supervisor.workers[0].running)
        await producer.enqueue("number", [1], family="t")
        assert await control.drain("t") == 1
        assert await counts(control) == (0, 0, 1, 0, 0, 0)


async def test_a_drain_that_was_interrupted_is_simply_repeated(
    redis_url: str, producer: Producer, control: Control
) -> None:
    await producer.enqueue_many("number", ([n] for n in range(200)), family="t")

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await control.drain("t", progress=interrupt)
    left = (await counts(control))[0]
    assert 0 < left < 200
    assert await control.drain("t") == left


async def test_a_drain_ends_although_jobs_keep_coming(producer: Producer, control: Control) -> None:
    await producer.enqueue_many("number", ([n] for n in range(200)), family="t")
    coming: list[asyncio.Task[Any]] = []

    def more(done: int, total: int) -> None:
        coming.append(asyncio.create_task(producer.enqueue_many("number", ([1] for _ in range(300)), family="t")))

    assert await control.drain("t", progress=more) == 200
    await asyncio.gather(*coming)


async def test_clean_takes_state_age_and_count(redis_url: str, producer: Producer, control: Control) -> None:
    await fill(redis_url, producer)
    assert await control.clean("t", older_than="1h") == 0
    assert await control.clean("t", dry_run=True) == 4
    assert await control.clean("t", count=3, dry_run=True) == 3
    await spread(producer, control)
    assert await control.clean("t", count=3) == 3
    assert [info.payload for info in await listed(control, "completed")] == [3]
    for info in (await listed(control, "failed"))[3:]:
        hour_ago = (datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1000
        await producer.redis.zadd("{t}:dead", {"{t}" + info.id[1:]: hour_ago})
    assert await control.clean("t", "failed", older_than="30m") == 3
    assert await counts(control) == (170, 130, 0, 1, 3, 1)
    assert await control.clean("t", JobState.ABORTED) == 1
    assert len(await producer.redis.keys("arq:job:*")) == 303


async def test_clear_removes_all_but_what_runs(redis_url: str, producer: Producer, control: Control) -> None:
    await fill(redis_url, producer)
    expected = {"drained": 300, "completed": 4, "failed": 6, "aborted": 1, "expired": 0}
    assert await control.clear("t", dry_run=True) == expected
    assert await control.clear("t") == expected
    assert await counts(control) == (0,) * 6
    lasting = {b"{t}:totals", b"{t}:clock", b"{t}:conf", b"{t}:events", b"{t}:schema"}
    assert {key for key in await producer.redis.keys("*t}*") if b"}:stats:" not in key} <= lasting
    assert set((await control.clear("t")).values()) == {0}


@pytest.mark.parametrize(
    ("method", "args", "options", "said"),
    [
        ("pause", ("nowhere",), {}, "no family 'nowhere': known are t, u"),
        ("drain", ("nowhere",), {}, "no family 'nowhere'"),
        ("retry_all", ("nowhere",), {}, "no family 'nowhere'"),
        ("clean", ("t", "waiting"), {}, "'waiting' jobs have not ended: clean takes completed, failed"),
        ("clean", ("t", "broken"), {}, "'broken' is not a state"),
        ("clean", ("t",), {"older_than": "soon"}, "'soon' is not a duration"),
        ("clean", ("t",), {"count": 0}, "count is 1 or more, not 0"),
        ("set_priority", (["t:a"], 11), {}, "priority 11 is not a level"),
        ("promote", (["nowhere:a"],), {}, "names no known family"),
    ],
)
async def test_a_wrong_demand_is_told(control: Control, method: str, args: Any, options: Any, said: str) -> None:
    with pytest.raises(InvalidJob, match=said):
        await getattr(control, method)(*args, **options)


def test_a_time_without_a_zone_is_told() -> None:
    with pytest.raises(InvalidJob, match=r"since .* has no time zone"):
        JobFilter(since=datetime(2030, 1, 1))  # noqa: DTZ001


async def test_redis_away_is_told() -> None:
    async with Control.connect(f"redis://127.0.0.1:{free_port()}", ["t"]) as control:
        assert control.families == ["t"]
        for call in (control.pause("t"), control.drain("t"), control.clean("t"), control.retry_all("t"),
                     control.abort(["t:a"]), control.promote(["t:a"])):  # fmt: skip
            with pytest.raises(RedisUnavailable):
                await call  # type: ignore[misc]


# ---------------------------------------------------------------------- retry


async def test_retry_and_remove_say_what_became_of_each(redis_url: str, producer: Producer, control: Control) -> None:
    for family_name, name, job_id in (
        ("t", "fail", "dead"), ("u", "fail", "dead"), ("t", "number", "done"), ("t", "fail", "discard"),
    ):  # fmt: skip
        await producer.enqueue(name, [1], family=family_name, job_id=job_id)
    await run_burst(redis_url, family(), family("u"))
    await producer.enqueue("number", [1], family="t", job_id="waits")
    ids = ["t:dead", "u:dead", "t:done", "t:waits", "t:nothing"]
    before = await counts(control)
    for act, word in ((control.retry, "retried"), (control.discard, "discarded")):
        assert await act(ids, dry_run=True) == {
            "t:dead": word, "u:dead": word, "t:done": "not_failed", "t:waits": "not_failed", "t:nothing": "not_found",
        }  # fmt: skip
    assert await counts(control) == before
    assert await control.retry(ids) == {
        "t:dead": "retried", "u:dead": "retried", "t:done": "not_failed", "t:waits": "not_failed",
        "t:nothing": "not_found",
    }  # fmt: skip
    assert (await control.inspector.job("u:dead")).state is JobState.WAITING
    await control.drain("t")
    await producer.enqueue("endless", [], family="t", job_id="runs")
    async with working(redis_url, family(max_jobs=1)) as supervisor:
        await until(lambda: supervisor.workers[0].running)
        assert await control.remove(["t:runs", "t:done", "t:discard", "t:nothing"]) == {
            "t:runs": "active", "t:done": "removed", "t:discard": "removed", "t:nothing": "not_found",
        }  # fmt: skip
    assert await listed(control, "failed") == []
    assert await producer.redis.keys("*discard*") == []


async def test_many_ids_go_in_portions(redis_url: str, producer: Producer, control: Control) -> None:
    jobs = await producer.enqueue_many("fail", ([n] for n in range(600)), family="t")
    await run_burst(redis_url, family())
    assert await control.retry([job.id for job in jobs], dry_run=True) == {job.id: "retried" for job in jobs}
    assert await control.retry([job.id for job in jobs]) == {job.id: "retried" for job in jobs}
    assert (await counts(control))[0] == 600


async def letters(redis_url: str, producer: Producer) -> None:
    """Leave 300 dead letters: half of each error, every tenth with a tag."""
    await producer.enqueue_each(
        [(("fail", [n]), {"tags": ["ten", 'o"dd'] if n % 10 == 0 else ["other"]}) for n in range(300)], family="t"
    )
    await run_burst(redis_url, family(max_jobs=50))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (JobFilter(), 300),
        (JobFilter(function="fail"), 300),
        (JobFilter(function="number"), 0),
        (JobFilter(error="LookupError"), 150),
        (JobFilter(error="Lookup"), 0),
        (JobFilter(tag="ten"), 30),
        (JobFilter(tag='o"dd'), 30),
        (JobFilter(tag="ten", error="PermanentError"), 0),
        (JobFilter(until=datetime(2030, 1, 1, tzinfo=UTC) - timedelta(days=36500)), 0),
        (JobFilter(since=datetime.now(UTC) - timedelta(hours=1), tag="other"), 270),
    ],
)
async def test_dead_letters_are_retried_by_a_filter(
    redis_url: str, producer: Producer, control: Control, where: JobFilter, expected: int
) -> None:
    await letters(redis_url, producer)
    assert len(await listed(control, "failed", 70, where)) == expected
    assert await control.retry_all("t", where, dry_run=True) == expected
    assert (await counts(control))[4] == 300
    told: list[tuple[int, int]] = []
    assert await control.retry_all("t", where, progress=lambda done, total: told.append((done, total))) == expected
    assert (await counts(control))[4] == 300 - expected
    assert (await counts(control))[0] == expected
    assert told[-1][0] == told[-1][1]


async def test_what_fails_again_is_not_retried_again(redis_url: str, producer: Producer, control: Control) -> None:
    await letters(redis_url, producer)
    async with working(redis_url, family(max_jobs=50)):
        assert await control.retry_all("t") == 300

        async def failed_again() -> bool:
            return (await counts(control)) == (0, 0, 0, 0, 300, 0)

        await eventually(failed_again)


# ---------------------------------------------------------------------- one job


async def test_promote_runs_a_delayed_job_now(redis_url: str, producer: Producer, control: Control) -> None:
    async with working(redis_url, family()):
        job = await producer.enqueue("number", [7], family="t", delay=600)
        assert await control.promote([job.id, "t:nothing"]) == {job.id: "promoted", "t:nothing": "not_found"}
        assert await job.result(30) == 7
        assert await control.promote([job.id]) == {job.id: "not_delayed"}


async def test_a_changed_priority_decides_who_runs_first(redis_url: str, producer: Producer, control: Control) -> None:
    jobs = [await producer.enqueue("number", [n], family="t", priority="low") for n in range(3)]
    assert await control.set_priority([jobs[2].id], "urgent") == {jobs[2].id: "changed"}
    assert [info.payload for info in await listed(control, "waiting")] == [2, 0, 1]
    assert (await jobs[2].info()).priority == 1
    delayed = await producer.enqueue("number", [3], family="t", delay=600)
    due = (await delayed.info()).due_at
    assert await control.set_priority([delayed.id], 2) == {delayed.id: "changed"}
    info = await delayed.info()
    assert (info.state, info.priority, info.due_at) == (JobState.DELAYED, 2, due)


async def test_abort_in_every_state(redis_url: str, producer: Producer, control: Control) -> None:
    done = await producer.enqueue("number", [1], family="t")
    await run_burst(redis_url, family())
    running = await producer.enqueue("endless", [], family="t")
    async with working(redis_url, family(max_jobs=1)) as supervisor:
        await until(lambda: supervisor.workers[0].running)
        waiting = await producer.enqueue("number", [1], family="t")
        delayed = await producer.enqueue("number", [1], family="t", delay=600)
        keys = set(await producer.redis.keys("*nothing*"))
        assert await control.abort([running.id, waiting.id, delayed.id, done.id, "t:nothing"]) == {
            running.id: "asked", waiting.id: "aborted", delayed.id: "aborted", done.id: "ended",
            "t:nothing": "not_found",
        }  # fmt: skip
        for job in (running, waiting, delayed):
            with pytest.raises(asyncio.CancelledError):
                await job.result(30)
            assert await job.status() is JobState.ABORTED
    assert await done.result() == 1
    assert set(await producer.redis.keys("*nothing*")) == keys == set()
    assert not await producer.redis.exists("arq:abort")


# ---------------------------------------------------------------------- lists


async def test_a_cursor_survives_jobs_that_come_and_go(producer: Producer, control: Control) -> None:
    jobs = await producer.enqueue_many("number", ([n] for n in range(20)), family="t")
    inspector = control.inspector
    page = await inspector.jobs("t", "waiting", limit=5)
    assert [info.payload for info in page] == [0, 1, 2, 3, 4]
    # What it stands on, one before and one behind it go; one comes before it and one behind it.
    await control.remove([jobs[n].id for n in (4, 2, 6)])
    await producer.enqueue("number", [-1], family="t", priority=1)
    await producer.enqueue("number", [20], family="t")
    rest, cursor = list[int](), page.cursor
    while cursor:
        page = await inspector.jobs("t", "waiting", limit=5, cursor=cursor)
        rest += [info.payload for info in page]
        cursor = page.cursor
    assert rest == [5, *range(7, 21)]


@pytest.mark.parametrize("limit", [1, 7, 500])
async def test_jobs_of_one_moment_are_listed_once(producer: Producer, control: Control, limit: int) -> None:
    at = datetime(2040, 1, 1, tzinfo=UTC)
    jobs = await producer.enqueue_many("number", ([n] for n in range(30)), family="t", run_at=at)
    assert [info.id for info in await listed(control, "delayed", limit)] == sorted(job.id for job in jobs)


async def test_ended_jobs_are_listed_newest_first(redis_url: str, producer: Producer, control: Control) -> None:
    for n in range(5):
        await producer.enqueue("number", [n], family="t")
    await run_burst(redis_url, family())
    await spread(producer, control)
    assert [info.payload for info in await listed(control, "completed", 2)] == [4, 3, 2, 1, 0]


async def test_lists_by_group(redis_url: str, producer: Producer, control: Control) -> None:
    await producer.enqueue("number", [1], family="t", group="anna")
    await producer.enqueue("number", [2], family="t", group="anna b")
    await producer.enqueue("number", [3], family="t", group="x" * 128)
    await producer.enqueue("number", [4], family="t")
    await producer.enqueue("fail", family="t", group="anna", delay=60)
    for group, expected in (("anna", [1]), ("anna b", [2]), ("x" * 128, [3]), ("ann", []), ("", [])):
        found = await listed(control, "waiting", where=JobFilter(group=group))
        assert [info.payload for info in found] == expected
        assert {info.group for info in found} <= {group}
    assert len(await listed(control, "delayed", where=JobFilter(group="anna", function="fail"))) == 1
    assert await listed(control, "delayed", where=JobFilter(group="anna", function="number")) == []
    await control.promote([info.id for info in await listed(control, "delayed")])
    await run_burst(redis_url, family())
    assert len(await listed(control, "failed", where=JobFilter(group="anna"))) == 1
    assert await listed(control, "failed", where=JobFilter(group="bob")) == []
    assert await control.retry_all("t", JobFilter(group="bob"), dry_run=True) == 0
    assert await control.retry_all("t", JobFilter(group="anna"), dry_run=True) == 1
    with pytest.raises(InvalidJob, match="no group is kept"):
        await listed(control, "completed", where=JobFilter(group="anna"))


async def test_a_filtered_page_looks_at_a_bounded_number_of_jobs_and_goes_on(
    producer: Producer, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "PAGE", 20)
    monkeypatch.setattr(pages, "SCAN", 40)
    await producer.enqueue_each(
        [(("endless" if n % 50 == 0 else "number", []), {"job_id": f"j{n:03}"}) for n in range(200)], family="t"
    )
    where = JobFilter(function="endless")
    first = await control.inspector.jobs("t", "waiting", limit=5, where=where)
    assert ([info.id for info in first], first.cursor is None) == (["t:j000"], False)
    assert [info.id for info in await listed(control, "waiting", 5, where)] == ["t:j000", "t:j050", "t:j100", "t:j150"]
    assert [len(await listed(control, "waiting", 3, JobFilter(function=f))) for f in ("number", "never")] == [196, 0]


LONG = "long" * 100


async def refuse(ctx: JobContext, payload: Any) -> None:
    raise PermanentError("no")


@pytest.mark.parametrize("size", [0, 300, 5000])
async def test_filters_find_what_stands_behind_a_large_payload(
    redis_url: str, producer: Producer, control: Control, size: int
) -> None:
    payload = {"o": {"g": ["fake"]}, "text": "x" * size, "last": ',"o":{"g":["fake"]}'}
    for tags in (["x"], [f"tag {n}" for n in range(100)], []):
        await producer.enqueue(LONG, [payload], family="t", tags=tags)
    for state in ("waiting", "failed"):
        for tag, expected in (("x", 1), ("tag 0", 1), ("tag 99", 1), ("fake", 0), ("g", 0)):
            assert len(await listed(control, state, where=JobFilter(tag=tag, function=LONG))) == expected, (state, tag)
        assert len(await listed(control, state, where=JobFilter(function=LONG))) == 3
        assert await listed(control, state, where=JobFilter(function=LONG[:-1])) == []
        if state == "waiting":
            await run_burst(redis_url, make_family("t", func(refuse, name=LONG)))
    assert len(await listed(control, "failed", where=JobFilter(error="PermanentError"))) == 3


async def test_times_are_those_of_the_state(redis_url: str, producer: Producer, control: Control) -> None:
    now = datetime.now(UTC)
    hour = timedelta(hours=1)
    old = await producer.enqueue("number", [0], family="t")
    await producer.redis.set("arq:job:" + old.job_id, b"q518bcfe56800 number\t\n" + b"[0]")
    new = await producer.enqueue("number", [1], family="t")
    assert [i.id for i in await listed(control, "waiting", where=JobFilter(since=now - hour))] == [new.id]
    assert [i.id for i in await listed(control, "waiting", where=JobFilter(until=now - hour))] == [old.id]
    soon = await producer.enqueue("number", [2], family="t", run_at=now + hour)
    later = await producer.enqueue("number", [3], family="t", run_at=now + 3 * hour)
    assert [i.id for i in await listed(control, "delayed", where=JobFilter(since=now + 2 * hour))] == [later.id]
    assert [i.id for i in await listed(control, "delayed", where=JobFilter(until=now + 2 * hour))] == [soon.id]
    await control.remove([soon.id, later.id])
    await run_burst(redis_url, family())
    for where, expected in ((JobFilter(since=now - hour), 2), (JobFilter(until=now - hour), 0)):
        assert len(await listed(control, "completed", where=where)) == expected
    await producer.enqueue("endless", [], family="t")
    async with working(redis_url, family()) as supervisor:
        await until(lambda: supervisor.workers[0].running)
        for where, expected in ((JobFilter(since=now - hour), 1), (JobFilter(until=now - hour), 0)):
            assert len(await listed(control, "active", where=where)) == expected


async def test_a_cursor_of_another_list_is_refused(producer: Producer, control: Control) -> None:
    await producer.enqueue_many("number", ([n] for n in range(3)), family="t")
    page = await control.inspector.jobs("t", "waiting", limit=1)
    with pytest.raises(InvalidJob, match="is not one of the delayed jobs"):
        await control.inspector.jobs("t", "delayed", cursor=page.cursor)


def test_portions_shrink_when_the_server_is_slow() -> None:
    sizes = [50]
    for took in (0.001, 0.001, 0.015, 0.03, 0.03, 0.001):
        sizes.append(control_module._next_size(sizes[-1], took))
    assert sizes == [50, 100, 200, 200, 100, 50, 100]
    assert control_module._next_size(1, 9.0) == 1
    assert control_module._next_size(400, 0.0) == pages.PAGE


async def test_a_list_needs_no_scan_of_the_keys(producer: Producer) -> None:
    """The work of a page does not grow with the queue."""
    await producer.enqueue_many("number", ([n] for n in range(1500)), family="t", delay=600)
    inspector = Inspector(producer.redis, ["t"])
    page = await inspector.jobs("t", "delayed", limit=500)
    await producer.redis.config_resetstat()
    page = await inspector.jobs("t", "delayed", limit=10, cursor=page.cursor)
    stats = await producer.redis.info("commandstats")
    assert len(page) == 10
    assert not {"cmdstat_scan", "cmdstat_keys", "cmdstat_zscan"} & stats.keys()
    assert sum(entry["calls"] for entry in stats.values()) < 60
